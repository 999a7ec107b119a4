"""The adaptive length targets of LASER-D and LASER-DE: one for each of three difficulties, re-chosen in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from attnpo.rewards.groups import at_least, both_as_groups


def targets_and_state(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    lower: int,
    upper: int,
    interval: int,
    every: int,
    step: int,
    state: dict[str, Any] | None,
) -> tuple[Tensor, dict[str, Any]]:
    """Target (N,) of each response and the next state {targets, seen, chosen_at}; see `laser_d_rewards`."""
    at_least(1, lower=lower, interval=interval, every=every)
    at_least(lower, upper=upper)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    state = state or {"targets": [float(upper)] * 3, "seen": [[], [], []], "chosen_at": 0}
    chosen, seen, chosen_at = state["targets"], state["seen"], state["chosen_at"]
    if step - chosen_at > every:
        candidates = [*range(lower, upper, interval), upper]
        chosen = [smallest_target(level, seen[level], candidates, group_size) for level in range(3)]
        seen, chosen_at = [[], [], []], step - 1
    n_correct_P = correct_PG.sum(1)
    level_P = (3 * n_correct_P >= group_size).long() + (3 * n_correct_P >= 2 * group_size).long()
    new = [length_PG[level_P == level].flatten().tolist() for level in range(3)]
    seen = [old + [int(n) for n in added] for old, added in zip(seen, new, strict=True)]
    target = torch.tensor(chosen, dtype=torch.float64, device=lengths.device)[level_P]
    return target.repeat_interleave(group_size), {"targets": chosen, "seen": seen, "chosen_at": chosen_at}


def smallest_target(level: int, seen: Sequence[int], candidates: Sequence[int], group_size: int) -> float:
    """The smallest candidate length within which at least one correct response is expected; the last if none is."""
    least_correct = (1, group_size // 3, 2 * group_size // 3)[level]
    for length in candidates if seen else ():
        if least_correct * sum(n <= length for n in seen) // len(seen) >= 1:
            return float(length)
    return float(candidates[-1])
