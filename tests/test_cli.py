from __future__ import annotations

from pathlib import Path

import pytest
from fakes import write_profile

from attnpo.cli import main
from attnpo.runs.store import Run


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and standard error."""
    code = main(list(arguments))
    return code, capsys.readouterr().err


def options(tmp_path: Path) -> list[str]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "data.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n')
    profile = write_profile(tmp_path, model=str(tmp_path / "model"), data=str(tmp_path / "data.jsonl"))
    return ["--profile", str(profile), "--results", str(tmp_path / "results")]


def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, "train", *options(tmp_path), "--method", "atnpo")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("attnpo: profile fake: no method 'atnpo', did you mean 'attnpo'?")


def test_what_must_come_first_is_named_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = options(tmp_path)
    code, err = run(capsys, "train", *words, "--method", "attnpo", "--quick")
    assert (code, err.split("; ")[1]) == (2, "first: attnpo probe --profile fake.yaml --quick\n")
    code, err = run(capsys, "eval", *words, "--method", "tlmre", "--seed", "1")
    assert code == 2
    assert err.endswith("first: attnpo train --profile fake.yaml --method tlmre --seed 1\n")
    code, err = run(capsys, "table", *words)
    assert code == 2
    assert err.endswith("first: attnpo run table1 --profile fake.yaml\n")
    assert not (tmp_path / "results").exists()


def test_a_damaged_manifest_is_an_error_not_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(tmp_path)
    seen: list[Run] = []
    original = Run.state
    monkeypatch.setattr(Run, "state", lambda self: (seen.append(self), original(self))[1])
    run(capsys, "eval", *words, "--method", "tlmre")
    seen[0].folder.mkdir(parents=True)
    (seen[0].folder / "manifest.json").write_text("{")
    code, err = run(capsys, "eval", *words, "--method", "tlmre")
    assert code == 2
    assert "manifest.json: not a manifest" in err
    assert err.count("\n") == 1


def test_jobs_must_be_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, "run", "table1", *options(tmp_path), "--jobs", "0")
    assert (code, err) == (2, "attnpo: --jobs 0: must be at least 1\n")


@pytest.mark.parametrize("command", ["probe", "train", "eval", "study", "table", "run"])
def test_every_command_explains_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--profile" in out
    assert "a YAML file" in " ".join(out.replace("│", " ").split())
