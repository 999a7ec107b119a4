"""What it saves to skip rows that have ended, and to take the loss in parts of like length.

python benchmarks/decoding.py                          # the embedded model on a CPU
python benchmarks/decoding.py --model MODEL --device cuda --max-tokens 4096

Both ways alternate in one run, on one batch of sampled responses: `generation` is `generate` as it is against the same
with `attnpo.sampling.decoding`, `loss` the forward and backward pass of TRL's loss over all rows at once against
`loss_batch_size`. `same_tokens` is the share of responses that come out equal. Prints JSON: the second way's time over
the first's (less is better), in each repeat, and the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.sampling.decoding import SkipFinishedRows
from attnpo.testbed import MODEL_DIR, problems
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL_DIR))
    parser.add_argument("--batch", type=int, default=64, help="responses")
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--loss-batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model).to(args.device)
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
            return model.eval().generate(**batch, **options)

    def skipping() -> torch.Tensor:
        with SkipFinishedRows(model, eos):
            return generate()

    generation, (plain, skipped) = alternate([generate, skipping], args.repeats)
    width = batch["input_ids"].shape[1]
    completions = plain[:, width:]
    ended = torch.isin(completions, torch.tensor(eos, device=completions.device)).long()
    mask = torch.cat([batch["attention_mask"], (ended.cumsum(1) - ended == 0).long()], dim=1)
    same = (plain == skipped).all(1).double().mean().item() if plain.shape == skipped.shape else 0.0

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"bf16": False, "use_cpu": args.device == "cpu", "report_to": "none"}
        trainer = AttnPOTrainer(
            model,
            lambda completions, **_: [0.0] * len(completions),
            AttnPOConfig(folder, attnpo=False, **options),
            train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=tokenizer,
        )

        def loss(size: int | None) -> None:
            trainer.args.loss_batch_size = size
            model.train().zero_grad()
            trainer._get_per_token_logps_and_entropies(model, plain, mask, completions.shape[1], compute_entropy=True)[
                0
            ].sum().backward()

        losses, _ = alternate([lambda: loss(None), lambda: loss(args.loss_batch_size)], args.repeats)
    lengths = mask[:, width:].sum(1).double()
    print(
        json.dumps(
            {
                "model": args.model if args.model != str(MODEL_DIR) else "testbed",
                "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
                "responses": len(plain),
                "mean_tokens": lengths.mean().item(),
                "max_tokens": lengths.max().item(),
                "generation_ratio": statistics.median(generation),
                "generation_ratios": generation,
                "same_tokens": same,
                "loss_ratio": statistics.median(losses),
                "loss_ratios": losses,
            },
            indent=1,
        )
    )


def alternate(ways: list[Callable[[], Any]], repeats: int) -> tuple[list[float], list[Any]]:
    """The second way's time over the first's, of each repeat but the warm-up, and what they returned last."""
    ratios = []
    for _ in range(repeats + 1):
        seconds, returned = [], []
        for way in ways:
            start = time.perf_counter()
            returned.append(way())
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return ratios[1:], returned


if __name__ == "__main__":
    main()
