"""The pieces of benchmarks/gpu.py in miniature on a CPU, and what becomes of those that fail."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from gpu_pieces import PIECES, attention, tiny
from gpu_pieces.inputs import TOKENS, Setting, response_ids, tokenizer
from places import ROOT

from attnpo.errors import AttnPOError
from attnpo.method.steps import align_steps, token_bytes_table


def measured(name: str, scratch: Path) -> dict[str, dict[str, Any]]:
    """The rows of a piece in miniature, in this process."""
    rows = getattr(importlib.import_module(f"gpu_pieces.{PIECES[name].module}"), name)
    found = {title: gpu.row(measure) for title, measure in rows(Setting("cpu", True, scratch))}
    assert not [row for row in found.values() if "error" in row], found
    return found


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "vllm" else found(name, *more))


# the pieces


def test_responses_have_the_length_that_is_asked_and_steps() -> None:
    table = token_bytes_table(tokenizer())
    assert len(tokenizer()) == len(table) == TOKENS
    for length, ids in zip((60, 500), response_ids([60, 500]), strict=True):
        steps = align_steps(ids, table)
        assert len(ids) == length
        assert steps is not None and len(steps.steps) >= length // 100
        assert steps.answer[1] - steps.answer[0] == length // 10


def test_scores_agree_with_eager_attention(tmp_path: Path) -> None:
    for name, row in measured("scores", tmp_path).items():
        # float32 sums in another order; bfloat16 rounds, so it cannot be as near.
        assert 0 <= row["float32"] < 1e-5 < row["bfloat16"] < attention.TOLERANCE["bfloat16"], name
        assert row["steps"] >= 3 and row["heads"] == 16


def test_scores_of_another_head_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.eager_scores
    monkeypatch.setattr(attention, "eager_scores", lambda *given: right(*given).roll(1, 0))
    rows = {title: gpu.row(measure) for title, measure in attention.scores(Setting("cpu", True, tmp_path))}
    assert all("the step scores in float32 are off by" in row["error"] for row in rows.values()), rows


def test_scoring_is_compared_with_a_forward_pass(tmp_path: Path) -> None:
    rows = measured("scoring", tmp_path)
    assert len(rows) == 3
    for row in rows.values():
        assert row["ratio"] == round(row["scoring_s"] / row["plain_s"], 3) > 0
        assert row["plain_s"] > 0


@pytest.mark.slow
def test_steps_are_timed_and_float32_moves_the_weights(tmp_path: Path) -> None:
    rows = measured("step", tmp_path)
    assert rows["AttnPO"]["ratio"] == round(rows["AttnPO"]["step_s"] / rows["TLMRE"]["step_s"], 3)
    assert rows["TLMRE"]["scoring_share"] == rows["TLMRE"]["rescaled_share"] == 0
    assert rows["AttnPO"]["scoring_share"] > 0 and rows["AttnPO"]["rescaled_share"] > 0
    for row in (rows["TLMRE"], rows["AttnPO"]):
        assert 1 <= row["padded_over_real"] < 1.2  # micro-batches of like length
        assert 100 < row["mean_tokens"] < 140  # lengths with a mean of 120
        assert row["peak_gib"] is None
    # A weight of .02 is 1.2e-4 from the next in bfloat16, and a step 2e-6: only those near 0 can move.
    assert rows["weights in float32"]["changed_share"] > 0.99
    assert 0 < rows["weights in bfloat16"]["changed_share"] < 0.2
    # Three steps of Adam move a weight by 3 x 2e-6 at most, or a little more as its moments are corrected.
    assert 2e-6 < rows["weights in float32"]["mean_change"] < 1e-5


def test_a_step_of_long_responses(tmp_path: Path) -> None:
    (row,) = measured("long", tmp_path).values()
    assert row["mean_tokens"] == 512
    assert row["padded_over_real"] == 1
    assert row["step_s"] > 0


def test_sampling_counts_the_tokens(tmp_path: Path, no_vllm: None) -> None:
    rows = measured("sampling", tmp_path)
    row = rows["transformers, 4 rows"]
    assert 48 < row["tokens"] <= 4 * 16  # one of 512 tokens ends a response
    assert row["tokens_per_s"] > 0
    assert rows["vLLM"] == {"skipped": "vLLM is not installed"}


def test_colocated_without_vllm_is_skipped(tmp_path: Path, no_vllm: None) -> None:
    (row,) = measured("colocated", tmp_path).values()
    assert row == {"skipped": "vLLM is not installed"}


@pytest.mark.slow
def test_the_profile_tiny_trains(tmp_path: Path) -> None:
    (row,) = measured("tiny", tmp_path).values()
    assert len(row["steps_s"]) == 2
    assert 0 < row["accuracy"] <= 1
    assert 20 < row["mean_tokens"] <= 192
    assert row["gradient_norm"] > 0


def test_a_log_that_lacks_something_is_an_error() -> None:
    entry = dict.fromkeys(tiny.COLUMNS.values(), 0.5)
    assert tiny.means_of([entry, entry], 2) == dict.fromkeys(tiny.COLUMNS, 0.5)
    with pytest.raises(AttnPOError, match="1 of 2 steps"):
        tiny.means_of([entry], 2)
    for broken in ({**entry, "loss": math.nan}, {k: v for k, v in entry.items() if k != "loss"}):
        with pytest.raises(AttnPOError, match="column loss of the log"):
            tiny.means_of([entry, broken], 2)


# what fails, lacks something or takes too long

CHILD = """
import json, os, signal, sys, time
name, path, out = sys.argv[1:]
rows = {
    "environment": {"device": "cpu", "memory_gib": None, "driver": None, "cuda": None, "host": {"cpu": "a", "cores": 1},
                    "versions": {"torch": "2"}, "git": {"commit": None, "dirty": None}},
    "scores": {"error": "ValueError: a reason"},
    "scoring": {"seconds": 1.5, "reported before": os.listdir(out) if os.path.isdir(out) else []},
    "long": {"skipped": "out of memory: 80 GiB"},
}.get(name, {"seconds": 2})
json.dump({"rows": {name: rows}}, open(path, "w"))
if name == "tiny":
    time.sleep(60)
if name == "step":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(name == "scores")
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the report; pieces are played by a script that fails, waits or is killed."""
    out = tmp_path / "out"
    monkeypatch.setattr(
        gpu,
        "child_command",
        lambda name, result, scratch, args: [sys.executable, "-c", CHILD, name, str(result), str(out)],
    )
    return out


def small(out: Path, *more: str) -> list[str]:
    return ["--small", "--device", "cpu", "--out", str(out), *more]


def test_a_piece_that_fails_ends_with_1_and_leaves_the_others(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PIECES, "tiny", PIECES["tiny"]._replace(limit_s=3))
    assert gpu.main(small(stand_ins, "--pieces", "scores", "scoring", "tiny", "step", "long", "sampling")) == 1
    pieces = json.loads((stand_ins / "cpu-small.json").read_text())["pieces"]
    assert {name: piece["status"] for name, piece in pieces.items()} == {
        "scores": "failed: scores: ValueError: a reason",
        "scoring": "done",
        "tiny": "failed: ran past its 3 s",
        "step": "failed: the process ended with signal 9",
        "long": "skipped: out of memory: 80 GiB",
        "sampling": "done",
    }
    assert pieces["tiny"]["rows"] == {"tiny": {"seconds": 2}}  # what was measured until then
    assert sorted(pieces["scoring"]["rows"]["scoring"]["reported before"]) == ["cpu-small.json", "cpu-small.md"]
    report = (stand_ins / "cpu-small.md").read_text()
    assert "Failed: ran past its 3 s; " in report
    assert "| long | out of memory: 80 GiB |" in report
    assert report in capsys.readouterr().out


def test_pieces_that_are_skipped_are_no_failure(stand_ins: Path) -> None:
    assert gpu.main(small(stand_ins, "--pieces", "scoring", "long")) == 0


def test_no_piece_starts_after_the_minutes(stand_ins: Path) -> None:
    assert gpu.main(small(stand_ins, "--pieces", "scoring", "--minutes", "0")) == 0
    (piece,) = json.loads((stand_ins / "cpu-small.json").read_text())["pieces"].values()
    assert piece["status"].startswith("skipped: the 0 minutes of all pieces are over; ")


def test_a_row_without_memory_is_skipped_and_one_that_is_not_finite_fails() -> None:
    def without_memory() -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    assert gpu.row(without_memory) == {"skipped": "out of memory: CUDA out of memory. Tried to allocate 9 GiB."}
    assert gpu.row(lambda: {"a": 1.0, "b": [1.0, math.nan]}) == {
        "error": "AttnPOError: b is [1.0, nan]; it must be finite"
    }


def test_a_cpu_takes_the_miniature_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--device", "cpu"])
    assert stopped.value.code == 2
    assert "add --small" in capsys.readouterr().err


# the script


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run gpu.sh in another folder, with this Python and without a GPU."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_without_a_gpu_it_says_so_and_ends_with_0(tmp_path: Path) -> None:
    done = script(tmp_path, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no GPU here: nothing was measured")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_script_writes_a_report_with_its_origin(tmp_path: Path) -> None:
    done = script(tmp_path, *small(tmp_path / "out", "--pieces", "sampling"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "cpu-small.json").read_text())
    assert report["pieces"]["sampling"]["rows"]["transformers, 4 rows"]["tokens_per_s"] > 0
    assert report["environment"]["device"] == "cpu"
    assert report["environment"]["versions"]["torch"] == torch.__version__
    assert report["command"].startswith("bash benchmarks/gpu.sh --small --device cpu")
    assert report["command"] in (tmp_path / "out" / "cpu-small.md").read_text()
