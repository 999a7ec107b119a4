"""Time of the scoring pass against a plain forward pass of the same model on the same batch, both in one run.

python benchmarks/scoring.py                                                          # CPU, tiny model
python benchmarks/scoring.py --shape qwen2-1.5b --length 16384 --batch 1 --device cuda --dtype bfloat16

Random weights: only the time counts. The plain pass computes hidden states with the padding mask and without
logits, which for a large vocabulary would make it look slower. The scoring pass needs no padding mask and
stops after the last wanted layer (unless --full): both are part of the ratio. Passes alternate, so that a busy
machine slows both. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping

import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, Qwen2Config

from attnpo.method.attention import attention_received

TINY = {"layers": 4, "hidden": 128, "intermediate": 512, "heads": 8, "kv_heads": 2, "vocab": 512}
QWEN2_1_5B = {"layers": 28, "hidden": 1536, "intermediate": 8960, "heads": 12, "kv_heads": 2, "vocab": 151936}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name or folder of a model to load; else a random Qwen2 of --shape")
    parser.add_argument("--shape", choices=["tiny", "qwen2-1.5b"], default="tiny")
    for name in TINY:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{name} of the random model")
    parser.add_argument("--batch", type=int, default=32, help="sequences")
    parser.add_argument("--length", type=int, default=160, help="tokens of the longest sequence; the shortest has half")
    parser.add_argument("--answer", type=float, default=0.1, help="|F| as a share of the length")
    parser.add_argument(
        "--score-heads", help="layer,head pairs as '16,2 20,9 23,2'; default: the paper's relative depths"
    )
    parser.add_argument("--chunk-rows", type=int, default=4096)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--attention", default="sdpa", help="attention implementation the model is loaded with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="run all layers, as under FSDP")
    args = parser.parse_args()

    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    options = {"dtype": dtype, "attn_implementation": args.attention}
    if args.model:
        model = AutoModel.from_pretrained(args.model, **options).to(args.device)
    else:
        base = QWEN2_1_5B if args.shape == "qwen2-1.5b" else TINY
        sizes = {name: getattr(args, name) or value for name, value in base.items()}
        model = AutoModelForCausalLM.from_config(qwen2(**sizes), **options).model.to(args.device)
    model.eval()
    config = model.config
    heads = paper_heads(config) if args.score_heads is None else parse_heads(args.score_heads)

    lengths = torch.linspace(args.length, max(args.length // 2, 1), args.batch).long()
    position = torch.arange(args.length)
    mask = position >= args.length - lengths[:, None]  # left padding
    answers = (lengths * args.answer).long().clamp(min=1)
    queries = mask & (position >= args.length - answers[:, None])
    ids = torch.randint(config.vocab_size, mask.shape)
    ids, mask, queries = (x.to(args.device) for x in (ids, mask.long(), queries))

    def plain() -> None:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask, use_cache=False)

    def scoring() -> None:
        attention_received(model, ids, mask, heads, queries, args.chunk_rows, stop_early=not args.full)

    measured = alternating({"plain": plain, "scoring": scoring}, args.device, args.repeats)
    report = {
        "ratio": round(measured["scoring_s"] / measured["plain_s"], 4),
        **measured,
        "heads": heads,
        "tokens": int(mask.sum()),
        "queries": int(queries.sum()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "arguments": {name: value for name, value in vars(args).items() if value is not None},
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(report, indent=2))


def alternating(passes: Mapping[str, Callable[[], object]], device: str, repeats: int) -> dict[str, float]:
    """The median seconds of each pass, and the peak of its memory on a GPU: `NAME_s` and `NAME_peak_gib`.

    The passes take turns, once for warming up and then `repeats` times.
    """
    cuda = device.startswith("cuda")
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    memory: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for name, run in passes.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
                memory[f"{name}_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
            if repeat:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return {**{f"{name}_s": round(statistics.median(values), 5) for name, values in seconds.items()}, **memory}


def qwen2(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int) -> Qwen2Config:
    """The configuration of a Qwen2 of these sizes."""
    return Qwen2Config(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=131072,
    )


def paper_heads(config: PreTrainedConfig) -> list[tuple[int, int]]:
    """Three heads at the depth of the paper's (16,2) (20,9) (23,2) of 28 layers and 12 heads."""
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    return [(layer * layers // 28, head * heads // 12) for layer, head in ((16, 2), (20, 9), (23, 2))]


def parse_heads(text: str) -> list[tuple[int, int]]:
    """'16,2 20,9' -> [(16, 2), (20, 9)]."""
    return [(int(layer), int(head)) for layer, head in (pair.split(",") for pair in text.split())]


if __name__ == "__main__":
    main()
