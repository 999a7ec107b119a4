"""`dler`: truncation as the only length penalty, done right (DLER, arXiv 2510.15110)."""

from __future__ import annotations

import torch
from torch import Tensor

from attnpo.rewards.groups import Shaped, at_least, both_as_groups, mixed_groups


def dler_rewards(lengths: Tensor, correct: Tensor, group_size: int, limit: float = 4000) -> Shaped:
    """Correctness within the limit; longer responses are truncated; groups with all or none correct are dropped.

    Formula: `r = correct * (L <= limit)`; advantages `r - mean of the group`, whitened over the batch
    (`attnpo.method.advantages.batch_whitened`), which is the estimator `batch`.
    Defaults: limit 4000 tokens; upper clip .28 (`grpo: {epsilon_high: .28}` in a profile); G 16 [C].
    Source: arXiv 2510.15110 [P]; NVlabs/DLER, commit 498b8ed [C].
    Deviations: they sample until the batch is full of mixed groups, here dropped groups leave it smaller; their
    script's KL term (5e-4), boost of correct advantages (.1) and penalty for stopping improperly (.1) are left out.
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, a correct that is not 0 or 1, and a limit below 1.
    """
    at_least(1, limit=limit)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    right_PG = correct_PG * (length_PG <= limit)
    return Shaped(right_PG.flatten(), keep=mixed_groups(right_PG), truncate_at=torch.full_like(lengths, int(limit)))
