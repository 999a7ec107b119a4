"""Time of hf generation through lm-eval with exact counts against the same without, in one run.

python benchmarks/lengths_overhead.py                  # the embedded model, CPU
python benchmarks/lengths_overhead.py --model FOLDER --device cuda --budget 4096

Both generate the same tokens from the same seed, in turns, so that a busy machine slows both. Prints JSON. The model is
tiny, so that what is added to each token weighs more than it ever will.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from attnpo.environment import device, package_versions
from attnpo.evaluation import lm_eval_backends
from attnpo.testbed import MODEL_DIR, problems


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL_DIR))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--budget", type=int, default=256, help="tokens a response")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    plain = HFLM.generate_until
    lm_eval_backends.install()
    counted = HFLM.generate_until
    lm = HFLM(pretrained=args.model, batch_size=args.batch, device=args.device)
    options = {"until": [], "do_sample": True, "temperature": 1.0, "top_k": 0, "max_gen_toks": args.budget}
    texts = [p.text for p in problems.load("test")[: args.problems]]
    prompts = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    requests = [
        Instance("generate_until", {"text": text}, (prompt, options), 0, metadata=("attnpo_overhead", i, 1))
        for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]

    seconds: dict[str, list[float]] = {"plain": [], "counted": []}
    answers: dict[str, Any] = {}
    for repeat in range(args.repeats + 1):
        for name, generate in (("plain", plain), ("counted", counted)):
            torch.manual_seed(repeat)
            start = time.perf_counter()
            answers[name] = generate(lm, requests, disable_tqdm=True)
            if repeat:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
        assert [lm.tok_decode(g.ids.tolist()) for g in answers["counted"]] == answers["plain"]
    ratios = [c / p for c, p in zip(seconds["counted"], seconds["plain"], strict=True)]
    report = {
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        **{f"{name}_s": round(statistics.median(values), 3) for name, values in seconds.items()},
        "tokens": sum(g.counts.total for g in answers["counted"]),
        "arguments": vars(args),
        "device": device(),
        "versions": package_versions(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
