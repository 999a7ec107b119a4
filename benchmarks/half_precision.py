"""How far half precision alone moves a model's attention output from the softmax that AttnPO reads.

    python benchmarks/half_precision.py MODEL_FOLDER...

For each model, attention implementation and dtype: the relative L2 distance of the output of each layer, at its
largest and in the median, the largest logit that is rounded, and what `attnpo.method.attention` allows. The text is
this repository's README.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from attnpo.method import attention

TOKENS, QUERIES = 400, 100
"""Of the text, and of its end, that the attention is read from."""


def main(folders: list[str]) -> None:
    """Print the table."""
    disable_progress_bar()
    set_verbosity_error()
    print("| model | attention | dtype | largest distance | median | largest logit that is rounded | allowed |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
        ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:TOKENS]])
        for implementation in ("eager", "sdpa"):
            model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                found = measure(model.to(dtype), ids)
                cells = [f"{max(found.distances):.5f}", f"{statistics.median(found.distances):.5f}"]
                cells += [f"{found.largest_logit:.1f}" if found.largest_logit else "", f"{found.allowed:.3f}"]
                print(f"| {' | '.join([Path(folder).name, implementation, str(dtype)[6:], *cells])} |", flush=True)


class Found(NamedTuple):
    """What a forward pass gave, the worst layer of each."""

    distances: list[float]
    largest_logit: float
    """0 where none is rounded."""
    allowed: float


def measure(model: Any, ids: torch.Tensor) -> Found:
    """The distance of each layer, and what is allowed."""
    distances: list[float] = []
    logits: list[float] = []
    limits: list[float] = []
    distance_of, allowed = attention._relative_distance, attention._allowed

    def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        distances.append(distance_of(ours, theirs))
        return 0.0

    def limit(dtype: torch.dtype, largest: float) -> float:
        logits.append(largest)
        limits.append(allowed(dtype, largest))
        return limits[-1]

    attention._relative_distance, attention._allowed = distance, limit
    try:
        queries = torch.zeros_like(ids, dtype=torch.bool)
        queries[:, -QUERIES:] = True
        attention.attention_received(model, ids, torch.ones_like(ids), attention.all_heads(model), queries)
    finally:
        attention._relative_distance, attention._allowed = distance_of, allowed
    return Found(distances, max(logits), max(limits))


if __name__ == "__main__":
    main(sys.argv[1:])
