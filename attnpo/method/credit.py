"""Step scores to factors on the advantage: baseline score, positive and negative attenuation (PA, NA).

Pure tensors, one response at a time. Rescaling is meant for CORRECT responses only; the caller leaves the
others at factor 1. Source: AttnPO, arXiv 2602.09953, and its published code (NieSYsc20/AttnPO, commit
8570952).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attnpo.errors import AttnPOError

READINGS = ("published", "summary")


@dataclass(frozen=True)
class CreditConfig:
    """Constants of the rescaling; the defaults are those of the authors' published code.

    Raises AttnPOError for a value out of its range.
    """

    baseline_exponent: float = 2.0
    """Power of the group accuracy p in the baseline score."""
    attenuation_exponent: float = 2.0
    """lambda: power of p that sets the depth of positive attenuation."""
    floor: float = 0.0
    """delta, in [0, 1]: the least factor that positive attenuation gives."""
    warmup_steps: float = 1000.0
    """T: training steps over which positive attenuation sets in, by difficulty."""
    positive: bool = True
    """PA: attenuate low-score steps when the advantage is positive."""
    negative: bool = True
    """NA: spare high-score steps when the advantage is negative."""
    schedule: bool = True
    """Hold PA back by difficulty; off: PA from the first step on."""
    difficulty: bool = True
    """Off: both powers of p are taken as 1 (as if every problem were solved); the schedule is not touched."""
    variant: Literal["published", "summary"] = "published"
    """Formula and schedule of PA: as in the published code, or as a summary of the paper prints them."""
    min_steps: int = 2
    """Responses with fewer steps are left alone."""

    def __post_init__(self) -> None:
        if self.variant not in READINGS:
            raise AttnPOError(f"variant {self.variant!r} is unknown: choose one of {', '.join(READINGS)}")
        if not 0 <= self.floor <= 1:
            raise AttnPOError(f"floor {self.floor} is outside [0, 1]: give the least factor on the advantage")
        for name in ("baseline_exponent", "attenuation_exponent", "warmup_steps", "min_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise AttnPOError(f"{name} {getattr(self, name)} must be finite and not negative")


def baseline_score(group_accuracy: float, answer_tokens: int, total_tokens: int, exponent: float = 2.0) -> float:
    """S_base = p**exponent * |F| / total_tokens: a uniform head's step score, lowered on hard problems.

    group_accuracy: p in [0, 1]; answer_tokens: |F|; total_tokens: |q| + |o| in the published code, |o| alone
    in a summary of the paper (the caller's choice). Raises AttnPOError when one of them is out of range.
    Source: published code.
    """
    if not 0 <= group_accuracy <= 1:
        raise AttnPOError(f"group_accuracy {group_accuracy} is outside [0, 1]: pass correct responses / group size")
    if not 0 < answer_tokens <= total_tokens:
        raise AttnPOError(f"answer_tokens {answer_tokens} must be at least 1 and at most total_tokens {total_tokens}")
    # The quotient first, as published: a score equal to the baseline must compare as equal.
    return group_accuracy**exponent * (answer_tokens / total_tokens)


def step_gammas(
    step_scores: Tensor,
    advantage: float,
    group_accuracy: float,
    answer_tokens: int,
    total_tokens: int,
    global_step: int,
    config: CreditConfig | None = None,
    has_tokens: Tensor | None = None,
) -> Tensor:
    """Factors gamma (K,) in float64, each in [0, 1], for the K steps of one correct response.

    With d = p**attenuation_exponent and S_k the step's score:

    - PA (A > 0, S_k < S_base): published `(1 - floor) * (d * S_k / S_base + 1 - d) + floor`, once
      `global_step > warmup_steps * (1 - p)`; summary `(1 - floor) * d * S_k / S_base + floor`, once
      `global_step > warmup_steps * p`.
    - NA (A < 0, S_k > S_base): 0, without schedule.
    - otherwise 1.

    step_scores: (K,), not negative; has_tokens: (K,) bool, False for steps without tokens, whose score (0/0)
    is not looked at and whose factor is 1; default all True. global_step: optimizer steps, as the caller
    counts them.
    Raises AttnPOError for scores that are not finite or negative, and for an advantage that is not finite.
    Source: published code (default reading); a third-party summary of the paper (the other).
    """
    config = config or CreditConfig()
    if step_scores.dim() != 1:
        raise AttnPOError(f"step_scores has shape {tuple(step_scores.shape)}: pass one response, shape (K,)")
    advantage = float(advantage)
    if not math.isfinite(advantage):
        raise AttnPOError(f"advantage {advantage} is not finite: check the rewards of this group")
    scores = step_scores.detach().double()
    if has_tokens is not None:
        if has_tokens.shape != scores.shape:
            raise AttnPOError(f"has_tokens {tuple(has_tokens.shape)} must match step_scores {tuple(scores.shape)}")
        counted = has_tokens.to(device=scores.device, dtype=torch.bool)
    else:
        counted = torch.ones_like(scores, dtype=torch.bool)
    bad = counted & ~(scores.isfinite() & (scores >= 0))
    if bad.any():
        k = int(bad.nonzero()[0])
        raise AttnPOError(
            f"step score {scores[k].item()} of step {k} is not a finite number >= 0: "
            "pass has_tokens for steps without tokens, else check the attention scores"
        )
    base = baseline_score(
        group_accuracy, answer_tokens, total_tokens, config.baseline_exponent if config.difficulty else 0.0
    )
    gammas = torch.ones_like(scores)
    if len(scores) < config.min_steps:
        return gammas
    if advantage > 0 and config.positive and _schedule_open(group_accuracy, global_step, config):
        depth = group_accuracy**config.attenuation_exponent if config.difficulty else 1.0
        ratio = scores / base
        # Both readings are written as 1 minus a product, which rounding cannot push out of [0, 1].
        relative_loss = depth * (1 - ratio) if config.variant == "published" else 1 - depth * ratio
        return torch.where(counted & (scores < base), 1 - (1 - config.floor) * relative_loss, gammas)
    if advantage < 0 and config.negative:
        return gammas.masked_fill(counted & (scores > base), 0.0)
    return gammas


def oracle_scores(essential: Sequence[bool]) -> Tensor:
    """Step scores (K,) that labels would give: 1 for an essential step, 0 for a redundant one. An upper bound.

    Read by `step_gammas`, where 0 < S_base < 1 for every response with p > 0 and a thinking token: under PA an
    essential step keeps its advantage and a redundant one is attenuated as far as difficulty, schedule and
    floor let it (published: `1 - (1 - floor) * p**attenuation_exponent`); under NA an essential step is spared
    and a redundant one takes the whole negative advantage. All constants act as they do on attention scores.
    """
    return torch.tensor(list(essential), dtype=torch.float64)


def _schedule_open(group_accuracy: float, global_step: int, config: CreditConfig) -> bool:
    if not config.schedule:
        return True
    delay = 1 - group_accuracy if config.variant == "published" else group_accuracy
    return global_step > config.warmup_steps * delay


def token_gammas(gammas: Tensor, step_of_token: Tensor) -> Tensor:
    """Factors (T,) per token from factors (K,) per step.

    1 where step_of_token (T,) is -1: `</think>`, answer, padding.
    Raises AttnPOError when step_of_token names a step outside -1 .. K - 1.
    """
    k = gammas.shape[0]
    wrong = (step_of_token < -1) | (step_of_token >= k)
    if wrong.any():
        raise AttnPOError(
            f"step index {int(step_of_token[wrong][0])} is outside -1 .. {k - 1}: pass align_steps' indices"
        )
    padded = torch.cat([gammas, gammas.new_ones(1)])
    return padded[step_of_token.long().to(gammas.device)]
