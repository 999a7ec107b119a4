"""Receiver heads (Thought Anchors, 2506.19143): heads that single out a few steps, found without labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnpo.errors import AttnPOError
from attnpo.method.attention import Head, attention_received
from attnpo.method.scores import Response, step_scores

FEWEST = 4
"""Steps that a response must have scores for: of fewer the kurtosis says nothing."""


def receiver_kurtosis(
    model: nn.Module, heads: Sequence[Head], responses: Sequence[Response], apart: int = 4, batch_size: int = 16
) -> Tensor:
    """How much each head's attention to steps is drawn to a few of them: the higher, the more of a receiver head.

    Attention is averaged over the tokens of the step that pays it and of the step that receives it. A step's score is
    the mean over the steps that pay it attention from at least `apart` steps behind. The excess kurtosis of the scores
    is taken in each response, then its mean over the responses.

    Args:
        model: a decoder that `attnpo.method.attention` knows.
        heads: H of them, (layer, head), both from 0.
        responses: with their steps. Those with fewer than `FEWEST` scored steps are left out.
        apart: nearer steps do not count: most heads look at what was written last.
        batch_size: steps in one forward pass of a response.

    Returns:
        (H,) float64 on the CPU.

    Raises:
        AttnPOError: no response has enough steps.
    """
    found = [_of_one(model, heads, response, apart, batch_size) for response in responses]
    kept = [kurtosis for kurtosis in found if kurtosis is not None]
    if not kept:
        raise AttnPOError(
            f"none of {len(responses)} responses has {FEWEST} steps that are {apart} or more from another; "
            "give longer responses, or a smaller distance"
        )
    return torch.stack(kept).mean(0)


def step_attention(model: nn.Module, heads: Sequence[Head], response: Response, batch_size: int = 16) -> Tensor:
    """Mean attention from the tokens of one step to those of another.

    Args:
        model, heads, batch_size: as for `receiver_kurtosis`.
        response: of K steps.

    Returns:
        (H, K, K) float32 on the CPU: of head h, row j column k is what step j pays to each token of step k. NaN where a
        step has no token.
    """
    steps = response.steps
    if steps is None:
        raise AttnPOError("the response has no steps: give one that `align_steps` could cut")
    device = next(model.parameters()).device
    n_steps, start = len(steps.steps), len(response.prompt_ids)
    ids = torch.tensor([[*response.prompt_ids, *response.ids]], device=device)
    step_ids = torch.full_like(ids, -1)
    step_ids[0, start : start + len(steps.step_of_token)] = torch.tensor(steps.step_of_token, device=device)
    paying = step_ids == torch.arange(n_steps, device=device)[:, None]  # (K, T)
    rows = ids.expand(n_steps, -1)
    received = attention_received(model, rows, torch.ones_like(rows), heads, paying, batch_size=batch_size)
    of_step = step_scores(received, step_ids.expand(n_steps, -1), n_steps)  # (K, H, K)
    return (of_step / paying.sum(1)[:, None, None]).transpose(0, 1).cpu()


def _of_one(model: nn.Module, heads: Sequence[Head], response: Response, apart: int, batch_size: int) -> Tensor | None:
    if response.steps is None or len(response.steps.steps) - apart < FEWEST:
        return None
    paid = step_attention(model, heads, response, batch_size).double()
    n_steps = paid.shape[1]
    far = torch.ones(n_steps, n_steps).tril(-apart).bool()
    scores = torch.where(far, paid, torch.nan).nanmean(1)  # (H, K)
    scores = scores[:, ~scores[0].isnan()]
    if scores.shape[1] < FEWEST:
        return None
    centred = scores - scores.mean(1, keepdim=True)
    return centred.pow(4).mean(1) / centred.pow(2).mean(1).pow(2) - 3
