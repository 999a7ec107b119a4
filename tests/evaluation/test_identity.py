"""What tells an evaluation of our tasks from another: YAML and local problems."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes import fake_profile
from places import ROOT

from attnpo.evaluation import tasks
from attnpo.evaluation.tasks import tasks_identity
from attnpo.runs.plan import eval_spec
from attnpo.runs.store import run_id


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = tmp_path / "tasks"
    shutil.copytree(ROOT / "tasks", copied)
    monkeypatch.setattr(tasks, "tasks_folder", lambda: str(copied))
    monkeypatch.delenv("ATTNPO_DATA", raising=False)
    return copied


def test_a_group_stands_for_its_tasks(folder: Path) -> None:
    found = tasks_identity(["attnpo_math"])
    assert sorted(found) == [
        f"attnpo_{n}" for n in ("aime2024", "aime2025", "amc23", "gsm8k", "math500", "olympiadbench")
    ]
    assert found == tasks_identity(sorted(found, reverse=True))
    assert len(set(found.values())) == 6


def test_what_the_yaml_or_an_included_file_says_counts_and_a_comment_does_not(folder: Path) -> None:
    before = tasks_identity(["attnpo_gsm8k", "attnpo_gsm8k_boxed", "attnpo_aime2024"])
    common, own = folder / "attnpo_math" / "_common_yaml", folder / "attnpo_math" / "attnpo_gsm8k.yaml"
    own.write_text("# a comment\n" + own.read_text())
    assert tasks_identity(before) == before
    own.write_text(own.read_text() + "repeats: 8\n")
    changed = {name for name, digest in tasks_identity(before).items() if digest != before[name]}
    assert changed == {"attnpo_gsm8k", "attnpo_gsm8k_boxed"}  # the second includes the first
    common.write_text(common.read_text().replace("temperature: 0.6", "temperature: 0.7"))
    assert all(digest != before[name] for name, digest in tasks_identity(before).items())


def test_local_problems_count(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = tasks_identity(["attnpo_amc23"])
    monkeypatch.setenv("ATTNPO_DATA", str(tmp_path))
    assert tasks_identity(["attnpo_amc23"]) == pinned  # no such file: the task will say so
    (tmp_path / "amc23.jsonl").write_text('{"id": "1", "problem": "1+1", "answer": "2"}\n')
    one = tasks_identity(["attnpo_amc23"])
    (tmp_path / "amc23.jsonl").write_text('{"id": "1", "problem": "1+1", "answer": "3"}\n')
    assert len({str(pinned), str(one), str(tasks_identity(["attnpo_amc23"]))}) == 3


def test_the_files_of_livecodebench_count(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPO_DATA", str(tmp_path))
    (tmp_path / "livecodebench").mkdir()
    found = []
    for text in ("", "one\n", "two\n"):
        (tmp_path / "livecodebench" / "test.jsonl").write_text(text)
        found.append(tasks_identity(["attnpo_livecodebench"])["attnpo_livecodebench"])
    assert len(set(found)) == 3


def test_run_ids_follow(folder: Path, tmp_path: Path) -> None:
    section = {"tasks": ["attnpo_amc23"], "samples": None, "max_completion_tokens": 8, "batch_size": 2}
    profile = fake_profile(tmp_path, evaluate=section)
    before = run_id(eval_spec(profile, "base", 0))
    own = folder / "attnpo_math" / "attnpo_amc23.yaml"
    own.write_text(own.read_text().replace("repeats: 16", "repeats: 8"))
    assert run_id(eval_spec(profile, "base", 0)) != before
    assert "tasks" not in eval_spec(
        fake_profile(tmp_path), "base", 0
    )  # the testbed's problems have hashes of their own


def test_how_a_task_is_decoded_stands_in_its_yaml(folder: Path) -> None:
    found = tasks.generation_arguments(["attnpo_testbed", "attnpo_gsm8k_boxed"])
    assert sorted(found) == ["attnpo_gsm8k_boxed", "attnpo_testbed_shifted", "attnpo_testbed_test"]
    assert found["attnpo_testbed_test"]["max_gen_toks"] == 256
    assert found["attnpo_gsm8k_boxed"]["max_gen_toks"] == 16384  # two files further
