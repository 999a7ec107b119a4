"""Figures of an evaluation, and how sure they are. Plain numpy, no files.

Shapes: P problems, k responses a problem, S seeds (training runs), B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError

Array = np.ndarray


def _numbers(name: str, values: Any, ndim: int | None = None) -> Array:
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise AttnPOError(f"{name} is empty; pass at least one value")
    if ndim is not None and array.ndim != ndim:
        raise AttnPOError(f"{name} has shape {array.shape}; pass {ndim} dimension{'s' if ndim > 1 else ''}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise AttnPOError(f"{name} holds {bad} NaN or infinite values; leave them out")
    return array


def avg_at_k(correct: Any) -> float:
    """avg@k: share of correct responses, mean over problems. `correct`: (P, k) of 0/1."""
    return float(_numbers("correct", correct, 2).mean())


def pass_at_k(correct: Any, k: int) -> float:
    """Unbiased pass@k, `1 - C(n - c, k) / C(n, k)`, mean over problems (arXiv 2107.03374, equation 1).

    Args:
        correct: (P, n) of 0/1, n responses a problem, c of them correct.
        k: responses drawn without replacement, 1 to n.
    """
    array = _numbers("correct", correct, 2)
    n = array.shape[1]
    if not 1 <= k <= n:
        raise AttnPOError(f"pass@{k} needs 1 to {n} of the {n} responses a problem; sample more or lower k")
    wrong = n - array.sum(axis=1)
    # The product form: the chance that each of k draws in turn is a wrong one.
    draws = np.arange(k)
    missed = np.clip(wrong[:, None] - draws, 0, None) / (n - draws)
    return float(1 - missed.prod(axis=1).mean())


def aes(accuracy: Any, tokens: Any, base_accuracy: Any, base_tokens: Any) -> Any:
    """Accuracy-Efficiency Score: `dLen + 3 dAcc`, or `dLen - 5 |dAcc|` where accuracy fell.

    `dLen = (base_tokens - tokens) / base_tokens`, `dAcc = (accuracy - base_accuracy) / base_accuracy`.
    Arguments are averages over benchmarks; floats or arrays of one shape, the result alike.
    Source: arXiv 2509.25827 (DECS), checked on its table.
    """
    values = [
        _numbers(name, v)
        for name, v in {
            "accuracy": accuracy,
            "tokens": tokens,
            "base accuracy": base_accuracy,
            "base tokens": base_tokens,
        }.items()
    ]
    if (values[2] <= 0).any() or (values[3] <= 0).any():
        raise AttnPOError("AES divides by the base's accuracy and tokens; both must be above 0")
    score = _aes(*values)
    return float(score) if score.ndim == 0 else score


def _aes(accuracy: Array, tokens: Array, base_accuracy: Array, base_tokens: Array) -> Array:
    shorter = (base_tokens - tokens) / base_tokens
    better = (accuracy - base_accuracy) / base_accuracy
    return np.asarray(shorter + np.where(better >= 0, 3.0, 5.0) * better)


def truncation_rate(finish: Sequence[str | None]) -> float:
    """Share of responses cut off by the token budget. `finish`: "stop" or "length" each; no others."""
    if unknown := [reason for reason in finish if reason not in ("stop", "length")]:
        raise AttnPOError(f"finish reason {unknown[0]!r} of {len(unknown)} responses is not known; leave them out")
    return float(_numbers("finish", [reason == "length" for reason in finish]).mean())


def missing_think_end_rate(think_tags: Any) -> float:
    """Share of responses without any `</think>`. `think_tags`: how many each has."""
    return float((_numbers("think_tags", think_tags) == 0).mean())


class TokenMeans(NamedTuple):
    """Mean tokens of all responses and of the correct ones (None if none is correct)."""

    all: float
    correct: float | None


def token_means(tokens: Any, correct: Any) -> TokenMeans:
    """Mean response length in tokens. `tokens`, `correct`: same shape."""
    lengths, right = _numbers("tokens", tokens), _numbers("correct", correct).astype(bool)
    if lengths.shape != right.shape:
        raise AttnPOError(f"tokens {lengths.shape} and correct {right.shape} differ; pass one of each a response")
    return TokenMeans(float(lengths.mean()), float(lengths[right].mean()) if right.any() else None)


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
    if not runs or draws < 1 or not 0 < level < 1:
        raise AttnPOError(f"bootstrap needs runs, draws >= 1, 0 < level < 1, not {len(runs)}, {draws}, {level}")
    tables = [np.atleast_2d(_numbers("run", run)) for run in runs]
    if any(table.ndim > 3 for table in tables) or len({table.shape[1] for table in tables}) > 1:
        shapes = ", ".join(str(table.shape) for table in tables)
        raise AttnPOError(f"runs have shapes {shapes}; pass (seeds, problems) each, over the same problems")
    rng = np.random.default_rng(seed)
    problem_weights = _weights(rng, tables[0].shape[1], draws)
    means = []
    for table in tables:
        of_problems = np.tensordot(_weights(rng, len(table), draws), table, axes=1)  # (B, P) or (B, P, M)
        means.append(np.einsum("bp...,bp->b...", of_problems, problem_weights))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*(table.mean(axis=(0, 1)) for table in tables)))
        drawn = np.asarray(statistic(*means), dtype=float)
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or 2 * len(defined) < draws:
        raise AttnPOError(
            f"the statistic is {value} on the data and undefined on {draws - len(defined)} of {draws} draws"
        )
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


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
    return bootstrap(lambda a, b: _aes(a[..., 0], a[..., 1], b[..., 0], b[..., 1]), run, base, **options)
