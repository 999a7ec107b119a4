from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import GOLDEN

from attnpo.errors import AttnPOError
from attnpo.method.advantages import rloo_advantages
from attnpo.rewards import rloo_rewards, tlmre_rewards

VECTORS = json.loads((GOLDEN / "tlmre_rewards.json").read_text())
# The golden vectors come from the same formulas in float64; only the order of the operations may differ.
TOLERANCE = 1e-9


def test_golden_vectors():
    assert len(VECTORS) == 200
    for i, v in enumerate(VECTORS):
        size = len(v["lengths"])
        rewards = tlmre_rewards(torch.tensor(v["lengths"]), torch.tensor(v["correct"]), size, v["alpha"])
        assert rewards.tolist() == pytest.approx(v["expected_reward"], abs=TOLERANCE), f"vector {i}"
        advantages = rloo_advantages(rewards, size)
        assert advantages.tolist() == pytest.approx(v["expected_rloo_advantage"], abs=TOLERANCE), f"vector {i}"


def test_golden_groups_laid_end_to_end():
    group = [v for v in VECTORS if len(v["lengths"]) == 8 and v["alpha"] == 0.2]
    assert len(group) > 2
    lengths = torch.tensor([v["lengths"] for v in group]).flatten()
    correct = torch.tensor([v["correct"] for v in group]).flatten()
    rewards = tlmre_rewards(lengths, correct, 8)
    assert rewards.tolist() == pytest.approx([r for v in group for r in v["expected_reward"]], abs=TOLERANCE)
    expected = [a for v in group for a in v["expected_rloo_advantage"]]
    assert rloo_advantages(rewards, 8).tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_by_hand():
    # Correct lengths 10 and 30: mean 20, population std 10, so z = -1 and 1; the wrong 1000 changes nothing.
    rewards = tlmre_rewards(torch.tensor([10, 1000, 30]), torch.tensor([True, False, True]), 3, alpha=0.5)
    sigmoid = 1 / (1 + math.exp(-1))
    assert rewards.tolist() == pytest.approx([1 - 0.5 * (1 - sigmoid), 0, 1 - 0.5 * sigmoid], abs=TOLERANCE)


def test_degenerate_groups():
    lengths = torch.tensor([5, 7, 9, 11])
    assert tlmre_rewards(lengths, torch.zeros(4), 4).tolist() == [0, 0, 0, 0]
    assert tlmre_rewards(lengths, torch.tensor([0, 0, 1, 0]), 4).tolist() == [0, 0, 0.9, 0]
    equal = tlmre_rewards(torch.full((4,), 16_384), torch.ones(4), 4)
    assert equal.tolist() == [0.9] * 4
    assert rloo_advantages(equal, 4).tolist() == [0] * 4


def test_no_penalty_is_plain_correctness_to_the_bit():
    correct = torch.tensor([1, 0, 1, 1, 0, 0])
    lengths = torch.arange(6)
    assert torch.equal(tlmre_rewards(lengths, correct, 3, alpha=0.0), rloo_rewards(lengths, correct, 3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rewards_that_are_not_finite_are_refused(bad):
    with pytest.raises(AttnPOError, match=f"reward {bad} at index 2"):
        rloo_advantages(torch.tensor([0.0, 1.0, bad, 0.5]), 2)


def test_groups_that_cannot_be_are_refused():
    lengths, correct = torch.tensor([1, 2, 3]), torch.tensor([1, 0, 1])
    with pytest.raises(AttnPOError, match="group_size 1"):
        rloo_advantages(torch.ones(3), 1)
    for call in (rloo_rewards, tlmre_rewards):
        with pytest.raises(AttnPOError, match="groups of 2"):
            call(lengths, correct, 2)
        with pytest.raises(AttnPOError, match="correct holds"):
            call(lengths, torch.tensor([1.0, 0.5, 0.0]), 3)
    with pytest.raises(AttnPOError, match="groups of 2"):
        rloo_advantages(torch.ones(2, 2), 2)
    with pytest.raises(AttnPOError, match="one shape"):
        tlmre_rewards(lengths[:2], correct, 3)
    for alpha in (-0.1, 1.0, float("nan")):
        with pytest.raises(AttnPOError, match="alpha"):
            tlmre_rewards(lengths, correct, 3, alpha=alpha)


groups = st.integers(2, 8).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.lists(st.tuples(st.integers(1, 16_384), st.booleans()), min_size=size, max_size=size),
    )
)


@given(groups, st.floats(0, 0.99))
def test_rewards_fall_with_length_and_stay_above_wrong_ones(group, alpha):
    size, responses = group
    lengths, correct = torch.tensor([n for n, _ in responses]), torch.tensor([c for _, c in responses])
    rewards = tlmre_rewards(lengths, correct, size, alpha).tolist()
    for (n, c), r in zip(responses, rewards, strict=True):
        assert (1 - alpha <= r <= 1) if c else r == 0
        for (other_n, other_c), other_r in zip(responses, rewards, strict=True):
            if c and other_c and n < other_n:
                assert r >= other_r


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.floats(-3, 3))
def test_advantages(rewards, shift):
    n = len(rewards)
    advantages = rloo_advantages(torch.tensor(rewards, dtype=torch.float64), n)
    # float64 rounding of sums of at most 8 numbers below 10
    assert advantages.sum().item() == pytest.approx(0, abs=1e-12)
    mean = sum(rewards) / n
    expected = [(r - mean) * n / (n - 1) for r in rewards]
    assert advantages.tolist() == pytest.approx(expected, abs=1e-12)
    assert rloo_advantages(torch.full((n,), shift, dtype=torch.float64), n).tolist() == [0] * n
