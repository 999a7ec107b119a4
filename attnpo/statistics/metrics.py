"""Figures of evaluations and trainings. Plain numpy, no files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


def pass_at_k_each(correct: Any, n: Any, k: int) -> Array:
    """Unbiased pass@k of each problem, `1 - C(n - c, k) / C(n, k)` for c correct of n (arXiv 2107.03374, equation 1).

    Args:
        correct: (...) correct responses of each problem.
        n: responses of each problem, one number or (...).
        k: responses drawn without replacement, 1 to the smallest n.
    """
    return pass_up_to(correct, n, k)[..., -1]


def pass_up_to(correct: Any, n: Any, k: int) -> Array:
    """(..., k): `pass_at_k_each` for 1 to k."""
    right, total = _numbers("correct", correct), _numbers("n", n)
    if not 1 <= k <= total.min():
        raise AttnPOError(f"pass@{k} needs 1 to {total.min():g} of the responses a problem; sample more or lower k")
    # The product form: the chance that each of k draws in turn is a wrong one.
    draws = np.arange(k)
    missed = np.clip((total - right)[..., None] - draws, 0, None) / (total[..., None] - draws)
    return np.asarray(1 - missed.cumprod(axis=-1))


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
    score = aes_unchecked(*values)
    return float(score) if score.ndim == 0 else score


def aes_unchecked(accuracy: Array, tokens: Array, base_accuracy: Array, base_tokens: Array) -> Array:
    """`aes` without its checks: infinite or NaN where the base's figures are 0, as in single bootstrap draws."""
    shorter = (base_tokens - tokens) / base_tokens
    better = (accuracy - base_accuracy) / base_accuracy
    return np.asarray(shorter + np.where(better >= 0, 3.0, 5.0) * better)


def budgets_below(limit: int, number: int = 5) -> list[int]:
    """Token budgets to report for a run of budget `limit`: it and its halves, from the smallest (2k to 32k of 32k)."""
    return [limit >> i for i in reversed(range(number)) if limit >> i]


def efficiency_gap(curve: Any, frontier: Any, budgets: Any) -> Array:
    """Area between two curves of accuracy at token budgets, over the largest budget: in units of accuracy.

    The Reasoning Efficiency Gap of arXiv 2506.07104 is such an area below the best accuracy known at each budget; that
    it is over the largest budget, so that it is a mean over all budgets, is ours. Both curves are linear between the
    budgets and 0 at no token.

    Args:
        curve: (..., K): accuracy within each budget.
        frontier: the same of the best that is known.
        budgets: (K,) tokens, from the smallest.

    Raises:
        AttnPOError: budgets that do not rise from above 0.
    """
    places = np.concatenate([[0.0], _numbers("budgets", budgets, ndim=1)])
    if (np.diff(places) <= 0).any():
        raise AttnPOError(f"budgets {list(budgets)} must rise, from 1 on")
    missing = np.asarray(frontier, dtype=float) - np.asarray(curve, dtype=float)
    heights = np.concatenate([np.zeros_like(missing[..., :1]), missing], axis=-1)
    return np.asarray(np.trapezoid(heights, places, axis=-1) / places[-1])


def difference_at_equal_length(points: Any, curve: Any) -> Array:
    """How far points lie above a curve: their height less the curve's at the same tokens, mean over the points.

    The curve is linear between its points. Points shorter or longer than all of it do not count.

    Args:
        points: (N, 2) or (B, N, 2): a measure and mean tokens of a method at N strengths of its penalty.
        curve: (M, 2) or (B, M, 2): the same of the method to compare with.

    Returns:
        () or (B,), in units of the measure; NaN where no point lies beside the curve.
    """
    points, curve = np.asarray(points, dtype=float), np.asarray(curve, dtype=float)
    if points.ndim == 3:
        return np.array([difference_at_equal_length(*pair) for pair in zip(points, curve, strict=True)])
    heights, tokens = curve[np.argsort(curve[:, 1])].T
    expected = np.interp(points[:, 1], tokens, heights, left=np.nan, right=np.nan)
    beside = ~np.isnan(expected)
    return np.asarray((points[beside, 0] - expected[beside]).mean() if beside.any() else np.nan)


class Line(NamedTuple):
    """A straight line through points, and how close to it they lie."""

    slope: float
    start: float
    """Its height at x = 0."""
    r: float
    """Pearson's correlation of the points; NaN if all have one height."""
    spread: float
    """Standard deviation of the points' heights above it, in units of y; n - 2 degrees of freedom."""

    def above(self, x: Any, y: Any) -> Array:
        """How far points lie above it, in units of y. `x`, `y`: (...)."""
        return np.asarray(y, dtype=float) - (self.start + self.slope * np.asarray(x, dtype=float))


def fit_line(x: Any, y: Any) -> Line:
    """The least-squares line through N points, three at least. `x`, `y`: (N,)."""
    x, y = _numbers("x", x, 1), _numbers("y", y, 1)
    if x.shape != y.shape or len(x) < 3 or np.ptp(x) == 0:
        raise AttnPOError(f"{len(x)} points, {len(set(x))} places: a line with a spread needs three, at two or more")
    slope, start = np.polyfit(x, y, 1)
    line = Line(float(slope), float(start), np.nan, np.nan)
    r = float(np.corrcoef(x, y)[0, 1]) if np.ptp(y) else np.nan
    return line._replace(r=r, spread=float(np.sqrt((line.above(x, y) ** 2).sum() / (len(x) - 2))))


class TradeOff(NamedTuple):
    """Accuracy against tokens of some methods, and how far others are from the line through them."""

    line: Line
    above: dict[str, float]
    """Method -> how far it lies above the line, in units of accuracy."""


def trade_off(places: Mapping[str, tuple[float, float]], on_line: Collection[str]) -> TradeOff | None:
    """Whether methods are more accurate than their length explains.

    Args:
        places: method -> its tokens and accuracy.
        on_line: the methods that the line goes through.

    Returns:
        None if these are fewer than four: a line through three says little of them.
    """
    if len(on_line) < 4:
        return None
    line = fit_line(*zip(*(places[method] for method in on_line), strict=True))
    return TradeOff(line, {method: float(line.above(*place)) for method, place in places.items()})


def first_at_most(values: Any, level: float, window: int) -> int | None:
    """The first place at which the mean of the last `window` values is not above `level`; None if it never is.

    Args:
        values: (N,), one a training step, say. The running mean begins with the window's last place.
    """
    array = _numbers("values", values, 1)
    if len(array) < window:
        return None
    (places,) = np.nonzero(np.lib.stride_tricks.sliding_window_view(array, window).mean(axis=1) <= level)
    return int(places[0]) + window - 1 if len(places) else None
