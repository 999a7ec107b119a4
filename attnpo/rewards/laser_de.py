"""`laser_de`: LASER-D that lets wrong responses explore past their target (arXiv 2505.15612)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.adaptive_target import targets_and_state
from attnpo.rewards.groups import Shaped
from attnpo.rewards.laser import step_rewards


def laser_de_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    lower: int = 4096,
    upper: int = 16384,
    interval: int = 1024,
    every: int = 20,
    bonus: float = 0.5,
    wrong: float = -0.5,
    *,
    step: int = 1,
    repeats: Tensor | None = None,
    state: dict[str, Any] | None = None,
) -> Shaped:
    """As `laser_d_rewards`; a wrong response longer than its target gets the bonus too, unless it repeats itself.

    repeats: (N,) bool. The rest, defaults, source and deviations: `laser_d_rewards`; on repetition see
    `attnpo.rewards.repetition`. Raises AttnPOError also when repeats is missing.
    """
    if repeats is None or repeats.shape != lengths.shape:
        raise AttnPOError("laser_de needs `repeats`, one bool a response: see attnpo.rewards.repetition.repeats_itself")
    targets, next_state = targets_and_state(lengths, correct, group_size, lower, upper, interval, every, step, state)
    rewards = step_rewards(lengths, correct, group_size, targets, bonus, wrong)
    explores = (correct == 0) & (lengths > targets) & ~repeats.bool()
    return Shaped(torch.where(explores, rewards + bonus, rewards), state=next_state)
