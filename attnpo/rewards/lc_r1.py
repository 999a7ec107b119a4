"""`lc_r1`: thinking behind the first right answer is cropped, and ending it there is rewarded (LC-R1, 2506.14755)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups


def lc_r1_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    alpha: float = 1.0,
    gamma: float = 1.0,
    who: Literal["correct", "group"] = "correct",
    *,
    sentence: Tensor | None = None,
    training: bool = True,
) -> Shaped:
    """Format and correctness, less the longer the cropped response is; and an advantage at `</think>`.

    Formula: of a correct response the thinking behind the first sentence that states the gold answer is cropped, so
    that L' tokens are left; others stay as they are. `r = formatted + correct + alpha * (1 - L' / (max + 1e-4))`, max
    over the group's correct responses; formatted is 1 for exactly one `</think>`. At the first token of `</think>` of a
    correct response gamma * c is added to the advantage, c = 1 - l / T for a sentence that ends at token l of T
    thinking tokens, -1 if there is none. who: who gets the length term: the `correct` responses (paper), or all of
    their `group` (published code).
    Defaults: alpha 1, gamma 1 [C]. The estimator is `centred`: less the group's mean, without std [C].
    Source: zxiangx/LC-R1, commit 7a6bd8b [C]; arXiv 2506.14755 [P]. Deviations: the sentence is found by
    `attnpo.grading.stated`, not by their trained 3B extractor, and is not cropped in evaluation; KL term left out.
    lengths (N,) response tokens; correct (N,), 0 or 1; sentence (N, 3), each row an
    `attnpo.grading.necessary.FirstSentence`; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, missing sentences, a correct that is not 0 or 1, an unknown `who`,
    and constants out of range.
    """
    if sentence is None or sentence.shape != (len(lengths), 3):
        raise AttnPOError("lc_r1 needs `sentence`, three numbers a response: attnpo.grading.necessary.first_sentence")
    if who not in ("correct", "group"):
        raise AttnPOError(f"who {who!r} is unknown: choose correct or group")
    at_least(0, alpha=alpha, gamma=gamma)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    end, thinking, tags = sentence.double().T
    right = correct_PG.flatten() == 1
    crops = torch.stack([end, thinking], 1).where((right & (end > 0) & (end < thinking))[:, None], 0.0)
    left_PG = length_PG - (crops[:, 1] - crops[:, 0]).view_as(length_PG)
    longest_P1 = (left_PG * correct_PG).amax(1, keepdim=True)
    gets_PG = correct_PG if who == "correct" else (correct_PG.amax(1, keepdim=True)).expand_as(correct_PG)
    shorter_PG = gets_PG * (1 - left_PG / (longest_P1 + 1e-4))
    rewards = (tags == 1).double() + correct_PG.flatten() + alpha * shorter_PG.flatten()
    c = torch.where(end > 0, 1 - end / thinking.clamp(min=1), -1.0) * gamma
    rows = zip(thinking.tolist(), c.tolist(), (right & (tags > 0) & (c != 0)).tolist(), strict=True)
    bonus = [[(int(place), int(place) + 1, value)] if some else [] for place, value, some in rows]
    return Shaped(rewards, crops=crops.long(), bonus=bonus) if training else Shaped(rewards)
