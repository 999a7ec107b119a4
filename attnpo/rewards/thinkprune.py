"""`thinkprune`: a token limit that tightens in stages (arXiv 2504.01296)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups


def thinkprune_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    limits: Sequence[float] = (4000, 3000, 2000),
    *,
    step: int = 1,
    total_steps: int = 1,
) -> Shaped:
    """Correctness within the limit of the stage, 0 past it; longer responses are truncated there.

    Formula: `r = correct * (L <= limit)`; the limits share the training steps in equal parts.
    Defaults: limits 4k, 3k, 2k tokens, as the published code trains [C]; that 4k is 4,000 is not confirmed.
    Source: arXiv 2504.01296 [P]: what is unfinished at the limit is discarded and earns 0.
    Deviations: their stages are separate runs, each from the checkpoint of the last chosen on validation; here they
    are parts of one run. They sample up to the limit, here longer rollouts are truncated there: the same responses.
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other; step from 1.
    Raises AttnPOError for shapes that do not match, a correct that is not 0 or 1, and limits that do not fall.
    """
    both_as_groups(lengths, correct, group_size)
    if not limits or any(later >= earlier for earlier, later in pairwise(limits)):
        raise AttnPOError(f"limits {list(limits)}: give at least one, each below the one before it")
    at_least(1, smallest_limit=limits[-1])
    stage = min((step - 1) * len(limits) // max(total_steps, 1), len(limits) - 1)
    limit = torch.full_like(lengths, int(limits[stage]))
    return Shaped(correct.double() * (lengths <= limit), truncate_at=limit)
