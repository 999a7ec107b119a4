"""The jobs behind a table: planned by what determines them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import attnpo
from attnpo.errors import AttnPOError
from attnpo.files import canonical_json
from attnpo.runs.profile import BASES, Profile
from attnpo.runs.store import Run, run_id
from attnpo.schema import build
from attnpo.testbed import EMBEDDED, model_identity

Kind = Literal["probe", "train", "eval", "responses", "ensemble", "intervention", "stability"]
STUDIES: tuple[Kind, ...] = ("responses", "ensemble", "intervention", "stability")
"""Kinds of run that study the heads: `attnpo study`."""

RUNS_OF: dict[str, tuple[Kind, ...]] = {
    "fig_curves": ("train",),
    "fig_phrases": ("train",),
    "fig_heads": ("probe", "ensemble", "intervention"),
    "fig_stability": ("stability",),
}
"""Artefact to the kinds of run that it is made of; all others: evaluations."""

_TESTBED_TASK = "attnpo_testbed"
_NEWER = {"estimator", "grpo", "tell", "n_heads", "phrases", "snapshots"}


@dataclass(frozen=True, eq=False)
class Job:
    """One run of the plan with the runs it waits for."""

    kind: Kind
    method: str | None
    seed: int
    run: Run
    needs: tuple[Run, ...] = ()
    artefact: str | None = None
    """The artefact whose own evaluation it is."""

    @property
    def title(self) -> str:
        """For people, e.g. `train attnpo seed 0`."""
        words = (self.kind, self.method, f"seed {self.seed}", self.artefact and f"({self.artefact})")
        return " ".join(str(w) for w in words if w is not None)

    def arguments(self, profile: Profile, results_dir: Path, consent: bool = False) -> list[str]:
        """What follows `attnpo` on the command line; consent: to run what the model writes."""
        words = ["study", self.kind] if self.kind in STUDIES else [self.kind]
        words += ["--profile", str(profile.path), "--results", str(results_dir.parent)]
        words += ["--method", self.method] if self.method is not None else []
        words += ["--seed", str(self.seed)] if self.method is not None else []
        words += ["--artefact", self.artefact] if self.artefact is not None else []
        words += ["--confirm-run-unsafe-code"] if consent and self.kind == "eval" else []
        return [*words, "--quick"] if profile.quick else words


# the plan


@functools.cache
def problems_identity(data: str, split: str) -> str:
    """SHA-256 of a split's problems and answers; a data set on the hub goes by its name alone."""
    if data != EMBEDDED and not data.endswith((".json", ".jsonl")):
        return data
    from attnpo.testbed import load_problems

    rows = [[item.id, item.text, item.answer] for item in load_problems(data, split)]
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()


def probe_spec(profile: Profile) -> dict[str, Any]:
    """What determines the probe."""
    return {
        **_common(profile, "probe", 0),
        "steps": asdict(profile.steps),
        "probe": asdict(profile.probe),
        "problems": problems_identity(profile.data, profile.probe.split),
    }


def train_spec(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What determines a training run; the method's label and its other trials do not."""
    section = profile.method(method)
    settings = asdict(section)
    del settings["label"], settings["tune"]
    if not section.attnpo:
        for name in ("credit", "heads", "n_heads", "phrases"):
            del settings[name]
    elif section.heads == "random" and section.n_heads is None:
        settings["n_heads"] = profile.probe.heads
    # What is not set is left out, so that a setting that is new to profiles changes no id of a run without it.
    settings = {k: v for k, v in settings.items() if k not in _NEWER or v not in (None, {})}
    return {
        **_common(profile, "train", seed),
        "method": method,
        "settings": settings,
        "steps": asdict(profile.steps) if section.attnpo else None,
        "train": {k: v for k, v in asdict(profile.train).items() if k != "max_prompt_tokens" or v is not None},
        "problems": problems_identity(profile.data, profile.train.split),
        "probe": run_id(probe_spec(profile)) if section.needs_probe else None,
    }


def eval_spec(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What determines an evaluation of a method's model, or of the untrained one (`base`)."""
    section = profile.evaluation_of(method)
    testbed = any(task.startswith(_TESTBED_TASK) for task in section.tasks)
    splits = ("validation",) if "@" in method else ("test", "shifted")
    return {
        **_common(profile, "eval", seed),
        "method": method,
        "evaluate": asdict(section),
        "problems": [problems_identity(EMBEDDED, split) for split in splits] if testbed else None,
        "train": None if method in BASES else run_id(train_spec(profile, method, seed)),
    }


def study_spec(profile: Profile, kind: Kind, method: str | None = None, seed: int = 0) -> dict[str, Any]:
    """What determines a study of the heads, see `STUDIES`; only `stability` has a method and its seed.

    Raises:
        AttnPOError: the profile cannot make it.
    """
    study = profile.studied()
    sampling = ["split", "problems", "samples", "temperature", "max_completion_tokens", "batch_size"]
    more = {
        "responses": sampling,
        "ensemble": ["ensemble"],
        "intervention": ["heads", "dropped", "answer_tokens", "answer_temperature"],
        "stability": ["heads"],
    }[kind]
    settings = {key: value for key, value in asdict(study).items() if key in more}
    spec: dict[str, Any] = {**_common(profile, kind, seed), "study": settings}
    if kind == "responses":
        return {**spec, "problems": problems_identity(profile.data, study.split)}
    spec |= {"responses": run_id(study_spec(profile, "responses")), "steps": asdict(profile.steps)}
    if kind == "stability":
        assert method is not None
        spec |= {"method": method, "train": run_id(train_spec(profile, method, seed))}
    if kind == "ensemble" or study.heads == "top":
        spec |= {"probe": run_id(probe_spec(profile)), "heads": profile.probe.heads}
    return spec


def _common(profile: Profile, kind: Kind, seed: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "seed": seed,
        "model": model_identity(profile.model, profile.revision),
        "attnpo": attnpo.__version__,
    }


def plan_runs(profile: Profile, results_dir: Path, base: str = "base", kinds: Collection[str] = ("eval",)) -> list[Job]:
    """The runs of `kinds` and what they wait for, for all methods of the profile (see `Profile.narrowed`).

    Each job comes after the ones it needs.

    Raises:
        AttnPOError: a study that the profile cannot make.
    """
    probe = Run.at(results_dir, probe_spec(profile))
    jobs: list[Job] = []
    trained = set(kinds) & {"train", "eval", "stability"}
    studied = [kind for kind in STUDIES if kind in kinds]
    if studied:
        responses = Run.at(results_dir, study_spec(profile, "responses"))
        jobs.append(Job("responses", None, 0, responses))

    def study(kind: Kind, needs: tuple[Run, ...], method: str | None = None, seed: int = 0) -> Job:
        spec = study_spec(profile, kind, method, seed)
        return Job(kind, method, seed, Run.at(results_dir, spec), (*needs, probe) if "probe" in spec else needs)

    jobs += [study(kind, (responses,)) for kind in studied if kind in ("ensemble", "intervention")]
    for seed in profile.seeds_of(base) if trained else []:
        after: list[Job] = []
        if "eval" in kinds:
            run = Run.at(results_dir, eval_spec(profile, base, seed))
            after.append(Job("eval", base, seed, run, (), profile.artefact))
        for name, method in profile.methods.items():
            if seed not in profile.seeds_of(name):
                continue
            train = Run.at(results_dir, train_spec(profile, name, seed))
            jobs.append(Job("train", name, seed, train, (probe,) if method.needs_probe else ()))
            if "eval" in kinds:
                run = Run.at(results_dir, eval_spec(profile, name, seed))
                after.append(Job("eval", name, seed, run, (train,), profile.artefact))
            if "stability" in kinds:
                after.append(study("stability", (responses, train), name, seed))
        jobs += after  # a seed to its end before the next one: a stopped plan shows whole seeds
    if "probe" in kinds or any(probe in job.needs for job in jobs):
        jobs.insert(0, Job("probe", None, 0, probe))
    return jobs


def plan_artefacts(profile: Profile, results_dir: Path, names: Iterable[str]) -> dict[str, list[Job] | AttnPOError]:
    """The jobs of each artefact, or why the profile cannot make it."""
    plans: dict[str, list[Job] | AttnPOError] = {}
    for name in names:
        kinds = RUNS_OF.get(name, ("eval",))
        try:
            if {"probe", "ensemble"} & set(kinds):
                _check_labels(profile)
            plans[name] = plan_runs(profile.narrowed(name), results_dir, kinds=kinds)
        except AttnPOError as error:
            plans[name] = error
    return plans


def all_jobs(plans: Iterable[list[Job] | AttnPOError]) -> list[Job]:
    """The jobs of several plans, each run once."""
    jobs: dict[str, Job] = {}
    for plan in plans:
        for job in [] if isinstance(plan, AttnPOError) else plan:
            jobs.setdefault(job.run.id, job)
    return list(jobs.values())


def left_to_do(plan: list[Job], recorded: bool = False) -> list[Job]:
    """What of a plan is to be run.

    Args:
        plan: each job behind those it needs.
        recorded: leave out what is recorded, and what only such runs need.
    """
    left: list[Job] = []
    needed: set[str] = set()
    for job in reversed(plan):
        # What others need of a run is its models or samples, of the probe its ranking, which is its record.
        takes = recorded and (job.kind == "probe" or job.run.id not in needed)
        if job.run.state() not in ("finished", *(["recorded"] if takes else [])):
            left.insert(0, job)
            needed |= {run.id for run in job.needs}
    return left


def estimate_seconds(profile: Profile, jobs: list[Job], left: list[Job], workers: int) -> tuple[float, set[str]]:
    """Seconds that those that are `left` of the jobs will take, and the kinds of run of which nothing is known.

    From what finished runs of the kind took, else from the profile's `seconds`.
    """
    known = _known_seconds(jobs)
    seconds, unknown = 0.0, set[str]()
    for job in left:
        mean = known.get(job.kind) or ([profile.seconds[job.kind]] if job.kind in profile.seconds else [])
        seconds += sum(mean) / len(mean) if mean else 0.0
        unknown |= set() if mean else {job.kind}
    return seconds / workers, unknown


def _check_labels(profile: Profile) -> None:
    from attnpo.probing.labels import LABELERS

    if profile.data not in LABELERS:
        raise AttnPOError(
            f"profile {profile.name}: step labels are known for {', '.join(LABELERS)}, not for {profile.data!r}"
        )


def check_methods(profile: Profile) -> None:
    """Raise now what a job would raise only after minutes: unknown rewards, wrong arguments, wrong credit settings.

    Loads torch, so call it only where there is something to run.
    """
    from attnpo.method.credit import CreditConfig
    from attnpo.probing.labels import LABELERS
    from attnpo.rewards import REWARDS, check_reward

    for name in profile.methods:
        method, at = profile.method(name), f"{profile.path.name}: methods.{name}"
        try:
            group_size = {**profile.train.grpo, **method.grpo}.get("num_generations", profile.train.group_size)
            check_reward(method.reward, method.reward_args, group_size)
        except AttnPOError as error:
            key = "reward" if method.reward not in REWARDS else "reward_args"
            raise AttnPOError(f"{at}.{key}: {error}") from error
        build(CreditConfig, method.credit, profile.path.name, f"methods.{name}.credit")
        if method.attnpo and method.heads == "oracle" and profile.data not in LABELERS:
            raise AttnPOError(f"{at}.heads: oracle labels are known for {', '.join(LABELERS)}, not {profile.data!r}")


def _known_seconds(jobs: Iterable[Job]) -> dict[str, list[float]]:
    """Durations of finished runs by kind, from the manifests (in a clone, those of the repository)."""
    known: dict[str, list[float]] = {}
    for job in jobs:
        manifest = job.run.manifest()
        if manifest is not None and manifest.get("finished") is not None:
            known.setdefault(job.kind, []).append(manifest["wall_seconds"])
    return known
