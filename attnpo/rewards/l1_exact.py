"""`l1_exact`: be right and as long as the prompt asks (L1-Exact, arXiv 2503.04697)."""

from __future__ import annotations

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import as_groups, at_least, both_as_groups


def l1_exact_rewards(
    lengths: Tensor, correct: Tensor, group_size: int, alpha: float = 3e-4, *, target_length: Tensor | None = None
) -> Tensor:
    """Rewards (N,) in float64: correctness minus the distance to the length that the prompt asks for.

    Formula: `r = correct - alpha * |target - L|`, for wrong responses too.
    Defaults: alpha 3e-4 [S]; public copies of the authors' code have 1/3000. The prompt ends in "Think for {n}
    tokens.", n drawn uniformly from 100 to 4000 [C, public copies of their data script]: `target_length` in a profile.
    Source: arXiv 2503.04697 [S]. Deviations: none known.
    lengths, target_length (N,) tokens; correct (N,), 0 or 1; groups of `group_size` lie one after the other.
    Raises AttnPOError when target_length is missing, for shapes that do not match, a correct that is not 0 or 1, and
    alpha below 0.
    """
    at_least(0, alpha=alpha)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    return (correct_PG - alpha * (as_target_lengths(target_length, group_size) - length_PG).abs()).flatten()


def as_target_lengths(target_length: Tensor | None, group_size: int) -> Tensor:
    """The target lengths (P, G). Raises AttnPOError when the prompts ask for none."""
    if target_length is None:
        raise AttnPOError("the L1 rewards need a length told in the prompt: give the method a `target_length` section")
    return as_groups(target_length, group_size, "target_length")
