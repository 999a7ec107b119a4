"""The names under which a training is logged are those of the tables in docs/watching.md, no more and no fewer."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from places import ROOT

from attnpo.runs.profile import load_profile
from attnpo.training.run import run_training

STEPS = {"min_chars": 1, "lone_trigger_chars": 1}
METHODS = {
    "attnpo": {
        "label": "AttnPO and SAS",
        "reward": "tlmre",
        "attnpo": True,
        "heads": [[1, 5]],
        "credit": {"warmup_steps": 0},
        "selection": {},
    },
    "plain": {"label": "TLMRE", "reward": "tlmre"},
    "dler": {"label": "DLER", "reward": "dler", "reward_args": {"limit": 64}},
    "lc_r1": {"label": "LC-R1", "reward": "lc_r1"},
}
WITH_ATTNPO = {"attnpo/baseline_score", "selection/token_share"}
OF_A_REWARD = {"rollouts/cut_share", "rollouts/kept_share", "rollouts/cropped_share"}


def documented() -> dict[str, str]:
    """Name in the tables to the section that it stands in."""
    found: dict[str, str] = {}
    for section in (ROOT / "docs" / "watching.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        for row in re.findall(r"^\| (`.*?) \|", section, re.M):
            for name in re.findall(r"`([^`]+)`", row):
                assert name not in found, f"{name} stands twice"
                found[name] = section.partition("\n")[0]
    return found


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Method to what two steps of it log; trackers get the same names behind `train/`, see test_shown.py."""
    folder = tmp_path_factory.mktemp("metrics")
    train = {"steps": 2, "prompts_per_step": 2, "group_size": 4, "max_completion_tokens": 128, "save_steps": 2}
    mapping = {"name": "p", "steps": STEPS, "train": {**train, "learning_rate": 1.0e-4}, "methods": METHODS}
    (folder / "p.yaml").write_text(yaml.safe_dump(mapping))
    profile = load_profile(str(folder / "p.yaml"))
    names = {}
    for method in METHODS:
        section, out = profile.method(method), folder / method
        run_training(profile.source, profile.steps, profile.trained(), section, 0, None, 3, out)
        lines = (out / "log.jsonl").read_text().splitlines()
        names[method] = {name for line in lines for name in json.loads(line)} - {"step"}
    return names


def test_every_name_that_is_logged_is_in_the_tables_and_the_other_way_round(logged: dict[str, set[str]]) -> None:
    assert set.union(*logged.values()) == set(documented())


def test_only_what_the_tables_say_depends_on_the_method(logged: dict[str, set[str]]) -> None:
    always = set(documented()) - WITH_ATTNPO - OF_A_REWARD
    assert logged["attnpo"] == always | WITH_ATTNPO
    assert logged["plain"] == always
    assert logged["dler"] == always | {"rollouts/cut_share", "rollouts/kept_share"}
    assert logged["lc_r1"] == always | {"rollouts/cropped_share"}


def test_the_names_are_in_the_groups_of_their_section(logged: dict[str, set[str]]) -> None:
    """So that a tracker shows ours together: each of ours has a group that TRL does not use, but for the rewards."""
    groups: dict[str, set[str]] = {}
    for name, section in documented().items():
        groups.setdefault(section, set()).add(name.partition("/")[0])
    assert groups["What AttnPO adds"] == {
        *("attnpo", "selection", "rollouts", "rewards", "grader", "phrases", "steps", "links"),
    }
    assert not groups["What AttnPO adds"] & groups["What TRL logs"]
