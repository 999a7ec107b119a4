"""The two-level bootstrap: seeds are drawn, then problems. Plain numpy, no files.

Shapes: P problems, S seeds (training runs), T tasks, M values a problem, Q figures, B draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.statistics.metrics import Array, _numbers


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


class Drawn(NamedTuple):
    """One run of one task, with the means of each of its seeds on every draw of the problems."""

    columns: Array
    """(M, S, P): the data."""
    of_seeds: Array
    """(M, B, S): means over the drawn problems."""

    def on_seeds(self, places: Sequence[int]) -> Drawn:
        """The same with only some of the seeds, by their places."""
        return Drawn(self.columns[:, places], self.of_seeds[..., places])

    def of_columns(self, places: Sequence[int]) -> Drawn:
        """The same with only some of the M values, by their places."""
        return Drawn(self.columns[places], self.of_seeds[places])


def bootstrap(
    statistic: Callable[..., Any], *runs: Any, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Percentile bootstrap of a function of means: over seeds, then over problems.

    Each draw takes S of a run's seeds with replacement and P problems with replacement. The problems are the same for
    all seeds and runs, since all answered the same ones, so comparisons stay paired. Seeds are drawn for each run
    apart; runs that hold the same data share their draw.

    Args:
        statistic: takes one array of means for each run, () and (B,), or (M,) and (B, M) for M values.
        runs: (P,), (S, P) or (S, P, M): means over the k responses of a problem, M values a problem (accuracy
            and tokens, say) that are drawn together. S may differ between runs, P may not.
        draws: B.
        level: of the interval.
        seed: of the draws; same seed, same interval.

    Raises:
        AttnPOError: a run is empty or holds NaN, P differs, or the statistic is undefined on the data or on
            more than half of the draws; fewer undefined draws are left out.
    """
    tables = [[np.atleast_2d(_numbers("run", run))] for run in runs]
    single = [table[0].ndim == 2 for table in tables]

    def of_one_task(*means: Array) -> Array:
        parts = [mean[0, ..., 0] if alone else mean[0] for mean, alone in zip(means, single, strict=True)]
        return np.asarray(statistic(*parts), dtype=float)[..., None]

    (estimate,), (undefined,), (value,) = _bootstrap(of_one_task, tables, draws, level, seed)
    if estimate is None:
        raise AttnPOError(f"the statistic is {value} on the data and undefined on {undefined} of {draws} draws")
    return estimate


def mean_estimate(run: Any, **options: Any) -> Estimate:
    """Mean of a run, (P,) or (S, P), with its interval; options as in `bootstrap`."""
    return bootstrap(lambda mean: mean, run, **options)


def bootstrap_tasks(
    statistic: Callable[..., Any],
    *runs: Sequence[Any],
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Estimate | None]:
    """`bootstrap` of Q figures at once, over the problems of several tasks.

    Problems are drawn within each task; a draw of seeds holds for all tasks, since a seed is one trained model.

    Args:
        statistic: takes for each run (T, M) and (T, B, M), the means of each task, and gives (Q,) and (B, Q). A macro
            mean is its mean over the first axis.
        runs: T arrays (S, P_t, M) each.
        draws, level, seed: as in `bootstrap`.

    Returns:
        Q estimates; None where the figure is undefined on the data or on more than half of the draws.

    Raises:
        AttnPOError: a run is empty or holds infinite values, or runs differ in their tasks' numbers of problems.
    """
    tables = [[np.asarray(table, dtype=float) for table in run] for run in runs]
    return _bootstrap(statistic, tables, draws, level, seed)[0]


def _bootstrap(
    statistic: Callable[..., Any], runs: Sequence[Sequence[Array]], draws: int, level: float, seed: int
) -> tuple[list[Estimate | None], list[int], Array]:
    if not runs or draws < 1 or not 0 < level < 1:
        raise AttnPOError(f"bootstrap needs runs, draws >= 1, 0 < level < 1, not {len(runs)}, {draws}, {level}")
    shapes = [[table.shape for table in run] for run in runs]
    sizes = {tuple(shape[1] for shape in run) for run in shapes}
    seeds = {len({shape[0] for shape in run}) for run in shapes}
    if len(sizes) > 1 or seeds != {1} or any(len(shape) not in (2, 3) or 0 in shape for run in shapes for shape in run):
        shown = ", ".join(str(shape) for run in shapes for shape in run)
        raise AttnPOError(f"runs have shapes {shown}; pass (seeds, problems) each, over the same problems")
    columns = [[table[None] if table.ndim == 2 else np.moveaxis(table, -1, 0) for table in run] for run in runs]
    drawn = [draw_problems(run, draws, seed) for run in columns]
    return estimates_of(statistic, drawn, draws, level, seed)


def draw_problems(tables: Sequence[Array], draws: int, seed: int) -> list[Drawn]:
    """The first level: draw the problems of each task of one run.

    The result can be used in any number of calls of `estimates_of` with the same draws and seed.

    Args:
        tables: T arrays (M, S, P_t).
        draws, seed: as in `bootstrap`.
    """
    weights, _ = _problem_weights(seed, draws, tuple(table.shape[-1] for table in tables))
    found = []
    for table, of_problems in zip(tables, weights, strict=True):
        columns = np.ascontiguousarray(table)
        # Vector by vector: one large product would sum in another order, and so round ties the other way.
        of_seeds = [[of_problems @ of_seed for of_seed in column] for column in columns]
        found.append(Drawn(columns, np.ascontiguousarray(np.swapaxes(np.array(of_seeds), 1, 2))))
    return found


def estimates_of(
    statistic: Callable[..., Any], runs: Sequence[Sequence[Drawn]], draws: int, level: float, seed: int
) -> tuple[list[Estimate | None], list[int], Array]:
    """The second level: draw the seeds of each run, then take the statistic.

    Args:
        statistic: as in `bootstrap_tasks`.
        runs: of each run its T tasks, from `draw_problems` with the same draws and seed.
        draws, level, seed: as in `bootstrap`.

    Returns:
        the estimates of the Q figures, None where undefined; on how many draws each is undefined; (Q,) the values.
    """
    sizes = tuple(task.columns.shape[-1] for task in runs[0])
    counts = tuple(run[0].columns.shape[1] for run in runs)
    weights = _seed_weights(seed, draws, sizes, counts)
    values, drawn = [], []
    for i, run in enumerate(runs):
        # Runs with the same data share their draw of seeds, so that their difference is 0 on every draw.
        first = next(j for j, other in enumerate(runs) if j == i or _same(other, run))
        values.append(np.array([[column.mean() for column in task.columns] for task in run]))
        drawn.append(np.array([np.einsum("mbs,bs->bm", task.of_seeds, weights[first]) for task in run]))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.asarray(statistic(*values), dtype=float)
        sample = np.asarray(statistic(*drawn), dtype=float)
    finite = np.isfinite(sample)
    defined = finite.sum(axis=0)
    ends = np.full((2, len(value)), np.nan)
    levels, whole = [(1 - level) / 2, (1 + level) / 2], defined == draws
    if whole.any():
        ends[:, whole] = np.quantile(sample[:, whole], levels, axis=0)
    for q in np.flatnonzero(~whole & (2 * defined >= draws)):
        ends[:, q] = np.quantile(sample[finite[:, q], q], levels)
    known = np.isfinite(value) & (2 * defined >= draws)
    estimates = [
        Estimate(float(v), float(low), float(high)) if ok else None
        for v, low, high, ok in zip(value, *ends, known, strict=True)
    ]
    return estimates, [int(missing) for missing in draws - defined], value


def _same(one: Sequence[Drawn], other: Sequence[Drawn]) -> bool:
    return all(np.array_equal(a.columns, b.columns, equal_nan=True) for a, b in zip(one, other, strict=True))


@functools.lru_cache(maxsize=64)
def _problem_weights(seed: int, draws: int, sizes: tuple[int, ...]) -> tuple[list[Array], Any]:
    """Of each task the weights of its problems on each draw, (B, P), and the generator's state behind them."""
    rng = np.random.default_rng(seed)
    return [_weights(rng, size, draws) for size in sizes], rng.bit_generator.state


@functools.lru_cache(maxsize=512)
def _seed_weights(seed: int, draws: int, sizes: tuple[int, ...], counts: tuple[int, ...]) -> list[Array]:
    """Of each run the weights of its seeds on each draw, (B, S); drawn after the problems of tasks of these sizes."""
    rng = np.random.default_rng(seed)
    rng.bit_generator.state = _problem_weights(seed, draws, sizes)[1]
    return [_weights(rng, count, draws) for count in counts]


def _weights(rng: np.random.Generator, size: int, draws: int) -> Array:
    return rng.multinomial(size, np.full(size, 1 / size), size=draws) / size
