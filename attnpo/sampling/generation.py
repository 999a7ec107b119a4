"""Models and tokenizers from a profile, and plain batched sampling with transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from attnpo.errors import AttnPOError
from attnpo.sampling.decoding import SkipFinishedRows
from attnpo.testbed import model_path


def load_model(model: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (in its own dtype, on the GPU if there is one) and tokenizer, padding on the left.

    Raises:
        AttnPOError: it cannot be loaded; the line says why.
    """
    path = model_path(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, padding_side="left")
        loaded = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype="auto")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise AttnPOError(f"model {model!r} could not be loaded ({reason}); check name, path and network") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise AttnPOError(f"model {model!r} has no chat template; choose one whose tokenizer has it")
    # One of several processes takes the GPU that it will train on, or all would fill the first.
    device: Any = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return loaded.to(device), tokenizer


def text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The response as text: think tags kept even where they are special tokens, end-of-sequence and padding cut."""
    end = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = list(ids)
    while kept and kept[-1] in end:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
) -> tuple[list[list[int]], list[list[int]]]:
    """One sampled response to each of N user turns, in one batch.

    Returns:
        prompt ids and response ids, N lists each, without padding; a response keeps its end-of-sequence token.
    """
    conversations = [[{"role": "user", "content": text}] for text in texts]
    batch: Any = tokenizer.apply_chat_template(
        conversations, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    responses = _generate(model, tokenizer, batch, temperature=temperature, max_new_tokens=max_new_tokens, top_p=top_p)
    return _unpadded(batch), responses


@torch.no_grad()
def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], **options: Any
) -> list[list[int]]:
    """What the model samples behind each of N sequences of ids, in one batch.

    Args:
        options: temperature, max_new_tokens, top_p, as in `sample`.

    Returns:
        the new ids, N lists without padding, each with its end-of-sequence token.
    """
    batch: Any = tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, return_tensors="pt")
    return _generate(model, tokenizer, batch, **options)


def _unpadded(batch: Any) -> list[list[int]]:
    pairs = zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    return [[token for token, seen in zip(row, mask, strict=True) if seen] for row, mask in pairs]


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Any,
    *,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
) -> list[list[int]]:
    inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
    model.eval()
    stops = model.generation_config.eos_token_id
    with SkipFinishedRows(model, stops):
        output = model.generate(  # type: ignore[operator]
            **inputs,
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    ends = set(stops if isinstance(stops, list) else [stops, tokenizer.eos_token_id])
    responses = []
    for row in output[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        responses.append(row[: stop + 1])
    return responses
