from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpo import metrics
from attnpo.errors import AttnPOError


def test_avg_at_k() -> None:
    assert metrics.avg_at_k([[1, 0, 1, 1], [0, 0, 0, 0]]) == 0.375


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response(case: tuple[int, int, int]) -> None:
    n, c, k = case
    responses = [1] * c + [0] * (n - c)
    subsets = list(itertools.combinations(responses, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    # 1e-12: a product of at most seven ratios.
    assert metrics.pass_at_k([responses], k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    correct = np.zeros((2, 4096))
    correct[0, 0] = 1
    # One of 4096 correct: the chance that 128 draws contain it is 128 / 4096.
    assert metrics.pass_at_k(correct, 128) == pytest.approx(128 / 4096 / 2, rel=1e-9)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_refuses_a_k_outside_the_samples(k: int) -> None:
    with pytest.raises(AttnPOError, match=f"pass@{k} needs 1 to 2"):
        metrics.pass_at_k([[1, 0]], k)


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
    assert metrics.aes(*values) == pytest.approx(expected, abs=1e-12)
    assert metrics.aes(*([v, v] for v in values)) == pytest.approx([expected] * 2, abs=1e-12)


def test_aes_needs_a_base() -> None:
    with pytest.raises(AttnPOError, match="above 0"):
        metrics.aes(0.5, 10, 0, 10)


def test_rates_and_token_means() -> None:
    assert metrics.truncation_rate(["stop", "length", "stop", "stop"]) == 0.25
    assert metrics.missing_think_end_rate([1, 0, 2, 0]) == 0.5
    assert metrics.token_means([10, 20, 60], [1, 1, 0]) == (30, 15)
    assert metrics.token_means([10, 20], [0, 0]) == (15, None)
    with pytest.raises(AttnPOError, match="None of 1"):
        metrics.truncation_rate(["stop", None])
    with pytest.raises(AttnPOError, match="differ"):
        metrics.token_means([1, 2], [1])


@pytest.mark.parametrize("bad", [[], [math.nan], [[math.inf]]])
def test_empty_and_nan_are_refused(bad: list) -> None:
    for function in (metrics.mean_estimate, metrics.missing_think_end_rate):
        with pytest.raises(AttnPOError, match="empty|NaN"):
            function(bad)
    with pytest.raises(AttnPOError, match="empty"):
        metrics.truncation_rate([])
    with pytest.raises(AttnPOError, match="empty|NaN|dimensions"):
        metrics.avg_at_k(bad)


def test_bootstrap_over_problems_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.5, size=400)
    estimate = metrics.mean_estimate(values, draws=4000, seed=1)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.value == pytest.approx(values.mean())
    # .1 of the half width: some four standard errors of a 2.5 % quantile from 4000 draws.
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_is_seeded() -> None:
    values = np.arange(20.0).reshape(2, 10)
    assert metrics.mean_estimate(values, seed=5) == metrics.mean_estimate(values, seed=5)
    assert metrics.mean_estimate(values, seed=5) != metrics.mean_estimate(values, seed=6)


def test_seeds_that_differ_widen_the_interval() -> None:
    problems = np.random.default_rng(0).random(200)
    alike = np.stack([problems] * 3)
    apart = alike + np.array([[-0.3], [0.0], [0.3]])
    narrow, wide = metrics.mean_estimate(alike), metrics.mean_estimate(apart)
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_seeds_alike_cost_nothing() -> None:
    problems = np.random.default_rng(0).random(200)
    one = metrics.mean_estimate(problems, seed=2)
    assert metrics.mean_estimate(np.stack([problems] * 3), seed=2) == pytest.approx(one)


def test_pairing_removes_the_spread_of_the_problems() -> None:
    problems = np.random.default_rng(0).normal(0, 100, size=50)
    difference = metrics.paired_difference(problems + 1.0, problems)
    assert difference == pytest.approx((1.0, 1.0, 1.0))
    several = metrics.paired_difference(np.stack([problems + 1, problems + 3]), np.stack([problems] * 4))
    assert several.value == pytest.approx(2.0)
    assert several.low == pytest.approx(1.0)
    assert several.high == pytest.approx(3.0)


def test_aes_estimate_draws_accuracy_and_tokens_together() -> None:
    base = np.stack([np.full((1, 40), 0.5), np.full((1, 40), 100.0)], axis=-1)
    # Accuracy and tokens rise together over the seeds, so that AES is .4 for each of them.
    runs = [(0.5 * (1 + gain), 100 * (0.6 + 3 * gain)) for gain in (0.0, 0.1, 0.2)]
    run = np.stack([np.full((40, 2), values) for values in runs])
    estimate = metrics.aes_estimate(run, base)
    assert estimate == pytest.approx((0.4, 0.4, 0.4))
    assert metrics.aes_estimate(base, base) == pytest.approx((0, 0, 0))


def test_undefined_draws_are_left_out_until_they_are_too_many() -> None:
    def tokens_of_correct(mean: np.ndarray) -> np.ndarray:
        return mean[..., 1] / mean[..., 0]

    one_of_ten = np.array([[[1.0, 50.0]] + [[0.0, 0.0]] * 9])
    # A draw misses the one with probability .9 ** 10 = .35.
    assert metrics.bootstrap(tokens_of_correct, one_of_ten) == pytest.approx((50, 50, 50))
    with pytest.raises(AttnPOError, match="nan on the data"):
        metrics.bootstrap(tokens_of_correct, np.zeros((1, 10, 2)))


def test_bootstrap_refuses_what_it_cannot_pair() -> None:
    with pytest.raises(AttnPOError, match=r"\(1, 3\), \(1, 4\)"):
        metrics.paired_difference([1, 2, 3], [1, 2, 3, 4])
    for options in ({"draws": 0}, {"level": 1.0}):
        with pytest.raises(AttnPOError, match="draws >= 1"):
            metrics.mean_estimate([1.0], **options)
