"""`laser_d`: LASER with a target for each difficulty, re-chosen as training goes (arXiv 2505.15612)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnpo.rewards.adaptive_target import targets_and_state
from attnpo.rewards.groups import Shaped
from attnpo.rewards.laser import step_rewards


def laser_d_rewards(
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
    state: dict[str, Any] | None = None,
) -> Shaped:
    """The reward of `laser` with the target of the group's difficulty: accuracy < 1/3, < 2/3, or above.

    Every `every` steps a difficulty's target becomes the smallest of lower, lower + interval, ..., upper tokens at
    which floor(n * share of its responses within it) reaches 1, n = 1, floor(G / 3), floor(2 G / 3) correct
    responses that its groups have at least; upper where none does. Targets start at upper.
    Defaults: those of the published script of the 1.5B model with lower bound 4096 [C].
    Source: arXiv 2505.15612 [P]; hkust-nlp/Laser, commit 78b09dd [C].
    Deviations: they sample a held-out set of 500 training problems to choose; here the groups of the last `every`
    training steps serve. Their fallback is the longest response of the batch, here upper.
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, a correct that is not 0 or 1, and bounds that hold no length.
    """
    targets, next_state = targets_and_state(lengths, correct, group_size, lower, upper, interval, every, step, state)
    return Shaped(step_rewards(lengths, correct, group_size, targets, bonus, wrong), state=next_state)
