"""What a plan means before it runs: how many runs there are, and how long they may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from attnpo.errors import AttnPOError
from attnpo.runs.plan import Job, Plans, all_jobs
from attnpo.runs.profile import Profile
from attnpo.runs.settings import CoreSection
from attnpo.testbed import missing_model
from attnpo.training.shown import clock


def outlook(profile: Profile, plans: Plans, jobs: list[Job], left: list[Job], workers: int) -> list[str]:
    """Lines for people: runs by kind, time, a model that is missing, and which artefacts cannot be made.

    Args:
        profile: for its `seconds` and its model.
        plans: of all artefacts; the durations of their finished runs are looked at.
        jobs: those asked for.
        left: those of them that are to be run.
        workers: runs side by side.
    """
    kinds = Counter(job.kind for job in left)
    seconds, unknown = estimate_seconds(profile, all_jobs(plans.values()), left, workers)
    lines = [f"{len(jobs)} runs, {len(left)} to do: {', '.join(f'{n} {kind}' for kind, n in kinds.items()) or 'none'}"]
    if left and unknown == set(kinds):
        lines.append("no time estimate: no such run has been measured, and the profile's `seconds` says nothing")
    elif left:
        but = f", without {', '.join(sorted(unknown))}, of which nothing is known" if unknown else ""
        about = f"{clock(seconds)} (h:mm:ss)" if seconds >= 3600 else f"{clock(seconds)} minutes"
        lines.append(f"about {about} with {workers} side by side{but}")
    if left and (missing := missing_model(profile.model)):
        lines.append(missing)
    return lines + [f"{name}: not made, {error}" for name, error in plans.items() if isinstance(error, AttnPOError)]


def core_rows(profile: Profile, core: CoreSection, plan: list[Job], artefact: str) -> str:
    """What is run of a table if only its core is.

    Args:
        profile: narrowed to the artefact.
        core: its section.
        plan: all of its jobs.
        artefact: its name.
    """
    labels = ", ".join(profile.methods[name].label for name in core.methods)
    seeds = max(len(profile.seeds_of(name)[: core.seeds]) for name in core.methods)
    line = f"core rows of {artefact}: {labels}, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    others = {name for name in profile.methods if name not in core.methods}
    if not others:
        return line
    recorded = {job.method for job in plan if job.kind == "eval" and job.method in others and job.run.done()}
    which = "the other" if len(recorded) == len(others) else f"{len(recorded)} of the other"
    rows = "row is shown from its" if len(others) == 1 else f"{len(others)} rows are shown from their"
    shown = f"{which} {rows} records, " if recorded else ""
    return f"{line}; {shown}--all runs all {len(profile.methods)}"


def estimate_seconds(profile: Profile, jobs: list[Job], left: list[Job], workers: int) -> tuple[float, set[str]]:
    """Seconds that the jobs `left` will take, and the kinds of run of which nothing is known.

    A kind takes the mean of what its finished runs among `jobs` took, or else the profile's `seconds`.
    """
    known = _known_seconds(jobs)
    seconds, unknown = 0.0, set[str]()
    for job in left:
        mean = known.get(job.kind) or ([profile.seconds[job.kind]] if job.kind in profile.seconds else [])
        seconds += sum(mean) / len(mean) if mean else 0.0
        unknown |= set() if mean else {job.kind}
    return seconds / workers, unknown


def _known_seconds(jobs: Iterable[Job]) -> dict[str, list[float]]:
    """Durations of finished runs by kind, from their manifests; those of the repository count too."""
    known: dict[str, list[float]] = {}
    for job in jobs:
        manifest = job.run.manifest()
        if manifest is not None and manifest.get("finished") is not None:
            known.setdefault(job.kind, []).append(manifest["wall_seconds"])
    return known
