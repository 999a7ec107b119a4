"""Step Ranking Accuracy of attention heads, and the ranking that names the Key-Focus Heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpo.errors import AttnPOError


class StepRankingAccuracy(NamedTuple):
    """Step Ranking Accuracy (SRA) of H heads."""

    sra: Tensor  # (H,) float64, 0 to 1; 0.5 is chance
    low: Tensor  # (H,) ends of the bootstrap interval
    high: Tensor
    n_pairs: int  # (essential, redundant) pairs of steps
    n_responses: int  # responses with at least one pair


def step_ranking_accuracy(
    scores: Sequence[Tensor],
    essential: Sequence[Tensor],
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> StepRankingAccuracy:
    """How often a head scores an essential step above a redundant one of the same response (paper: SRA).

    Pooled: each (essential, redundant) pair counts once, from whichever response; a tie counts one half. The
    interval is a percentile bootstrap over responses, since pairs of one response are not independent.

    Args:
        scores: per response (H, K) step scores. A step that is NaN for all heads (no tokens) is left out.
        essential: per response (K,) bool, True for essential and False for redundant steps.
        n_resamples: bootstrap samples.
        confidence: share of the bootstrap distribution within the interval.
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        AttnPOError: no pair at all, shapes that do not fit, or a score that is NaN for some heads only.
    """
    wins, pairs, resampled = _resampled(scores, essential, n_resamples, confidence, seed)
    low, high = _interval(resampled, confidence)
    return StepRankingAccuracy(wins.sum(0) / pairs.sum(), low, high, int(pairs.sum()), len(pairs))


def ensemble_ranking_accuracy(
    scores: Sequence[Tensor], essential: Sequence[Tensor], rows: Sequence[int], **options: Any
) -> StepRankingAccuracy:
    """SRA of the mean score of several heads, as training uses them (paper: ensemble curve).

    Args:
        scores, essential, options: as in `step_ranking_accuracy`.
        rows: the heads to average, as rows of each (H, K).

    Returns:
        Tensors of length 1.

    Raises:
        AttnPOError: no rows, or a row that the scores lack.
    """
    n_heads = min((len(score) for score in scores), default=0)
    if not rows or not all(0 <= row < n_heads for row in rows):
        raise AttnPOError(f"rows {list(rows)}: give at least one from 0 to {n_heads - 1}")
    return step_ranking_accuracy([score[list(rows)].mean(0, keepdim=True) for score in scores], essential, **options)


def ranking_difference(
    scores: Sequence[Tensor],
    essential: Sequence[Tensor],
    one: Sequence[int],
    other: Sequence[int],
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """SRA of the mean score of some heads less that of others, over the same responses, and the ends of its interval.

    Args:
        scores, essential, n_resamples, confidence, seed: as in `step_ranking_accuracy`.
        one, other: rows of each (H, K).

    Raises:
        AttnPOError: as `step_ranking_accuracy`.
    """
    means = [torch.stack([score[list(rows)].mean(0) for rows in (one, other)]) for score in scores]
    wins, pairs, resampled = _resampled(means, essential, n_resamples, confidence, seed)
    value = wins.sum(0) / pairs.sum()
    low, high = _interval(resampled[:, 0] - resampled[:, 1], confidence)
    return float(value[0] - value[1]), float(low), float(high)


def greedy_rows(scores: Sequence[Tensor], essential: Sequence[Tensor], n: int) -> list[int]:
    """Heads in the order in which they help: each time the one whose score, added, gives the mean the highest SRA.

    Args:
        scores, essential: as in `step_ranking_accuracy`.
        n: how many heads.

    Returns:
        n rows of each (H, K); of equal ones the first.

    Raises:
        AttnPOError: more heads than there are, no pair at all, or labels that do not fit.
    """
    n_heads = min((len(score) for score in scores), default=0)
    if not 1 <= n <= n_heads:
        raise AttnPOError(f"{n} heads: give 1 to {n_heads}")
    chosen: list[int] = []
    for _ in range(n):
        summed = [score + score[chosen].sum(0) for score in scores]  # the sum ranks as the mean does
        counted = [_wins(*pair, place) for place, pair in enumerate(zip(summed, essential, strict=True))]
        if not any(n_pairs for _, n_pairs in counted):
            raise AttnPOError(f"no response of {len(scores)} has both an essential and a redundant step")
        won = torch.stack([wins for wins, _ in counted]).sum(0)
        won[chosen] = -1
        chosen.append(int(won.argmax()))
    return chosen


def _resampled(
    scores: Sequence[Tensor], essential: Sequence[Tensor], n_resamples: int, confidence: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of N responses with pairs: wins of each head (N, H), pairs (N,), and SRA of each resample (n_resamples, H)."""
    if len(scores) != len(essential):
        raise AttnPOError(f"{len(scores)} responses with scores, {len(essential)} with labels: give one label per step")
    if not 0 < confidence < 1 or n_resamples < 1:
        raise AttnPOError(f"confidence {confidence}, n_resamples {n_resamples}: give one in (0, 1) and at least 1")
    counted = [_wins(score, label, place) for place, (score, label) in enumerate(zip(scores, essential, strict=True))]
    counted = [(wins, n_pairs) for wins, n_pairs in counted if n_pairs]
    if not counted:
        raise AttnPOError(
            f"no response of {len(scores)} has both an essential and a redundant step: label more responses"
        )
    wins = torch.stack([w for w, _ in counted])  # (N, H)
    pairs = torch.tensor([n for _, n in counted], dtype=torch.float64)
    n = len(counted)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    times = torch.zeros(n_resamples, n, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(drawn))
    resampled = (times @ wins) / (times @ pairs)[:, None]
    return wins, pairs, resampled


def _interval(resampled: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The ends of the percentile interval, over the first dimension."""
    tail = (1 - confidence) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high


def _wins(scores: Tensor, essential: Tensor, response: int) -> tuple[Tensor, int]:
    """Per head the number of pairs won (ties one half), (H,) float64, and the number of pairs."""
    essential = torch.as_tensor(essential, dtype=torch.bool, device=scores.device)
    if scores.ndim != 2 or essential.shape != scores.shape[1:]:
        raise AttnPOError(
            f"response {response}: labels {tuple(essential.shape)} do not fit scores {tuple(scores.shape)}: "
            "give (K,) and (H, K)"
        )
    empty = scores.isnan().all(0)
    scores, essential = scores[:, ~empty].double().cpu(), essential[~empty].cpu()
    if scores.isnan().any():
        raise AttnPOError(f"response {response}: a step score is NaN for some heads only: compute the scores again")
    high, low = scores[:, essential, None], scores[:, None, ~essential]
    wins = (high > low).double() + 0.5 * (high == low).double()
    return wins.sum((1, 2)), wins.shape[1] * wins.shape[2]
