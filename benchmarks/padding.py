"""How much of the loss's forward passes is padding: padded over real tokens, TRL's micro-batches and ours.

    python benchmarks/padding.py

Response lengths are drawn log-normal with the means that R1-distilled models show, and cut at 16,384 tokens; 128
prompts of 8 rollouts a step on 8 processes, micro-batches of 2. TRL leaves every micro-batch as wide as the longest
response of the process; ours are dealt by length and as wide as their own longest one (`attnpo.training.batches`).
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math

import torch

from attnpo.training.batches import of_like_length, span

MEANS = (3400, 5100, 7700)


def lengths_of(mean: float, sigma: float, limit: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) log-normal lengths, cut at `limit`, whose mean after the cut is about `mean`."""
    normal = torch.randn(count, generator=generator, dtype=torch.float64)
    low, high = 1.0, 1e6
    for _ in range(60):  # the median that gives the mean
        median = math.sqrt(low * high)
        found = (median * (sigma * normal).exp()).clamp(1, limit)
        low, high = (median, high) if found.mean() < mean else (low, median)
    return found.round().long()


def padded_over_real(batches: list[dict[str, torch.Tensor]], own_width: bool) -> float:
    """Columns that the forward passes of these micro-batches go through, over those that hold a token."""
    real = padded = 0
    for batch in batches:
        mask = batch["completion_mask"]
        width = span(mask)[1] if own_width else mask.shape[1]
        padded, real = padded + len(mask) * width, real + int(mask.sum())
    return padded / real


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigma", type=float, default=0.8, help="standard deviation of the logarithm of a length")
    parser.add_argument("--rows", type=int, default=128, help="rollouts of a process and step")
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--limit", type=int, default=16384)
    parser.add_argument("--seeds", type=int, default=8, help="processes, each with its own draw")
    args = parser.parse_args()
    found = []
    for mean in MEANS:
        ratios: dict[str, list[float]] = {"trl": [], "own width": [], "own width, by length": []}
        for seed in range(args.seeds):
            lengths = lengths_of(mean, args.sigma, args.limit, args.rows, torch.Generator().manual_seed(seed))
            mask = (torch.arange(int(lengths.max())) < lengths[:, None]).to(torch.int8)
            batches = [{"completion_mask": part} for part in mask.split(args.micro_batch)]
            ratios["trl"].append(padded_over_real(batches, own_width=False))
            ratios["own width"].append(padded_over_real(batches, own_width=True))
            dealt = of_like_length(batches, len(batches))
            ratios["own width, by length"].append(padded_over_real(dealt, own_width=True))
        found.append({"mean": mean, **{name: round(sum(r) / len(r), 3) for name, r in ratios.items()}})
    print(json.dumps({"settings": vars(args), "padded over real": found}, indent=2))


if __name__ == "__main__":
    main()
