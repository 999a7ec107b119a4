"""Time of hf generation for our lm-eval tasks against lm-eval's own `generate_until`, in one run.

python benchmarks/lengths_overhead.py                  # the embedded model, CPU
python benchmarks/lengths_overhead.py --model FOLDER --device cuda --budget 4096

Both generate the same tokens, greedily, in turns, so that a busy machine slows both. Ours count and store each response
and spend nothing on rows that have ended. Prints JSON. The model is tiny, so that what is added to each token weighs
more than it ever will.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from attnpo.environment import device, package_versions
from attnpo.evaluation.lm_eval_models import REQUEST_TYPE, Plan, respond
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

    lm = HFLM(pretrained=args.model, batch_size=args.batch, device=args.device)
    options = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": args.budget}
    texts = [p.text for p in problems.load("test")[: args.problems]]
    prompts = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in texts]

    def requests(kind: str) -> list[Any]:
        made: list[Any] = [
            Instance(kind, {"text": text, "id": i}, (prompt, options), 0, metadata=("attnpo_overhead", i, 1))  # type: ignore[arg-type]
            for i, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
        ]
        for one in made:
            one.attnpo_plan = Plan.of("attnpo_overhead", {})._replace(templated=True)
        return made

    asked = {"plain": requests("generate_until"), "counted": requests(REQUEST_TYPE)}
    seconds: dict[str, list[float]] = {"plain": [], "counted": []}
    answers: dict[str, Any] = {}
    for repeat in range(args.repeats + 1):
        for name in asked:
            start = time.perf_counter()
            if name == "plain":
                answers[name] = lm.generate_until(asked[name], disable_tqdm=True)
            else:
                answers[name] = respond(lm, asked[name])
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
