"""Advantage estimators: how the rewards of whole groups become one advantage a response, in float64.

Groups of `group_size` responses to one problem lie one after the other: N = P * G. Suffixes of tensors name their axes,
`_PG` is (problems, group). Equal rewards give exactly 0, since the sign of an advantage chooses between positive and
negative attenuation.
"""

from __future__ import annotations

from torch import Tensor

from attnpo.errors import AttnPOError


def as_groups(values: Tensor, group_size: int, name: str) -> Tensor:
    """(N,) -> (N / group_size, group_size) in float64. Values named "correct" must be 0 or 1.

    Raises:
        AttnPOError: N is not a multiple of group_size, more than one dimension, or a correct that is not 0 or 1.
    """
    if values.dim() != 1 or group_size < 1 or len(values) % group_size:
        raise AttnPOError(
            f"{name} of shape {tuple(values.shape)} does not split into groups of {group_size}: "
            "pass one dimension, a multiple of group_size"
        )
    if name == "correct" and not ((values == 0) | (values == 1)).all():
        raise AttnPOError(f"correct holds {values[(values != 0) & (values != 1)][0].item()}: pass 0 or 1 only")
    return values.reshape(-1, group_size).double()


def rloo_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Leave-one-out advantages (N,): `A_i = r_i - mean of the other rewards of its group`.

    No division by the standard deviation, no KL term. Source: RLOO as in AttnPO's published code.

    Raises:
        AttnPOError: group_size is below 2, N is not a multiple of it, or a reward is not finite.
    """
    r_PG = _finite_groups(rewards, group_size)
    # The sum of differences, since rounding must not give equal rewards an advantage.
    differences_PGG = r_PG[:, :, None] - r_PG[:, None, :]
    return (differences_PGG.sum(-1) / (group_size - 1)).flatten()


def centred_advantages(rewards: Tensor, group_size: int) -> Tensor:
    """Advantages (N,): `A_i = r_i - mean of its group`.

    Raises:
        AttnPOError: as `rloo_advantages`.
    """
    return rloo_advantages(rewards, group_size) * ((group_size - 1) / group_size)


def grpo_advantages(rewards: Tensor, group_size: int, epsilon: float = 1e-4) -> Tensor:
    """Advantages (N,) over the group's spread: `A_i = (r_i - mean) / (std + epsilon)`, sample std.

    Defaults: epsilon 1e-4 (TRL; verl has 1e-6). Source: GRPO, arXiv 2402.03300 [P]; sample std: TRL and verl [C].

    Raises:
        AttnPOError: as `rloo_advantages`.
    """
    centred_PG = centred_advantages(rewards, group_size).view(-1, group_size)
    std_P1 = as_groups(rewards, group_size, "rewards").std(1, keepdim=True)
    return (centred_PG / (std_P1 + epsilon)).flatten()


def batch_whitened(advantages: Tensor, weights: Tensor) -> Tensor:
    """Advantages (N,) less their weighted mean, over their weighted standard deviation; 0 where the weight is 0.

    weights (N,): tokens that each response has in the loss, 0 for dropped ones, so that tokens count alike, as in
    REINFORCE++ with a group baseline, the estimator of DLER's published script [C: verl, sample variance,
    epsilon 1e-8]. Equal advantages give 0.

    Raises:
        AttnPOError: shapes that do not match, or negative weights.
    """
    if advantages.shape != weights.shape or not bool((weights >= 0).all()):
        raise AttnPOError(f"weights {tuple(weights.shape)} must match advantages {tuple(advantages.shape)}, all >= 0")
    a, w = advantages.double(), weights.double()
    total = w.sum().clamp(min=2)
    centred = a - (a * w).sum() / total
    variance = (w * centred**2).sum() / (total - 1)
    return (centred / (variance + 1e-8).sqrt()).where(w > 0, 0.0)


def returns(rewards: Tensor, group_size: int) -> Tensor:
    """The rewards (N,) themselves: as advantages, or without discount the return of every token of a response.

    Raises:
        AttnPOError: as `rloo_advantages`.
    """
    return _finite_groups(rewards, group_size).flatten()


def _finite_groups(rewards: Tensor, group_size: int) -> Tensor:
    if group_size < 2:
        raise AttnPOError(f"group_size {group_size} leaves no other response to compare with: use at least 2")
    if not rewards.isfinite().all():
        at = int((~rewards.isfinite()).nonzero()[0])
        raise AttnPOError(f"reward {rewards[at].item()} at index {at} is not finite: check the reward function")
    return as_groups(rewards, group_size, "rewards")


ESTIMATORS = {
    "rloo": rloo_advantages,
    "centred": centred_advantages,
    "grpo": grpo_advantages,
    "batch": centred_advantages,
    "reinforce_pp": returns,
    "reward": returns,
}
"""Estimators by name. `batch` is whitened over the batch (`batch_whitened`) once all parts of it are added, and so is
`reinforce_pp` (`attnpo.method.credit.assign`), token by token, which compares with no group. `reward`: the
reward is the advantage."""
