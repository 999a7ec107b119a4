"""reproduce/convergence.py: when a curve is down to a level."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

_PATH = Path(__file__).parents[1] / "reproduce" / "convergence.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("convergence", _PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def curve(lengths: list[float]) -> pd.DataFrame:
    rows = {"step": range(1, len(lengths) + 1), "tokens": lengths, "step_time": 2.0, "attnpo/group_accuracy": 0.5}
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of the lines says nothing


def test_the_level_is_reached_by_the_running_mean_and_not_by_one_step(script: Any) -> None:
    found = script.reached(curve([100, 100, 10, 100, 100, 100, 60, 60, 60, 60, 60, 60]), "tokens", 60)
    assert found == {"step": 11, "seconds": 22.0, "accuracy": 0.5}


def test_a_level_that_is_not_reached_is_empty(script: Any) -> None:
    assert script.reached(curve([100.0] * 12), "tokens", 60) == {"step": None, "seconds": None, "accuracy": None}
