"""Estimates with bootstrap intervals over seeds and problems. Plain numpy, no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.statistics.metrics import Array, _numbers, aes_unchecked


class Estimate(NamedTuple):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[..., Any], *runs: Any, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Percentile bootstrap of a function of means: over seeds, then over problems.

    Each draw takes S of a run's seeds with replacement, for each run apart, then P problems with replacement,
    the same ones for all seeds and runs, since all answered the same problems. So comparisons stay paired.

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
    tasks = [[np.atleast_2d(_numbers("run", run))] for run in runs]

    def of_one_task(*means: Array) -> Array:
        return np.asarray(statistic(*(mean[0] for mean in means)), dtype=float)[..., None]

    (estimate,), (undefined,), (value,) = _bootstrap(of_one_task, tasks, draws, level, seed)
    if estimate is None:
        raise AttnPOError(f"the statistic is {value} on the data and undefined on {undefined} of {draws} draws")
    return estimate


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
    return _bootstrap(
        statistic, [[np.asarray(table, dtype=float) for table in run] for run in runs], draws, level, seed
    )[0]


def _bootstrap(
    statistic: Callable[..., Any], runs: Sequence[Sequence[Array]], draws: int, level: float, seed: int
) -> tuple[list[Estimate | None], list[int], Array]:
    """Estimates of the Q figures, on how many draws each is undefined, and the values on the data."""
    if not runs or draws < 1 or not 0 < level < 1:
        raise AttnPOError(f"bootstrap needs runs, draws >= 1, 0 < level < 1, not {len(runs)}, {draws}, {level}")
    shapes = [[table.shape for table in run] for run in runs]
    sizes = {tuple(shape[1] for shape in run) for run in shapes}
    seeds = {len({shape[0] for shape in run}) for run in shapes}
    if len(sizes) > 1 or seeds != {1} or any(len(shape) not in (2, 3) or 0 in shape for run in shapes for shape in run):
        shown = ", ".join(str(shape) for run in shapes for shape in run)
        raise AttnPOError(f"runs have shapes {shown}; pass (seeds, problems) each, over the same problems")
    rng = np.random.default_rng(seed)
    problem_weights = [_weights(rng, size, draws) for size in next(iter(sizes))]
    values, drawn = [], []
    for run in runs:
        seed_weights = _weights(rng, len(run[0]), draws)
        of_tasks = []
        for table, weights in zip(run, problem_weights, strict=True):
            of_seeds = np.stack([weights @ of_seed for of_seed in table], axis=1)  # (B, S) or (B, S, M)
            of_tasks.append(np.einsum("bs...,bs->b...", of_seeds, seed_weights))
        values.append(np.stack([table.mean(axis=(0, 1)) for table in run]))
        drawn.append(np.stack(of_tasks))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.asarray(statistic(*values), dtype=float)
        sample = np.asarray(statistic(*drawn), dtype=float)
    estimates: list[Estimate | None] = []
    missing = []
    for q, of_data in enumerate(value):
        defined = sample[:, q][np.isfinite(sample[:, q])]
        missing.append(draws - len(defined))
        if not np.isfinite(of_data) or 2 * len(defined) < draws:
            estimates.append(None)
            continue
        low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
        estimates.append(Estimate(float(of_data), float(low), float(high)))
    return estimates, missing, value


def _weights(rng: np.random.Generator, size: int, draws: int) -> Array:
    return rng.multinomial(size, np.full(size, 1 / size), size=draws) / size


def mean_estimate(run: Any, **options: Any) -> Estimate:
    """Mean of a run, (P,) or (S, P), with its interval; options as in `bootstrap`."""
    return bootstrap(lambda mean: mean, run, **options)


def paired_difference(run: Any, other: Any, **options: Any) -> Estimate:
    """`run - other` over the same problems in one order, (P,) or (S, P) each; options as in `bootstrap`."""
    return bootstrap(lambda mean, other_mean: mean - other_mean, run, other, **options)


def aes_estimate(run: Any, base: Any, **options: Any) -> Estimate:
    """`aes` of a run against its base, (S, P, 2) each: accuracy and tokens; options as in `bootstrap`."""
    return bootstrap(lambda a, b: aes_unchecked(a[..., 0], a[..., 1], b[..., 0], b[..., 1]), run, base, **options)
