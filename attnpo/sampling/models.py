"""Load the model and the tokenizer that a profile names."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from attnpo.errors import AttnPOError
from attnpo.testbed import model_path


def load_model(model: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (in its own dtype, on the GPU if there is one) and tokenizer, padding on the left.

    Args:
        model: `attnpo.testbed.EMBEDDED`, a folder or a hub id.
        revision: hub revision; None is the main branch.

    Raises:
        AttnPOError: it cannot be loaded (the line says why), or its tokenizer has no chat template.
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
    # Each process of a distributed run loads onto the GPU that it trains on; by default all would take the first one.
    device: Any = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    return loaded.to(device), tokenizer
