from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpo.errors import AttnPOError
from attnpo.method.ranking import (
    ensemble_ranking_accuracy,
    greedy_rows,
    ranking_difference,
    step_ranking_accuracy,
)


def test_pairs_are_counted_by_hand():
    scores = [torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 0.0]]), torch.tensor([[5.0, 1.0], [1.0, 5.0]])]
    labels = [torch.tensor([True, False, False]), torch.tensor([False, True])]
    result = step_ranking_accuracy(scores, labels)
    # Head 0: 3>1, 3>2, 1<5. Head 1: 0<1, a tie, 5>1.
    torch.testing.assert_close(result.sra, torch.tensor([2 / 3, 1.5 / 3], dtype=torch.float64))
    assert (result.n_pairs, result.n_responses) == (3, 2)


@given(st.integers(0, 10_000))
def test_equals_the_definition(seed):
    generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
    sizes = [chance.randint(1, 6) for _ in range(4)]
    scores = [torch.randint(4, (2, k), generator=generator).float() for k in sizes]  # few values, so many ties
    labels = [torch.rand(k, generator=generator) < 0.5 for k in sizes]
    won, pairs = [0.0, 0.0], 0
    for score, label in zip(scores, labels, strict=True):
        for i in label.nonzero()[:, 0].tolist():
            for j in (~label).nonzero()[:, 0].tolist():
                pairs += 1
                for head in range(2):
                    won[head] += (
                        1.0 if score[head, i] > score[head, j] else 0.5 * float(score[head, i] == score[head, j])
                    )
    if not pairs:
        with pytest.raises(AttnPOError, match="no response of 4 has both"):
            step_ranking_accuracy(scores, labels, n_resamples=10)
        return
    result = step_ranking_accuracy(scores, labels, n_resamples=10)
    assert result.n_pairs == pairs
    torch.testing.assert_close(result.sra, torch.tensor(won, dtype=torch.float64) / pairs)
    flipped = step_ranking_accuracy(scores, [~label for label in labels], n_resamples=10)
    torch.testing.assert_close(flipped.sra, 1 - result.sra)


def simulated(n_responses, seed, skill=0.7):
    """A head whose scores of essential steps are shifted upwards, and a blind one; 3 + 3 steps a response."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.tensor([True, False] * 3)
    scores = torch.randn(n_responses, 2, 6, generator=generator)
    scores[:, 0] += skill * label
    return list(scores), [label] * n_responses


def test_bootstrap_interval_is_seeded_ordered_and_narrows():
    scores, labels = simulated(200, 0)
    result = step_ranking_accuracy(scores, labels, seed=5)
    again = step_ranking_accuracy(scores, labels, seed=5)
    assert torch.equal(result.low, again.low) and torch.equal(result.high, again.high)
    assert not torch.equal(result.low, step_ranking_accuracy(scores, labels, seed=6).low)
    assert (result.low < result.sra).all() and (result.sra < result.high).all()
    few = step_ranking_accuracy(scores[:20], labels[:20])
    assert (few.high - few.low > result.high - result.low).all()
    assert result.low[0] > 0.6 and result.low[1] < 0.5 < result.high[1]


def test_bootstrap_interval_covers_the_truth():
    # P(essential > redundant) for unit normals shifted by s is Phi(s / sqrt 2); for 0.7: 0.6897.
    truth = 0.5 * (1 + torch.erf(torch.tensor(0.7 / 2)).item())
    hits = 0
    for seed in range(100):
        result = step_ranking_accuracy(*simulated(60, seed), n_resamples=300)
        hits += int(result.low[0] <= truth <= result.high[0])
    assert 86 <= hits <= 100  # 95 expected; 86 is four standard errors below


def test_perfect_head_has_no_spread():
    result = step_ranking_accuracy([torch.tensor([[2.0, 1.0]])] * 3, [torch.tensor([True, False])] * 3)
    assert result.sra.item() == result.low.item() == result.high.item() == 1


def test_steps_without_tokens_are_left_out():
    nan = torch.nan
    label = torch.tensor([True, False, False])
    result = step_ranking_accuracy([torch.tensor([[2.0, nan, 1.0], [1.0, nan, 2.0]])], [label])
    assert result.n_pairs == 1 and result.sra.tolist() == [1, 0]
    with pytest.raises(AttnPOError, match=r"response 0: .*NaN for some heads"):
        step_ranking_accuracy([torch.tensor([[2.0, nan, 1.0], [1.0, 1.0, 2.0]])], [label])


def test_ensemble_is_the_sra_of_the_mean():
    scores = [torch.tensor([[3.0, 1.0], [0.0, 1.0], [0.0, 9.0]])]
    labels = [torch.tensor([True, False])]
    assert ensemble_ranking_accuracy(scores, labels, [0, 1]).sra.tolist() == [1]
    assert ensemble_ranking_accuracy(scores, labels, [0, 2]).sra.tolist() == [0]
    for rows in ([], [3], [-1]):
        with pytest.raises(AttnPOError, match="from 0 to 2"):
            ensemble_ranking_accuracy(scores, labels, rows)


def test_the_greedy_order_takes_the_head_that_helps_the_mean_most():
    # Head 0 is the best alone; 1 errs where 0 does; 2 is worse than 1, but right where 0 errs.
    scores = [
        torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[0.0, 1.0], [0.0, 1.0], [4.0, 0.0]]),
    ]
    labels = [torch.tensor([True, False])] * 3
    assert step_ranking_accuracy(scores, labels).sra.argsort(descending=True, stable=True).tolist() == [0, 1, 2]
    assert greedy_rows(scores, labels, 3) == [0, 2, 1]
    assert ensemble_ranking_accuracy(scores, labels, [0, 2]).sra.item() == 1
    assert ensemble_ranking_accuracy(scores, labels, [0, 1]).sra.item() == pytest.approx(2 / 3)
    with pytest.raises(AttnPOError, match="4 heads: give 1 to 3"):
        greedy_rows(scores, labels, 4)
    with pytest.raises(AttnPOError, match="no response of 1"):
        greedy_rows(scores[:1], [torch.tensor([True, True])], 1)


def test_averaging_heads_with_independent_noise_ranks_better():
    generator = torch.Generator().manual_seed(0)
    label = torch.tensor([True, False] * 3)
    scores = list(torch.randn(300, 3, 6, generator=generator) + label)
    labels = [label] * 300
    single = step_ranking_accuracy(scores, labels).high.max()
    assert ensemble_ranking_accuracy(scores, labels, [0, 1, 2]).low.item() > single


def test_bad_input_is_named():
    score, label = torch.zeros(2, 3), torch.tensor([True, False, True])
    with pytest.raises(AttnPOError, match="1 responses with scores, 2 with labels"):
        step_ranking_accuracy([score], [label, label])
    with pytest.raises(AttnPOError, match=r"response 1: labels \(2,\) do not fit"):
        step_ranking_accuracy([score, score], [label, label[:2]])
    with pytest.raises(AttnPOError, match="confidence 95"):
        step_ranking_accuracy([score], [label], confidence=95)


def test_a_difference_is_over_the_same_responses() -> None:
    """Head 0 ranks rightly what head 1 does, and in every other response one pair of two more."""
    scores, labels = [], []
    for n in range(20):
        right = torch.tensor([3.0, 1.0, 2.0])
        scores.append(torch.stack([right, right if n % 2 else torch.tensor([3.0, 4.0, 2.0])]))
        labels.append(torch.tensor([True, False, False]))
    value, low, high = ranking_difference(scores, labels, [0], [1], n_resamples=400)
    apart = [step_ranking_accuracy([score[[row]] for score in scores], labels) for row in (0, 1)]
    assert value == pytest.approx(apart[0].sra.item() - apart[1].sra.item()) == pytest.approx(0.25)
    assert 0.12 < low < value < high < 0.38  # half of the responses differ, by a half: a binomial of 20
    assert ranking_difference(scores, labels, [0, 1], [1, 0]) == (0, 0, 0)
    assert ranking_difference(scores, labels, [1], [0], n_resamples=400)[0] == -value
