"""The committed tables of results/, made again from the committed records, number by number.

Both are taken from git's index, for the README's first command trains anew and writes into results/.

A number that lies on the boundary between two printed digits may be printed either way: the last bits of a sum hang on
the order of its terms, which differs between processors. So each table is made five times, with its estimates as they
are and a little larger, smaller, narrower and wider, and a printed number must be one of these.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

from attnpo.report import write_artefact
from attnpo.report.formats import to_markdown
from attnpo.report.selection import read_derived
from attnpo.report.trained import training_table
from attnpo.runs.derive import derive_all
from attnpo.runs.plan import plan_artefacts
from attnpo.runs.profile import Profile, load_profile

KEPT = ("manifest.json", "heads.json", "record.csv")
NUDGE = 1e-9
NUDGES = [(0, 0, 0), (1, 1, 1), (-1, -1, -1), (0, 1, -1), (0, -1, 1)]
"""Signs for value, low and high."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/tiny as git's index has it; the folder itself where there is no git."""
    folder = tmp_path_factory.mktemp("index")
    git = ["git", "-C", str(ROOT)]
    try:
        files = subprocess.run([*git, "ls-files", "-z", "results/tiny"], capture_output=True, check=True).stdout
        out = ["checkout-index", "-z", "--stdin", f"--prefix={folder}{os.sep}"]
        subprocess.run([*git, *out], input=files, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ROOT / "results" / "tiny"
    return folder / "results" / "tiny"


@pytest.fixture(scope="module")
def folder(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of profile `tiny`, derived from its committed records alone."""
    folder = tmp_path_factory.mktemp("results") / "tiny"
    for path in (index / "raw").rglob("*"):
        if path.name in KEPT:
            copy = folder / path.relative_to(index)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    profile = load_profile("tiny")
    derive_all(profile, plan_artefacts(profile, folder, profile.makes()), folder)
    return folder


def markdown_of(profile: Profile, artefact: str, folder: Path) -> str:
    """The table of an artefact, from `derived/`."""
    if artefact != "fig_curves":
        write_artefact(profile, artefact, folder)
        return (folder / f"{artefact}.md").read_text(encoding="utf-8")
    table = training_table(profile.narrowed(artefact), read_derived(folder, "estimates"))
    assert table is not None
    return to_markdown(table)


def test_every_committed_number_follows_from_the_committed_records(folder: Path, index: Path) -> None:
    profile = load_profile("tiny")
    files = [path for path in index.glob("*.md") if path.stem not in ("labels", "head_stability")]  # of samples
    committed = {path.stem: path.read_text(encoding="utf-8") for path in files}
    assert set(committed) >= {"table1"}
    path = folder / "derived" / "estimates.csv"
    exact = read_derived(folder, "estimates")
    renderings: dict[str, list[list[str]]] = {artefact: [] for artefact in committed}
    for signs in NUDGES:
        nudged = exact.copy()
        for column, sign in zip(("value", "low", "high"), signs, strict=True):
            nudged[column] += sign * NUDGE * nudged[column].abs()
        nudged.to_csv(path, index=False)
        for artefact in committed:
            renderings[artefact].append(words(markdown_of(profile, artefact, folder)))
    for artefact, text in committed.items():
        expected = words(text)
        assert {len(found) for found in renderings[artefact]} == {len(expected)}
        for i, (word, *found) in enumerate(zip(expected, *renderings[artefact], strict=True)):
            assert word in found, f"{artefact}.md: {' '.join(expected[i - 8 : i + 8])!r} has {word}, not {found}"
        assert 0.99 * len(expected) < sum(map(str.__eq__, expected, renderings[artefact][0])), "more than ties differ"


def words(text: str) -> list[str]:
    """Words and numbers, with the lines' ends among them."""
    return re.findall(r"[^\s|]+|\n", text)
