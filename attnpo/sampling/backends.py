"""Choose what samples: transformers or vLLM's offline engine."""

from __future__ import annotations

from typing import Any

from attnpo.errors import AttnPOError
from attnpo.sampling.models import load_model
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
    **engine: Any,
) -> Sampler:
    """The sampler of a backend.

    Args:
        backend: see `Backend`.
        model: `attnpo.testbed.EMBEDDED`, a folder or a hub id.
        revision: hub revision; None is the main branch.
        batch_size: `hf`: responses that are generated at once. vLLM fills its batches by itself.
        max_model_len: `vllm`: tokens of the longest prompt and its response; None: all that the model allows, for which
            vLLM keeps memory. transformers needs no such bound.
        engine: `vllm`: more arguments of `vllm.LLM`.

    Raises:
        AttnPOError: the model cannot be loaded, vLLM is missing or too old, or there is no such backend.
    """
    if backend == "hf":
        return TransformersSampler(*load_model(model, revision), batch_size)
    if backend == "vllm":
        return VLLMSampler(model, revision, max_model_len, **engine)
    raise AttnPOError(f"no sampling backend {backend!r}; there are hf and vllm")
