"""`dot`: truncate the outliers of groups that are all correct (Dynamic Outlier Truncation, arXiv 2601.03969)."""

from __future__ import annotations

import math

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups, mixed_groups


def dot_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    std_multiplier: float = 3.0,
    margin: float = 32,
    *,
    training: bool = True,
) -> Shaped:
    """Correctness; in all-correct groups, responses far longer than the others are truncated and count as wrong.

    Formula: `T = floor(mean + std_multiplier * std)`, sample std of the group's lengths; a response with
    `L - T >= margin` is truncated at T. Groups that are all or none correct after that are dropped.
    Defaults: std_multiplier 3, margin 32 tokens, G 32 [C]. No response of G is further than (G - 1) / sqrt(G) std
    from the mean: 3 truncates nothing below G = 11, which is refused in training and harmless in evaluation.
    Source: arXiv 2601.03969 [C]. Deviations: theirs grades a truncated response again, here it is wrong (the answer
    comes last); their KL-Cov term and the sampling of further groups in place of dropped ones are left out.
    lengths (N,) response tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, a correct that is not 0 or 1, and a std_multiplier out of reach.
    """
    at_least(0, std_multiplier=std_multiplier, margin=margin)
    furthest = (group_size - 1) / math.sqrt(group_size)
    if training and group_size > 1 and std_multiplier >= furthest:
        raise AttnPOError(
            f"std_multiplier {std_multiplier} can cut nothing in groups of {group_size}, where no length is more than "
            f"{furthest:.2f} std above the mean; lower it or raise group_size"
        )
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    std_P1 = length_PG.std(1, keepdim=True) if group_size > 1 else length_PG * 0
    threshold_P1 = (length_PG.mean(1, keepdim=True) + std_multiplier * std_P1).floor()
    outlier_PG = (correct_PG.amin(1, keepdim=True) == 1) & (length_PG - threshold_P1 >= max(margin, 1))
    right_PG = correct_PG * ~outlier_PG
    truncate_at_PG = threshold_P1.where(outlier_PG, length_PG)
    truncate_at = truncate_at_PG.flatten().to(lengths.dtype)
    return Shaped(right_PG.flatten(), keep=mixed_groups(right_PG), truncate_at=truncate_at)
