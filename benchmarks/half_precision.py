"""How far half precision alone moves a model's attention output from the softmax that AttnPO reads.

    python benchmarks/half_precision.py MODEL_FOLDER...

For each model, attention implementation and dtype: the relative L2 distance of the output of each layer, at its largest
and in the median, the largest logit, and what `attnpo.method.attention` allows. The text is this repository's README.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

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
    print("| model | attention | dtype | largest distance | median | largest logit | allowed |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
        ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:TOKENS]])
        for implementation in ("eager", "sdpa"):
            model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                found = distances(model.to(dtype), ids)
                values = [distance for distance, _ in found]
                logit = max(logit for _, logit in found)
                allowed = attention._allowed(dtype, logit if implementation == "eager" else 0.0)
                cells = [f"{max(values):.5f}", f"{statistics.median(values):.5f}", f"{logit:.1f}", f"{allowed:.3f}"]
                print(f"| {' | '.join([Path(folder).name, implementation, str(dtype)[6:], *cells])} |", flush=True)


def distances(model: Any, ids: torch.Tensor) -> list[tuple[float, float]]:
    """(distance, largest logit) of each layer."""
    found: list[float] = []
    logits: list[float] = []
    distance_of, logit_of = attention._relative_distance, attention._largest_logit

    def noted(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        found.append(distance_of(ours, theirs))
        return 0.0

    def largest(*arguments: Any) -> float:
        logits.append(logit_of(*arguments))
        return logits[-1]

    attention._relative_distance, attention._largest_logit = noted, largest
    try:
        queries = torch.zeros_like(ids, dtype=torch.bool)
        queries[:, -QUERIES:] = True
        attention.attention_received(model, ids, torch.ones_like(ids), attention.all_heads(model), queries)
    finally:
        attention._relative_distance, attention._largest_logit = distance_of, logit_of
    return list(zip(found, logits, strict=True))


if __name__ == "__main__":
    main(sys.argv[1:])
