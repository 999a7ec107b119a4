"""Seeds of sampling, derived from the run's seed and from what is asked, never from the model.

So two models are sampled with equal seeds. How many responses share a seed depends on the backend:

- vLLM: each response has its own, so that samples do not depend on what else is in the batch.
- API models: one for each k, because a request has one seed for all its prompts. lm-eval itself sends the same seed for
  each k, and a server that honours it returns k equal samples.
- hf: one for each chunk, which is a batch, because a batch draws from one stream of random numbers.
- Other backends are not seeded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def seeding(lm: Any) -> str:
    """What has a seed of its own: "request", "repeat", "chunk" or "none".

    Backends are recognised by the names of their classes, since vLLM may not be installed.
    """
    names = {cls.__name__ for cls in type(lm).__mro__}
    for name, mode in (("VLLM", "request"), ("TemplateAPI", "repeat"), ("HFLM", "chunk")):
        if name in names:
            return mode
    return "none"


def run_seed(lm: Any) -> list[Any]:
    """lm-eval's seed for torch, and the model's own."""
    import torch

    arguments = getattr(lm, "model_args", None)
    own = arguments.get("seed") if isinstance(arguments, dict) else getattr(lm, "_seed", None)
    return [torch.initial_seed(), own]


def is_greedy(options: dict[str, Any]) -> bool:
    """Whether lm-eval's backends decode greedily with these generation arguments."""
    temperature = options.get("temperature")
    if options.get("do_sample") is False or temperature == 0:
        return True
    return options.get("do_sample") is None and not temperature


def derive(*parts: Any) -> int:
    """A seed from JSON values; equal values give equal seeds. It has 31 bits, which every backend takes."""
    return int.from_bytes(hashlib.sha256(stable_json(list(parts)).encode()).digest()[:4], "big") >> 1


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for the block. Afterwards its random numbers continue as if the block had not been."""
    if seed is None:
        yield
        return
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def stable_json(value: Any) -> str:
    """JSON that is equal for equal values; what JSON has no form for is written as text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
