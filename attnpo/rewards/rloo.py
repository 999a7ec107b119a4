"""`rloo`, and `grpo`: correctness only."""

from __future__ import annotations

from torch import Tensor

from attnpo.method.advantages import as_groups


def rloo_rewards(lengths: Tensor, correct: Tensor, group_size: int) -> Tensor:
    """Rewards (N,) in float64: 1 for a correct response, 0 for a wrong one. Also the reward of `grpo`.

    Formula: `r = correct`. Defaults: none. Source: the RLOO baseline of AttnPO (arXiv 2602.09953).
    Deviations: none.
    lengths (N,), not looked at; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError when N is not a multiple of group_size, or correct is not 0 or 1.
    """
    return as_groups(correct, group_size, "correct").flatten()
