"""Rewards by name: f(lengths (N,), correct (N,), group_size, **kwargs) -> rewards (N,)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from attnpo.rewards.rloo import rloo_advantages, rloo_rewards
from attnpo.rewards.tlmre import tlmre_rewards

REWARDS: dict[str, Callable[..., Tensor]] = {"rloo": rloo_rewards, "tlmre": tlmre_rewards}

__all__ = ["REWARDS", "rloo_advantages", "rloo_rewards", "tlmre_rewards"]
