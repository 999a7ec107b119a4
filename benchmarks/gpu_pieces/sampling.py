"""Sampling through `attnpo.sampling`."""

from __future__ import annotations

import importlib.util
import random
import time
from functools import partial
from typing import Any

from attnpo.sampling.backends import make_sampler
from attnpo.sampling.sampler import Sampler
from gpu_pieces.inputs import TOKENS, Rows, Setting, peak_gib, reset_peak, saved_model

PROMPT_TOKENS = 64


def sampling(setting: Setting) -> Rows:
    """Transformers, and vLLM where it is installed."""
    rows, budget = (4, 16) if setting.small else (64, 128)
    folder = str(saved_model(setting, "model"))
    with make_sampler("hf", folder, batch_size=rows) as sampler:
        yield f"transformers, {rows} rows", partial(speed, setting, sampler, rows, budget)
    if importlib.util.find_spec("vllm") is None:
        yield "vLLM", lambda: {"skipped": "vLLM is not installed"}
        return
    # Less than vLLM's own share of the memory: the process that asks keeps a part of the GPU too.
    engine = {"gpu_memory_utilization": 0.8} if setting.cuda else {"enforce_eager": True}
    with make_sampler("vllm", folder, max_model_len=1024, **engine) as sampler:
        for count in (rows, 4 * rows):
            yield f"vLLM, {count} rows", partial(speed, setting, sampler, count, 4 * budget)


def speed(setting: Setting, sampler: Sampler, rows: int, budget: int) -> dict[str, Any]:
    """Tokens a second of `rows` responses side by side, after a few tokens for warming up, which start the engine."""
    rng = random.Random(rows)
    prompts = [[rng.randrange(3, TOKENS) for _ in range(PROMPT_TOKENS)] for _ in range(rows)]
    reset_peak(setting)
    seconds, tokens = [], 0
    for limit in (4, budget):
        start = time.perf_counter()
        samples = sampler.sample(prompts, temperature=1.0, max_new_tokens=limit, seeds=range(rows))
        tokens = sum(len(sample.ids) for *_, sample in samples)
        seconds.append(time.perf_counter() - start)
    return {
        "tokens_per_s": round(tokens / seconds[1], 1),
        "tokens": tokens,
        "seconds": round(seconds[1], 2),
        "start_s": round(seconds[0], 2),
        "peak_gib": peak_gib(setting),
    }
