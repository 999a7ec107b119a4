"""Rollouts that a training keeps to be looked at, and the page that shows them by training step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_traces import problem, solution, tokenizer

import attnpo.report
from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.grading.grade import Grade
from attnpo.method.steps import token_bytes_table
from attnpo.report.traced import script_json
from attnpo.runs.plan import train_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.store import run_id
from attnpo.training.rollouts import RolloutFile

PROFILE = """
name: p
steps: {min_chars: 1}
train:
  {steps: 2, prompts_per_step: 2, group_size: 4, learning_rate: 1.0e-4, max_completion_tokens: 96, save_steps: 2KEEP}
methods:
  tlmre: {label: TLMRE, reward: tlmre}
  vsrm: {label: VSRM, reward: vsrm, reward_args: {first: 10, apart: 10}, answers: {samples: 1, max_tokens: 4}}
"""


def profile_with(tmp_path: Path, keep: str) -> str:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE.replace("KEEP", keep))
    return str(path)


def rollouts(path: Path, count: int) -> RolloutFile:
    return RolloutFile(
        path, count, token_bytes_table(tokenizer()), tokenizer().eos_token_id, {"data": "testbed", "split": "test"}
    )


def keep(file: RolloutFile, step: int) -> None:
    texts = [solution(problem(n)) for n in (0, 0, 1, 1)]
    ids = [[*tokenizer()(text)["input_ids"], tokenizer().eos_token_id] for text in texts]
    ids[1] = ids[1][:-1]
    rows = [{"id": p.id, "asked": p.text, "answer": p.answer} for p in (problem(0), problem(0), problem(1), problem(1))]
    grades = [Grade(right, False, None, "equal") for right in (True, False, True, True)]
    file.keep(step, rows, ids, texts, grades)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_first_rollouts_of_each_step_are_kept(tmp_path: Path) -> None:
    file = rollouts(tmp_path / "rollouts.jsonl", 3)
    for step in (1, 2):
        keep(file, step)
    found = lines(file.path)
    assert [(one["step"], one["problem_id"], one["k"]) for one in found[:3]] == [
        (1, problem(0).id, 0),
        (1, problem(0).id, 1),
        (1, problem(1).id, 0),
    ]
    assert [one["group_accuracy"] for one in found] == [0.5, 0.5, 1.0] * 2
    assert [one["finish"] for one in found[:3]] == ["stop", "length", "stop"]
    counts = found[0]["tokens"]
    assert counts["total"] == len(found[0]["response_ids"]) > counts["thinking"] + counts["answer"]


def test_a_resumed_run_writes_its_steps_once(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    first = rollouts(path, 4)
    for step in (1, 2, 3):
        keep(first, step)
    straight = path.read_bytes()
    path.write_bytes(straight[:-7])  # killed while it wrote
    again = rollouts(path, 4)
    for step in (2, 3):
        keep(again, step)
    assert path.read_bytes() == straight


def test_what_is_kept_is_not_part_of_a_run_s_id(tmp_path: Path) -> None:
    specs = [train_spec(load_profile(profile_with(tmp_path, more)), "tlmre", 0) for more in ("", ", trace_samples: 4")]
    assert run_id(specs[0]) == run_id(specs[1])
    with pytest.raises(AttnPOError, match="trace_samples: -1 must be at least 0"):
        load_profile(profile_with(tmp_path, ", trace_samples: -1"))


def test_a_training_is_shown_step_by_step(tmp_path: Path) -> None:
    words = ["--profile", profile_with(tmp_path, ", trace_samples: 5"), "--method", "tlmre", "--results", str(tmp_path)]
    assert main(["train", *words]) == 0
    (folder,) = (tmp_path / "p" / "raw").iterdir()
    kept = lines(folder / "rollouts.jsonl")
    assert [one["step"] for one in kept] == [1] * 5 + [2] * 5
    assert kept[0]["asked"].startswith(("Start with", "Take")) and kept[0]["data"] == "testbed"
    page = attnpo.report.trace([folder], out=tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert script_json("step 1") in page and script_json("step 2") in page
    assert "All 10 responses" in page and "Labels: the testbed&#39;s oracle." in page
    assert "Tokens are those that were sampled." in page


def test_answers_behind_parts_of_a_thinking_are_not_kept(tmp_path: Path) -> None:
    words = ["--profile", profile_with(tmp_path, ", trace_samples: 99"), "--method", "vsrm", "--results", str(tmp_path)]
    assert main(["train", *words]) == 0
    (folder,) = (tmp_path / "p" / "raw").iterdir()
    kept = lines(folder / "rollouts.jsonl")
    assert [(one["step"], one["k"]) for one in kept] == [(step, k) for step in (1, 2) for k in (0, 1, 2, 3) * 2]
