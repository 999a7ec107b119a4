"""`adaptthink`: not thinking earns more where it is as right as the untrained model (AdaptThink, arXiv 2505.13417)."""

from __future__ import annotations

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import at_least, both_as_groups


def adaptthink_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    delta: float = 0.05,
    *,
    form: Tensor | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """Rewards (N,) in float64, which are the advantages.

    Formula: `r = correct - reference + delta * (1 if the response does not think else 0)`, reference the accuracy of
    the untrained model on the problem. The estimator is `reward`: nothing is subtracted or divided.
    Defaults: delta .05; half of each group begins with `</think>`, half with `Alright`, R1's first token; reference
    over 16 responses [C].
    Source: THU-KEG/AdaptThink, commit 84cf948 [C]. It trains by PPO's clip with the ratio of the sequence, the
    exponential of the mean difference of log-probabilities, in which the first token was sampled with probability .5:
    `openings` and `grpo: {importance_sampling_level: sequence, loss_type: grpo}` in a method of a profile, without
    which the rare token `</think>` is hardly learnt. Deviations: a response that does not think may be as long as one
    that does (4,096 and 16,384 tokens there); the tokens of an opening behind its first one count as sampled with
    probability 1; a response that was made to think counts as one that does not if it stops at once.
    lengths (N,) response tokens; correct (N,), 0 or 1; form (N, 2), each row an `attnpo.grading.form.Form`; reference
    (N,), 0 to 1; groups of `group_size` lie one after the other.
    Raises AttnPOError for shapes that do not match, a missing form or reference, a correct that is not 0 or 1, a
    reference out of range, and a delta below 0.
    """
    at_least(0, delta=delta)
    if form is None or form.shape != (len(lengths), 2):
        raise AttnPOError("adaptthink needs `form`, two numbers a response: attnpo.grading.form.form_of")
    if reference is None or reference.shape != lengths.shape:
        raise AttnPOError("adaptthink needs `reference`, the untrained model's accuracy on each response's problem")
    if not bool(((reference >= 0) & (reference <= 1)).all()):
        raise AttnPOError(f"reference {reference.tolist()!s:.80} is outside [0, 1]: give accuracies")
    _, correct_PG = both_as_groups(lengths, correct, group_size)
    thinks = form[:, 0].bool()
    return correct_PG.flatten() - reference.double() + delta * (~thinks).double()
