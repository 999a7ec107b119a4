"""Damaged results are never taken: what a manifest must hold, and files whose bytes are not those that a run made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_profile, fake_samples

from attnpo.cli import main
from attnpo.cli.common import heads_file_of, trained_model
from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_jsonl
from attnpo.runs.plan import eval_spec, plan_runs, probe_spec, train_spec
from attnpo.runs.profile import Profile
from attnpo.runs.store import Run

SPEC = {"kind": "eval", "method": "tlmre", "seed": 1, "evaluate": {"samples": 2}}


def evaluated(run: Run, problems: int = 6) -> Run:
    def work(folder: Path) -> list[Path]:
        samples = fake_samples(str(run.spec["method"]), run.spec["seed"], problems=problems)
        atomic_write_jsonl(folder / "samples.jsonl", samples)
        return [folder / "samples.jsonl"]

    run.compute("attnpo eval", work, {"profile": "fake", "quick": False})
    return run


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("outputs", ..., "outputs: missing; add it"),
        ("outputs", ["record.csv"], r"outputs: \['record.csv'\] is not a mapping"),
        ("outputs", {"record.csv": {"bytes": 1}}, r"outputs\.record\.csv\.sha256: missing"),
        (
            "outputs",
            {"record.csv": {"bytes": "1", "sha256": "0" * 64}},
            r"outputs\.record\.csv\.bytes: '1' is not a whole number",
        ),
        ("outputs", {"record.csv": {"bytes": 1, "sha256": "x"}}, r"outputs\.record\.csv\.sha256: 'x' is no SHA"),
        ("started", ..., "started: missing"),
        ("started", "yesterday", "started: 'yesterday' is no date"),
        ("finished", "2026-13-45", "finished: '2026-13-45' is no date"),
        ("finished", True, "finished: True is not text or null"),
        ("resumed", "never", "resumed: 'never' is not a list"),
        ("resumed", ["never"], r"resumed\[0\]: 'never' is no date"),
        ("wall_seconds", "long", "wall_seconds: 'long' is not a number"),
        ("wall_seconds", float("nan"), "wall_seconds: nan"),
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "attempt.json"])
def test_a_manifest_that_lacks_something_is_one_line(
    tmp_path: Path, name: str, key: str, value: Any, message: str
) -> None:
    run = evaluated(Run.at(tmp_path, SPEC))
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest = {k: v for k, v in {**manifest, key: value}.items() if v is not ...}
    (run.folder / name).write_text(json.dumps(manifest))
    with pytest.raises(AttnPOError, match=rf"{run.id}/{name}: {message}.*; delete .* and run again") as caught:
        run.manifest() if name == "manifest.json" else run.attempt()
    assert "\n" not in str(caught.value)


def overwrite(content: bytes | None) -> Callable[[Path], None]:
    """Other bytes; of the old number where the content is empty."""
    return lambda path: path.write_bytes(content or bytes(path.stat().st_size))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "is missing"),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes, but its manifest says"),
    "header only": (lambda path: path.write_bytes(path.read_bytes().splitlines(True)[0]), "bytes, but its manifest"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "bytes, but its manifest says"),
    "garbled": (overwrite(None), "has other bytes than those whose hash its manifest holds"),
    "text in a number": (
        lambda path: path.write_bytes(path.read_bytes().replace(b",2,", b",x,", 1)), "has other bytes than those whose"
    ),
}  # fmt: skip


def results(tmp_path: Path, profile: Profile) -> dict[str, Run]:
    """Evaluations of the base and of one method."""
    folder = tmp_path / "results" / profile.name
    return {name: evaluated(Run.at(folder, eval_spec(profile, name, 0))) for name in ("base", "rloo")}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_table_says_which_run_it_would_leave_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    profile = fake_profile(tmp_path, seeds=[0])
    run = results(tmp_path, profile)["rloo"]
    words = ["table", "--profile", str(tmp_path / "fake.yaml"), "--results", str(tmp_path / "results")]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "left out, not run yet: eval tlmre seed 0, eval attnpo seed 0" in err
    derived = tmp_path / "results" / "fake" / "derived" / "problems.csv"
    before = derived.read_bytes()
    spoil, message = DAMAGES[how]
    spoil(run.folder / "record.csv")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"left out would be eval rloo seed 0: {run.folder / 'record.csv'} " in err
    assert message in err and "pass --leave-out-damaged" in err
    assert derived.read_bytes() == before
    assert main([*words, "--leave-out-damaged"]) == 0
    assert f"left out: {run.folder / 'record.csv'} " in caplog.text
    assert b"rloo" not in derived.read_bytes()
    assert not run.done()
    evaluated(run)
    assert main(words) == 0


def test_a_record_that_another_run_reads_is_the_one_that_was_made(tmp_path: Path) -> None:
    run = evaluated(Run.at(tmp_path, SPEC))
    DAMAGES["garbled"][0](run.folder / "record.csv")
    with pytest.raises(AttnPOError, match=r"record\.csv has other bytes .*; restore it, or delete .* and run again"):
        run.record()


def made(run: Run, contents: dict[str, bytes]) -> Run:
    def work(folder: Path) -> list[Path]:
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return [folder / name for name in contents]

    run.compute("attnpo", work, {})
    return run


def test_heads_and_models_of_other_runs_are_hashed_when_they_are_read(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path)
    probe = made(Run.at(tmp_path, probe_spec(profile)), {"heads.json": b"[1]"})
    log = b'{"step": 1, "loss": 0.5}\n'
    files = {"log.jsonl": log, "model/config.json": b"{}", "model/model.safetensors": b"weights", "snapshots/2/x": b"1"}
    trained = made(Run.at(tmp_path, train_spec(profile, "rloo", 0)), files)
    assert heads_file_of(profile, tmp_path) == probe.folder / "heads.json"
    assert trained_model(profile, tmp_path, "rloo", 0) == trained.folder / "model"
    (trained.folder / "model" / "model.safetensors").write_bytes(bytes(7))
    with pytest.raises(AttnPOError, match=r"model\.safetensors has other bytes than those whose hash its manifest"):
        trained_model(profile, tmp_path, "rloo", 0)
    (probe.folder / "heads.json").write_bytes(b"[2]")
    with pytest.raises(AttnPOError, match=r"heads\.json has other bytes .*; first: attnpo probe"):
        heads_file_of(profile, tmp_path)
    trained.check("snapshots")
    shutil.rmtree(trained.folder / "snapshots")
    with pytest.raises(AttnPOError, match=r"snapshots/2/x is missing; restore it, or delete"):
        trained.check("snapshots")


def test_a_run_that_was_never_finished_is_not_damaged(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path)
    assert all(job.run.damage() is None for job in plan_runs(profile, tmp_path))
    run = evaluated(Run.at(tmp_path, SPEC))
    assert run.damage() is None
    (run.folder / "samples.jsonl").unlink()  # as in a clone
    assert (run.state(), run.damage()) == ("recorded", None)


def test_samples_that_have_changed_are_not_reported(tmp_path: Path) -> None:
    from attnpo.report.evaluations import read_evaluations

    evaluate = {"max_completion_tokens": 8, "temperature": 1.0, "top_p": 1.0}
    run = evaluated(Run.at(tmp_path, {**SPEC, "evaluate": evaluate}))
    (evaluation,) = read_evaluations([str(run.folder)])
    assert len(list(evaluation.samples())) == 24
    with (run.folder / "samples.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(AttnPOError, match=r"samples\.jsonl: has other bytes than those whose hash its manifest holds"):
        list(evaluation.samples())
