from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.statistics.bootstrap import Estimate
from attnpo.statistics.estimates import AT_EQUAL_TOKENS, Wanted, compared_seeds, estimate_table
from attnpo.statistics.measures import MEASURES, measure_named, measures_of
from attnpo.statistics.metrics import aes, efficiency_gap, pass_at_k_each
from attnpo.statistics.samples import Sample, samples_by_method, shared_seeds


def rows(method: str, task: str, accuracy: float, tokens: float, seed: int = 0, n: int = 4, size: int = 50) -> Any:
    """Made-up sums of `size` problems with n responses each."""
    rng = np.random.default_rng([seed, size, round(100 * accuracy)])
    for i in range(size):
        correct = int(rng.binomial(n, accuracy))
        lengths = rng.integers(int(tokens * 0.5), int(tokens * 1.5), size=n)
        yield {
            "method": method,
            "seed": seed,
            "task": task,
            "problem_id": f"p{i:03}",
            "chain": None,
            "n": n,
            "correct": correct,
            "parse_failed": 0,
            "missing_think_end": 0,
            "truncated": 0,
            "retokenized": 0,
            "tokens": lengths.sum(),
            "thinking_tokens": lengths.sum() // 2,
            "answer_tokens": lengths.sum() // 2,
            "correct_tokens": lengths[:correct].sum(),
            "phrases_doubt": 2 * n,
            "phrases_branch": n,
            "phrases_summary": 0,
            "correct_at_64": correct // 2,
        }


def table(*parts: Any) -> pd.DataFrame:
    return pd.DataFrame([row for part in parts for row in part])


def values(found: pd.DataFrame, task: str, method: str = "m") -> dict[str, Estimate]:
    """Measure -> estimate of the values."""
    rows = found[(found["task"] == task) & (found["method"] == method) & (found["reference"] == "")]
    return {r.measure: Estimate(r.value, r.low, r.high) for r in rows[rows["slice"] == ""].itertuples()}


def compared(problems: pd.DataFrame, one: str, other: str, task: str, **options: Any) -> dict[str, Estimate]:
    """Measure -> difference."""
    groups = options.pop("groups", {})
    found = estimate_table(problems, [Wanted(comparisons=[(one, other)])], groups, **options)
    rows = found[(found["task"] == task) & (found["reference"] == other)]
    return {r.measure: Estimate(r.value, r.low, r.high) for r in rows.itertuples()}


def test_every_measure_is_what_its_definition_says() -> None:
    problems = table(rows("base", "a", 0.4, 100))
    found = values(estimate_table(problems, draws=50), "a", "base")
    n, total = problems["n"].sum(), problems.sum(numeric_only=True)
    expected = {
        "accuracy": total["correct"] / n,
        "tokens": total["tokens"] / n,
        "tokens_of_correct": total["correct_tokens"] / total["correct"],
        "tokens_of_wrong": (total["tokens"] - total["correct_tokens"]) / (n - total["correct"]),
        "tokens_per_correct": total["tokens"] / total["correct"],
        "thinking_tokens": total["thinking_tokens"] / n,
        "doubt_phrases": 2,
        "doubt_rate": total["phrases_doubt"] / total["thinking_tokens"],
        "truncated": 0,
        "accuracy@64": total["correct_at_64"] / n,
        "pass@1": total["correct"] / n,
        "pass@3": pass_at_k_each(problems["correct"], 4, 3).mean(),
    }
    for name, value in expected.items():
        estimate = found[name]
        assert estimate.value == pytest.approx(value), name
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9  # rounding, where nothing varies
    assert "pass@5" not in found
    assert "essential_steps" not in found  # no labels


def test_a_group_is_the_macro_mean_whatever_the_sizes() -> None:
    problems = table(rows("m", "a", 0.2, 100, size=30), rows("m", "b", 0.8, 300, size=90))
    groups = {"both": ["a", "b"], "more": ["a", "c"]}
    found = estimate_table(problems, groups=groups, draws=300).set_index(["task", "measure"])
    for measure in ("accuracy", "tokens", "tokens_of_wrong", "pass@2"):
        parts = [found.loc[(task, measure), "value"] for task in "ab"]
        assert found.loc[("both", measure), "value"] == pytest.approx(np.mean(parts))
    assert "more" not in found.index
    widths = [found.loc[(t, "accuracy"), "high"] - found.loc[(t, "accuracy"), "low"] for t in ("a", "b", "both")]
    # Independent tasks: the mean's variance is a quarter of the sum. A tenth of slack for 300 draws.
    assert widths[2] == pytest.approx(0.5 * np.hypot(widths[0], widths[1]), rel=0.15)


def test_aes_of_a_group_is_of_the_averages() -> None:
    problems = table(
        *(rows("base", t, a, 200, size=s) for t, a, s in (("a", 0.3, 30), ("b", 0.7, 60))),
        *(rows("new", t, a, 100, size=s) for t, a, s in (("a", 0.4, 30), ("b", 0.75, 60))),
    )
    found = compared(problems, "new", "base", "both", groups={"both": ["a", "b"]}, draws=100)
    by_method = samples_by_method(problems)
    means = [
        np.mean([[s.means("correct").mean(), s.means("tokens").mean()] for s in by_method[m].values()], axis=0)
        for m in ("new", "base")
    ]
    assert found["aes"].value == pytest.approx(aes(*means[0], *means[1]))
    assert found["tokens_relative"].value == pytest.approx(found["tokens"].value / means[1][1])
    assert compared(problems, "base", "base", "both", groups={"both": ["a", "b"]}) == {"aes": (0, 0, 0)}


def test_identical_samples_differ_by_nothing() -> None:
    problems = table(*(rows("base", "a", 0.2 + 0.2 * seed, 100, seed=seed) for seed in range(3)))
    both = pd.concat([problems, problems.assign(method="new")])
    found = compared(both, "new", "base", "a", draws=50)
    assert {*found} >= {"accuracy", "tokens", "tokens_relative", "pass@2", "aes"}
    assert all(difference == (0, 0, 0) for difference in found.values())
    own = values(estimate_table(both, draws=50), "a", "new")["accuracy"]
    assert own.low < own.value < own.high


def test_pairing_uses_the_same_problems() -> None:
    problems = table(rows("base", "a", 0.5, 100))
    longer = problems.assign(method="new", tokens=problems["tokens"] + 40).sample(frac=1, random_state=1)
    tokens = compared(pd.concat([problems, longer]), "new", "base", "a", draws=50)["tokens"]
    assert tokens == pytest.approx((10, 10, 10))  # 40 a problem, 4 responses, in whatever order the lines stood


def test_other_problems_are_refused() -> None:
    problems = table(rows("base", "a", 0.5, 100), rows("new", "a", 0.5, 100, size=49))
    with pytest.raises(
        AttnPOError, match="'new' and 'base' answered different problems .1 of them not in both, 'p049'"
    ):
        compared(problems, "new", "base", "a")


def test_seeds_that_answered_other_problems_are_refused() -> None:
    with pytest.raises(AttnPOError, match="'m': its seeds answered different problems"):
        samples_by_method(table(rows("m", "a", 0.5, 100), rows("m", "a", 0.5, 100, seed=1, size=49)))


def test_what_is_undefined_is_left_out() -> None:
    problems = table(rows("m", "a", 0.0, 100)).assign(truncated=float("nan"))
    found = values(estimate_table(problems, draws=50), "a")
    assert found["accuracy"] == (0, 0, 0)
    assert not {"tokens_of_correct", "tokens_per_correct", "truncated"} & set(found)
    assert estimate_table(problems, draws=50)["truncated"].isna().all()


def test_measures_grow_with_the_columns() -> None:
    names = list(measures_of(["correct", "pass@16", "pass@2", "correct_at_2048", "correct_at_512"]))
    assert names == ["accuracy", "pass@2", "pass@16", "accuracy@512", "accuracy@2048"]
    labelled = measures_of(["steps_slip", "steps_repair", "wrong_left_out"])
    assert list(labelled) == ["slip_steps", "repair_steps", "wrong_left_out"]
    assert labelled["repair_steps"].columns == measure_named("repair_steps").columns == ("steps_repair",)


def test_the_page_explains_every_measure() -> None:
    page = (checkout_root() / "docs" / "numbers.md").read_text(encoding="utf-8")
    more = ["pass@k", "accuracy@B", "aes", "tokens_relative", "redundant_share_of_cut", *AT_EQUAL_TOKENS.values()]
    for name in [*MEASURES, *more, "LABEL_steps", "wrong_CAUSE"]:
        assert f"`{name}`" in page, name


def test_methods_are_compared_on_the_seeds_that_both_have() -> None:
    def part(method: str, tokens: dict[int, float]) -> Any:
        for seed, t in tokens.items():
            for problem in ("a", "b"):
                yield {"method": method, "task": "x", "seed": seed, "problem_id": problem, "chain": None, "n": 2,
                       "correct": 1, "truncated": 0, "tokens": 2 * t}  # fmt: skip

    short, long, apart = {0: 10, 1: 20}, {0: 10, 1: 20, 2: 90}, {7: 30}
    problems = table(part("short", short), part("long", long), part("apart", apart))
    pairs = [("short", "long"), ("short", "apart"), ("long", "base"), ("long", "short")]
    found = estimate_table(problems, [Wanted(comparisons=pairs)], draws=20)
    tokens = found[(found["measure"] == "tokens") & (found["reference"] != "")].set_index(["method", "reference"])
    assert tokens.loc[("short", "long"), "value"] == 0  # and not 15 against 40
    assert tuple(tokens.loc[("long", "short"), ["seeds", "reference_seeds", "n"]]) == ("0 1", "0 1", 8)
    assert tuple(tokens.loc[("short", "apart"), ["seeds", "reference_seeds", "value"]]) == ("0 1", "7", -15)
    untrained = estimate_table(problems, [Wanted(comparisons=pairs[:1], untrained=["long"])], draws=20)
    assert set(untrained.loc[untrained["reference"] == "long", "reference_seeds"]) == {"0 1 2"}
    assert shared_seeds([[0, 1], [2, 1, 0]]) == (0, 1)
    assert compared_seeds("m", [0, 1], "base", [0, 1, 2], ["base"]) == ((0, 1), (0, 1, 2))
    assert Sample(problems[problems["method"] == "long"], "long").on_seeds([0, 5, 2]).seeds == (0, 2)


def test_only_what_is_wanted_is_estimated_and_once() -> None:
    problems = table(*(rows(m, t, 0.5, 100, seed=s) for m in ("x", "y") for t in ("a", "b") for s in (0, 1)))
    problems["chain"] = [5 + i % 3 for i in range(len(problems))]
    problems["chain"] = problems["problem_id"].map(dict(zip(problems["problem_id"], problems["chain"], strict=True)))
    one = Wanted(seeds={"x": [0], "z": [0]}, tasks=["a"], each_chain=True)
    two = Wanted(seeds={"x": [0, 1], "y": [1]}, tasks=["a", "none"], chains=[[5, 6]], comparisons=[("x", "y")])
    cut = replace(two, differences=["tokens"])
    seen: list[int] = []
    found = estimate_table(problems, [one, cut, cut], track=lambda q: seen.append(len(q)) or q, draws=20)  # type: ignore[func-returns-value]
    assert seen == [1 + 3 + 2 * 2 + 1]
    assert not found.duplicated([c for c in found.columns if c not in ("value", "low", "high")]).any()
    assert set(found["task"]) == {"a"}
    assert set(found.loc[found["slice"] == "5", "measure"]) == {"accuracy"}
    assert {"accuracy", "pass@4", "accuracy@64"} == set(found.loc[found["slice"] == "5 6", "measure"]) - {
        "pass@1",
        "pass@2",
        "pass@3",
    }
    difference = found[found["reference"] == "y"]
    assert set(difference["measure"]) == {"tokens", "tokens_relative", "aes"}
    assert set(difference["seeds"]) == {"1"}
    everything = estimate_table(problems, [cut, two], draws=20)
    assert "accuracy" in set(everything.loc[everything["reference"] == "y", "measure"])


def test_lines_are_compared_at_equal_tokens_on_shared_seeds() -> None:
    seeds = {"x0": (0, 1), "x1": (0, 1, 2), "y0": (1, 0), "y1": (0, 1)}
    ends = {"x0": (0.6, 100.0), "x1": (0.5, 80.0), "y0": (0.5, 100.0), "y1": (0.4, 80.0)}
    problems = table(*(rows(m, "a", *ends[m], seed=s) for m in seeds for s in seeds[m]))
    exact = {m: round(4 * accuracy * 50) for m, (accuracy, _) in ends.items()}
    for m, total in exact.items():  # as accurate as they are said to be, and as long
        for s in seeds[m]:
            here = (problems["method"] == m) & (problems["seed"] == s)
            problems.loc[here, "correct"] = [total // 50 + (i < total % 50) for i in range(50)]
            problems.loc[here, "tokens"] = int(4 * ends[m][1])
    lines = {"x": ["x0", "x1", "missing"], "y": ["y0", "y1"]}
    found = estimate_table(problems, [Wanted(tasks=["a"], lines=lines)], draws=20)
    (row,) = found[found["measure"] == AT_EQUAL_TOKENS["accuracy"]].to_dict("records")
    assert row["value"] == pytest.approx(0.1)
    assert (row["method"], row["reference"], row["seeds"], row["n"]) == ("x", "y", "0 1", 4 * 2 * 50 * 4)
    assert set(found.loc[found["method"] == "x1", "seeds"]) == {"0 1", "0 1 2"}
    more = problems[problems["method"].isin(["x0", "x1"]) & problems["seed"].eq(0)]
    more = pd.concat([problems, more.assign(method=more["method"].str.replace("x", "z"))])
    of_three = estimate_table(more, [Wanted(tasks=["a"], lines={"z": ["z0", "z1"], **lines})], draws=20)
    of_three = of_three[of_three["measure"] == AT_EQUAL_TOKENS["accuracy"]]
    assert of_three[["method", "reference", "seeds"]].to_numpy().tolist() == [["z", "y", "0"], ["x", "y", "0 1"]]
    few = estimate_table(problems, [Wanted(tasks=["a"], lines={"x": ["x0", "x1"], "y": ["y0"]})], draws=20)
    assert AT_EQUAL_TOKENS["accuracy"] not in set(few["measure"])


def within(method: str, shares: dict[int, float], n: int = 4, size: int = 20) -> Any:
    """Problems whose responses are right within some tokens by these shares, all alike."""
    for row in rows(method, "a", shares[max(shares)], 50, n=n, size=size):
        yield row | {"correct": n * shares[max(shares)]} | {f"correct_at_{b}": n * s for b, s in shares.items()}


def test_the_gap_is_the_area_to_the_best_at_each_budget() -> None:
    early, late = {32: 0.5, 64: 0.5, 128: 0.5}, {32: 0.0, 64: 0.5, 128: 1.0}
    problems = table(within("early", early), within("late", late)).drop(columns="correct_at_64", errors="ignore")
    problems["correct_at_64"] = [2.0] * len(problems)
    found = estimate_table(problems, [Wanted(frontier=True)], draws=50)
    # The frontier is .5, .5, 1: early lacks a triangle of 64 tokens and half a point; late one of 64 tokens too.
    assert values(found, "a", "early")["reg"].value == pytest.approx(0.5 * 64 * 0.5 / 128)
    assert values(found, "a", "late")["reg"].value == pytest.approx((0.5 * 32 * 0.5 + 0.5 * 32 * 0.5) / 128)
    assert "reg" not in values(estimate_table(problems, [Wanted()], draws=50), "a", "early")
    alone = problems[problems["method"] == "early"]
    assert "reg" not in values(estimate_table(alone, [Wanted(frontier=True)], draws=50), "a", "early")
    known = Wanted(frontier=True, known={"a": {128: 1.0}})
    # A straight line from 0 to 1: .25, .5, 1, of which early is above at 32.
    assert values(estimate_table(alone, [known], draws=50), "a", "early")["reg"].value == pytest.approx(
        0.5 * 64 * 0.5 / 128
    )


def test_a_gap_is_a_mean_over_budgets() -> None:
    assert efficiency_gap([0.2, 0.2], [0.2, 0.2], [10, 20]) == 0
    # .1 too little at both budgets, and at no token nothing: .1 * (10 / 2 + 10) / 20.
    assert efficiency_gap([0.2, 0.3], [0.3, 0.4], [10, 20]) == pytest.approx(0.075)
    with pytest.raises(AttnPOError, match="must rise"):
        efficiency_gap([0, 0], [1, 1], [20, 10])
