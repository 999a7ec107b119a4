"""The figures and the table made of training logs."""

from __future__ import annotations

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
    columns = {panel: CURVES[name] for panel, name in _PANELS.items()}
    title = f"Rollouts in training, running mean of {WINDOW} steps"
    drawn, n = _in_groups(profile, results_dir, "fig_curves", figures.curves, columns, title)
    some(drawn, "no training run is finished")
    table = convergence(profile, read_derived(results_dir, "estimates", optional=True))
    if table is not None:
        write_table(table, results_dir, "fig_curves")
    return Rendered([] if table is None else [table], drawn, n)


def draw_phrases(profile: Profile, results_dir: Path) -> Rendered:
    """Phrases over training."""
    title = f"Phrases in training, mean of {WINDOW} steps"
    drawn, n = _in_groups(profile, results_dir, "fig_phrases", figures.phrases, PHRASES, title)
    some(drawn, "no training log with counts of phrases; train again with this version")
    return Rendered([], drawn, n)


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
    profile: Profile,
    results_dir: Path,
    artefact: str,
    draw: Callable[[dict[str, list[Curve]], Path, str, str], list[Path]],
    columns: Mapping[str, str],
    title: str,
) -> tuple[list[tuple[Path, str]], str]:
    """A figure for each of the groups to draw, of panel -> column of the training logs; and n.

    The curves of a figure are of the seeds that all its methods have: methods with the same seed see the same prompts.
    Where there are none, each has its own.
    """
    table = chosen(profile, read_derived(results_dir, "curves"))
    n = f"n = {len(table[['method', 'seed']].drop_duplicates())} training runs"
    logged = {panel: column for panel, column in columns.items() if column in table and table[column].notna().any()}
    if not logged:
        return [], n
    labels = {name: method.label for name, method in profile.methods.items()}
    stem = results_dir / "figures" / artefact.removeprefix("fig_")
    made = []
    for group, methods in groups_to_draw(profile, artefact, set(table["method"])).items():
        part = table[table["method"].isin(methods)]
        shared = set.intersection(*(set(seeds) for _, seeds in part.groupby("method")["seed"]))
        band = "range of each one's seeds"
        if shared:
            part = part[part["seed"].isin(shared)]
            band = f"range of {len(shared)} seeds" if len(shared) > 1 else ""
        panels = {panel: training_curves(part, column, labels, WINDOW) for panel, column in logged.items()}
        shown = f"{title}: {group}" if group else title
        made.append((draw(panels, named(stem, group), quick(profile, shown), band)[0], shown))
    return made, n


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
