"""`l1_max`: be right and not longer than the prompt allows (L1-Max, arXiv 2503.04697)."""

from __future__ import annotations

from torch import Tensor

from attnpo.rewards.groups import at_least, both_as_groups
from attnpo.rewards.l1_exact import as_target_lengths


def l1_max_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    alpha: float = 3e-4,
    delta: float = 0.5,
    *,
    target_length: Tensor | None = None,
) -> Tensor:
    """Rewards (N,) in float64: correctness times a factor that falls softly around the length asked for.

    Formula: `r = correct * clip(alpha * (target - L) + delta, 0, 1)`.
    Defaults: alpha 3e-4, delta .5 [S]; public copies of the authors' code have alpha 1/1000. The prompt ends in
    "Think for maximum {n} tokens." [C, public copies of their data script]: `target_length` in a profile.
    Source: arXiv 2503.04697 [S]. Deviations: theirs goes on from the L1-Exact model, here it starts from the base.
    lengths, target_length (N,) tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError when target_length is missing, for shapes that do not match, a correct that is not 0 or 1, and
    alpha or delta below 0.
    """
    at_least(0, alpha=alpha, delta=delta)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    factor_PG = (alpha * (as_target_lengths(target_length, group_size) - length_PG) + delta).clamp(0, 1)
    return (correct_PG * factor_PG).flatten()
