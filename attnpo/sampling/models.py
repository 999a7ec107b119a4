"""Load the model and the tokenizer that a profile names, and give the memory of models back."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attnpo.errors import AttnPOError, first_line
from attnpo.files import atomic_write_json
from attnpo.sampling.sampler import prompt_ids
from attnpo.testbed import model_path

_PROBLEM = "17+4"
_CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_model(
    model: str,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (on the GPU if there is one) and tokenizer, padding on the left.

    Args:
        model: one of `attnpo.testbed.MODELS`, a folder or a hub id.
        revision: hub revision; None is the main branch.
        dtype: of the weights. `auto`, the checkpoint's own, is for sampling and scoring. Training takes float32: a
            step of a small learning rate is less than half the distance of two bfloat16 numbers, so weights held in
            bfloat16 would mostly stay where they are.
        attention: transformers' `attn_implementation`; None: its choice.

    Raises:
        AttnPOError: it cannot be loaded (the line says why), its weights are not complete or not finite, its
            vocabulary is smaller than the tokenizer's, or as `load_tokenizer`.
    """
    tokenizer = load_tokenizer(model, revision)
    _check_vocabulary(model, tokenizer, model_config(model, revision))
    load: Any = AutoModelForCausalLM.from_pretrained  # typed as if it gave the model alone
    try:
        loaded, report = load(
            model_path(model), revision=revision, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except Exception as error:  # readers of broken files raise their own errors, which have no class in common
        raise _not_loaded(model, error) from error
    if missing := sorted(report["missing_keys"]):
        raise AttnPOError(
            f"model {model!r}: its files lack {len(missing)} weights, {missing[0]} among them; fetch them again"
        )
    # Each process of a distributed run loads onto the GPU that it trains on; by default all would take the first one.
    device: Any = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    loaded = loaded.to(device)
    for name, weight in loaded.named_parameters():
        if weight.dtype in _CHECKED and not bool(weight.isfinite().all()):
            raise AttnPOError(f"model {model!r}: {name} holds NaN or infinity; take another checkpoint")
    return loaded, tokenizer


def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer alone, padding on the left.

    Raises:
        AttnPOError: it cannot be loaded, has no chat template, or a problem does not come through the two.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path(model), revision=revision, padding_side="left")
    except Exception as error:  # as in `load_model`
        raise _not_loaded(model, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise AttnPOError(f"model {model!r} has no chat template; choose one whose tokenizer has it")
    try:
        text = str(tokenizer.decode(prompt_ids(tokenizer, [_PROBLEM])[0]))
    except Exception as error:  # a template may raise anything
        raise AttnPOError(f"model {model!r}: its chat template fails ({first_line(error)}); repair it") from error
    if _PROBLEM not in text.replace(" ", ""):
        raise AttnPOError(
            f"model {model!r}: chat template and tokenizer make {text!r:.80} of the problem {_PROBLEM!r}; check its "
            "tokenizer.json and its chat template"
        )
    return tokenizer


def _check_vocabulary(model: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Refuse a tokenizer that writes tokens which the model does not know.

    Added tokens that no prompt holds may be beyond: some tokenizers name one for images that the model never sees.
    """
    size = config.get_text_config().vocab_size
    beyond = {id: token for token, id in tokenizer.get_vocab().items() if id >= size}
    added = tokenizer.added_tokens_decoder
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    used = [
        id for id, token in beyond.items() if id not in added or id in ends or token in str(tokenizer.chat_template)
    ]
    if used:
        raise AttnPOError(
            f"model {model!r} knows {size} tokens, but its tokenizer writes {beyond[max(used)]!r}, number {max(used)}; "
            "take the tokenizer that belongs to the model"
        )


def model_config(model: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model, which is read without its weights.

    Raises:
        AttnPOError: there is none, or it cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(model_path(model), revision=revision)
    except Exception as error:  # whatever the reader of a broken file says
        raise _not_loaded(model, error) from error


def context_of(config: PretrainedConfig) -> int | None:
    """Tokens that a model takes at most, prompt and response together; None: it does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def checkpoint_dtype(model: str, revision: str | None = None) -> torch.dtype:
    """The dtype that a checkpoint's configuration states; float32 if it states none."""
    dtype = model_config(model, revision).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def state_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Let the configuration of a saved model state this dtype: who loads it with `auto` gets the weights in it."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    atomic_write_json(path, {**config, "dtype": str(dtype).removeprefix("torch.")})


def _not_loaded(model: str, error: Exception) -> AttnPOError:
    why = "the weights do not have the shapes of its config.json" if "mismatched" in str(error) else first_line(error)
    return AttnPOError(f"model {model!r} could not be loaded ({why}); check name, path and network")


def free_memory() -> None:
    """Give the memory of models that nothing refers to any more back to the GPU."""
    gc.collect()  # models hold themselves in cycles of references
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
