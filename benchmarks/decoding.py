"""What each part of `attnpo.sampling.fast` saves in decoding.

python benchmarks/decoding.py                          # the embedded model on a CPU
python benchmarks/decoding.py --model MODEL --device cuda --max-tokens 4096

Four ways take turns in one run, on one batch of prompts: `generate` as it is, and with one part more each time.
`same_tokens` is the share of responses that come out as in the first. Prints JSON: each way's time over the first's
(less is better), in each repeat, and the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.sampling.decoding import SkipFinishedRows
from attnpo.sampling.fast import fast_decoding
from attnpo.sampling.grouped import GroupedDecoding
from attnpo.testbed import MODEL_DIR, problems


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL_DIR))
    parser.add_argument("--batch", type=int, default=64, help="responses")
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model).to(args.device).eval()
    texts = [p.text for p in problems.load("train")[: args.batch]]
    batch = tokenizer.apply_chat_template(
        [[{"role": "user", "content": text}] for text in texts],
        add_generation_prompt=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    ).to(args.device)
    eos, pad = model.generation_config.eos_token_id, tokenizer.pad_token_id

    def generate() -> torch.Tensor:
        torch.manual_seed(0)
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": args.max_tokens, "pad_token_id": pad}
        with torch.no_grad():
            return model.generate(**batch, **options)

    def skipping() -> torch.Tensor:
        with SkipFinishedRows(model, eos):
            return generate()

    def grouped() -> torch.Tensor:
        with GroupedDecoding(model):
            return skipping()

    def all_of_it() -> torch.Tensor:
        with fast_decoding(model, eos):
            return generate()

    ways = {"ended rows skipped": skipping, "and keys not repeated": grouped, "and room in the cache": all_of_it}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    same: dict[str, float] = {}
    for _ in range(args.repeats + 1):
        plain_seconds, plain = timed(generate)
        for name, way in ways.items():
            seconds, output = timed(way)
            ratios[name].append(seconds / plain_seconds)
            alike = plain.shape == output.shape
            same[name] = (plain == output).all(1).double().mean().item() if alike else 0.0
    completions = plain[:, batch["input_ids"].shape[1] :]
    ended = torch.isin(completions, torch.tensor(eos, device=completions.device)).long()
    lengths = (ended.cumsum(1) - ended == 0).sum(1).double()
    report = {
        "model": args.model if args.model != str(MODEL_DIR) else "testbed",
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "responses": len(plain),
        "mean_tokens": lengths.mean().item(),
        "max_tokens": lengths.max().item(),
        # The first repeat warms up.
        "generation_ratio": {name: statistics.median(values[1:]) for name, values in ratios.items()},
        "generation_ratios": {name: values[1:] for name, values in ratios.items()},
        "same_tokens": same,
    }
    print(json.dumps(report, indent=1))


def timed(way: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """The seconds that a way takes, and what it returns."""
    start = time.perf_counter()
    returned = way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, returned


if __name__ == "__main__":
    main()
