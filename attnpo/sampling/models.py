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
from attnpo.testbed import model_path


def load_model(
    model: str,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (on the GPU if there is one) and tokenizer, padding on the left.

    Args:
        model: `attnpo.testbed.EMBEDDED`, a folder or a hub id.
        revision: hub revision; None is the main branch.
        dtype: of the weights. `auto`, the checkpoint's own, is for sampling and scoring. Training takes float32: a
            step of a small learning rate is less than half the distance of two bfloat16 numbers, so weights held in
            bfloat16 would mostly stay where they are.
        attention: transformers' `attn_implementation`; None: its choice.

    Raises:
        AttnPOError: it cannot be loaded (the line says why), or its tokenizer has no chat template.
    """
    tokenizer = load_tokenizer(model, revision)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            model_path(model), revision=revision, dtype=dtype, attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        raise _not_loaded(model, error) from error
    # Each process of a distributed run loads onto the GPU that it trains on; by default all would take the first one.
    device: Any = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return loaded.to(device), tokenizer


def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer alone, padding on the left.

    Raises:
        AttnPOError: as `load_model`.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path(model), revision=revision, padding_side="left")
    except (OSError, ValueError) as error:
        raise _not_loaded(model, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise AttnPOError(f"model {model!r} has no chat template; choose one whose tokenizer has it")
    return tokenizer


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
    return AttnPOError(f"model {model!r} could not be loaded ({first_line(error)}); check name, path and network")


def free_memory() -> None:
    """Give the memory of models that nothing refers to any more back to the GPU."""
    gc.collect()  # models hold themselves in cycles of references
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
