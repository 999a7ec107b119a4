"""Step scores of sampled responses: prompt ids, response ids and steps in, scores of every head asked for out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnpo.method.attention import Head, attention_received, step_scores
from attnpo.method.steps import TokenSteps


class Response(NamedTuple):
    """A response to score, without padding."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    steps: TokenSteps | None
    """From `attnpo.method.steps.align_steps` on `ids`; None scores nothing: a turn without work."""

    @property
    def n_tokens(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt_ids) + len(self.ids)


def in_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Places of N sequences, the shortest first, in batches of at most `tokens` tokens, padding included.

    A sequence that is longer than that is a batch of its own.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if batches and (len(batches[-1]) + 1) * lengths[place] <= tokens:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def score_batch(
    model: nn.Module,
    heads: Sequence[Head],
    batch: Sequence[Response],
    device: torch.device | None = None,
    **options: Any,
) -> list[Tensor]:
    """Step scores (H, K) of each response, NaN for steps without tokens; one forward pass, padded on the right.

    Args:
        model: a decoder that `attnpo.method.attention` knows.
        heads: (layer, head), both from 0.
        batch: at least one response; K is its number of steps.
        device: where the model computes; default where its first parameter lies.
        options: of `attnpo.method.attention.attention_received` (`chunk_rows`, `stop_early`).

    Raises:
        AttnPOError: a head that the model lacks.
    """
    width = max(r.n_tokens for r in batch)
    device = device or next(model.parameters()).device
    ids, mask = torch.zeros(2, len(batch), width, dtype=torch.long, device=device)
    queries = torch.zeros_like(ids, dtype=torch.bool)
    step_ids = torch.full_like(ids, -1)
    for row, (prompt, response, steps) in enumerate(batch):
        start, end = len(prompt), len(prompt) + len(response)
        ids[row, :end] = torch.tensor([*prompt, *response])
        mask[row, :end] = 1
        if steps is None:
            queries[row, end - 1] = True
        else:
            queries[row, start + steps.answer[0] : start + steps.answer[1]] = True
            step_ids[row, start:end] = torch.tensor(steps.step_of_token)
    received = attention_received(model, ids, mask, heads, queries, **options)
    counts = [len(r.steps.steps) if r.steps else 0 for r in batch]
    scores = step_scores(received, step_ids, max(1, *counts))
    return [scores[row, :, :count] for row, count in enumerate(counts)]
