"""`vsrm`: a step earns by how much it raises the accuracy of an answer forced behind it (VSRM, arXiv 2508.10293)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups

CHANGE = 1e-5
"""Accuracies that differ by less are alike."""
_TRIGGERS = re.compile(
    r"(?i:wait|but|alternatively|however|hmm)|Let me double-check|Hold on|Looking back|Seems solid|Similarly"
    r"|That's correct, but|That seems right|So"
)
"""What announces a new step, wherever it stands, within words too. Those that begin with one of the others go without
saying."""
_SENTENCE_ENDS = re.compile(r"[.!?\n]")


def vsrm_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    decay: float = 0.7,
    lookahead: int = 4,
    discount: float = 1.0,
    at: Literal["start", "end"] = "start",
    *,
    prefixes: Tensor | None = None,
    training: bool = True,
) -> Shaped:
    """Correctness, earned by the last token, and for each step a reward that is earned within the thinking.

    Formula: step j, from one split of the thinking to the next, earns `d_j = acc_{j+1} - acc_j`, acc_j the accuracy of
    answers forced behind the thinking up to split j. Where d_j is 0, the next change within `lookahead` steps counts,
    times `decay` for each step that it is away; if there is none, 0. A token's advantage is its return: the rewards of
    the tokens from it on, each times `discount` for each token that it is away. The reward of a step stands at its
    first token (`at: start`), so that without discount the tokens *before* the step are credited, and of the step
    itself the first one alone: a quirk of the published code. At its last token (`end`), the step is credited too.
    Defaults: decay .7, lookahead 4, discount 1, splits from character 1,000 on and 400 apart (`split_points`), 5
    answers behind the thinking so far and `</think>`, T .6, top_p .95, at most 768 tokens [C].
    Source: 1benwu1/VSRM-Efficient-LRMs `verl/workers/rollout_postprocess.py`, commit e4e928b [C], which trains by PPO
    with a critic, one rollout a prompt. The estimator is `reinforce_pp`: returns, whitened over the batch's tokens, as
    in the VSRM-R++ of AttnPO's table, whose script is not released. Not confirmed: its discount and batch (here all
    rollouts of a step), and what a step earns whose look-ahead reaches the end. Deviation: where no split is, nothing
    is asked.
    lengths (N,) response tokens; correct (N,), 0 or 1; prefixes (N, M, 2): at each split the number of tokens before it
    and the accuracy there, the last row that of the whole thinking; NaN behind it. Groups of `group_size` lie one after
    the other. In evaluation a reward is correctness.
    With AttnPO on top, steps of correct responses are rescaled whole, what they earn included; the sign of the part
    that is correctness decides between PA and NA.
    Raises AttnPOError for shapes that do not match, missing prefixes, a correct that is not 0 or 1, and constants out
    of range.
    """
    at_least(0, decay=decay, lookahead=lookahead)
    if not 0 < discount <= 1:
        raise AttnPOError(f"discount {discount} is outside (0, 1]: give what a reward is worth one token earlier")
    if at not in ("start", "end"):
        raise AttnPOError(f"at {at!r} is unknown: choose start or end")
    _, correct_PG = both_as_groups(lengths, correct, group_size)
    if not training:
        return Shaped(correct_PG.flatten())
    if prefixes is None or prefixes.dim() != 3 or prefixes.shape[::2] != (len(lengths), 2):
        raise AttnPOError("vsrm needs `prefixes`, two numbers a split and response")
    spans = []
    for of_row in prefixes.double():
        known = of_row[~of_row[:, 1].isnan()].tolist()
        places = [int(place) for place, _ in known]
        rewards = step_rewards([accuracy for _, accuracy in known], decay, lookahead)
        ends = [place + 1 for place in places] if at == "start" else places[1:]
        spans.append([(0, end, r) for end, r in zip(ends, rewards, strict=False) if r])
    return Shaped(correct_PG.flatten(), spans=spans, discount=discount)


def split_points(thinking: str, first: int = 1000, apart: int = 400) -> list[int]:
    """Where steps begin: the characters of `thinking` before which it is split, in ascending order.

    A trigger opens a step right behind the last `.`, `!`, `?` or newline before it, but none before character `first`,
    nor less than `apart` behind the one before [C]. Not confirmed: in which capitals the single words count (here in
    any), and that a place before `first` is given up, not moved.

    Raises AttnPOError for values below 0.
    """
    at_least(0, first=first, apart=apart)
    points: list[int] = []
    sentence = 0
    ends = [match.end() for match in _SENTENCE_ENDS.finditer(thinking)]
    for trigger in _TRIGGERS.finditer(thinking):
        while sentence < len(ends) and ends[sentence] <= trigger.start():
            sentence += 1
        point = ends[sentence - 1] if sentence else 0
        if point >= first and (not points or point >= points[-1] + max(apart, 1)):
            points.append(point)
    return points


def step_rewards(accuracies: Sequence[float], decay: float, lookahead: int) -> list[float]:
    """The rewards of K steps from the K + 1 accuracies around them."""
    changes = [after - before for before, after in itertools.pairwise(accuracies)]
    rewards = []
    for j in range(len(changes)):
        near = enumerate(changes[j : j + int(lookahead) + 1])
        rewards.append(next((d * decay**away for away, d in near if abs(d) >= CHANGE), 0.0))
    return rewards
