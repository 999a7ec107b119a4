"""What every length reward is given and gives back: whole groups, one after the other, as plain tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.method.advantages import as_groups
from attnpo.method.credit import Shaped


@dataclass(frozen=True)
class Context:
    """What a length reward may know beside lengths and correctness; it takes a field by naming it as a parameter."""

    step: int = 1
    """The optimizer step that these rollouts are for; the first is 1."""
    total_steps: int = 1
    seed: int = 0
    """Of the training run, for rewards that draw."""
    training: bool = True
    """False in evaluation, where nothing is truncated or dropped and groups may be small."""
    target_length: Tensor | None = None
    """(N,) length in tokens that the prompt asked for; None where prompts ask for none."""
    repeats: Tensor | None = None
    """(N,) bool, whether a response repeats itself (`attnpo.rewards.repetition.repeats_itself`)."""
    reflections: Tensor | None = None
    """(N,) how often a response reflects (`attnpo.rewards.reflections.count_reflections`)."""
    necessary: Tensor | None = None
    """(N, 4) where a response first states the gold answer (`attnpo.grading.necessary.NecessaryPrefix`)."""
    sentence: Tensor | None = None
    """(N, 3) the first sentence with the gold answer (`attnpo.grading.necessary.FirstSentence`)."""
    tail: Tensor | None = None
    """(N, 3) the thinking behind that sentence (`attnpo.grading.necessary.Tail`)."""
    form: Tensor | None = None
    """(N, 2) whether a response thinks, and whether it has an answer (`attnpo.grading.form.Form`)."""
    reference: Tensor | None = None
    """(N,) the accuracy of the untrained model on the response's problem."""
    prefixes: Tensor | None = None
    """(N, M, 2) at each split of a thinking the tokens before it and the accuracy of answers there, last those of the
    whole thinking; NaN behind it."""
    state: dict[str, Any] = field(default_factory=dict)
    """What the reward gave back as `Shaped.state` the last time; empty at first. Plain JSON: checkpoints carry it."""


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


def check_alpha(alpha: float) -> None:
    """Raise AttnPOError if a penalty of at most `alpha` of a correct response's reward could take all of it."""
    if not 0 <= alpha < 1:
        raise AttnPOError(f"alpha {alpha} is outside [0, 1): a correct response must earn more than a wrong one")


def standardised(values: Tensor, correct: Tensor, epsilon: float) -> Tensor:
    """(P, G) values less the mean of their group's correct ones, over the population std of these plus epsilon."""
    n_correct_P1 = correct.sum(-1, keepdim=True).clamp(min=1)
    centred_PG = values - (values * correct).sum(-1, keepdim=True) / n_correct_P1
    std_P1 = ((centred_PG**2 * correct).sum(-1, keepdim=True) / n_correct_P1).sqrt()
    return centred_PG / (std_P1 + epsilon)


def mixed_groups(correct: Tensor) -> Tensor:
    """(P, G) correctness -> (N,) bool: whether the response's group has both correct and wrong responses."""
    n_correct_P1 = correct.sum(1, keepdim=True)
    return ((n_correct_P1 > 0) & (n_correct_P1 < correct.shape[1])).expand_as(correct).flatten()


__all__ = [
    "Context",
    "Shaped",
    "as_groups",
    "at_least",
    "both_as_groups",
    "check_alpha",
    "mixed_groups",
    "standardised",
]
