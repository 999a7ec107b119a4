from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.method.phrases import phrase_counts
from attnpo.statistics.bootstrap import Estimate, bootstrap, bootstrap_tasks, mean_estimate
from attnpo.statistics.metrics import (
    aes,
    aes_unchecked,
    budgets_below,
    difference_at_equal_length,
    first_at_most,
    fit_line,
    pass_at_k_each,
    pass_up_to,
    trade_off,
)
from attnpo.statistics.tables import WAYS, sample_counts


def paired_difference(run: Any, other: Any, **options: Any) -> Estimate:
    return bootstrap(lambda mean, other_mean: mean - other_mean, run, other, **options)


def aes_estimate(run: Any, base: Any) -> Estimate:
    return bootstrap(lambda a, b: aes_unchecked(a[..., 0], a[..., 1], b[..., 0], b[..., 1]), run, base)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response(case: tuple[int, int, int]) -> None:
    n, c, k = case
    responses = [1] * c + [0] * (n - c)
    subsets = list(itertools.combinations(responses, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    # 1e-12: a product of at most seven ratios.
    assert pass_at_k_each(sum(responses), n, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    # One of 4096 correct: the chance that 128 draws contain it is 128 / 4096.
    assert pass_at_k_each([1, 0], 4096, 128).mean() == pytest.approx(128 / 4096 / 2, rel=1e-9)
    assert pass_up_to([1, 0], 4096, 128)[:, -1].tolist() == pass_at_k_each([1, 0], 4096, 128).tolist()


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_refuses_a_k_outside_the_samples(k: int) -> None:
    with pytest.raises(AttnPOError, match=f"pass@{k} needs 1 to 2"):
        pass_at_k_each([1], 2, k)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 1000, 0.5, 1000), 0.0),
        ((0.55, 500, 0.5, 1000), 0.5 + 3 * 0.1),
        ((0.45, 500, 0.5, 1000), 0.5 - 5 * 0.1),
        ((0.5, 2000, 0.5, 1000), -1.0),
        # 1.5B AttnPO of paper.md: 54.5 to 61.8 points, 8005 to 3120 tokens.
        ((61.8, 3120, 54.5, 8005), 4885 / 8005 + 3 * 7.3 / 54.5),
    ],
)
def test_aes(values: tuple[float, ...], expected: float) -> None:
    assert aes(*values) == pytest.approx(expected, abs=1e-12)
    assert aes(*([v, v] for v in values)) == pytest.approx([expected] * 2, abs=1e-12)


def test_aes_needs_a_base() -> None:
    with pytest.raises(AttnPOError, match="above 0"):
        aes(0.5, 10, 0, 10)


@pytest.mark.parametrize("bad", [[], [math.nan], [[math.inf]]])
def test_empty_and_nan_are_refused(bad: list) -> None:
    with pytest.raises(AttnPOError, match="empty|NaN"):
        mean_estimate(bad)
    with pytest.raises(AttnPOError, match="empty|NaN"):
        pass_at_k_each(bad, 4, 1)


def test_bootstrap_over_problems_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.5, size=400)
    estimate = mean_estimate(values, draws=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    # .1 of the half width: some four standard errors of a 2.5 % quantile from 4000 draws.
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_is_seeded() -> None:
    values = np.arange(20.0).reshape(2, 10)
    assert mean_estimate(values, seed=5) == mean_estimate(values, seed=5)
    assert mean_estimate(values, seed=5) != mean_estimate(values, seed=6)


def test_seeds_that_differ_widen_the_interval() -> None:
    problems = np.random.default_rng(0).random(200)
    alike = np.stack([problems] * 3)
    apart = alike + np.array([[-0.3], [0.0], [0.3]])
    narrow, wide = mean_estimate(alike), mean_estimate(apart)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_seeds_alike_cost_nothing() -> None:
    problems = np.random.default_rng(0).random(200)
    one = mean_estimate(problems, seed=2)
    assert mean_estimate(np.stack([problems] * 3), seed=2) == pytest.approx(one)


def test_runs_with_the_same_data_share_their_draw_of_seeds() -> None:
    run = np.random.default_rng(0).random((5, 40, 2))
    run[0, 0, 0] += 3  # the seeds differ
    assert bootstrap(lambda a, b: a[..., 0] - b[..., 0], run, run.copy()) == (0, 0, 0)
    other = run.copy()
    other[4, 39, 1] += 1e-6  # one number of the second column
    low, high = bootstrap(lambda a, b: a[..., 0] - b[..., 0], run, other)[1:]
    assert low < 0 < high
    third = np.random.default_rng(1).random((5, 40, 2))
    twice = bootstrap(lambda a, b, c: c[..., 0] - a[..., 0], run, run.copy(), third)
    assert twice == bootstrap(lambda a, b, c: c[..., 0] - a[..., 0], run, other, third)  # no other draw changes


def test_pairing_removes_the_spread_of_the_problems() -> None:
    problems = np.random.default_rng(0).normal(0, 100, size=50)
    difference = paired_difference(problems + 1.0, problems)
    assert difference == pytest.approx((1.0, 1.0, 1.0))
    several = paired_difference(np.stack([problems + 1, problems + 3]), np.stack([problems] * 4))
    assert several.value == pytest.approx(2.0)
    assert several.low == pytest.approx(1.0)
    assert several.high == pytest.approx(3.0)


def test_aes_estimate_draws_accuracy_and_tokens_together() -> None:
    base = np.stack([np.full((1, 40), 0.5), np.full((1, 40), 100.0)], axis=-1)
    # Accuracy and tokens rise together over the seeds, so that AES is .4 for each of them.
    runs = [(0.5 * (1 + gain), 100 * (0.6 + 3 * gain)) for gain in (0.0, 0.1, 0.2)]
    run = np.stack([np.full((40, 2), values) for values in runs])
    estimate = aes_estimate(run, base)
    assert estimate == pytest.approx((0.4, 0.4, 0.4))
    assert aes_estimate(base, base) == pytest.approx((0, 0, 0))


def test_undefined_draws_are_left_out_until_they_are_too_many() -> None:
    def tokens_of_correct(mean: np.ndarray) -> np.ndarray:
        return mean[..., 1] / mean[..., 0]

    one_of_ten = np.array([[[1.0, 50.0]] + [[0.0, 0.0]] * 9])
    # A draw misses the one with probability .9 ** 10 = .35.
    assert bootstrap(tokens_of_correct, one_of_ten) == pytest.approx((50, 50, 50))
    with pytest.raises(AttnPOError, match="nan on the data"):
        bootstrap(tokens_of_correct, np.zeros((1, 10, 2)))


def test_bootstrap_refuses_what_it_cannot_pair() -> None:
    with pytest.raises(AttnPOError, match=r"\(1, 3\), \(1, 4\)"):
        paired_difference([1, 2, 3], [1, 2, 3, 4])
    for options in ({"draws": 0}, {"level": 1.0}):
        with pytest.raises(AttnPOError, match="draws >= 1"):
            mean_estimate([1.0], **options)


def test_pass_at_k_of_problems_with_different_numbers_of_responses() -> None:
    each = pass_at_k_each([1, 1, 0], [2, 4, 3], 2)
    assert each == pytest.approx([1, 0.5, 0])
    with pytest.raises(AttnPOError, match="pass@3 needs 1 to 2"):
        pass_at_k_each([1, 1], [2, 4], 3)


def test_budgets_are_the_limit_and_its_halves() -> None:
    assert budgets_below(32768) == [2048, 4096, 8192, 16384, 32768]
    assert budgets_below(256) == [16, 32, 64, 128, 256]
    assert budgets_below(3) == [1, 3]


def test_phrases_are_counted_by_kind() -> None:
    thinking = "So I start.\nSo x = 3. Wait, so what? But no.\nAlternatively, y.\nTherefore 4. Therefore 5."
    assert phrase_counts(thinking) == {"doubt": 2, "branch": 1, "summary": 2}
    assert phrase_counts("") == {"doubt": 0, "branch": 0, "summary": 0}
    assert phrase_counts("No, no. Let me double-check.")["doubt"] == 2
    assert phrase_counts("No, no. Let me double-check.", "published")["doubt"] == 0


def test_bootstrap_of_tasks_is_the_bootstrap_for_one_task() -> None:
    cube = np.random.default_rng(0).random((2, 30, 2))
    (ratio,) = bootstrap_tasks(lambda m: (m[..., 0] / m[..., 1]).mean(axis=0)[..., None], [cube], draws=200)
    assert ratio == pytest.approx(bootstrap(lambda m: m[..., 0] / m[..., 1], cube, draws=200))


def test_bootstrap_of_tasks_draws_problems_within_each() -> None:
    rng = np.random.default_rng(1)
    small, large = rng.normal(0, 1, (1, 50, 1)), rng.normal(5, 3, (1, 400, 1))
    (mean,) = bootstrap_tasks(lambda m: m.mean(axis=0), [small, large], draws=4000)
    assert mean is not None
    assert mean.value == pytest.approx((small.mean() + large.mean()) / 2)
    error = math.hypot(small.std() / math.sqrt(50), large.std() / math.sqrt(400)) / 2
    assert (mean.high - mean.low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    with pytest.raises(AttnPOError, match="over the same problems"):
        bootstrap_tasks(lambda a, b: a.mean(axis=0), [small, large], [large, small])
    undefined, fine = bootstrap_tasks(lambda m: np.stack([m[0, ..., 0] / 0, m[0, ..., 0]], axis=-1), [small], draws=20)
    assert undefined is None and fine is not None


def test_difference_at_equal_length_is_read_off_the_line() -> None:
    curve = [(0.9, 100), (0.7, 60), (0.8, 80)]  # in any order
    assert difference_at_equal_length(curve, curve) == 0
    points = [(0.8, 70), (0.85, 90), (0.1, 59), (0.1, 101)]  # the last two have no length of the curve's
    assert difference_at_equal_length(points, curve) == pytest.approx((0.05 + 0) / 2)
    drawn = difference_at_equal_length([points, points[:4]], [curve, [(1.0, 1), (1.0, 2), (1.0, 3)]])
    assert drawn[0] == pytest.approx(0.025) and np.isnan(drawn[1])


def test_a_line_goes_through_its_points_and_measures_others_against_it() -> None:
    line = fit_line([80, 100, 120], [70, 80, 90])
    assert (line.slope, line.r) == pytest.approx((0.5, 1)) and line.spread == pytest.approx(0, abs=1e-9)
    assert line.above([90, 100], [80, 79]).tolist() == pytest.approx([5, -1])
    scattered = fit_line([0, 0, 1, 1], [0, 2, 3, 5])
    assert (scattered.slope, scattered.start, scattered.spread) == pytest.approx((3, 1, math.sqrt(4 / 2)))
    assert scattered.r == pytest.approx(np.corrcoef([0, 0, 1, 1], [0, 2, 3, 5])[0, 1])
    assert math.isnan(fit_line([1, 2, 3], [1, 1, 1]).r)
    places = {str(x): (float(x), 2.0 * x) for x in range(4)}
    found = trade_off({**places, "far": (1.0, 5.0)}, list(places))
    assert found is not None and found.line.slope == pytest.approx(2) and found.above["far"] == pytest.approx(3)
    assert trade_off(places, ["0", "1", "2"]) is None
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 2])):
        with pytest.raises(AttnPOError, match="a line with a spread needs three"):
            fit_line(x, y)


def test_a_level_is_reached_by_the_running_mean_and_not_by_one_value() -> None:
    assert first_at_most([100, 100, 10, 100, 100, 100, 60, 60, 60, 60, 60, 60], 60, 5) == 10
    assert first_at_most([3.0, 2.0, 1.0], 2.5, 2) == 1
    assert first_at_most([100.0] * 12, 60, 5) is None
    assert first_at_most([1.0, 1.0], 60, 5) is None  # no running mean yet


def test_the_page_states_the_standard_errors_that_follow() -> None:
    page = (checkout_root() / "docs" / "numbers.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\S+) \| (\d+) × (\d+) \| (\.\d+) \| (.*) \|$", page, re.MULTILINE)
    assert len(table) == 5
    for _, problems, samples, accuracy, numbers in table:
        p, size, k = float(accuracy), int(problems), int(samples)
        errors = [math.sqrt(p * (1 - p) * (rho + (1 - rho) / k) / size) for rho in (0.6, 0, 1)]
        variances = [2 * p * (1 - p) * (0.6 * (1 - c) + 0.4 / k) / size for c in (1, 0.8, 0)]
        assert numbers.split(" | ") == [f"{100 * x:.1f}" for x in [*errors, *(1.96 * v**0.5 for v in variances)]]


def record(text: str, finish: str | None = "stop", **changes: Any) -> dict[str, Any]:
    """A wrong response as `attnpo.evaluation.responses.describe` records it."""
    tokens = {"total": 10, "thinking": 6, "answer": 3}
    known = {"text": text, "correct": False, "parse_failed": False, "reason": "different", "thinking": True}
    return known | {"think_tags": text.count("</think>"), "tokens": tokens, "finish": finish, "counted": "x"} | changes


@pytest.mark.parametrize(
    ("response", "way"),
    [
        (record("a</think>b"), "different"),
        (record("a</think>b", parse_failed=True, reason="no_box"), "unread"),
        (record("a", reason="no_think_end"), "unread"),
        (record("a</think></think>", reason="many_think_ends"), "unread"),
        (record("a", "length", reason="no_think_end"), "truncated"),
        (record("a</think>b", "length", parse_failed=True, reason="no_box"), "truncated"),
        (record("a</think>b", correct=True, reason="equal"), None),
        (record("a</think>b", "length", correct=True, reason="equal"), None),
    ],
)
def test_a_wrong_response_is_wrong_in_one_way(response: dict[str, Any], way: str | None) -> None:
    counts = sample_counts(response)
    assert {name: counts[f"wrong_{name}"] for name in WAYS} == {name: int(name == way) for name in WAYS}
    assert sum(counts[f"wrong_{name}"] for name in WAYS) == 1 - counts["correct"]


def test_without_a_finish_reason_the_ways_are_not_known() -> None:
    counts = sample_counts(record("a", None, reason="no_think_end"))
    assert all(math.isnan(counts[f"wrong_{name}"]) for name in WAYS)


def test_a_thinking_of_dots_is_none() -> None:
    found = [sample_counts(record(text))["no_thinking"] for text in ("</think>5", "...\n</think>5", "a</think>5", "")]
    assert found == [1, 1, 0, 0]
    assert math.isnan(sample_counts(record("5", thinking=False))["no_thinking"])


def test_valid_thinking_counts_responses_that_find_the_answer() -> None:
    found, never, unknown = (
        sample_counts(record("a</think>b", **more)) for more in ({"valid_share": 0.5}, {"valid_share": None}, {})
    )
    assert (found["valid_thinking"], found["valid_of"]) == (3, 6)
    assert (never["valid_thinking"], never["valid_of"]) == (0, 0)
    assert "valid_of" not in unknown
