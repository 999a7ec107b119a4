"""reproduce/convergence.py and trade_off.py: when a curve is down to a level, how far a method is from a line."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


def load(name: str) -> Any:
    path = Path(__file__).parents[1] / "reproduce" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Any:
    return load("convergence")


def curve(lengths: list[float]) -> pd.DataFrame:
    rows = {"step": range(1, len(lengths) + 1), "tokens": lengths, "step_time": 2.0, "attnpo/group_accuracy": 0.5}
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of the lines says nothing


def test_the_level_is_reached_by_the_running_mean_and_not_by_one_step(script: Any) -> None:
    found = script.reached(curve([100, 100, 10, 100, 100, 100, 60, 60, 60, 60, 60, 60]), "tokens", 60)
    assert found == {"step": 11, "seconds": 22.0, "accuracy": 0.5}


def test_a_level_that_is_not_reached_is_empty(script: Any) -> None:
    assert script.reached(curve([100.0] * 12), "tokens", 60) == {"step": None, "seconds": None, "accuracy": None}


def test_a_method_is_measured_against_the_line_through_the_others() -> None:
    rows = pd.DataFrame(
        {
            "task": "t",
            "method": ["a", "attnpo", "b", "c"],
            "tokens": [120.0, 90.0, 80.0, 100.0],
            "accuracy": [90.0, 80.0, 70.0, 80.0],
            "in_fit": [1, 0, 1, 1],
        }
    )
    found, words = load("trade_off").against_line(rows)
    assert found["method"].tolist() == ["b", "attnpo", "c", "a"]
    assert found["above_line"].tolist() == pytest.approx([0, 5, 0, 0])
    assert words.startswith("t: 3 methods, r = 1.000, +5.00 points for 10 tokens more")
    with pytest.raises(SystemExit, match="2 have been run; a line needs three"):
        load("trade_off").against_line(rows[rows["method"] != "c"])
