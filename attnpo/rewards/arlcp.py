"""`arlcp`: a length penalty and a reflection penalty that trade places (ARLCP, ICLR 2026)."""

from __future__ import annotations

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import at_least, both_as_groups, check_alpha, standardised


def arlcp_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    alpha: float = 0.2,
    few: float = 40,
    many: float = 80,
    *,
    reflections: Tensor | None = None,
) -> Tensor:
    """Rewards (N,) in float64: correctness, less the longer a response is and the more it reflects.

    Formula: `r = correct * (1 - w1 * sigmoid(z_R) - (alpha - w1) * sigmoid(z_L))`; z_R and z_L are the number of
    reflections R and the length L, standardised over the group's correct responses (population std + 1e-6). w1 is a
    quarter of alpha where R <= few, half where R <= many, three quarters above. Wrong responses get 0.
    Defaults: alpha .2, few 40, many 80, as in the published script [C].
    Source: ZeweiYu1/ARLCP `src/rm.py`, commit c8ff44f [C]. Deviations: the caller's statistics are not in that file, so
    that they are over correct responses and that the std is the population's is not confirmed; their KL term in the
    reward (.001) is left out.
    lengths (N,) response tokens; correct (N,), 0 or 1; reflections (N,), counted by
    `attnpo.rewards.reflections.count_reflections`; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, missing reflections, a correct that is not 0 or 1, alpha outside
    [0, 1), and many below few.
    """
    if reflections is None or reflections.shape != lengths.shape:
        raise AttnPOError("arlcp needs `reflections`, a count a response: attnpo.rewards.reflections.count_reflections")
    check_alpha(alpha)
    at_least(0, few=few)
    at_least(few, many=many)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    count_PG, _ = both_as_groups(reflections, correct, group_size)
    w1_PG = alpha * (0.25 + 0.25 * (count_PG > few).double() + 0.25 * (count_PG > many).double())
    of_reflections = w1_PG * torch.sigmoid(standardised(count_PG, correct_PG, 1e-6))
    of_length = (alpha - w1_PG) * torch.sigmoid(standardised(length_PG, correct_PG, 1e-6))
    return (correct_PG * (1 - of_reflections - of_length)).flatten()
