"""`s_grpo`: of a thinking that is stopped at several places, earlier right answers earn more (S-GRPO, 2505.07686)."""

from __future__ import annotations

from torch import Tensor

from attnpo.rewards.groups import both_as_groups


def s_grpo_rewards(lengths: Tensor, correct: Tensor, group_size: int, *, training: bool = True) -> Tensor:
    """Rewards (N,) in float64: 1 for the first right answer of a group, half of it for the next, and so on.

    Formula: `r_i = 2 ** -(n_i - 1)` if response i is correct, n_i the number of correct ones up to it, else 0. The
    group is in the order of `attnpo.training.exits`: early exits from early to late, the whole response last. In
    evaluation, where all are whole, r is correctness.
    Source: notes on arXiv 2505.07686 and two reimplementations [S]; there is no official code. The estimator is
    `centred`: less the group's mean, without std [S].
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match and a correct that is not 0 or 1.
    """
    _, correct_PG = both_as_groups(lengths, correct, group_size)
    if not training:
        return correct_PG.flatten()
    return (correct_PG * 2.0 ** (1 - correct_PG.cumsum(1))).flatten()
