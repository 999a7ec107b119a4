from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import fake_samples

from attnpo import files
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_json, atomic_write_jsonl, atomic_write_text
from attnpo.runs import store
from attnpo.runs.derive import derive
from attnpo.runs.store import Run, run_id
from attnpo.statistics.estimates import estimate_table
from attnpo.statistics.tables import problem_table

SPEC = {"kind": "eval", "method": "tlmre", "seed": 1, "evaluate": {"samples": 2}}


def work(folder: Path) -> list[Path]:
    atomic_write_jsonl(folder / "samples.jsonl", fake_samples("tlmre", 1, problems=6))
    return [folder / "samples.jsonl"]


def never(_: Path) -> list[Path]:
    raise AssertionError("a finished run was computed again")


def test_run_id_is_a_hash_of_the_spec_alone() -> None:
    assert run_id(SPEC) == run_id(dict(reversed(SPEC.items())))
    assert run_id(SPEC) != run_id({**SPEC, "seed": 2})
    assert run_id(SPEC) != run_id({**SPEC, "evaluate": {"samples": 3}})
    assert run_id(SPEC).startswith("eval-tlmre-s1-")


def test_a_finished_run_is_not_computed_again(tmp_path: Path) -> None:
    run = Run.at(tmp_path, SPEC)
    assert run.state() == "absent"
    assert run.compute("attnpo eval", work, {"profile": "fake"})
    assert run.state() == "finished"
    assert not run.compute("attnpo eval", never, {"profile": "fake"})
    manifest = run.manifest()
    assert manifest is not None
    assert manifest["outputs"]["samples.jsonl"]["bytes"] == (run.folder / "samples.jsonl").stat().st_size
    assert {"command", "git", "versions", "device", "started", "finished", "wall_seconds"} <= set(manifest)


def test_a_manifest_has_no_absolute_path_and_no_host_name(tmp_path: Path) -> None:
    import socket

    run = Run.at(tmp_path, SPEC)
    run.compute("attnpo eval", work, {"profile": "fake"})
    text = (run.folder / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert str(Path.cwd()) not in text
    assert socket.gethostname() not in text


def test_a_failed_run_is_unfinished_and_resumes(tmp_path: Path) -> None:
    run = Run.at(tmp_path, SPEC)

    def fail(folder: Path) -> list[Path]:
        (folder / "half").write_text("x")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run.compute("attnpo eval", fail, {})
    assert run.state() == "unfinished"
    begun = run.manifest()
    assert begun is not None
    assert run.compute("attnpo eval", work, {})
    manifest = run.manifest()
    assert manifest is not None
    assert manifest["started"] == begun["started"]
    assert len(manifest["resumed"]) == 1


def test_a_clone_with_the_manifest_alone_computes(tmp_path: Path) -> None:
    run = Run.at(tmp_path, SPEC)
    run.compute("attnpo eval", work, {})
    for name in ("samples.jsonl", "record.csv"):
        (run.folder / name).unlink()
    assert run.state() == "absent"
    assert not run.done()
    assert run.compute("attnpo eval", work, {})
    assert run.state() == "finished"


def test_a_clone_with_the_records_shows_the_same_numbers(tmp_path: Path) -> None:
    runs = fake_runs(tmp_path)
    derive(tmp_path, runs)
    before = {p.name: p.read_bytes() for p in (tmp_path / "derived").iterdir()}
    for path in (*tmp_path.rglob("samples.jsonl"), *tmp_path.rglob("log.jsonl"), *tmp_path.glob("derived/*")):
        path.unlink()
    assert [run.state() for run in runs] == ["recorded", "recorded", "absent"]
    derive(tmp_path, runs)
    assert {p.name: p.read_bytes() for p in (tmp_path / "derived").iterdir()} == before
    (runs[0].folder / "record.csv").write_text("method,seed\n")
    assert runs[0].state() == "absent"


@pytest.mark.parametrize("content", ['{"spec": {"ki', "[]", '{"run_id": "x"}', '{"spec": {"kind": "train"}}', ""])
def test_a_damaged_manifest_names_file_and_remedy(tmp_path: Path, content: str) -> None:
    run = Run.at(tmp_path, SPEC)
    atomic_write_text(run.folder / "manifest.json", content)
    with pytest.raises(AttnPOError, match=r"manifest\.json: .*delete .* and run again"):
        run.state()


def test_a_run_that_another_process_computes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_LOCK_SECONDS", 0.2)
    run = Run.at(tmp_path, SPEC)
    hold = (
        "import sys, json; from pathlib import Path; from attnpo.runs.store import Run\n"
        "run = Run(Path(sys.argv[1]), {})\n"
        "with run.lock(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(AttnPOError, match="another process computes this run"):
            run.compute("attnpo eval", never, {})
        other.kill()
        other.wait()
        assert run.compute("attnpo eval", work, {})  # the lock died with its holder


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    atomic_write_json(path, {"old": 1})

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        atomic_write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}


def test_a_broken_line_is_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(AttnPOError, match=r"samples\.jsonl:2: not JSON"):
        list(files.read_jsonl(path))


def fake_runs(folder: Path) -> list[Run]:
    evaluated = Run.at(folder, SPEC)
    evaluated.compute("attnpo eval", work, {})
    trained = Run.at(folder, {"kind": "train", "method": "tlmre", "seed": 1})

    def train(out: Path) -> list[Path]:
        log: list[dict[str, Any]] = [{"step": s, "loss": 0.1 * s, "note": "x"} for s in (1, 2)]
        atomic_write_jsonl(out / "log.jsonl", [*log, {"step": 2, "train_runtime": 5.0}])
        return [out / "log.jsonl"]

    trained.compute("attnpo train", train, {})
    return [evaluated, trained, Run.at(folder, {**SPEC, "seed": 9})]


def test_derived_is_a_pure_function_of_raw(tmp_path: Path) -> None:
    runs = fake_runs(tmp_path)
    derive(tmp_path, runs)
    first = {p.name: p.read_bytes() for p in (tmp_path / "derived").iterdir()}
    derive(tmp_path, runs)
    assert {p.name: p.read_bytes() for p in (tmp_path / "derived").iterdir()} == first
    assert set(first) == {"runs.csv", "problems.csv", "estimates.csv", "curves.csv"}


def test_derived_numbers_agree_with_the_samples(tmp_path: Path) -> None:
    runs = fake_runs(tmp_path)
    derive(tmp_path, runs)
    samples = [s for s in fake_samples("tlmre", 1, problems=6) if s["task"] == "attnpo_testbed_test"]
    problems = pd.read_csv(tmp_path / "derived" / "problems.csv")
    test = problems[problems["task"] == "attnpo_testbed_test"]
    assert len(test) == 6
    assert list(test["n"]) == [2] * 6
    assert test["tokens"].sum() == sum(s["tokens"]["total"] for s in samples)
    assert test["steps_redundant"].sum() == sum(s["steps"]["redundant"] for s in samples)
    estimates = pd.read_csv(tmp_path / "derived" / "estimates.csv")
    here = estimates[(estimates["task"] == "attnpo_testbed_test") & estimates["slice"].isna()].set_index("measure")
    row = here["value"]
    assert row["accuracy"] == pytest.approx(sum(s["correct"] for s in samples) / 12, abs=1e-6)
    wrong_of = [row[f"wrong_{cause}"] for cause in ("answer", "slip", "left_out")]
    assert sum(wrong_of) == pytest.approx(1 - row["accuracy"], abs=1e-5)
    correct = [s["tokens"]["total"] for s in samples if s["correct"]]
    assert row["tokens_of_correct"] == pytest.approx(sum(correct) / len(correct), rel=1e-5)
    wrong = [s["tokens"]["total"] for s in samples if not s["correct"]]
    assert row["tokens_of_wrong"] == pytest.approx(sum(wrong) / len(wrong), rel=1e-5)
    assert row["tokens_per_correct"] == pytest.approx(sum(correct + wrong) / len(correct), rel=1e-5)
    solved = [any(s["correct"] for s in samples if s["problem_id"] == f"p{i}") for i in range(6)]
    assert row["pass@1"] == pytest.approx(row["accuracy"], rel=1e-5)
    assert row["pass@2"] == pytest.approx(sum(solved) / 6, rel=1e-5)
    for measure in ("accuracy", "tokens_of_wrong", "pass@2"):
        assert here.loc[measure, "low"] <= here.loc[measure, "value"] <= here.loc[measure, "high"]
    curves = pd.read_csv(tmp_path / "derived" / "curves.csv")
    assert list(curves["step"]) == [1, 2]
    assert "note" not in curves
    table = pd.read_csv(tmp_path / "derived" / "runs.csv")
    assert list(table["run_id"]) == [runs[0].id, runs[1].id]


def sample(k: int, **changes: Any) -> dict[str, Any]:
    return {
        "task": "attnpo_aime2024",
        "problem_id": 7,
        "k": k,
        "text": "Wait, no.\nSo it is 3.\nAlternatively 4. Wait.</think>Wait",
        "correct": True,
        "parse_failed": False,
        "think_tags": 1,
        "tokens": {"total": 100, "thinking": 90, "answer": 9},
        "finish": "stop",
        "counted": "generated",
        **changes,
    }


def test_a_response_counts_at_a_budget_if_it_ended_within_it() -> None:
    lines = [sample(0), sample(1, finish="length"), sample(2, tokens={"total": 200, "thinking": 190, "answer": 9})]
    (row,) = problem_table([("base", 0, lines)], [99, 100, 200]).to_dict("records")
    assert [row[f"correct_at_{b}"] for b in (99, 100, 200)] == [0, 1, 2]
    assert (row["n"], row["correct"], row["truncated"], row["tokens"]) == (3, 3, 1, 400)
    assert row["problem_id"] == "7"


def test_phrases_are_counted_in_the_thinking_alone() -> None:
    (row,) = problem_table([("base", 0, [sample(0)])]).to_dict("records")
    assert (row["phrases_doubt"], row["phrases_branch"], row["phrases_summary"]) == (2, 1, 1)


def test_a_finish_reason_that_is_not_known_is_no_zero() -> None:
    table = problem_table([("base", 0, [sample(0), sample(1, finish=None, counted="retokenized")])])
    assert table["truncated"].isna().all()
    assert table["retokenized"].tolist() == [1]
    assert "truncated" not in set(estimate_table(table, draws=10)["measure"])
    assert estimate_table(table, draws=10)["truncated"].isna().all()


@pytest.mark.filterwarnings("error")
def test_pass_at_every_k_that_all_problems_of_a_task_have_responses_for() -> None:
    many = [sample(k, task="many", problem_id=p, correct=k < 2 * p) for p in range(3) for k in range(128)]
    few = [sample(k, problem_id=p, correct=k == p) for p in (0, 1) for k in range(2 + p)]
    found = estimate_table(problem_table([("base", 0, [*many, *few])]), draws=10).set_index(["task", "measure"])[
        "value"
    ]
    assert found["many", "pass@128"] == pytest.approx(2 / 3)
    assert found["many", "pass@1"] == pytest.approx((2 + 4) / 128 / 3)
    assert found["attnpo_aime2024", "pass@2"] == pytest.approx((1 + 2 / 3) / 2)
    assert not {("attnpo_aime2024", "pass@3"), ("attnpo_aime2024", "pass@128")} & set(found.index)
    assert found["many", "accuracy"] == found["many", "pass@1"]


def test_groups_are_those_of_the_tasks_folder() -> None:
    groups = task_groups()
    assert groups["attnpo_testbed"] == ["attnpo_testbed_test", "attnpo_testbed_shifted"]
    assert len(groups["attnpo_math"]) == 6


def test_deriving_from_nothing_gives_empty_tables(tmp_path: Path) -> None:
    derive(tmp_path, [])
    for path in (tmp_path / "derived").iterdir():
        assert len(pd.read_csv(path)) == 0
