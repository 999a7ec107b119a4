"""The figures and the table made of training logs."""

from __future__ import annotations

from collections.abc import Mapping
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
from attnpo.statistics.training import LEVEL, RUNS, TASK, seed_curves

_PANELS = {"accuracy": "accuracy", "tokens": "tokens", "essential": "essential_steps", "redundant": "redundant_steps"}
"""Panel of the figure -> what it shows, see `attnpo.runs.derive.CURVES`."""

_CONVERGENCE = [
    Measure("step", "training steps"),
    Measure("seconds", "seconds"),
    Measure("accuracy", "right and not cut there %", scale=100),
]


def draw_curves(profile: Profile, results_dir: Path) -> Rendered:
    """What training does, and how soon the methods are short."""
    panels, n = _panels(profile, results_dir, {panel: CURVES[name] for panel, name in _PANELS.items()})
    some(panels, "no training run is finished")
    title = f"Rollouts in training, running mean of {WINDOW} steps"
    table = convergence(profile, read_derived(results_dir, "estimates", optional=True))
    if table is not None:
        write_table(table, results_dir, "fig_curves")
    drawn = _in_groups(profile, "fig_curves", panels, results_dir / "figures" / "curves", title)
    return Rendered([] if table is None else [table], drawn, n)


def draw_phrases(profile: Profile, results_dir: Path) -> Rendered:
    """Phrases over training."""
    panels, n = _panels(profile, results_dir, PHRASES)
    some(panels, "no training log with counts of phrases; train again with this version")
    title = f"Phrases in training, mean of {WINDOW} steps"
    return Rendered([], _in_groups(profile, "fig_phrases", panels, results_dir / "figures" / "phrases", title), n)


def _panels(profile: Profile, results_dir: Path, columns: Mapping[str, str]) -> tuple[dict[str, list[Curve]], str]:
    """Panel -> curves, of the columns that the training logs have; and n."""
    table = chosen(profile, read_derived(results_dir, "curves"))
    labels = {name: method.label for name, method in profile.methods.items()}
    found = {
        panel: training_curves(table, column, labels, WINDOW) for panel, column in columns.items() if column in table
    }
    runs = len(table[["method", "seed"]].drop_duplicates())
    return {panel: drawn for panel, drawn in found.items() if drawn}, f"n = {runs} training runs"


def training_curves(table: pd.DataFrame, column: str, labels: Mapping[str, str], window: int = 1) -> list[Curve]:
    """Mean over the seeds along training, with the range from the lowest seed to the highest as its band.

    Args:
        table: derived/curves.csv, a row per (method, seed, step).
        column: what is drawn, such as `steps/redundant`.
        labels: method -> label, in order; those that are not in the table are left out.
        window: training steps of a running mean, see `attnpo.statistics.training.seed_curves`.
    """
    found = []
    for method, label in labels.items():
        rows = table[table["method"] == method]
        if rows[column].notna().any():
            along = seed_curves(rows, column, window)
            found.append(Curve(method, label, list(along.index), *(list(along[c]) for c in ("mean", "min", "max"))))
    return found


def _in_groups(
    profile: Profile, artefact: str, panels: dict[str, list[Curve]], path: Path, title: str
) -> list[tuple[Path, str]]:
    """A figure for each of the groups to draw."""
    draw = figures.curves if artefact == "fig_curves" else figures.phrases
    made = []
    run = {curve.method for of in panels.values() for curve in of}
    for group, methods in groups_to_draw(profile, artefact, run).items():
        drawn = {panel: [curve for curve in of if curve.method in methods] for panel, of in panels.items()}
        drawn = {panel: of for panel, of in drawn.items() if of}
        if drawn:
            shown = f"{title}: {group}" if group else title
            made.append((draw(drawn, named(path, group), quick(profile, shown))[0], shown))
    return made


def convergence(profile: Profile, estimates: pd.DataFrame) -> Table | None:
    """How soon each method is as short as the report's reference without AttnPO is at the end.

    Args:
        profile: its `report.reference` is a method with AttnPO.
        estimates: with the rows of `attnpo.statistics.training.convergence_table`.

    Returns:
        a block for tokens and one for redundant steps, where they are known; None if there is nothing to compare with.
    """
    plain = plain_reference(profile)
    if plain is None or estimates.empty:
        return None
    rows = estimates[(estimates["task"] == TASK) & (estimates["reference"] == plain)]
    label = profile.method(plain).label
    blocks = []
    for what, column in CONVERGING.items():
        part = rows[rows["slice"] == what]
        if part.empty:
            continue
        level = float(part.loc[part["measure"] == LEVEL, "value"].iloc[0])
        lines = [_convergence_row(profile, m, part[part["method"] == m]) for m in profile.methods]
        title = f"{what.replace('_', ' ').capitalize()} down to {level:.2f}, {label}'s at the end"
        blocks.append(Block(column, title, _CONVERGENCE, [line for line in lines if line.cells], []))
    if not blocks:
        return None
    about = [
        f"The first training step at which the running mean of {WINDOW} steps is not above the level: the mean over "
        f"{label}'s last {2 * WINDOW} steps and its seeds; seconds since the start, of whole steps.",
        "n: training runs; seeds: those that get there, over which the means and intervals are. Undefined: none does.",
    ]
    return Table(f"Convergence, profile {quick(profile, profile.name)}", about, blocks, [])


def _convergence_row(profile: Profile, method: str, rows: pd.DataFrame) -> Row:
    numbers: list[list[Any]] = rows[["measure", *Cell._fields]].to_numpy().tolist()
    cells = {str(measure): Cell._make(cell) for measure, *cell in numbers}
    seeds = str(rows.loc[rows["measure"] == RUNS, "seeds"].fillna("").iloc[0]) if cells else ""
    return Row(method, profile.method(method).label, [int(seed) for seed in seeds.split()], cells, [])
