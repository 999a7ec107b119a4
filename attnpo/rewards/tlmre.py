"""`tlmre`: the length-penalised reward of Arora & Zanette (arXiv 2502.04463)."""

from __future__ import annotations

import torch
from torch import Tensor

from attnpo.rewards.groups import both_as_groups, check_alpha, standardised


def tlmre_rewards(lengths: Tensor, correct: Tensor, group_size: int, alpha: float = 0.2) -> Tensor:
    """Rewards (N,) in float64: correctness, less the longer a response is among the group's correct ones.

    Formula: `r = correct * (1 - alpha * sigmoid(z))`, `z = (L - mean) / (std + 1e-8)`; mean and population
    std over the group's correct responses only. A lone correct response, or equal lengths, has z = 0; wrong
    responses get 0.
    Defaults: alpha .2 (AttnPO's published code); the method's own script has .1.
    Source: arXiv 2502.04463; AttnPO's published code [C]. Deviations: none.
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, a correct that is not 0 or 1, and alpha outside [0, 1).
    """
    check_alpha(alpha)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    z_PG = standardised(length_PG, correct_PG, 1e-8)
    return (correct_PG * (1 - alpha * torch.sigmoid(z_PG))).flatten()
