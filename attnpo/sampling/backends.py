"""Choose what samples: transformers or vLLM's offline engine, in one process or in several."""

from __future__ import annotations

import functools
from typing import Any

import torch

from attnpo.errors import AttnPOError
from attnpo.sampling.models import load_model
from attnpo.sampling.processes import ProcessSampler, visible_gpus
from attnpo.sampling.sampler import Sampler
from attnpo.sampling.settings import Backend
from attnpo.sampling.transformers import TransformersSampler
from attnpo.sampling.vllm import VLLMSampler


def make_sampler(
    backend: Backend,
    model: str,
    revision: str | None = None,
    *,
    batch_size: int = 128,
    max_model_len: int | None = None,
    processes: int | None = None,
    **engine: Any,
) -> Sampler:
    """The sampler of a backend.

    Args:
        backend: see `Backend`.
        model: one of `attnpo.testbed.MODELS`, a folder or a hub id.
        revision: hub revision; None is the main branch.
        batch_size: `hf`: responses that are generated at once. vLLM fills its batches by itself.
        max_model_len: `vllm`: tokens of the longest prompt and its response; None: all that the model allows, for which
            vLLM keeps memory. transformers needs no such bound.
        processes: how many sample side by side, each with a GPU of its own; None: one a visible GPU.
        engine: `vllm`: more arguments of `vllm.LLM`.

    Raises:
        AttnPOError: the model cannot be loaded, vLLM is missing or too old, there is no such backend, or processes are
            less than 1 or more than the GPUs.
    """
    if backend not in ("hf", "vllm"):
        raise AttnPOError(f"no sampling backend {backend!r}; there are hf and vllm")
    gpus = visible_gpus()
    number = (len(gpus) or 1) if processes is None else processes
    if number < 1 or (gpus and number > len(gpus)):
        available = f"at most {len(gpus)}, the visible GPUs" if gpus else "1 or more"
        raise AttnPOError(f"{number} sampling processes; take {available}")
    make = functools.partial(
        _make, backend, model, revision, batch_size=batch_size, max_model_len=max_model_len, **engine
    )
    if number == 1:
        return make()
    unit = batch_size if backend == "hf" else VLLMSampler.unit
    return ProcessSampler(make, unit, gpus[:number] if gpus else [None] * number)


def _make(
    backend: Backend, model: str, revision: str | None, *, batch_size: int, max_model_len: int | None, **engine: Any
) -> Sampler:
    if backend == "vllm":
        return VLLMSampler(model, revision, max_model_len, **engine)
    # On a CPU, sdpa is slower than eager attention for the single query row of a decoding step.
    attention = None if torch.cuda.is_available() else "eager"
    return TransformersSampler(*load_model(model, revision, attention=attention), batch_size)
