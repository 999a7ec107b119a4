"""The figures and the table made of training logs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import attnpo.report.figures as figures
from attnpo.report.formats import write_table
from attnpo.report.rendered import Rendered, groups_to_draw, named, quick, some
from attnpo.report.selection import read_derived
from attnpo.report.style import Curve
from attnpo.report.table import Block, Cell, Row, Table
from attnpo.runs.derive import CONVERGING, CURVES, PHRASES, WINDOW, chosen, plain_reference
from attnpo.runs.profile import Profile
from attnpo.statistics.measures import Measure
from attnpo.statistics.training import COST, LEVEL, RUNS, TASK, seed_curves
from attnpo.training.settings import SAMPLED

_PANELS = {"accuracy": "accuracy", "tokens": "tokens", "essential": "essential_steps", "redundant": "redundant_steps"}
"""Panel of the figure -> what it shows, see `attnpo.runs.derive.CURVES`."""

_CONVERGENCE = [
    Measure("step", "training steps"),
    Measure("seconds", "seconds"),
    Measure("accuracy", "right and not cut there %", scale=100),
]

_COST = [
    Measure("seconds", "seconds", digits=0),
    Measure(COST, "sampled tokens, thousands", scale=1e-3, digits=0),
    Measure("accuracy", "right and not cut there %", scale=100),
    Measure("tokens", "tokens there"),
    Measure("redundant_steps", "redundant steps there", digits=2),
    Measure("worked_links", "hard links worked out there %", scale=100),
]


def draw_curves(profile: Profile, results_dir: Path) -> Rendered:
    """What training does, how soon the methods are short, and what they cost."""
    logs = chosen(profile, read_derived(results_dir, "curves"))
    panels = {panel: CURVES[name] for panel, name in _PANELS.items()}
    title = f"Rollouts in training, running mean of {WINDOW} steps"
    drawn = _in_groups(profile, results_dir, "fig_curves", "curves", figures.curves, logs, panels, title)
    some(drawn, "no training run is finished")
    if SAMPLED in logs:
        known = logs[logs[SAMPLED].notna()]
        panels = {panel: panels[panel] for panel in ("accuracy", "tokens")}
        title = f"Rollouts at equal cost of training, running mean of {WINDOW} steps"
        draw = functools.partial(figures.curves, along="thousand tokens sampled")
        drawn += _in_groups(profile, results_dir, "fig_curves", "cost", draw, known, panels, title, SAMPLED)
    table = training_table(profile, read_derived(results_dir, "estimates", optional=True))
    if table is not None:
        write_table(table, results_dir, "fig_curves")
    return Rendered([] if table is None else [table], drawn, _runs_behind(logs))


def draw_phrases(profile: Profile, results_dir: Path) -> Rendered:
    """Phrases over training."""
    logs = chosen(profile, read_derived(results_dir, "curves"))
    title = f"Phrases in training, mean of {WINDOW} steps"
    drawn = _in_groups(profile, results_dir, "fig_phrases", "phrases", figures.phrases, logs, PHRASES, title)
    some(drawn, "no training log with counts of phrases; train again with this version")
    return Rendered([], drawn, _runs_behind(logs))


def _runs_behind(logs: pd.DataFrame) -> str:
    return f"n = {len(logs[['method', 'seed']].drop_duplicates())} training runs"


def training_curves(
    table: pd.DataFrame, column: str, labels: Mapping[str, str], window: int = 1, cost: str | None = None
) -> list[Curve]:
    """Mean over the seeds along training, with the range from the lowest seed to the highest as its band.

    Args:
        table: derived/curves.csv, a row per (method, seed, step).
        column: what is drawn, such as `steps/redundant`.
        labels: method -> label, in order; those that are not in the table are left out.
        window: training steps of a running mean, see `attnpo.statistics.training.seed_curves`.
        cost: column of what a step costs: each step stands where its seeds' mean cost so far is, in thousands; None: at
            its number.
    """
    found = []
    for method, label in labels.items():
        rows = table[table["method"] == method]
        if rows[column].notna().any():
            along = seed_curves(rows, column, window)
            places = along.index if cost is None else seed_curves(rows, cost)["mean"].cumsum().loc[along.index] / 1000
            found.append(Curve(method, label, list(places), *(list(along[c]) for c in ("mean", "min", "max"))))
    return found


def _in_groups(
    profile: Profile,
    results_dir: Path,
    artefact: str,
    stem: str,
    draw: Callable[[dict[str, list[Curve]], Path, str, str], list[Path]],
    logs: pd.DataFrame,
    columns: Mapping[str, str],
    title: str,
    cost: str | None = None,
) -> list[tuple[Path, str]]:
    """A figure `stem` for each of the groups to draw, of panel -> column of the training logs.

    The curves of a figure are of the seeds that all its methods have: methods with the same seed see the same prompts.
    Where there are none, each has its own.
    """
    logged = {panel: column for panel, column in columns.items() if column in logs and logs[column].notna().any()}
    if not logged:
        return []
    labels = {name: method.label for name, method in profile.methods.items()}
    made = []
    for group, methods in groups_to_draw(profile, artefact, set(logs["method"])).items():
        part = logs[logs["method"].isin(methods)]
        shared = set.intersection(*(set(seeds) for _, seeds in part.groupby("method")["seed"]))
        band = "range of each one's seeds"
        if shared:
            part = part[part["seed"].isin(shared)]
            band = f"range of {len(shared)} seeds" if len(shared) > 1 else ""
        panels = {panel: training_curves(part, column, labels, WINDOW, cost) for panel, column in logged.items()}
        shown = f"{title}: {group}" if group else title
        made.append((draw(panels, named(results_dir / "figures" / stem, group), quick(profile, shown), band)[0], shown))
    return made


def training_table(profile: Profile, estimates: pd.DataFrame) -> Table | None:
    """How soon each method is as short as the report's reference without AttnPO is at the end, and what it costs.

    Args:
        profile: its `report.reference` is a method with AttnPO, or there is no block of convergence.
        estimates: with the rows of `attnpo.statistics.training.convergence_table` and `cost_table`.

    Returns:
        a block for tokens, one for redundant steps and one for the cost, where they are known; None if none is.
    """
    if estimates.empty:
        return None
    trained = estimates[estimates["task"] == TASK]
    plain = plain_reference(profile)
    blocks, about = [], []
    if plain is not None:
        blocks = _convergence(profile, plain, trained[trained["reference"] == plain])
    if blocks:
        about.append(
            f"Down to: the first training step at which the running mean of {WINDOW} steps is not above the level: the "
            f"mean over {profile.method(plain or '').label}'s last {2 * WINDOW} steps and its seeds; seconds since the "
            "start, of whole steps. Seeds: those that get there, over which the means and intervals are. Undefined: "
            "none does."
        )
    costs = trained[trained["slice"] == COST]
    if not costs.empty:
        level = float(costs.loc[costs["measure"] == LEVEL, "value"].iloc[0])
        columns = [measure for measure in _COST if costs["measure"].eq(measure.name).any()]
        title = f"Cost of training, and the rollouts once {level / 1000:.0f} thousand tokens are sampled"
        blocks.append(Block(COST, title, columns, _rows(profile, costs), []))
        about.append(
            "Cost: all tokens that a training samples, those behind a part of a thinking too, and its seconds, on a "
            f"machine that may do other things. There: the mean of the {WINDOW} steps up to the one at which it has "
            "sampled as much as the cheapest training here samples in all."
        )
    if not blocks:
        return None
    about.append("n: training runs.")
    return Table(f"Convergence and cost, profile {quick(profile, profile.name)}", about, blocks, [])


def _convergence(profile: Profile, plain: str, rows: pd.DataFrame) -> list[Block]:
    """A block for each figure that goes down."""
    blocks = []
    for what, column in CONVERGING.items():
        part = rows[rows["slice"] == what]
        if not part.empty:
            level = float(part.loc[part["measure"] == LEVEL, "value"].iloc[0])
            label = profile.method(plain).label
            title = f"{what.replace('_', ' ').capitalize()} down to {level:.2f}, {label}'s at the end"
            blocks.append(Block(column, title, _CONVERGENCE, _rows(profile, part), []))
    return blocks


def _rows(profile: Profile, rows: pd.DataFrame) -> list[Row]:
    """A row for each method that has estimates."""
    lines = [_row(profile, method, rows[rows["method"] == method]) for method in profile.methods]
    return [line for line in lines if line.cells]


def _row(profile: Profile, method: str, rows: pd.DataFrame) -> Row:
    numbers: list[list[Any]] = rows[["measure", *Cell._fields]].to_numpy().tolist()
    cells = {str(measure): Cell._make(cell) for measure, *cell in numbers}
    seeds = str(rows.loc[rows["measure"] == RUNS, "seeds"].fillna("").iloc[0]) if cells else ""
    return Row(method, profile.method(method).label, [int(seed) for seed in seeds.split()], cells, [])
