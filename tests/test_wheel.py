"""The installed package, without a checkout around it: what a wheel holds, and the command line from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

import attnpo

hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling, of the extra `test`, builds wheels")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python with the installed package alone, in a folder that is no checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_wheel_holds_all_that_the_package_reads(installed: Path) -> None:
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    for inside, outside in (
        ("attnpo/reproduce/profiles", "reproduce/profiles"),
        ("attnpo/reproduce/accelerate", "reproduce/accelerate"),
        ("attnpo/results/paper", "results/paper"),
        ("attnpo/tasks/attnpo_math", "tasks/attnpo_math"),
        ("attnpo/testbed/model", "attnpo/testbed/model"),
    ):
        names = {path.name for path in (ROOT / outside).iterdir() if path.is_file()}
        assert names
        assert {f"{inside}/{name}" for name in names} <= held
    assert {"attnpo_lm_eval.pth", "attnpo/runs/template.yaml"} <= held
    assert {name.split("/")[0] for name in held} == {
        "attnpo",
        "attnpo_lm_eval.pth",
        f"attnpo-{attnpo.__version__}.dist-info",
    }
    assert {name.split("/")[2] for name in held if name.startswith("attnpo/results/")} == {"paper"}


def test_the_command_line_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    cli = ["-m", "attnpo.cli"]
    version = run(installed, tmp_path, *cli, "--version")
    assert (version.returncode, version.stdout) == (0, f"attnpo {attnpo.__version__}\n")
    plan = run(installed, tmp_path, *cli, "run", "fig_heads", "--profile", "tiny", "--quick", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert [line.split()[0] for line in plan.stdout.splitlines()] == ["absent"] * 4
    table = run(installed, tmp_path, *cli, "table", "--profile", "tiny")
    assert (table.returncode, table.stderr.count("\n")) == (2, 2)  # what it does, and why it cannot
    assert table.stderr.endswith("first: attnpo run table1 --profile tiny\n")
    assert not list(tmp_path.iterdir())


def test_an_evaluation_outside_of_git_says_nothing_of_git(installed: Path, tmp_path: Path) -> None:
    words = "-m attnpo.cli eval --model testbed --tasks attnpo_testbed_test --limit 1 --samples 1 --max-tokens 4"
    done = run(installed, tmp_path, *words.split(), "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert "fatal" not in done.stderr
    (manifest,) = tmp_path.glob("attnpo-eval/raw/*/manifest.json")
    assert json.loads(manifest.read_text())["git"] == {"commit": None, "dirty": None}


def test_what_comes_with_the_package_is_found(installed: Path, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from attnpo.environment import checkout_root, git_state, shipped
from attnpo.report.published import load_paper
from attnpo.runs.profile import load_profile
from attnpo.runs.runner import _file
assert Path.cwd() == checkout_root()
assert git_state() == {"commit": None, "dirty": None}
assert set(load_paper(shipped("results/paper"))["size"]) >= {"1.5B", "7B"}
profile = load_profile("paper-1.5b")
assert profile.option == "--profile paper-1.5b"
(word,) = (word for word in profile.launch.train if word.endswith(".yaml"))
assert Path(_file(word)) == shipped(word) and shipped(word).is_file()
Path(word).parent.mkdir(parents=True)
Path(word).touch()
assert _file(word) == word  # the user's own goes first
"""
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
