"""`vsrm`: a step earns by how much it raises the accuracy of an answer forced behind it (VSRM, arXiv 2508.10293)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups

CHANGE = 1e-5
"""Accuracies that differ by less are alike."""


def vsrm_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    decay: float = 0.7,
    lookahead: int = 4,
    *,
    prefixes: Tensor | None = None,
    training: bool = True,
) -> Shaped:
    """Correctness, and at the beginning of each step a reward whose return the tokens up to there share.

    Formula: step j, from one split of the thinking to the next, earns `d_j = acc_{j+1} - acc_j`, acc_j the accuracy of
    answers forced behind the thinking up to split j. Where d_j is 0, the next change within `lookahead` steps counts,
    times `decay` for each step that it is away; if there is none, 0. The reward stands at the step's first token, so
    that with undiscounted returns the tokens *up to it* are credited, not the step itself: a quirk of the published
    code.
    Defaults: decay .7, lookahead 4 [C]. The estimator is `reinforce_pp`: returns, whitened over the batch's tokens.
    Source: 1benwu1/VSRM-Efficient-LRMs `verl/workers/rollout_postprocess.py`, commit e4e928b [C], which trains by PPO
    with a critic. Not confirmed: discount and batch of the paper's REINFORCE++ (here no discount, all rollouts of a
    step), and what a step earns whose look-ahead reaches the end.
    lengths (N,) response tokens; correct (N,), 0 or 1; prefixes (N, M, 2): at each split the number of tokens before it
    and the accuracy there, the last row that of the whole thinking; NaN behind it. Groups of `group_size` lie one after
    the other.
    Raises AttnPOError for shapes that do not match, missing prefixes, a correct that is not 0 or 1, and constants out
    of range.
    """
    if prefixes is None or prefixes.dim() != 3 or prefixes.shape[::2] != (len(lengths), 2):
        raise AttnPOError("vsrm needs `prefixes`, two numbers a split and response")
    at_least(0, decay=decay, lookahead=lookahead)
    _, correct_PG = both_as_groups(lengths, correct, group_size)
    if not training:
        return Shaped(correct_PG.flatten())
    spans = []
    for of_row in prefixes.double():
        known = of_row[~of_row[:, 1].isnan()].tolist()
        rewards = step_rewards([accuracy for _, accuracy in known], decay, lookahead)
        spans.append([(0, int(place) + 1, r) for (place, _), r in zip(known, rewards, strict=False) if r])
    return Shaped(correct_PG.flatten(), spans=spans)


def step_rewards(accuracies: Sequence[float], decay: float, lookahead: int) -> list[float]:
    """The rewards of K steps from the K + 1 accuracies around them."""
    changes = [after - before for before, after in itertools.pairwise(accuracies)]
    rewards = []
    for j in range(len(changes)):
        near = enumerate(changes[j : j + int(lookahead) + 1])
        rewards.append(next((d * decay**away for away, d in near if abs(d) >= CHANGE), 0.0))
    return rewards
