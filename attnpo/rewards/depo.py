"""`depo`: the advantage of thinking behind the first right answer shrinks, the more it reflects (DEPO, 2510.15374)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups, check_alpha, standardised


def depo_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    alpha: float = 0.2,
    beta: float = 0.5,
    max_length: float = 16384,
    clip: Literal["positive", "members"] = "positive",
    *,
    tail: Tensor | None = None,
    training: bool = True,
) -> Shaped:
    """Correctness less the longer a response is, advantages held to its sign, and less of them in the tail.

    Formula: `r = 1 - alpha * (1 - exp(-alpha * d)) * z` for a correct response, d the number of correct ones in its
    group and z its length, standardised over them (population std + 1e-6); 0 for a wrong one, -1 for one of
    `max_length` tokens or more. Then no wrong response keeps a positive advantage, and with clip `positive` a correct
    one has at least the least positive advantage among the correct ones of its group; with `members`, at least their
    least, which changes nothing. Of correct responses the tokens of the thinking behind the first sentence that states
    the gold answer keep the share `1 - beta * (1 - exp(-beta * K))` of their advantage, K = max(N, X): N the largest
    count of one phrase that opens another path, X the number of reflections in them.
    Defaults: none is published: alpha .2, beta .5 and max_length 16,384 are ours.
    Source: a note on arXiv 2510.15374 [S]; there is no code. Deviations: the sentence is found by
    `attnpo.grading.stated`, not by a trained 7B model. Not confirmed: both word lists (ours are those of
    `attnpo.grading.necessary`), the estimator, the std, and which of the two readings of the clip is meant: by the
    note's words it is `members`, by what it is for, `positive`. The constants alpha and beta stand in the formulas
    twice, as in the note.
    lengths (N,) response tokens; correct (N,), 0 or 1; tail (N, 3), each row an `attnpo.grading.necessary.Tail`; groups
    of `group_size` lie one after the other. Advantages are left alone unless `training`.
    Raises AttnPOError for shapes that do not match, missing tails, a correct that is not 0 or 1, an unknown clip, and
    constants out of range.
    """
    if tail is None or tail.shape != (len(lengths), 3):
        raise AttnPOError("depo needs `tail`, three numbers a response: attnpo.grading.necessary.tail_of")
    if clip not in ("positive", "members"):
        raise AttnPOError(f"clip {clip!r} is unknown: choose positive or members")
    check_alpha(alpha)
    at_least(0, beta=beta)
    if beta > 1:
        raise AttnPOError(f"beta {beta} is above 1: tokens of the tail would turn against their response")
    at_least(1, max_length=max_length)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    weight_P1 = alpha * (1 - torch.exp(-alpha * correct_PG.sum(1, keepdim=True)))
    reward_PG = correct_PG * (1 - weight_P1 * standardised(length_PG, correct_PG, 1e-6))
    rewards = torch.where(length_PG >= max_length, -1.0, reward_PG).flatten()
    if not training:
        return Shaped(rewards)
    rows = zip(*(column.tolist() for column in tail.T), (correct_PG.flatten() == 1).tolist(), strict=True)
    factors = [
        [(int(start), int(end), 1 - beta * (1 - math.exp(-beta * turns)))]
        if right and 0 < start < end and turns
        else []
        for start, end, turns, right in rows
    ]
    return Shaped(rewards, sign="both" if clip == "positive" else "wrong", factors=factors)
