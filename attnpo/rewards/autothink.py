"""`autothink`: an answer without thinking earns more, and neither way takes over the batch (AutoThink, 2505.10832)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import at_least, both_as_groups


@dataclass(frozen=True)
class Stage:
    """One stage of the training. Raises AttnPOError for a value out of its range."""

    steps: float
    """Its part of the training steps, in proportion to those of the other stages."""
    balance: float = 1.0
    """Share of the batch above which responses of one way, thinking or not, lose reward; 1: none does."""
    alpha: float = 0.0
    """How much longer correct responses lose, and shorter ones gain."""
    beta: float = 0.0
    """How much longer wrong responses gain, and shorter ones lose."""

    def __post_init__(self) -> None:
        at_least(0, steps=self.steps, balance=self.balance, alpha=self.alpha, beta=self.beta)
        if self.balance > 1:
            raise AttnPOError(f"balance {self.balance} is above 1: give a share of the batch")


STAGES = (Stage(220, balance=0.5), Stage(440), Stage(130, alpha=0.05, beta=0.05))
SLOPE = 2.0


def autothink_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    stages: Sequence[Stage | Mapping[str, Any]] = STAGES,
    *,
    form: Tensor | None = None,
    step: int = 1,
    total_steps: int = 1,
) -> Tensor:
    """Rewards (N,) in float64 of responses that chose whether to think.

    Formula: thinking and correct 1, wrong 0; not thinking and correct 2, wrong -1; without an answer 0, whatever it is.
    Then, over the correct responses of a group if there are several, `+ exp(-alpha * z) - 1`, z their length,
    standardised (sample std, at least 1e-6); over the wrong ones `+ 1 - exp(-beta * z)`. Then, with t the share of the
    batch that thinks and `f = clip(2 * (t - balance), 0, 1)`: a thinking response's reward r becomes (1 - f) * r, if it
    is wrong less f; with 1 - t in place of t, that of one that does not think becomes (1 - f) * r + f if it is correct,
    (1 - f) * r - 2 * f if it is wrong. The stages share the training steps.
    Defaults: the three published stages, 220, 440 and 130 steps: balance .5; none; alpha and beta .05 [C].
    Source: TU2021/AutoThink, commit be0bcb0 [C]; arXiv 2505.10832 [P]. The prompt ends in `<think>`, newline, `...`,
    newline, which leaves it open whether the model thinks: `prefill` in a method of a profile.
    Deviations: their stages are runs of their own with contexts of 8k, 16k and 24k tokens; here they are parts of one.
    That a response without an answer counts as a wrong one in the length term is not confirmed.
    lengths (N,) response tokens; correct (N,), 0 or 1; form (N, 2), each row an `attnpo.grading.form.Form`; groups of
    `group_size` lie one after the other; step from 1. The batch is all N responses.
    Raises AttnPOError for shapes that do not match, a missing form, a correct that is not 0 or 1, and stages that are
    none or have a value out of range.
    """
    if form is None or form.shape != (len(lengths), 2):
        raise AttnPOError("autothink needs `form`, two numbers a response: attnpo.grading.form.form_of")
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    stage = _stage(stages, step, total_steps)
    thinks_PG, answered_PG = (column.bool().view_as(correct_PG) for column in form.T)
    right_PG = (correct_PG == 1) & answered_PG
    reward_PG = (
        torch.where(thinks_PG, right_PG.double(), torch.where(right_PG, 2.0, -1.0).double()) * answered_PG.double()
    )
    reward_PG = reward_PG + (torch.exp(-stage.alpha * _standardised(length_PG, right_PG)) - 1) * right_PG
    reward_PG = reward_PG + (1 - torch.exp(-stage.beta * _standardised(length_PG, ~right_PG))) * ~right_PG
    share = float(thinks_PG.double().mean())
    for way_PG, of_way, limits in ((thinks_PG, share, (0.0, -1.0)), (~thinks_PG, 1 - share, (1.0, -2.0))):
        f = min(max(SLOPE * (of_way - stage.balance), 0.0), 1.0)
        toward_PG = torch.where(right_PG, *limits)
        reward_PG = torch.where(way_PG, (1 - f) * reward_PG + f * toward_PG, reward_PG)
    return reward_PG.flatten()


def _stage(stages: Sequence[Stage | Mapping[str, Any]], step: int, total_steps: int) -> Stage:
    """The stage that `step` of `total_steps` lies in."""
    try:
        known = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages]
    except TypeError as error:
        raise AttnPOError(
            f"stages {stages!r:.200}: give mappings with steps, balance, alpha, beta ({error})"
        ) from error
    total = sum(stage.steps for stage in known)
    if not total:
        raise AttnPOError(f"stages {stages!r:.200}: give at least one with steps")
    done, passed = (step - 1) / max(total_steps, 1) * total, 0.0
    for stage in known:
        passed += stage.steps
        if done < passed:
            return stage
    return known[-1]


def _standardised(values: Tensor, chosen: Tensor) -> Tensor:
    """(P, G) values less the mean of their group's chosen ones, over the sample std of these; 0 for a single one."""
    n_P1 = chosen.sum(1, keepdim=True)
    centred_PG = (values - (values * chosen).sum(1, keepdim=True) / n_P1.clamp(min=1)) * chosen
    std_P1 = ((centred_PG**2).sum(1, keepdim=True) / (n_P1 - 1).clamp(min=1)).sqrt().clamp(min=1e-6)
    return torch.where(n_P1 > 1, centred_PG / std_P1, 0.0)
