"""Step scores of sampled responses: prompt ids, response ids and steps in, scores of every head asked for out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnpo.errors import AttnPOError
from attnpo.method.attention import Head, attention_received, read_attention
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
    for row, response in enumerate(batch):
        ids[row, : response.n_tokens] = torch.tensor([*response.prompt_ids, *response.ids])
        mask[row, : response.n_tokens] = 1
    steps = [r.steps for r in batch]
    queries, step_ids = _places(steps, [len(r.prompt_ids) for r in batch], mask)
    for row, response in enumerate(batch):
        if response.steps is None:
            queries[row, response.n_tokens - 1] = True
    return _of_each(attention_received(model, ids, mask, heads, queries, **options), step_ids, steps)


class AnswerAttention(NamedTuple):
    """What H heads look at from the F answer tokens of a response with K steps."""

    scores: Tensor
    """(H, K) step scores, as of `score_batch`."""
    of_tokens: Tensor
    """(H, F, K) the share of each answer token's attention that goes to each step; the rest goes to prompt, tag and
    answer."""


def answer_attention(
    model: nn.Module, heads: Sequence[Head], response: Response, device: torch.device | None = None, **options: Any
) -> AnswerAttention:
    """Step scores of one response and, token by token of its answer, the attention that they are the sum of.

    One forward pass; the scores are `of_tokens` summed over the answer, over the number of the step's tokens.

    Args:
        model, heads, device, options: as for `score_batch`.
        response: one with steps.

    Raises:
        AttnPOError: as `score_batch`, or the response has no steps.
    """
    steps = response.steps
    if steps is None:
        raise AttnPOError("a response without steps has no attention to them; pass one that align_steps can cut")
    first, n_steps = len(response.prompt_ids) + steps.answer[0], len(steps.steps)
    of_tokens = torch.zeros(len(heads), steps.answer[1] - steps.answer[0], n_steps)
    columns = torch.tensor([n_steps] * len(response.prompt_ids) + [k % (n_steps + 1) for k in steps.step_of_token])

    def watch(_: Tensor, queries: Tensor, of_heads: list[int], rows: Tensor) -> None:
        seen, there = rows[0].float().cpu(), queries[0].cpu() - first
        sums = seen.new_zeros(*seen.shape[:2], n_steps + 1)  # one more column takes what belongs to no step
        sums.scatter_add_(2, columns[: seen.shape[2]].expand_as(seen), seen)
        of_tokens[torch.tensor(of_heads)[:, None], there] = sums[:, :, :n_steps]

    (scores,) = score_batch(model, heads, [response], device, watch=watch, **options)
    return AnswerAttention(scores.cpu(), of_tokens)


@contextmanager
def scoring_pass(
    model: nn.Module,
    heads: Sequence[Head],
    steps: Sequence[TokenSteps | None],
    attention_mask: Tensor,
    start: int,
    **options: Any,
) -> Iterator[list[Tensor]]:
    """Step scores from the one forward pass that the caller makes inside, see `attnpo.method.attention.read_attention`.

    Args:
        model, heads: as for `score_batch`.
        steps: those of the B responses; None scores nothing.
        attention_mask: (B, T) as the pass is given it, prompts padded on the left and responses on the right.
        start: the column at which all responses begin.
        options: of `attnpo.method.attention.read_attention` (`chunk_rows`).

    Yields:
        An empty list, which holds the step scores (H, K) of each of the B responses after the pass.

    Raises:
        AttnPOError: as `attnpo.method.attention.read_attention`.
    """
    queries, step_ids = _places(steps, [start] * len(steps), attention_mask)
    scores: list[Tensor] = []
    with read_attention(model, attention_mask, heads, queries, **options) as received:
        yield scores
    scores += _of_each(received, step_ids, steps)


def step_scores(received: Tensor, step_ids: Tensor, n_steps: int) -> Tensor:
    """Step scores of each head (paper: S_k before the mean over heads).

    Args:
        received: (B, H, T) from `attention_received`.
        step_ids: (B, T) long, the step of each token, -1 for tokens of no step.
        n_steps: K, the number of columns to return; at least the largest step id + 1.

    Returns:
        (B, H, K): attention received by the step's tokens over their number; NaN where a step has no token.

    Raises:
        AttnPOError: a step id outside -1 to K - 1, or shapes that do not fit.
    """
    if received.ndim != 3 or step_ids.shape != (received.shape[0], received.shape[2]):
        raise AttnPOError(f"step_ids {tuple(step_ids.shape)} do not fit received {tuple(received.shape)}: give (B, T)")
    if step_ids.numel() and (int(step_ids.min()) < -1 or int(step_ids.max()) >= n_steps):
        raise AttnPOError(f"step ids {int(step_ids.min())} to {int(step_ids.max())}: give -1 to {n_steps - 1}")
    columns = torch.where(step_ids < 0, n_steps, step_ids)  # one more column takes what belongs to no step
    sums = received.new_zeros(*received.shape[:2], n_steps + 1)
    sums.scatter_add_(2, columns[:, None].expand_as(received), received)
    tokens = received.new_zeros(received.shape[0], n_steps + 1)
    tokens.scatter_add_(1, columns, torch.ones_like(columns, dtype=received.dtype))
    return (sums / tokens[:, None])[:, :, :n_steps]  # 0 / 0 is NaN


def _places(steps: Sequence[TokenSteps | None], starts: Sequence[int], attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where the answers are, (B, T) bool, and the step of each token, (B, T) long; response b begins at `starts[b]`."""
    queries = torch.zeros_like(attention_mask, dtype=torch.bool)
    step_ids = torch.full_like(attention_mask, -1, dtype=torch.long)
    for row, (found, start) in enumerate(zip(steps, starts, strict=True)):
        if found is not None:
            queries[row, start + found.answer[0] : start + found.answer[1]] = True
            step_ids[row, start : start + len(found.step_of_token)] = torch.tensor(found.step_of_token)
    return queries, step_ids


def _of_each(received: Tensor, step_ids: Tensor, steps: Sequence[TokenSteps | None]) -> list[Tensor]:
    """Step scores (H, K) of each response from attention (B, H, T); K is its number of steps."""
    counts = [len(found.steps) if found else 0 for found in steps]
    scores = step_scores(received, step_ids, max(1, *counts))
    return [scores[row, :, :count] for row, count in enumerate(counts)]
