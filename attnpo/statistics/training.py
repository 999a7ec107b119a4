"""Figures of trainings, from their logged curves: means over seeds, how soon a level is reached, the cost. No files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from attnpo.statistics.bootstrap import mean_estimate
from attnpo.statistics.estimates import COLUMNS
from attnpo.statistics.metrics import first_at_most

if TYPE_CHECKING:
    import pandas as pd

TASK = "training"
"""Task of the rows of `convergence_table` and `cost_table`."""
RUNS, LEVEL = "runs", "level"
COST = "cost"
"""Slice of the rows of `cost_table`."""


def seed_curves(table: pd.DataFrame, column: str, window: int = 1) -> pd.DataFrame:
    """Mean over the seeds along one method's training, and the lowest and the highest seed.

    Args:
        table: rows of derived/curves.csv, one per (seed, step).
        column: what is followed, such as `steps/redundant`.
        window: training steps of a running mean over each seed's own steps, the current and earlier ones.

    Returns:
        a row per step: mean, min, max; the steps are the index.
    """
    known = table[table[column].notna()].sort_values("step")
    seeds = known.pivot_table(index="step", columns="seed", values=column).rolling(window, min_periods=1).mean()
    return seeds.agg(["mean", "min", "max"], axis=1)


def convergence_table(
    curves: pd.DataFrame,
    methods: Sequence[str],
    reference: str,
    figures: Mapping[str, str],
    accuracy: str,
    window: int,
    **options: Any,
) -> pd.DataFrame:
    """When each method is down to where the reference is at the end of its training.

    The level is the mean over the reference's last `2 * window` steps and its seeds. It is reached at the first step at
    which the running mean of `window` steps is not above it.

    Args:
        curves: derived/curves.csv, a row per (method, seed, step).
        methods: in order.
        reference: a method.
        figures: name -> column that goes down.
        accuracy: its column.
        window: training steps.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.

    Returns:
        rows of estimates, the figure as slice, n the training runs, seeds those that get there: `runs` and, over those
        seeds, `step`, `seconds` since the start and `accuracy` then, without interval where there is one seed; the
        reference's `level`. Empty if the reference was not trained.
    """
    import pandas as pd

    rows: list[list[Any]] = []
    theirs = curves[curves["method"] == reference]
    ends = theirs[theirs["step"] > theirs["step"].max() - 2 * window]
    for figure, column in figures.items():
        if theirs.empty or not {column, accuracy, "step_time"} <= set(curves) or ends[column].isna().any():
            continue
        level = float(ends[column].mean())
        trained = " ".join(map(str, sorted(theirs["seed"].unique())))
        for method in methods:
            of_method = curves[curves["method"] == method]
            if of_method.empty:
                continue
            n = of_method["seed"].nunique()
            found = _reached(of_method, column, accuracy, level, window)
            values: dict[str, tuple[float, float, float]] = {RUNS: (n, np.nan, np.nan)}
            if method == reference:
                values[LEVEL] = (level, np.nan, np.nan)
            columns = zip(*found.values(), strict=True)  # none if no seed gets there
            names = ("step", "seconds", "accuracy")
            values |= _over_seeds(dict(zip(names, columns, strict=False)), options)
            seeds = " ".join(map(str, found))
            for measure, estimate in values.items():
                rows.append([method, TASK, figure, measure, *estimate, n, 0, np.nan, seeds, reference, trained])
    return pd.DataFrame(rows, columns=COLUMNS)


def cost_table(
    curves: pd.DataFrame,
    methods: Sequence[str],
    cost: str,
    figures: Mapping[str, str],
    window: int,
    **options: Any,
) -> pd.DataFrame:
    """What the training of each method costs, and where its rollouts are once it has cost as much as the cheapest one.

    Args:
        curves: derived/curves.csv, a row per (method, seed, step).
        methods: in order.
        cost: column of what a step costs.
        figures: name -> column of what is shown at equal cost, the mean of the `window` steps that end with the first
            one at which the cost so far is at least that of the cheapest training.
        window: training steps.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.

    Returns:
        rows of estimates of slice `cost`, n the training runs: `runs` and, over the seeds, without interval where there
        is one, `seconds`, `cost` of the whole training, and the figures; the equal cost is the first row's `level`.
        Empty if nothing was trained or no cost is known.
    """
    import pandas as pd

    if cost not in curves or "step_time" not in curves:
        return pd.DataFrame(columns=COLUMNS)
    known = curves[curves["method"].isin(methods) & curves[cost].notna()].sort_values("step")
    shown = {name: column for name, column in figures.items() if column in known}
    trainings = dict(iter(known.groupby(["method", "seed"])))
    level = min((float(curve[cost].sum()) for curve in trainings.values()), default=np.nan)
    rows: list[list[Any]] = []
    for method in methods:
        found: dict[str, list[float]] = {}
        seeds = [seed for name, seed in trainings if name == method]
        for seed in seeds:
            curve = trainings[method, seed]
            # Sums in another order may differ in the last bit.
            at = int((curve[cost].cumsum() >= level * (1 - 1e-9)).to_numpy().argmax())
            there = curve.iloc[max(0, at + 1 - window) : at + 1]
            of_seed = {"seconds": curve["step_time"].sum(), COST: curve[cost].sum()}
            for name, value in (of_seed | {name: there[column].mean() for name, column in shown.items()}).items():
                found.setdefault(name, []).append(float(value))
        if not seeds:
            continue
        values: dict[str, tuple[float, float, float]] = {RUNS: (len(seeds), np.nan, np.nan)}
        if not rows:
            values[LEVEL] = (level, np.nan, np.nan)
        values |= _over_seeds(found, options)
        trained = " ".join(map(str, seeds))
        for measure, estimate in values.items():
            rows.append([method, TASK, COST, measure, *estimate, len(seeds), 0, np.nan, trained, "", ""])
    return pd.DataFrame(rows, columns=COLUMNS)


def _over_seeds(
    found: Mapping[str, Sequence[float]], options: Mapping[str, Any]
) -> dict[str, tuple[float, float, float]]:
    """Means over the seeds of what was found for each, with intervals where there are several."""
    estimates = {}
    for name, of_seeds in found.items():
        value, *interval = mean_estimate(np.array(of_seeds, dtype=float)[:, None], **options)
        low, high = interval if len(of_seeds) > 1 else (np.nan, np.nan)
        estimates[name] = (value, low, high)
    return estimates


def _reached(
    curves: pd.DataFrame, column: str, accuracy: str, level: float, window: int
) -> dict[int, tuple[float, float, float]]:
    """Seed -> step, seconds and accuracy when it is down to the level; without those that never are."""
    found = {}
    for seed, curve in curves.sort_values("step").groupby("seed"):
        at = first_at_most(curve[column], level, window)
        if at is not None:
            right = float(curve[accuracy].iloc[at + 1 - window : at + 1].mean())
            seconds = float(curve["step_time"].iloc[: at + 1].sum())
            found[int(str(seed))] = (float(curve["step"].iloc[at]), seconds, right)
    return found


def condition_table(answers: pd.DataFrame, method: str, task: str, **options: Any) -> pd.DataFrame:
    """Accuracy under each condition, mean over problems, as rows of estimates with the condition as slice.

    Args:
        answers: a row per (condition, problem): sums `correct` and `n`.
        method, task: of the rows.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.
    """
    import pandas as pd

    rows = []
    for condition, part in answers.groupby("condition", sort=False):
        part = part.sort_values("problem_id")
        estimate = mean_estimate((part["correct"] / part["n"]).to_numpy(), **options)
        about = [int(part["n"].sum()), len(part), np.nan, "", "", ""]
        rows.append([method, task, str(condition), "accuracy", *estimate, *about])
    return pd.DataFrame(rows, columns=COLUMNS)


def ranges_over_seeds(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean over the seeds of a correlation `r`, with the lowest end `low` and the highest end `high` of any seed.

    Args:
        table: a row per seed and key, with r, low and high.
        keys: columns that name what is followed.
    """
    return table.groupby(list(keys)).agg(r=("r", "mean"), low=("low", "min"), high=("high", "max")).reset_index()
