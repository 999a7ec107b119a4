"""Length rewards by name: f(lengths (N,), correct (N,), group_size, **args) -> rewards (N,) or `Shaped`.

Groups of `group_size` lie one after the other. A reward that needs more (the step, target lengths, a state) names
fields of `Context` as keyword-only parameters. docs/baselines.md says what of each could be confirmed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpo.errors import AttnPOError, first_line
from attnpo.rewards.adaptthink import adaptthink_rewards
from attnpo.rewards.arlcp import arlcp_rewards
from attnpo.rewards.autothink import autothink_rewards
from attnpo.rewards.decs import decs_rewards
from attnpo.rewards.depo import depo_rewards
from attnpo.rewards.diet import diet_rewards
from attnpo.rewards.dler import dler_rewards
from attnpo.rewards.dot import dot_rewards
from attnpo.rewards.groups import Context, Shaped
from attnpo.rewards.kimi import kimi_rewards
from attnpo.rewards.l1_exact import l1_exact_rewards
from attnpo.rewards.l1_max import l1_max_rewards
from attnpo.rewards.laser import laser_rewards
from attnpo.rewards.laser_d import laser_d_rewards
from attnpo.rewards.laser_de import laser_de_rewards
from attnpo.rewards.lc_r1 import lc_r1_rewards
from attnpo.rewards.overlong import overlong_rewards
from attnpo.rewards.rloo import rloo_rewards
from attnpo.rewards.s_grpo import s_grpo_rewards
from attnpo.rewards.shorter import shorter_rewards
from attnpo.rewards.thinkprune import thinkprune_rewards
from attnpo.rewards.tlmre import tlmre_rewards
from attnpo.rewards.vsrm import split_points, vsrm_rewards


class LengthReward(NamedTuple):
    """A reward, and what the trainer must know of it before it is called."""

    rewards: Callable[..., Tensor | Shaped]
    estimator: str = "rloo"
    """The one of `attnpo.method.advantages.ESTIMATORS` that its source uses with it."""
    crops: bool = False
    """Whether it takes tokens out of responses before the loss."""
    exits: bool = False
    """Whether its groups are one thinking that is stopped at several places (`attnpo.training.exits`)."""
    openings: bool = False
    """Whether its groups begin with given texts (`attnpo.training.openings`)."""
    splits: Callable[..., list[int]] | None = None
    """For rewards that take `prefixes`: from the text of a thinking, and some of the reward's arguments, to the
    characters before which it is split."""


REWARDS: dict[str, LengthReward] = {
    "rloo": LengthReward(rloo_rewards),
    "grpo": LengthReward(rloo_rewards, "grpo"),
    "tlmre": LengthReward(tlmre_rewards),
    "arlcp": LengthReward(arlcp_rewards),
    "s_grpo": LengthReward(s_grpo_rewards, "centred", exits=True),
    "autothink": LengthReward(autothink_rewards, "grpo"),
    "adaptthink": LengthReward(adaptthink_rewards, "reward", openings=True),
    "vsrm": LengthReward(vsrm_rewards, "reinforce_pp", splits=split_points),
    "kimi": LengthReward(kimi_rewards),
    "thinkprune": LengthReward(thinkprune_rewards, "grpo"),
    "l1_exact": LengthReward(l1_exact_rewards, "grpo"),
    "l1_max": LengthReward(l1_max_rewards, "grpo"),
    "laser": LengthReward(laser_rewards, "grpo"),
    "laser_d": LengthReward(laser_d_rewards, "grpo"),
    "laser_de": LengthReward(laser_de_rewards, "grpo"),
    "lc_r1": LengthReward(lc_r1_rewards, "centred", crops=True),
    "overlong": LengthReward(overlong_rewards, "grpo"),
    "shorter": LengthReward(shorter_rewards, "grpo"),
    "diet": LengthReward(diet_rewards, "grpo"),
    "decs": LengthReward(decs_rewards, "grpo"),
    "depo": LengthReward(depo_rewards, "grpo"),
    "dler": LengthReward(dler_rewards, "batch"),
    "dot": LengthReward(dot_rewards, "grpo"),
}


def context_fields(name: str) -> set[str]:
    """Which fields of `Context` the reward takes."""
    parameters = inspect.signature(REWARDS[name].rewards).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def arguments_of(function: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function takes, a reward or its `splits`."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in args.items() if name in parameters}


def shape_rewards(
    name: str, lengths: Tensor, correct: Tensor, group_size: int, args: Mapping[str, Any], context: Context
) -> Shaped:
    """Call the reward `name` with its arguments and with what of the context it takes.

    Raises:
        AttnPOError: as the reward does.
    """
    known = {field: getattr(context, field) for field in context_fields(name)}
    reward = REWARDS[name]
    own = args if reward.splits is None else arguments_of(reward.rewards, args)
    shaped = reward.rewards(lengths, correct, group_size, **own, **known)
    return shaped if isinstance(shaped, Shaped) else Shaped(shaped)


def check_reward(name: str, args: Mapping[str, Any], group_size: int) -> None:
    """Find out now what would fail in training.

    Raises:
        AttnPOError: no such reward, an argument that it does not have, or a value that it cannot take.
    """
    if not isinstance(args, Mapping):
        raise AttnPOError(f"arguments of reward {name!r}: {args!r:.80} is not a mapping; give names and values")
    if name not in REWARDS:
        raise AttnPOError(f"no reward {name!r}; there are {', '.join(REWARDS)}")
    reward = REWARDS[name]
    takes = set(inspect.signature(reward.rewards).parameters) - context_fields(name)
    takes |= set() if reward.splits is None else set(inspect.signature(reward.splits).parameters)
    takes -= {"lengths", "correct", "group_size", "thinking"}
    for key in args:
        if key not in takes:
            names = ", ".join(sorted(takes)) or "none"
            raise AttnPOError(f"reward {name!r} has no argument {key!r}; it has {names}")
    lengths = torch.arange(1, group_size + 1)
    one_group = Context(
        target_length=lengths,
        repeats=lengths < 0,
        reflections=lengths,
        necessary=lengths[:, None].expand(-1, 4),
        sentence=lengths[:, None].expand(-1, 3),
        tail=lengths[:, None].expand(-1, 3),
        form=torch.ones(group_size, 2),
        reference=torch.full((group_size,), 0.5),
        prefixes=torch.ones(group_size, 2, 2),
    )
    for correct in (torch.ones(group_size), torch.zeros(group_size)):
        try:
            shaped = shape_rewards(name, lengths, correct, group_size, args, one_group)
            if reward.splits is not None:
                reward.splits("So.", **arguments_of(reward.splits, args))
        except AttnPOError:
            raise
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise AttnPOError(f"reward {name!r} cannot take {dict(args)} ({first_line(error)}); change them") from error
        if not bool(shaped.rewards.isfinite().all()):
            raise AttnPOError(f"reward {name!r} is not finite with {dict(args)}; change them")


__all__ = [
    "REWARDS",
    "Context",
    "LengthReward",
    "Shaped",
    "check_reward",
    "context_fields",
    "rloo_rewards",
    "shape_rewards",
    "tlmre_rewards",
]
