"""Sample through transformers: a batch at a time, from one seeded stream of random numbers a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.sampling.fast import fast_decoding
from attnpo.sampling.models import context_of, free_memory
from attnpo.sampling.sampler import Sample, Sampler, check_room, cut_at_end


class TransformersSampler(Sampler):
    """A sampler on a loaded model; its `unit` is the batch.

    Args:
        model: is put into evaluation mode.
        tokenizer: its padding token fills up the shorter prompts, on the left.
        batch_size: responses that are generated at once.
        context: tokens of the longest prompt and its response; None: what the model's configuration says.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, context: int | None = None
    ) -> None:
        self.model: PreTrainedModel | None = model
        self.tokenizer = tokenizer
        self.unit = batch_size
        self.context = context or context_of(model.config)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        k: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[int, int, Sample]]:
        """See `Sampler.sample`; the responses of a batch come together, in order."""
        assert self.model is not None, "the sampler is closed"
        check_room(prompts, max_new_tokens, self.context)
        turns = [(prompt, number) for prompt in range(len(prompts)) for number in range(k)]
        for start in range(0, len(turns), self.unit):
            batch = turns[start : start + self.unit]
            samples = sample(
                self.model,
                self.tokenizer,
                [prompts[prompt] for prompt, _ in batch],
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                top_p=top_p,
                seed=None if seeds is None else seeds[start],
                options=options,
            )
            for (prompt, number), one in zip(batch, samples, strict=True):
                yield prompt, number, one

    def close(self) -> None:
        """Let go of the model; its memory is free if nobody else holds it."""
        self.model = None
        free_memory()


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Sample]:
    """One response to each of N prompts, sampled in one batch; the model is put into evaluation mode.

    Args:
        tokenizer: its padding token fills up the shorter prompts, on the left.
        prompts: token ids without padding, from `prompt_ids` or with a part of the response behind them.
        temperature: 0 is greedy decoding.
        max_new_tokens: budget of each response in tokens, the end token included.
        top_p: nucleus.
        seed: of the random numbers; None goes on from torch's present state.
        options: more arguments of `generate`; without `top_k` among them no top-k cut is made.

    Returns:
        N samples, in the order of the prompts.
    """
    if seed is not None:
        torch.manual_seed(seed)
    rows = [torch.tensor(list(ids)) for ids in prompts]
    ids = pad_sequence(rows, True, tokenizer.pad_token_id, "left").to(model.device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left").to(model.device)
    model.eval()
    ends = end_tokens(model, tokenizer)
    how: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0, **(options or {})}
    if temperature == 0:
        how |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    with fast_decoding(model, ends):
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            **how,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [cut_at_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a response: a list in the generation config stands alone, one token joins the tokenizer's."""
    configured = model.generation_config.eos_token_id
    if isinstance(configured, list):
        return sorted(configured)
    return sorted({token for token in (configured, tokenizer.eos_token_id) if token is not None})
