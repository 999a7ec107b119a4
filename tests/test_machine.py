"""What the machine refuses is one line with path and remedy, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import write_profile

from attnpo import files
from attnpo.cli import main
from attnpo.cli.machine import refusal
from attnpo.sampling.sampler import Sample
from attnpo.sampling.store import SampleFile


def words(tmp_path: Path, results: Path) -> list[str]:
    profile = write_profile(tmp_path)
    return ["train", "--method", "rloo", "--profile", str(profile), "--results", str(results)]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "no room is left on the disk; free some, then the same command goes on where this one stood"),
        (errno.EDQUOT, "the quota is used up; free some room"),
        (errno.EROFS, "the file system can only be read; take a folder that can be written, as with --results"),
        (errno.EACCES, "this user may not use it; change its permissions"),
        (errno.EIO, "the disk does not answer; check it"),
    ],
)
def test_a_disk_that_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    assert main(words(tmp_path, tmp_path / "results")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and remedy in err
    assert err.startswith(f"attnpo: {tmp_path / 'results' / 'fake' / 'raw'}/train-rloo-s0-")
    assert not list((tmp_path / "results").rglob("*.tmp"))


def test_results_that_are_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").write_text("mine")
    assert main(words(tmp_path, tmp_path / "results")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{tmp_path / 'results'}" in err
    assert "a file stands where a folder belongs; move it away" in err
    assert (tmp_path / "results").read_text() == "mine"


def test_a_results_folder_that_is_not_there_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnpo.training.run.run_training", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(words(tmp_path, tmp_path / "a" / "b")) == 130
    assert list((tmp_path / "a" / "b" / "fake" / "raw").glob("train-rloo-s0-*/attempt.json"))


LIMITED = """
import resource, signal, sys
import torch
from safetensors.torch import save_file
from attnpo.cli.machine import refusal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
plain = lambda w, path: open(path, "wb").write(bytes(99_999))
for write in (torch.save, lambda w, path: save_file({"w": w}, path), plain):
    try:
        write(torch.ones(99_999), sys.argv[1])
    except Exception as error:
        print(refusal(error))
"""


def test_what_other_libraries_say_of_a_file_that_could_not_be_written_is_understood(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x")]
    torch, safetensors, python = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "a file could not be written to its end" in torch and "no room is left on the disk; free some" in torch
    for line in (safetensors, python):
        assert "the file may not be so large; raise the limit or take another folder" in line
    full = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert (
        refusal(Exception(full)) == f"{full}: no room is left on the disk; free some, then the same command goes on "
        "where this one stood"
    )
    assert refusal(RuntimeError("shapes do not match")) is None
    assert refusal(ConnectionResetError(errno.ECONNRESET, "reset")) is None


def test_a_response_that_could_not_be_written_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "responses.jsonl"
    with SampleFile(path, ("k",)) as file:
        file.append((0,), Sample([1], "stop"))

        class Full:
            def write(self, _: bytes) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(file, "_file", Full())
            with pytest.raises(OSError, match="No space") as caught:
                file.append((1,), Sample([1], "stop"))
        assert caught.value.filename == str(path)
        assert (0,) in file and (1,) not in file


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_a_locale_cannot_write(tmp_path: Path, encoding: str) -> None:
    profile = write_profile(tmp_path, methods={"größe 短": {"label": "x", "reward": "rloo"}})
    command = [sys.executable, "-m", "attnpo.cli", "run", "table1", "--profile", str(profile), "--dry-run"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    written = "größe 短".encode(encoding, "backslashreplace")
    assert b"absent      train " + written + b" seed 0" in done.stdout
    if encoding == "ascii":  # nor can folders be named
        environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"this locale (ascii) cannot write it; set PYTHONUTF8=1" in done.stderr
