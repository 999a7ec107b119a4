"""`diet`: a token advantage beside that of accuracy, stronger on easy problems (DIET, arXiv 2505.19217)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attnpo.rewards.groups import Shaped, at_least, both_as_groups


def diet_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    weight: float = 0.5,
    budget: float = 8192,
    half_period: float = 100,
    *,
    step: int = 1,
    seed: int = 0,
) -> Shaped:
    """Correctness, and token scores as an auxiliary reward; `A = A_accuracy + w * A_tokens`, each normalised alone.

    Formula: token score of a correct response i: `-(x_i - mean_j x_j) / std_j x_j`, `x_j = max(L_j - t_i, 0)` over
    all responses j of the group, population std, 0 where that is 0; of a wrong one: 0. t_i is drawn
    uniformly from the whole numbers of `budget * [e - .1, e]`, e the group's error rate; 0 where e = 0.
    `w = weight * (1 - e) * (cos(pi * step / half_period) + 1) / 2`.
    Defaults: weight .5, budget 8192 tokens, half_period 100 steps, as in the published script [C].
    Source: arXiv 2505.19217 [P]; thunlp/DIET, commit 00aa6c0 [C]. Deviations: their -1 for responses that repeat
    themselves or box early is left out, and their KL term; ours draws reproducibly from (seed, step).
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other; step from 1.
    Raises AttnPOError for shapes that do not match, a correct that is not 0 or 1, and constants out of range.
    """
    at_least(0, weight=weight)
    at_least(1, budget=budget, half_period=half_period)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    error_P1 = 1 - correct_PG.mean(1, keepdim=True)
    low_P1, high_P1 = (budget * (error_P1 - 0.1)).trunc(), (budget * error_P1).trunc()
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    draw_PG = torch.rand(length_PG.shape, generator=generator, dtype=torch.float64).to(length_PG)
    target_PG = (low_P1 + (draw_PG * (high_P1 - low_P1 + 1)).floor()).where(error_P1 > 0, 0.0)
    excess_PGG = (length_PG[:, None, :] - target_PG[:, :, None]).clamp(min=0)  # row i: all lengths against i's target
    own_PG = excess_PGG.diagonal(dim1=1, dim2=2)
    std_PG = excess_PGG.std(2, correction=0)
    z_PG = ((own_PG - excess_PGG.mean(2)) / std_PG).where(excess_PGG.amax(2) > excess_PGG.amin(2), 0.0)
    anneal = (math.cos(math.pi * step / half_period) + 1) / 2
    w_PG = (weight * anneal * (1 - error_P1)).expand_as(correct_PG)
    return Shaped(correct_PG.flatten(), auxiliary=(-z_PG * correct_PG).flatten(), auxiliary_weight=w_PG.flatten())
