"""Step scores: are they right on this device, and what do they cost?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from scoring import alternating, paper_heads
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from attnpo.method.attention import Head, all_heads
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import align_steps, token_bytes_table
from gpu_pieces.inputs import SMALL_SHARPER, Rows, Setting, random_model, response_ids, tokenizer

TOLERANCE = {"float32": 2e-3, "bfloat16": 0.05}
"""Largest relative error of the step scores. bfloat16 was off by .001 to .005 on a CPU, and by .007 at 1.5B on an H200.
float32 leaves room for TF32, which rounds 8 times finer than bfloat16. A scale of twice the right size is off by .06 to
.24 on these models, attention without a mask by .2 to .8."""

SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
LOCAL_GLOBAL = ["sliding_attention", "full_attention"] * 2
ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {
    "Qwen2": lambda: Qwen2Config(**SHAPE),
    "Qwen2, window": lambda: Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=64, max_window_layers=2),
    "Qwen3": lambda: Qwen3Config(**SHAPE, head_dim=32),
    "Llama": lambda: LlamaConfig(**SHAPE),
    "Mistral, window": lambda: MistralConfig(**SHAPE, sliding_window=64),
    "Gemma 3": lambda: Gemma3TextConfig(
        **SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=64, layer_types=LOCAL_GLOBAL
    ),
}
TINY_LENGTHS = (300, 170, 240)
"""Tokens of the responses that the small architectures are compared on."""


# scores


def scores(setting: Setting) -> Rows:
    """Each architecture in miniature with all of its heads, and a few layers of 1.5B at 4k tokens."""
    for name, config in ARCHITECTURES.items():
        yield name, partial(compared, setting, config(), responses(TINY_LENGTHS), SMALL_SHARPER)
    length = 256 if setting.small else 4096
    batch = responses([length - 16])
    yield (
        f"Qwen2, 4 layers of 1.5B, {length:,} tokens",
        partial(compared, setting, setting.config(layers=4), batch, setting.sharper),
    )


def responses(lengths: Sequence[int]) -> list[Response]:
    """Responses of these many tokens to prompts of 16."""
    table = token_bytes_table(tokenizer())
    return [Response(list(range(10, 26)), ids, align_steps(ids, table)) for ids in response_ids(lengths)]


def compared(setting: Setting, config: PreTrainedConfig, batch: list[Response], sharper: float) -> dict[str, Any]:
    """The relative error of step scores in either precision, and whether it is within its tolerance."""
    found: dict[str, Any] = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        model = random_model(config, dtype, setting.device, sharper)
        heads = all_heads(model)
        ours = score_batch(model, heads, batch)
        reference = random_model(config, torch.float32, setting.device, sharper, "eager")
        reference.load_state_dict(model.state_dict())
        del model
        pairs = [(own.float(), eager_scores(reference, heads, one)) for own, one in zip(ours, batch, strict=True)]
        differences = torch.cat([(own - other).flatten() for own, other in pairs])
        found[name] = float(differences.norm() / torch.cat([other.flatten() for _, other in pairs]).norm())
    over = [name for name, error in found.items() if not error <= TOLERANCE[name]]
    found["steps"] = sum(len(one.steps.steps) for one in batch if one.steps)
    found["heads"] = len(heads)
    if over:
        found["error"] = f"the step scores in {over[0]} are off by {found[over[0]]:.2g}, over {TOLERANCE[over[0]]}"
    return found


@torch.no_grad()
def eager_scores(model: PreTrainedModel, heads: Sequence[Head], response: Response) -> torch.Tensor:
    """Step scores (H, K) as the paper says: attention that the answer's tokens pay, the mean over a step's tokens."""
    prompt, ids, steps = response
    assert steps is not None
    row = torch.tensor([[*prompt, *ids]], device=model.device)
    attentions = model(input_ids=row, output_attentions=True, use_cache=False).attentions
    answer = slice(len(prompt) + steps.answer[0], len(prompt) + steps.answer[1])
    received = torch.stack([attentions[layer][0, head, answer].float().sum(0) for layer, head in heads])
    step_of_token = torch.tensor([-1] * len(prompt) + steps.step_of_token, device=model.device)
    return torch.stack([received[:, step_of_token == k].mean(1) for k in range(len(steps.steps))], 1)


# scoring


def scoring(setting: Setting) -> Rows:
    """At 4k and 16k tokens, as the trainer scores: `score_batch` on rows of one length."""
    dtype = torch.bfloat16 if setting.cuda else torch.float32
    model = setting.model(dtype)
    for count, length in ((8, 64), (1, 256), (4, 256)) if setting.small else ((8, 4096), (1, 16384), (4, 16384)):
        yield f"{count} x {length:,}", partial(cost, setting, model, count, length)


def cost(setting: Setting, model: PreTrainedModel, count: int, length: int) -> dict[str, Any]:
    """Seconds and peak memory, weights included, of the scoring pass and of a causal forward pass of the same rows."""
    batch = responses([length - 16] * count)
    heads = paper_heads(model.config)
    ids = torch.tensor([[*one.prompt_ids, *one.ids] for one in batch], device=setting.device)

    @torch.no_grad()
    def plain() -> None:
        model.model(input_ids=ids, use_cache=False)

    passes = {"plain": plain, "scoring": lambda: score_batch(model, heads, batch)}
    measured = alternating(passes, setting.device, repeats=3)
    return {"ratio": round(measured["scoring_s"] / measured["plain_s"], 3), **measured}
