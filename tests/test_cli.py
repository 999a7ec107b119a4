from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import write_profile

import attnpo
from attnpo.cli import _with_plain_help, main, probe
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


@pytest.mark.parametrize(
    ("state", "more"),
    [
        ({"commit": None, "dirty": None}, ""),
        ({"commit": "abc", "dirty": False}, ", commit abc"),
        ({"commit": "abc", "dirty": True}, ", commit abc with changes"),
    ],
)
def test_the_version_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: dict[str, object], more: str
) -> None:
    monkeypatch.setattr("attnpo.cli.git_state", lambda: state)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"attnpo {attnpo.__version__}{more}\n"


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model testbed", "give either --profile NAME, or --model MODEL and --tasks TASK..."),
        ("--tasks attnpo_testbed", "give either --profile NAME, or --model MODEL and --tasks TASK..."),
        ("--profile tiny --max-tokens 5", "--max-tokens is the profile's business; leave it or --profile out"),
        ("--model testbed --tasks attnpo_testbed --samples 0", "eval: samples: "),
        ("--model testbed --tasks attnpo_testbed --backend server", "base_url goes with backend server"),
        ("--profile tiny --backend server", "base_url goes with backend server"),
        ("--model testbed --tasks attnpo_ood", "attnpo_livecodebench runs programs"),
        ("--model testbed --tasks attnpo_nothing", "there is no task 'attnpo_nothing'"),
    ],
)
def test_eval_says_what_is_wrong_before_it_loads_a_model(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnpo.evaluation.evaluate.load_tokenizer", lambda *_: pytest.fail("loaded"))
    assert main(["eval", *words.split(), "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_eval_without_a_profile_names_its_samples_and_is_done_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = "--model testbed --tasks attnpo_testbed_test --limit 2 --samples 1 --max-tokens 40 --processes 1"
    words = about.split()
    for _ in range(2):
        assert main(["eval", *words, "--results", str(tmp_path)]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path.is_relative_to(tmp_path) and len(path.read_text().splitlines()) == 2
    (run,) = (tmp_path / "raw").iterdir()
    assert run.name.startswith("eval-testbed-s0-")
    assert main(["report", str(run), "--out", str(tmp_path / "report"), "--paper", "1.5B", "--draws", "20"]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "attnpo_testbed_test: budget 40 tokens, temperature 0.6, top_p 0.95." in text  # two of them the task's own
    assert main(["eval", *words, "--results", str(tmp_path), "--seed", "1"]) == 0
    assert len(list((tmp_path / "raw").iterdir())) == 2
    words = ["--base", f"other={next((tmp_path / 'raw').glob('*s1*'))}", "--out", str(tmp_path / "report")]
    assert main(["report", f"one={run}", *words, "--draws", "50"]) == 0
    assert "budget 40 tokens, temperature 0.6, top_p 0.95" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize("command", ["probe", "run", "eval", "report", "trace"])
def test_help_does_not_show_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "None" not in text and "STR ..." not in text


def test_the_help_of_an_argument_is_not_broken_where_its_docstring_is() -> None:
    arguments = (inspect.getdoc(_with_plain_help(probe)) or "").partition("Args:\n")[2].splitlines()
    assert len(arguments) == len(inspect.signature(probe).parameters)
    assert any(len(line) > 300 for line in arguments)


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    """As `attnpo table | head` is."""
    code = "import sys; from attnpo.cli import main; sys.exit(main(['template']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (141, b"")
