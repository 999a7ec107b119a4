from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.statistics.estimates import (
    MEASURES,
    Sample,
    differences,
    estimate_table,
    estimates,
    measures_of,
    on_shared_seeds,
    samples_by_method,
)
from attnpo.statistics.metrics import aes, pass_at_k

RNG = np.random.default_rng(5)


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


def test_every_measure_is_what_its_definition_says() -> None:
    problems = table(rows("base", "a", 0.4, 100))
    found = estimates(list(samples_by_method(problems)["base"].values()), draws=50)
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
        "pass@3": pass_at_k([[1] * c + [0] * (4 - c) for c in problems["correct"]], 3),
    }
    for name, value in expected.items():
        estimate = found[name]
        assert estimate is not None
        assert estimate.value == pytest.approx(value), name
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9  # rounding, where nothing varies
    assert "pass@5" not in found
    assert "essential_steps" not in found  # no labels


def test_a_group_is_the_macro_mean_whatever_the_sizes() -> None:
    problems = table(rows("m", "a", 0.2, 100, size=30), rows("m", "b", 0.8, 300, size=90))
    found = estimate_table(problems, {"both": ["a", "b"], "more": ["a", "c"]}, draws=300).set_index(["task", "measure"])
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
    by_method = samples_by_method(problems)
    new, base = (list(by_method[m].values()) for m in ("new", "base"))
    found = differences(new, base, draws=100)
    means = [np.mean([[s.means("correct").mean(), s.means("tokens").mean()] for s in of], axis=0) for of in (new, base)]
    score, _ = found["aes"]
    assert score is not None
    assert score.value == pytest.approx(aes(*means[0], *means[1]))
    tokens, relative = found["tokens"]
    assert tokens is not None and relative is not None
    assert relative.value == pytest.approx(tokens.value / means[1][1])
    nothing = differences(base, base, draws=20)
    assert all(d == pytest.approx((0, 0, 0)) for d, _ in nothing.values() if d is not None)


def test_pairing_uses_the_same_problems() -> None:
    problems = table(rows("base", "a", 0.5, 100))
    longer = problems.assign(method="new", tokens=problems["tokens"] + 40).sample(frac=1, random_state=1)
    by_method = samples_by_method(pd.concat([problems, longer]))
    tokens, _ = differences(*(list(by_method[m].values()) for m in ("new", "base")), draws=50)["tokens"]
    assert tokens == pytest.approx((10, 10, 10))  # 40 a problem, 4 responses, in whatever order the lines stood


def test_other_problems_are_refused() -> None:
    problems = table(rows("base", "a", 0.5, 100), rows("new", "a", 0.5, 100, size=49))
    by_method = samples_by_method(problems)
    with pytest.raises(
        AttnPOError, match="'new' and 'base' answered different problems .1 of them not in both, 'p049'"
    ):
        differences(*(list(by_method[m].values()) for m in ("new", "base")))


def test_seeds_that_answered_other_problems_are_refused() -> None:
    with pytest.raises(AttnPOError, match="'m': its seeds answered different problems"):
        samples_by_method(table(rows("m", "a", 0.5, 100), rows("m", "a", 0.5, 100, seed=1, size=49)))


def test_what_is_undefined_is_left_out() -> None:
    problems = table(rows("m", "a", 0.0, 100)).assign(truncated=float("nan"))
    found = estimates(list(samples_by_method(problems)["m"].values()), draws=50)
    assert found["accuracy"] == (0, 0, 0)
    assert found["tokens_of_correct"] is None
    assert found["tokens_per_correct"] is None
    assert "truncated" not in found
    assert "tokens_of_correct" not in set(estimate_table(problems, draws=50)["measure"])


def test_measures_grow_with_the_columns() -> None:
    names = list(measures_of(["correct", "pass@16", "pass@2", "correct_at_2048", "correct_at_512"]))
    assert names == ["accuracy", "pass@2", "pass@16", "accuracy@512", "accuracy@2048"]


def test_the_page_explains_every_measure() -> None:
    page = (checkout_root() / "docs" / "numbers.md").read_text(encoding="utf-8")
    for name in [*MEASURES, "pass@k", "accuracy@B", "aes"]:
        assert f"`{name}`" in page, name


def test_methods_are_compared_on_the_seeds_that_both_have() -> None:
    def sample(method: str, tokens: dict[int, float]) -> Sample:
        rows = [{"seed": seed, "problem_id": p, "n": 2, "correct": 1, "truncated": 0, "tokens": 2 * t}
                for seed, t in tokens.items() for p in ("a", "b")]  # fmt: skip
        return Sample(pd.DataFrame(rows), method)

    short, long = sample("short", {0: 10, 1: 20}), sample("long", {0: 10, 1: 20, 2: 90})
    one, other = on_shared_seeds(short, long)
    assert one is short and other.seeds == [0, 1] and other.responses == 8
    assert one.means("tokens").tolist() == other.means("tokens").tolist()  # and not 15 against 40
    apart = sample("apart", {7: 30})
    assert on_shared_seeds(short, apart) == (short, apart)
