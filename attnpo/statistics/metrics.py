"""Figures of an evaluation, and how sure they are. Plain numpy, no files.

Shapes: P problems, k responses a problem, S seeds (training runs), T tasks, M values a problem, Q figures, B
bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    return float(pass_at_k_each(array.sum(axis=1), array.shape[1], k).mean())


def pass_at_k_each(correct: Any, n: Any, k: int) -> Array:
    """Unbiased pass@k of each problem alone, see `pass_at_k`.

    Args:
        correct: (...) correct responses of each problem.
        n: responses of each problem, one number or (...).
        k: responses drawn without replacement, 1 to the smallest n.
    """
    right, total = _numbers("correct", correct), _numbers("n", n)
    if not 1 <= k <= total.min():
        raise AttnPOError(f"pass@{k} needs 1 to {total.min():g} of the responses a problem; sample more or lower k")
    # The product form: the chance that each of k draws in turn is a wrong one.
    draws = np.arange(k)
    missed = np.clip((total - right)[..., None] - draws, 0, None) / (total[..., None] - draws)
    return np.asarray(1 - missed.prod(axis=-1))


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


def accuracy_at_budget(correct: Any, tokens: Any, ended: Any, budget: int) -> float:
    """Share of responses that are correct and ended by themselves within `budget` tokens.

    The responses are those of one run at a larger budget: a response that ends within B tokens would have come out
    the same with budget B. So `budget` must not exceed the run's own.

    Args:
        correct, tokens, ended: same shape; `ended` is False for a response that was cut off.
        budget: in tokens, thinking and answer together.
    """
    right, lengths, whole = (_numbers(*pair) for pair in (("correct", correct), ("tokens", tokens), ("ended", ended)))
    if not right.shape == lengths.shape == whole.shape:
        raise AttnPOError(f"correct {right.shape}, tokens {lengths.shape}, ended {whole.shape} differ in shape")
    return float(((right > 0) & (whole > 0) & (lengths <= budget)).mean())


def budgets_below(limit: int, number: int = 5) -> list[int]:
    """Token budgets to report for a run of budget `limit`: it and its halves, from the smallest (2k to 32k of 32k)."""
    return [limit >> i for i in reversed(range(number)) if limit >> i]


def between_share(correct: Any) -> float:
    """Share of the responses' variance that lies between problems, 0 to 1 (intraclass correlation, one-way ANOVA).

    1: each problem is always or never solved; 0: all problems are equally hard. `correct`: (P, k) of 0/1, k >= 2.
    """
    array = _numbers("correct", correct, 2)
    problems, k = array.shape
    if problems < 2 or k < 2:
        raise AttnPOError(f"{problems} problems with {k} responses: the share between problems needs 2 of each")
    means = array.mean(axis=1, keepdims=True)
    between = k * float(((means - array.mean()) ** 2).sum()) / (problems - 1)
    within = float(((array - means) ** 2).sum()) / (problems * (k - 1))
    total = between + (k - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total else 0.0


def standard_error(accuracy: float, problems: int, samples: int, between: float) -> float:
    """Standard error of avg@k over a population of problems: `sqrt(p (1-p) (rho + (1-rho)/k) / P)`.

    Args:
        accuracy: p, 0 to 1.
        problems: P.
        samples: k, responses a problem.
        between: rho, see `between_share`. 1 gives the widest, 0 the narrowest; over the P problems alone, as if no
            others existed, it is `sqrt(p (1-p) (1-rho) / (k P))`.
    """
    _check_design(accuracy, problems, samples, between)
    return float(np.sqrt(accuracy * (1 - accuracy) * (between + (1 - between) / samples) / problems))


def standard_error_of_difference(
    accuracy: float, problems: int, samples: int, between: float, alike: float = 1.0
) -> float:
    """Standard error of the difference of two runs' avg@k over the same problems (paired).

    `sqrt(2 p (1-p) (rho (1-c) + (1-rho)/k) / P)`. Two evaluations that share no problem: c = 0.

    Args:
        accuracy, problems, samples, between: as in `standard_error`, the same for both runs.
        alike: c, the correlation of the two models' chances over the problems; 1: both find the same ones hard.
    """
    _check_design(accuracy, problems, samples, between)
    if not 0 <= alike <= 1:
        raise AttnPOError(f"alike is {alike}; give a correlation from 0 to 1")
    variance = 2 * accuracy * (1 - accuracy) * (between * (1 - alike) + (1 - between) / samples)
    return float(np.sqrt(variance / problems))


def _check_design(accuracy: float, problems: int, samples: int, between: float) -> None:
    if not (0 <= accuracy <= 1 and 0 <= between <= 1) or problems < 1 or samples < 1:
        raise AttnPOError(
            f"accuracy {accuracy} and between {between} must be from 0 to 1, problems {problems} and samples "
            f"{samples} at least 1"
        )


def accuracy_at_equal_length(points: Any, curve: Any) -> Array:
    """How far points lie above a curve: accuracy less the curve's at the same tokens, mean over the points.

    The curve is linear between its points. Points shorter or longer than all of it do not count.

    Args:
        points: (N, 2) or (B, N, 2): accuracy and mean tokens of a method at N strengths of its penalty.
        curve: (M, 2) or (B, M, 2): the same of the method to compare with.

    Returns:
        () or (B,), in units of accuracy; NaN where no point lies beside the curve.
    """
    points, curve = np.asarray(points, dtype=float), np.asarray(curve, dtype=float)
    if points.ndim == 3:
        return np.array([accuracy_at_equal_length(*pair) for pair in zip(points, curve, strict=True)])
    accuracy, tokens = curve[np.argsort(curve[:, 1])].T
    expected = np.interp(points[:, 1], tokens, accuracy, left=np.nan, right=np.nan)
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
