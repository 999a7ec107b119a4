"""What every length reward is given and gives back: whole groups, one after the other, as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnpo.errors import AttnPOError


@dataclass(frozen=True)
class Context:
    """What a length reward may know beside lengths and correctness; it takes a field by naming it as a parameter."""

    step: int = 1
    """The optimizer step that these rollouts are for; the first is 1."""
    total_steps: int = 1
    seed: int = 0
    """Of the training run, for rewards that draw."""
    told: Tensor | None = None
    """(N,) length in tokens that the prompt asked for; None where prompts tell no length."""
    repeats: Tensor | None = None
    """(N,) bool, whether a response repeats itself (`attnpo.rewards.repetition.repeats_itself`)."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the reward gave back as `Shaped.state` the last time; empty at first. Plain JSON: checkpoints carry it."""


@dataclass(frozen=True)
class Shaped:
    """What a length reward makes of N responses; all but `rewards` may be left out."""

    rewards: Tensor
    """(N,) float64."""
    second: Tensor | None = None
    """(N,) float64, rewards of a second advantage: normalised on their own and added, times `second_weight`."""
    second_weight: Tensor | None = None
    """(N,) float64."""
    kept: Tensor | None = None
    """(N,) bool; groups with False are dropped: no advantage, and no token of theirs is counted in the loss."""
    cut: Tensor | None = None
    """(N,) tokens that each response keeps. A longer one is cut there: wrong, and the rest is masked in the loss."""
    state: dict[str, Any] | None = None
    """The next `Context.state`; None leaves it as it is."""


def as_groups(values: Tensor, group_size: int, name: str) -> Tensor:
    """(N,) -> (N / group_size, group_size) in float64. Raises AttnPOError when that does not come out even.

    Values named "correct" must be 0 or 1.
    """
    if values.dim() != 1 or group_size < 1 or len(values) % group_size:
        raise AttnPOError(
            f"{name} of shape {tuple(values.shape)} does not split into groups of {group_size}: "
            "pass one dimension, a multiple of group_size"
        )
    if name == "correct" and not ((values == 0) | (values == 1)).all():
        raise AttnPOError(f"correct holds {values[(values != 0) & (values != 1)][0].item()}: pass 0 or 1 only")
    return values.reshape(-1, group_size).to(torch.float64)


def both_as_groups(lengths: Tensor, correct: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Lengths and correctness as `as_groups` gives them. Raises AttnPOError also for shapes that do not match."""
    if lengths.shape != correct.shape:
        raise AttnPOError(f"lengths {tuple(lengths.shape)} and correct {tuple(correct.shape)} must have one shape")
    return as_groups(lengths, group_size, "lengths"), as_groups(correct, group_size, "correct")


def at_least(minimum: float, **values: float) -> None:
    """Raise AttnPOError that names the first of `values` that is not a finite number of at least `minimum`."""
    for name, value in values.items():
        if not minimum <= value < float("inf"):
            raise AttnPOError(f"{name} {value} must be finite and at least {minimum:g}")


def undecided(correct: Tensor) -> Tensor:
    """(P, G) -> (N,) bool: whether a response's group has correct and wrong ones, or says nothing on correctness."""
    n_correct_P1 = correct.sum(1, keepdim=True)
    return ((n_correct_P1 > 0) & (n_correct_P1 < correct.shape[1])).expand_as(correct).flatten()
