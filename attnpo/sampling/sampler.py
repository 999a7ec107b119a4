"""Sample responses: prompt token ids in; for each response its token ids and its finish reason out.

`sample` is the one way in which the probe, the studies and the scripts sample. It runs on transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.sampling.decoding import SkipFinishedRows


class Sample(NamedTuple):
    """One sampled response."""

    ids: list[int]
    """Without padding; the end token, if it was sampled, is the last one."""
    finish: Literal["stop", "length"]
    """`stop`: an end token was sampled; `length`: the budget of new tokens ran out first."""


def prompt_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of N prompts: each text as the user's turn in the chat template, then the start of the answer."""
    conversations = [[{"role": "user", "content": text}] for text in texts]
    encoded: Any = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=True)
    return [list(ids) for ids in encoded["input_ids"]]


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
) -> list[Sample]:
    """One response to each of N prompts, sampled in one batch; the model is put into evaluation mode.

    Args:
        tokenizer: its padding token fills up the shorter prompts, on the left.
        prompts: token ids without padding, from `prompt_ids` or with a part of the response behind them.
        temperature: above 0.
        max_new_tokens: budget of each response in tokens, the end token included.
        top_p: nucleus; no top-k cut is made.
        seed: of the random numbers; None goes on from torch's present state.

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
    with SkipFinishedRows(model, ends):
        output = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [_until_end(row, ends) for row in output[:, ids.shape[1] :].tolist()]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a response: a list in the generation config stands alone, one token joins the tokenizer's."""
    configured = model.generation_config.eos_token_id
    if isinstance(configured, list):
        return sorted(configured)
    return sorted({token for token in (configured, tokenizer.eos_token_id) if token is not None})


def _until_end(row: list[int], ends: Sequence[int]) -> Sample:
    for place, token in enumerate(row):
        if token in ends:
            return Sample(row[: place + 1], "stop")
    return Sample(row, "length")


def text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a response. Think tags stay, even as special tokens; end tokens and padding at its end go."""
    end = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = list(ids)
    while kept and kept[-1] in end:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
