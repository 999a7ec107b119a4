from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import fake_samples

from attnpo import files
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_json, atomic_write_jsonl, atomic_write_text, locked
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
    assert run.manifest() is None
    begun = run.attempt()
    assert begun is not None
    assert run.compute("attnpo eval", work, {})
    manifest = run.manifest()
    assert manifest is not None
    assert manifest["started"] == begun["started"]
    assert len(manifest["resumed"]) == 1
    assert run.attempt() is None


def test_an_unfinished_manifest_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    run = Run.at(tmp_path, SPEC)
    begun = "2026-01-02T03:04:05+00:00"
    old = {"spec": run.spec, "started": begun, "resumed": ["2026-01-02T04:00:00+00:00"], "finished": None}
    atomic_write_json(run.folder / "manifest.json", {**old, "wall_seconds": 7.0, "outputs": {}})
    assert (run.state(), run.done()) == ("unfinished", False)
    assert run.compute("attnpo eval", work, {})
    manifest = run.manifest()
    assert manifest is not None
    assert manifest["started"] == begun
    assert len(manifest["resumed"]) == 2
    assert manifest["wall_seconds"] > 7.0
    assert run.state() == "finished"


# stops at any moment


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def stop(*_: Any) -> None:
    raise Killed


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def at_record(patch: pytest.MonkeyPatch, how: Callable[..., None]) -> None:
    """After the outputs were written, before the record is."""
    patch.setattr(store, "atomic_write_csv", how)


def at_hashes(patch: pytest.MonkeyPatch, how: Callable[..., None]) -> None:
    """After the record was made, before it is hashed."""
    real = store.sha256_file
    patch.setattr(store, "sha256_file", lambda path: how() if path.parent.name == "new" else real(path))


def at_sync(patch: pytest.MonkeyPatch, how: Callable[..., None]) -> None:
    """While the outputs go to the disk."""
    patch.setattr(store, "to_disk", how)


def at_manifest(patch: pytest.MonkeyPatch, how: Callable[..., None]) -> None:
    """Before the manifest is replaced."""
    patch.setattr(store, "replace_durably", how)


def at_fsync(patch: pytest.MonkeyPatch, how: Callable[..., None]) -> None:
    """At the third file that is flushed, after `attempt.json` and what the work has written."""
    real, calls = os.fsync, iter(range(100))
    patch.setattr(files.os, "fsync", lambda file: how() if next(calls) >= 2 else real(file))


STOPS = [at_record, at_hashes, at_sync, at_manifest, at_fsync]


def resumable(folder: Path) -> list[Path]:
    """As `work`, from stored responses, which take long to make: they are made only where there are none."""
    responses = folder / "responses" / "responses-0.jsonl"
    if not responses.is_file():
        assert not (folder / "made").exists(), "what was stored is lost"
        (folder / "made").touch()
        atomic_write_jsonl(responses, fake_samples("tlmre", 1, problems=6))
    (folder / "samples.jsonl").write_bytes(responses.read_bytes())
    return [folder / "samples.jsonl"]


def kept(folder: Path) -> dict[str, bytes]:
    """The files of a run that go into git."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in ("manifest.json", "record.csv")}


@pytest.mark.parametrize("how", [stop, full])
@pytest.mark.parametrize("moment", STOPS)
def test_a_stop_before_the_end_loses_no_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: Any, how: Any
) -> None:
    straight = Run.at(tmp_path / "straight", SPEC)
    straight.compute("attnpo eval", resumable, {})
    assert {p.name for p in straight.folder.iterdir()} == {
        *("manifest.json", "record.csv", "samples.jsonl", "made", ".lock"),
    }
    run = Run.at(tmp_path, SPEC)
    with monkeypatch.context() as patch:
        moment(patch, how)
        with pytest.raises((Killed, OSError)):
            run.compute("attnpo eval", resumable, {})
    assert run.state() == "unfinished"
    assert run.compute("attnpo eval", resumable, {})  # makes nothing again
    assert run.state() == "finished"
    for name in ("samples.jsonl", "record.csv"):
        assert (run.folder / name).read_bytes() == (straight.folder / name).read_bytes()
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in straight.folder.iterdir()}
    manifest = run.manifest()
    assert manifest is not None
    assert len(manifest["resumed"]) == 1


@pytest.mark.parametrize("how", [stop, full])
@pytest.mark.parametrize("moment", [None, *STOPS])
def test_a_recorded_run_is_replaced_by_a_finished_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: Any, how: Any
) -> None:
    run = Run.at(tmp_path, SPEC)
    run.compute("attnpo eval", work, {"profile": "old"})
    before = kept(run.folder)
    table = run.record()
    (run.folder / "samples.jsonl").unlink()

    def other(folder: Path) -> list[Path]:  # another machine gives other samples
        if moment is None:
            how()
        atomic_write_jsonl(folder / "samples.jsonl", fake_samples("tlmre", 2, problems=6))
        return [folder / "samples.jsonl"]

    with monkeypatch.context() as patch:
        if moment is not None:
            moment(patch, how)
        with pytest.raises((Killed, OSError)):
            run.compute("attnpo eval", other, {"profile": "new"})
    assert run.state() == "recorded"
    assert kept(run.folder) == before
    assert run.record().equals(table)
    moment = at_record
    assert run.compute("attnpo eval", other, {"profile": "new"})
    assert run.state() == "finished"
    assert not run.record().equals(table)
    manifest = run.manifest()
    assert manifest is not None
    assert (manifest["profile"], len(manifest["resumed"])) == ("new", 1)


def test_the_same_samples_do_not_finish_an_attempt(tmp_path: Path) -> None:
    """A recorded run whose files have the old sizes again is not taken for finished before its manifest says so."""
    run = Run.at(tmp_path, SPEC)
    run.compute("attnpo eval", work, {})
    (run.folder / "samples.jsonl").unlink()

    def fail(folder: Path) -> list[Path]:
        work(folder)
        raise Killed

    with pytest.raises(Killed):
        run.compute("attnpo eval", fail, {})
    assert run.state() == "recorded"
    assert run.compute("attnpo eval", work, {})
    assert run.state() == "finished"


@pytest.mark.parametrize("name", ["_move_new", "_clean"])
def test_a_stop_after_the_manifest_is_mended_by_the_next_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = Run.at(tmp_path, SPEC)
    with monkeypatch.context() as patch:
        patch.setattr(Run, name, stop)
        with pytest.raises(Killed):
            run.compute("attnpo eval", resumable, {})
    assert (run.folder / "responses").is_dir()
    assert run.state() == "finished"
    assert len(run.record()) > 0
    run.clean()
    assert {p.name for p in run.folder.iterdir()} == {"manifest.json", "record.csv", "samples.jsonl", "made", ".lock"}
    assert not run.compute("attnpo eval", never, {})


def test_only_a_finished_run_is_cleaned(tmp_path: Path) -> None:
    run = Run.at(tmp_path, {"kind": "train", "method": "tlmre", "seed": 1})
    (run.folder / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    run.clean()
    assert (run.folder / "checkpoints" / "checkpoint-1").is_dir()

    def train(folder: Path) -> list[Path]:
        assert (folder / "checkpoints" / "checkpoint-1").is_dir()
        atomic_write_jsonl(folder / "log.jsonl", [{"step": 1}])
        return [folder / "log.jsonl"]

    run.compute("attnpo train", train, {})
    assert not (run.folder / "checkpoints").exists()


def test_a_recorded_probe_keeps_its_heads_until_it_has_new_ones(tmp_path: Path) -> None:
    run = Run.at(tmp_path, {"kind": "probe", "method": None, "seed": 0})

    def probe(folder: Path, heads: str, fail: bool = False) -> list[Path]:
        assert folder == run.folder
        atomic_write_text(run.new / "heads.json", heads)
        if fail:
            raise Killed
        atomic_write_text(folder / "figures" / "heads.png", heads)
        return [run.new / "heads.json", folder / "figures" / "heads.png"]

    run.compute("attnpo probe", lambda folder: probe(folder, "old"), {})
    manifest = run.manifest()
    assert manifest is not None
    assert list(manifest["outputs"]) == ["figures/heads.png", "heads.json"]
    (run.folder / "figures" / "heads.png").unlink()
    with pytest.raises(Killed):
        run.compute("attnpo probe", lambda folder: probe(folder, "other", fail=True), {})
    assert run.state() == "recorded"
    assert (run.folder / "heads.json").read_text() == "old"
    run.compute("attnpo probe", lambda folder: probe(folder, "other"), {})
    assert (run.state(), (run.folder / "heads.json").read_text()) == ("finished", "other")
    assert not run.new.exists()


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


def test_a_file_is_locked_against_another_opening_of_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with locked(path) as file:
        file.write(b"kept")
        with pytest.raises(AttnPOError, match="mine"), locked(path, 0.15, "mine"):
            raise AssertionError("it was locked twice")
    with locked(path):
        assert path.read_bytes() == b"kept"


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
