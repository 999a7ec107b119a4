"""What trainings cost, and where they are at equal cost, against values worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from attnpo.statistics.training import cost_table

FIGURES = {"accuracy": "right", "tokens": "length", "absent": "nowhere"}


def curves() -> pd.DataFrame:
    """The trainings of two methods: each step of `cheap` costs 10 tokens, of `dear` 30 with seed 0 and 20 with 1."""
    rows = [
        {
            "method": method,
            "seed": seed,
            "step": step,
            "step_time": 2.0,
            "cost": cost,
            "right": step / 10,
            "length": cost,
        }
        for method, seed, cost in (("cheap", 0, 10), ("dear", 0, 30), ("dear", 1, 20), ("unasked", 0, 1))
        for step in range(1, 7)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order of the lines says nothing


def found(table: pd.DataFrame, method: str) -> dict[str, tuple[float, float, float]]:
    part = table[table["method"] == method]
    assert set(part["slice"]) == {"cost"} and set(part["task"]) == {"training"}
    return {row.measure: (row.value, row.low, row.high) for row in part.itertuples()}


def test_costs_and_what_is_reached_at_equal_cost() -> None:
    table = cost_table(curves(), ["cheap", "dear", "not trained"], "cost", FIGURES, 2, draws=200, level=0.95, seed=0)
    assert list(dict.fromkeys(table["method"])) == ["cheap", "dear"]
    cheap, dear = found(table, "cheap"), found(table, "dear")
    assert cheap["level"][0] == 60 and "level" not in dear  # six steps of 10 tokens
    assert (cheap["runs"][0], cheap["seconds"][0], cheap["cost"][0]) == (1, 12, 60)
    assert cheap["accuracy"][0] == pytest.approx(0.55)  # steps 5 and 6
    assert all(math.isnan(end) for end in cheap["accuracy"][1:])  # one seed
    assert (dear["runs"][0], dear["cost"][0]) == (2, (180 + 120) / 2)
    # 60 tokens are sampled at step 2 with seed 0 and at step 3 with seed 1: means of steps 1 and 2, of 2 and 3.
    assert dear["accuracy"][0] == pytest.approx((0.15 + 0.25) / 2)
    assert dear["tokens"][0] == 25 and dear["tokens"][1:] == (20, 30)
    assert "absent" not in dear
    assert set(table.loc[table["method"] == "dear", "seeds"]) == {"0 1"}


def test_a_training_shorter_than_the_window_counts_from_its_first_step() -> None:
    table = cost_table(curves().query("step == 1"), ["dear"], "cost", FIGURES, 5, draws=10, level=0.95, seed=0)
    assert found(table, "dear")["accuracy"][0] == pytest.approx(0.1)


@pytest.mark.parametrize("missing", ["cost", "step_time"])
def test_nothing_is_said_of_costs_that_are_not_known(missing: str) -> None:
    assert cost_table(curves().drop(columns=missing), ["dear"], "cost", FIGURES, 2).empty
    assert cost_table(curves().assign(cost=math.nan), ["dear"], "cost", FIGURES, 2).empty
