"""The tables under `derived/`, from the records of runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_csv, atomic_write_text
from attnpo.method.phrases import PHRASE_KINDS
from attnpo.runs.plan import RUNS_OF, Job, all_jobs
from attnpo.runs.profile import Profile
from attnpo.runs.records import RECORDS
from attnpo.runs.settings import BASE
from attnpo.runs.store import Run
from attnpo.statistics.estimates import Question, Wanted, estimate_table
from attnpo.training.settings import SAMPLED

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CURVES = {
    "accuracy": "attnpo/group_accuracy",
    "tokens": "completions/mean_length",
    "essential_steps": "steps/essential",
    "redundant_steps": "steps/redundant",
    "worked_links": "links/worked",
}
"""What is shown of a training -> column of derived/curves.csv."""
PHRASES = {kind: f"phrases/{kind}" for kind in PHRASE_KINDS}
"""Kind of phrase -> column of derived/curves.csv."""
WINDOW = 5
"""Training steps of a running mean: a step has few rollouts."""

COMPANIONS = ("fig_pareto", "fig_curves", "fig_heads")
"""Figures that need no run of their own beside those of a table: drawn with Table 1, of what is there."""

INTERVENTION = "intervention"
"""Task of the estimates of the study of that name; the condition is their slice."""

CONVERGING = {name: CURVES[name] for name in ("tokens", "redundant_steps")}
"""What goes down in training -> column of derived/curves.csv."""

AT_EQUAL_COST = {name: CURVES[name] for name in ("accuracy", "tokens", "redundant_steps", "worked_links")}
"""What is compared at equal cost of training -> column of derived/curves.csv."""

_DIFFERENCES = ("accuracy", "tokens", "redundant_steps", "essential_steps", "worked_links")
"""Measures whose differences the tables show."""


def derive(
    results_dir: Path,
    runs: Iterable[Run],
    profile: Profile | None = None,
    names: Collection[str] = (),
    artefact: str | None = None,
    track: Callable[[Sequence[Question]], Iterable[Question]] = iter,
) -> None:
    """Write `derived/*.csv` from the records of `runs`.

    `runs`; of evaluations `problems`, of trainings `curves`; one of each study of the heads; and `estimates`, every
    number that tables and figures show. A table of which no run is done is left as it is.

    Args:
        results_dir: results/<profile>.
        runs: those of a plan.
        profile: says what is estimated and how; None: every measure of every method.
        names: the artefacts that the estimates are for.
        artefact: write to `derived/<artefact>/` what belongs to it alone.
        track: as in `attnpo.statistics.estimates.estimate_table`.

    Raises:
        AttnPOError: a manifest that cannot be read, or evaluations that cannot be compared.
    """
    import pandas as pd

    runs = list(runs)
    records: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if damage := run.damage():
            logger.warning("left out: %s", damage)
        elif run.spec["kind"] in RECORDS and run.done():
            records.setdefault(run.spec["kind"], []).append(_of_now(run.record(), run.spec))
    tables = {"runs": run_table(runs)}
    for kind, parts in records.items():
        tables[{"eval": "problems", "train": "curves"}.get(kind, kind)] = pd.concat(parts, ignore_index=True)
    folder = results_dir / "derived" / (artefact or "")
    for name, table in tables.items():
        atomic_write_csv(folder / f"{name}.csv", table)
    estimates = [table for table in _estimates(tables, profile, names, track) if len(table)]
    if estimates:
        # All digits: whoever prints a number of the file prints what our tables print.
        text = pd.concat(estimates, ignore_index=True).to_csv(index=False, lineterminator="\n")
        atomic_write_text(folder / "estimates.csv", text)


def _of_now(record: pd.DataFrame, spec: Mapping[str, Any]) -> pd.DataFrame:
    """A record with the columns of now.

    Trainings once logged the shaped reward as that of correctness, and did not count what they sampled: a method that
    samples whole responses only samples their mean length times their number.
    """
    if spec["kind"] != "train":
        return record
    if "rewards/shaped/mean" not in record:
        record = record.rename(columns={f"rewards/correctness/{m}": f"rewards/shaped/{m}" for m in ("mean", "std")})
    train, settings, lengths = spec.get("train"), spec.get("settings", {}), CURVES["tokens"]
    if SAMPLED not in record and lengths in record and train and not {"exits", "answers", "openings"} & set(settings):
        record = record.assign(**{SAMPLED: record[lengths] * train["prompts_per_step"] * train["group_size"]})
    return record


def _estimates(
    tables: Mapping[str, pd.DataFrame],
    profile: Profile | None,
    names: Collection[str],
    track: Callable[[Sequence[Question]], Iterable[Question]],
) -> Iterable[pd.DataFrame]:
    from attnpo.statistics.training import condition_table, convergence_table, cost_table

    options = {} if profile is None else bootstrap_options(profile)
    if "problems" in tables:
        wanted = [Wanted()] if profile is None else [wanted_for(profile, name) for name in names]
        yield estimate_table(tables["problems"], wanted, task_groups(), track, **options)
    if "curves" in tables and profile is not None and "fig_curves" in names:
        narrowed = profile.narrowed("fig_curves")
        curves, methods = chosen(narrowed, tables["curves"]), list(narrowed.methods)
        plain = plain_reference(narrowed)
        if plain is not None:
            yield convergence_table(curves, methods, plain, CONVERGING, CURVES["accuracy"], WINDOW, **options)
        yield cost_table(curves, methods, SAMPLED, AT_EQUAL_COST, WINDOW, **options)
    if "intervention" in tables:
        yield condition_table(tables["intervention"], BASE, INTERVENTION, **options)


def derive_all(
    profile: Profile,
    plans: Mapping[str, list[Job] | AttnPOError],
    results_dir: Path,
    track: Callable[[Sequence[Question]], Iterable[Question]] = iter,
) -> None:
    """`derive` for all artefacts: together, but for those with an evaluation of their own.

    Args:
        profile: not narrowed.
        plans: of every artefact of the profile.
        results_dir: results/<profile>.
        track: as in `derive`.
    """
    own = {name for name, section in profile.artefacts.items() if section.evaluate}
    shared = all_jobs(plan for name, plan in plans.items() if name not in own)
    names = [name for name in dict.fromkeys([*profile.makes(), *COMPANIONS]) if name not in own]
    sets: list[tuple[str | None, list[Job], list[str]]] = [(None, shared, names)]
    sets += [(name, all_jobs([plans[name]]), [name]) for name in sorted(own & set(plans))]
    for artefact, jobs, of_artefacts in sets:
        # Of an artefact's own evaluations: the trainings that it shares with others do not count.
        if any(job.run.done() for job in jobs if artefact is None or job.kind == "eval"):
            derive(results_dir, [job.run for job in jobs], profile, of_artefacts, artefact, track)


def wanted_for(profile: Profile, name: str) -> Wanted:
    """The estimates of evaluations that an artefact shows.

    Args:
        profile: not narrowed.
        name: of the artefact.
    """
    narrowed, section = profile.narrowed(name), profile.artefacts.get(name)
    if RUNS_OF.get(name):  # made of trainings or studies
        return Wanted(seeds={})
    seeds = {method: narrowed.seeds_of(method) for method in (BASE, *narrowed.methods)}
    tasks = list(narrowed.report.blocks)
    if name in ("fig_budget", "fig_passk"):
        return Wanted(seeds=seeds, tasks=tasks, chains=list(section.chains.values()) if section else [])
    if name == "fig_strength":
        return Wanted(seeds=seeds, tasks=tasks, lines=section.groups if section else {})
    return Wanted(
        seeds=seeds,
        tasks=tasks,
        comparisons=comparisons(narrowed),
        differences=_DIFFERENCES,
        untrained=[BASE],
        each_chain=True,
    )


def comparisons(profile: Profile) -> list[tuple[str, str]]:
    """The (method, reference) pairs of a table: with the untrained model, with the report's reference, and each method
    with AttnPO with those of the same reward without it."""
    reference = profile.report.reference
    pairs = [(method, BASE) for method in (BASE, *profile.methods)]
    if reference in (BASE, *profile.methods):
        pairs += [(method, str(reference)) for method in (BASE, *profile.methods) if method != reference]
    for method, section in profile.methods.items():
        pairs += [(method, other) for other in profile.without_attnpo(method)] if section.attnpo else []
    return list(dict.fromkeys(pairs))


def plain_reference(profile: Profile) -> str | None:
    """The first method with the reward of the report's reference and without AttnPO."""
    reference = profile.report.reference
    plain = profile.without_attnpo(reference) if reference in profile.methods else []
    return plain[0] if plain else None


def bootstrap_options(profile: Profile) -> dict[str, Any]:
    """How intervals are made, as `attnpo.statistics.bootstrap.bootstrap` takes it."""
    report = profile.report
    return {"draws": report.bootstrap, "level": report.confidence, "seed": report.bootstrap_seed}


def chosen(profile: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """The rows (with `method` and `seed`) of the profile's methods and the untrained model, on the profile's seeds."""
    import pandas as pd

    wanted = {(name, seed) for name in (BASE, *profile.methods) for seed in profile.seeds_of(name)}
    kept = [pair in wanted for pair in zip(table["method"], table["seed"], strict=True)]
    return table[pd.Series(kept, index=table.index, dtype=bool)]


def check_undamaged(jobs: Iterable[Job]) -> None:
    """Check that tables made of these jobs leave no run out that was finished once.

    Raises:
        AttnPOError: one has lost its record, or it has changed.
    """
    damaged = [f"{job.title}: {damage}" for job in jobs if (damage := job.run.damage())]
    if damaged:
        more = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise AttnPOError(
            f"left out would be {damaged[0]}{more}; restore it (git checkout), delete its folder and run again, "
            "or pass --leave-out-damaged"
        )


def run_table(runs: Iterable[Run]) -> pd.DataFrame:
    """A row per finished run: kind, method, seed, run_id, wall_seconds."""
    import pandas as pd

    rows = []
    for run in runs:
        manifest = run.manifest() or {}
        if not manifest.get("finished"):
            continue
        row = {key: run.spec.get(key) for key in ("kind", "method", "seed")}
        rows.append({**row, "run_id": run.id, "wall_seconds": manifest["wall_seconds"]})
    return pd.DataFrame(rows, columns=["kind", "method", "seed", "run_id", "wall_seconds"])
