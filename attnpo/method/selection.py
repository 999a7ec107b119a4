"""Stepwise advantage selection by confidence (SAS, arXiv 2604.24003): some steps of a response lose their advantage.

Source: HanNight/SAS, commit 78b201c, and the paper. Of a correct response the least confident steps lose it, of a wrong
one the most confident. A step is a paragraph of the thinking; its confidence is the mean log-probability of its tokens
under the policy that sampled them. Unconfirmed: to which of two paragraphs a token with the separator belongs (here the
first), and what happens to a response without `</think>` (here all of it is thinking).

Shapes: T tokens, K steps of one response.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.method.steps import split_at_think_end


@dataclass(frozen=True)
class SelectionConfig:
    """Constants of the selection; the defaults are the paper's.

    Raises:
        AttnPOError: a value out of its range.
    """

    share: float = 0.3
    """Share of the steps that lose their advantage, rounded up."""
    only_correct: bool = False
    """Leave wrong responses alone: a control of the paper."""
    choose: Literal["confidence", "random"] = "confidence"
    """`random`: as many steps, drawn: a control of the paper."""
    variant: Literal["paper", "published"] = "paper"
    """`published`: a precedence slip in the published code counts all steps of a correct response and none of a wrong
    one, so that the share has no effect."""
    separator: str = "\n\n"
    """Text between two paragraphs: a token that holds it ends a step."""

    def __post_init__(self) -> None:
        for name, known in (("choose", ("confidence", "random")), ("variant", ("paper", "published"))):
            if getattr(self, name) not in known:
                raise AttnPOError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(known)}")
        if not 0 <= self.share <= 1:
            raise AttnPOError(f"share {self.share} is outside [0, 1]: give a share of the steps")
        if not self.separator:
            raise AttnPOError("separator is empty: give the text between two steps, such as a blank line")


def paragraph_of_token(ids: Sequence[int], table: Sequence[bytes], separator: str = "\n\n") -> list[int]:
    """The paragraph of each of the T sampled tokens, from 0; -1 for `</think>` and the answer.

    Args:
        ids: of a response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of its tokenizer.
        separator: as in `SelectionConfig`. It may lie across tokens: the one with its last byte ends the step.
    """
    parts = split_at_think_end(ids, table)
    thinking = parts.thinking if parts.tags else len(ids)
    mark = separator.encode()
    steps, k, start = [-1] * len(ids), 0, 0
    for place in range(thinking):
        steps[place] = k
        found = parts.raw.find(mark, start, parts.ends[place])
        if found >= 0 and place + 1 < thinking:
            k, start = k + 1, parts.ends[place]
        elif found < 0:  # what is left may be the beginning of the separator
            start = max(start, parts.ends[place] - len(mark) + 1)
    return steps


def selection_factors(
    logps: Tensor,
    step_of_token: Sequence[int],
    correct: bool,
    config: SelectionConfig | None = None,
    draw: random.Random | None = None,
) -> Tensor:
    """Factors (T,) in float64 on the advantage of each token: 0 in the steps that lose it, else 1.

    Args:
        logps: (T,) log-probabilities of the sampled tokens.
        step_of_token: T step numbers, -1 for tokens of none.
        correct: whether the response is.
        config: constants of the rule.
        draw: random numbers for `choose="random"`.

    Raises:
        AttnPOError: lengths that differ, a log-probability in a step that is not finite, no random numbers where they
            are needed.
    """
    config = config or SelectionConfig()
    steps = torch.tensor(list(step_of_token), device=logps.device)
    if steps.shape != logps.shape:
        raise AttnPOError(f"logps {tuple(logps.shape)} and step_of_token {len(step_of_token)} differ: give T of each")
    factors = torch.ones(len(steps), dtype=torch.float64, device=logps.device)
    n_steps = int(steps.max()) + 1 if len(steps) else 0
    if n_steps == 0 or (config.only_correct and not correct):
        return factors
    if config.variant == "published":
        return factors.masked_fill(steps >= 0, 0.0) if correct else factors
    n = math.ceil(round(config.share * n_steps, 9))  # .3 * 10 is 3.0000000000000004 in some orders
    if config.choose == "random":
        if draw is None:
            raise AttnPOError("choose is 'random': pass random numbers")
        chosen = torch.tensor(draw.sample(range(n_steps), n), device=logps.device, dtype=torch.long)
    else:
        chosen = confidence_of_steps(logps, steps, n_steps).argsort(descending=not correct, stable=True)[:n]
    return factors.masked_fill(torch.isin(steps, chosen), 0.0)


def confidence_of_steps(logps: Tensor, step_of_token: Tensor, n_steps: int) -> Tensor:
    """The mean log-probability (K,) in float64 of the tokens of each step; NaN for steps without tokens.

    Args:
        logps: (T,) log-probabilities of the sampled tokens.
        step_of_token: (T,) step numbers, -1 for tokens of none.
        n_steps: K.

    Raises:
        AttnPOError: a log-probability in a step that is not finite.
    """
    inside = step_of_token >= 0
    if not bool(logps[inside].isfinite().all()):
        raise AttnPOError("a log-probability of a sampled token is not finite: check the policy's logits")
    sums = torch.zeros(n_steps, dtype=torch.float64, device=logps.device)
    sums.index_add_(0, step_of_token[inside], logps[inside].double())
    return sums / torch.bincount(step_of_token[inside], minlength=n_steps)


def batch_factors(
    logps: Tensor,
    ids: Sequence[Sequence[int]],
    table: Sequence[bytes],
    correct: Sequence[bool],
    config: SelectionConfig | None = None,
    draws: Sequence[random.Random | None] | None = None,
) -> Tensor:
    """`selection_factors` of B responses.

    Args:
        logps: (B, T), padded behind each response.
        ids: of each response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of the tokenizer.
        correct: B of them.
        config: constants of the rule.
        draws: random numbers for each response.

    Returns:
        (B, T) float64, 1 at padding.
    """
    config = config or SelectionConfig()
    factors = torch.ones(logps.shape, dtype=torch.float64, device=logps.device)
    for row, (response, right) in enumerate(zip(ids, correct, strict=True)):
        steps = paragraph_of_token(response, table, config.separator)
        draw = draws[row] if draws else None
        factors[row, : len(response)] = selection_factors(logps[row, : len(response)], steps, right, config, draw)
    return factors
