"""Rewards of whole groups to advantages (`assign`), and those to advantages of tokens (`rescale`)."""

from __future__ import annotations

import pytest
import torch

from attnpo.errors import AttnPOError
from attnpo.method.advantages import batch_whitened, centred_advantages, grpo_advantages, rloo_advantages
from attnpo.method.credit import CreditConfig, ScoredSteps, Shaped, assign, rescale, step_gammas, token_offsets
from attnpo.method.steps import Step, StepKind, TokenSteps

LENGTHS = torch.tensor([10, 20, 30, 40])
CORRECT = torch.tensor([1.0, 0.0, 1.0, 1.0])


def steps_of(step_of_token: list[int], answer: tuple[int, int]) -> TokenSteps:
    steps = [Step(i, i + 1, StepKind.FORWARD, None) for i in range(max(step_of_token) + 1)]
    return TokenSteps(step_of_token, steps, (0, answer[0] - 1), answer, "x" * len(steps))


def test_leave_one_out_in_float64() -> None:
    rewards = torch.tensor([0.9, 0.0, 0.7, 0.8], dtype=torch.float64)
    credit = assign(Shaped(rewards), LENGTHS, CORRECT, 2)
    assert credit.advantages.dtype == torch.float64
    assert credit.advantages.tolist() == pytest.approx([0.9, -0.9, -0.1, 0.1], abs=1e-15)
    assert credit.accuracy.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert credit.correct.tolist() == [True, False, True, True]
    assert credit.loss_tokens.tolist() == LENGTHS.tolist()
    assert credit.state is None


def test_equal_rewards_have_no_advantage_under_any_estimator() -> None:
    equal = torch.full((6,), 0.9, dtype=torch.float64)  # the mean of three in floating point is not .9
    for estimator in ("rloo", "grpo", "batch"):
        assert not assign(Shaped(equal), torch.arange(1, 7), torch.ones(6), 3, estimator).advantages.any()


def test_a_truncated_response_is_wrong_and_a_dropped_group_is_out_of_the_loss() -> None:
    keep = torch.tensor([True, True, False, False])
    shaped = Shaped(CORRECT.double(), keep=keep, truncate_at=torch.tensor([5, 50, 30, 40]), state={"seen": 1})
    credit = assign(shaped, LENGTHS, CORRECT, 2)
    assert credit.correct.tolist() == [False, False, True, True]
    assert credit.accuracy.tolist() == [0, 0, 1, 1]
    assert credit.truncate_at.tolist() == [5, 20, 30, 40]
    assert credit.loss_tokens.tolist() == [5, 20, 0, 0]
    assert credit.advantages.tolist() == [1, -1, 0, 0]
    assert credit.state == {"seen": 1}


def test_an_auxiliary_advantage_is_estimated_apart_weighted_and_added() -> None:
    auxiliary = torch.tensor([1.0, 4.0, 9.0, 16.0], dtype=torch.float64)
    weight = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    for estimator, estimate in (("rloo", rloo_advantages), ("grpo", grpo_advantages)):
        credit = assign(
            Shaped(CORRECT.double(), auxiliary=auxiliary, auxiliary_weight=weight), LENGTHS, CORRECT, 2, estimator
        )
        expected = estimate(CORRECT, 2) + weight * estimate(auxiliary, 2)
        assert torch.equal(credit.advantages, expected)
        unweighted = assign(Shaped(CORRECT.double(), auxiliary=auxiliary), LENGTHS, CORRECT, 2, estimator)
        assert torch.equal(unweighted.advantages, estimate(CORRECT, 2) + estimate(auxiliary, 2))


def test_whitening_counts_the_tokens_that_are_left() -> None:
    keep = torch.tensor([True, True, False, False])
    credit = assign(Shaped(CORRECT.double(), keep=keep), LENGTHS, CORRECT, 2, "batch")
    assert torch.equal(credit.advantages, batch_whitened(centred_advantages(CORRECT, 2), LENGTHS * keep))
    assert (credit.advantages * credit.loss_tokens).sum().item() == pytest.approx(0, abs=1e-12)


def test_other_rewards_are_added() -> None:
    other = torch.tensor([0.1, 0.2, 0.3, 0.4])
    credit = assign(Shaped(CORRECT.double()), LENGTHS, CORRECT, 2, other_rewards=other)
    assert torch.equal(credit.advantages, rloo_advantages(CORRECT.double() + other.double(), 2))


def test_groups_of_one_have_no_advantage() -> None:
    assert not assign(Shaped(CORRECT.double()), LENGTHS, CORRECT, 1).advantages.any()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(AttnPOError, match="estimator 'gae' is unknown"):
        assign(Shaped(CORRECT.double()), LENGTHS, CORRECT, 2, "gae")
    with pytest.raises(AttnPOError, match="reward nan at index 0"):
        assign(Shaped(CORRECT / 0 * 0), LENGTHS, CORRECT, 2)


def test_each_token_gets_the_factor_of_its_step() -> None:
    steps = steps_of([0, 0, 1, 1, 1, -1, -1, -1], (6, 8))
    scores = torch.tensor([0.9, 0.01], dtype=torch.float64)
    advantages, accuracy = torch.tensor([0.5, -0.5, 0.25], dtype=torch.float64), torch.tensor([0.5, 0.5, 1.0])
    config = CreditConfig(warmup_steps=0)
    scored = {0: ScoredSteps(steps, scores, 4), 1: ScoredSteps(steps, scores, 4)}
    rescaled = rescale(advantages, accuracy, scored, 10, 1, config)
    low = step_gammas(scores, 0.5, 0.5, 2, 12, 1, config)[1].item()
    assert 0 < low < 1
    assert rescaled.gammas[0].tolist() == [1, 1, low, low, low, 1, 1, 1, 1, 1]
    assert rescaled.gammas[1].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert rescaled.gammas[2].tolist() == [1] * 10
    assert torch.equal(rescaled.advantages, rescaled.gammas * advantages[:, None])
    assert rescaled.baselines == [0.25 * 2 / 12] * 2
    plain = rescale(advantages, accuracy, scored, 10, 1, CreditConfig(warmup_steps=0, difficulty=False))
    assert plain.baselines == [2 / 12] * 2


def test_a_step_without_tokens_is_passed_over() -> None:
    steps = TokenSteps(
        [0, 2, -1, -1], [Step(0, 1, 2, None), Step(1, 2, 2, None), Step(2, 3, 2, None)], (0, 2), (3, 4), "x"
    )
    scores = torch.tensor([0.9, torch.nan, 0.0])
    rescaled = rescale(
        torch.tensor([1.0]), torch.tensor([1.0]), {0: ScoredSteps(steps, scores, 1)}, 4, 1, CreditConfig(schedule=False)
    )
    assert rescaled.gammas.tolist() == [[1, 0, 1, 1]]


def test_rewards_of_single_tokens_are_compared_at_their_position() -> None:
    """Against the advantage of each position alone, over all positions."""
    rewards = torch.tensor([1.1, 1.1, 0.0, 1.1, 1.1, 1.1], dtype=torch.float64)
    spans = [[(3, 7, -0.05)], [(5, 9, -0.1), (0, 2, -0.2)], [], [], [], []]
    for estimator, estimate in (("rloo", rloo_advantages), ("grpo", grpo_advantages)):
        credit = assign(Shaped(rewards, spans=spans), torch.full((6,), 12), torch.ones(6), 3, estimator)
        at_tokens = credit.advantages[:, None] + token_offsets(credit.offsets, 12)
        for place in range(12):
            there = rewards.clone()
            for row, of_row in enumerate(spans):
                there[row] += sum(value for start, end, value in of_row if start <= place < end)
            assert at_tokens[:, place].tolist() == pytest.approx(estimate(there, 3).tolist(), abs=1e-12)
        assert credit.offsets[3:] == [[], [], []]
    with pytest.raises(AttnPOError, match="takes no rewards of single tokens"):
        assign(Shaped(rewards, spans=spans), torch.full((6,), 12), torch.ones(6), 3, "batch")


def test_advantages_are_held_to_the_sign_of_correctness() -> None:
    # The first group: two correct responses below the mean of a reward that pays a wrong one most.
    rewards = torch.tensor([0.9, 0.4, 0.0, 1.1, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    correct = torch.tensor([1.0, 1, 0, 0, 1, 1, 1, 1])
    lengths = torch.full((8,), 9)
    plain = assign(Shaped(rewards), lengths, correct, 4, "centred").advantages
    assert plain.tolist() == pytest.approx([0.3, -0.2, -0.6, 0.5, 0, 0, 0, 0], abs=1e-12)
    wrong = assign(Shaped(rewards, sign="wrong"), lengths, correct, 4, "centred").advantages
    assert wrong.tolist() == pytest.approx([0.3, -0.2, -0.6, 0, 0, 0, 0, 0], abs=1e-12)
    both = assign(Shaped(rewards, sign="both"), lengths, correct, 4, "centred").advantages
    assert both.tolist() == pytest.approx([0.3, 0.3, -0.6, 0, 0, 0, 0, 0], abs=1e-12)
    # No correct response has a positive advantage: there is nothing to raise the others to.
    nobody = assign(Shaped(rewards[:4], sign="both"), lengths[:4], torch.tensor([0.0, 1, 0, 0]), 4, "centred")
    assert nobody.advantages.tolist() == pytest.approx([0, -0.2, -0.6, 0], abs=1e-12)
    # A response that is cut is wrong.
    cut = Shaped(rewards, sign="wrong", truncate_at=torch.tensor([5] + [9] * 7))
    assert assign(cut, lengths, correct, 4, "centred").advantages[0] == 0


def test_a_range_keeps_a_share_of_the_advantage_that_its_response_ends_up_with() -> None:
    rewards, keep = torch.tensor([1.0, 0, 1, 0], dtype=torch.float64), torch.tensor([True, True, False, False])
    factors = [[(2, 4, 0.25)], [(0, 1, 0.5)], [(1, 3, 0.5)], []]
    credit = assign(Shaped(rewards, factors=factors, keep=keep, sign="wrong"), LENGTHS, torch.ones(4), 2)
    at_tokens = credit.advantages[:, None] + token_offsets(credit.offsets, 5)
    assert at_tokens.tolist() == [[1, 1, 0.25, 0.25, 1], [-0.5, -1, -1, -1, -1], [0] * 5, [0] * 5]


def test_dropped_groups_have_no_offsets() -> None:
    rewards, keep = torch.ones(4, dtype=torch.float64), torch.tensor([False, False, True, True])
    spans = [[(0, 2, -0.5)], [], [(0, 2, -0.5)], []]
    credit = assign(Shaped(rewards, spans=spans, keep=keep), LENGTHS, torch.ones(4), 2)
    assert credit.offsets == [[], [], [(0, 2, -0.5)], [(0, 2, 0.5)]]


def test_offsets_are_rescaled_with_the_advantage() -> None:
    steps = steps_of([0, 0, 1, -1, -1, -1], (4, 6))
    scored = {0: ScoredSteps(steps, torch.tensor([0.0, 1.0]), 4)}
    offsets = token_offsets([[(1, 5, -0.25)]], 6)
    config = CreditConfig(schedule=False)
    found = rescale(torch.tensor([1.0]), torch.tensor([1.0]), scored, 6, 1, config, offsets)
    assert found.gammas[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert found.advantages[0].tolist() == [0, 0, 0.75, 0.75, 0.75, 1]


def test_length_acts_on_redundant_steps_alone_where_that_is_chosen() -> None:
    """Group: two correct, one wrong. RLOO of correctness: .5, .5, -1; of the rewards .9, .6, 0: .6, .15, -.75."""
    rewards, correct = torch.tensor([0.9, 0.6, 0.0], dtype=torch.float64), torch.tensor([1.0, 1.0, 0.0])
    credit = assign(Shaped(rewards), torch.tensor([6, 6, 6]), correct, 3)
    assert credit.of_correctness.tolist() == pytest.approx([0.5, 0.5, -1.0])
    steps = steps_of([0, 0, 1, 1, -1, -1], (5, 6))
    # S_base = 1 / 8 without the difficulty term: the first step is above it, the second at half of it.
    scored = {row: ScoredSteps(steps, torch.tensor([0.5, 0.0625]), 2) for row in (0, 1)}
    config = CreditConfig(length_credit="redundant", difficulty=False, warmup_steps=0)
    found = rescale(credit.advantages, credit.accuracy, scored, 6, 1, config, of_correctness=credit.of_correctness)
    assert found.advantages[0].tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3, 0.5, 0.5])
    assert found.advantages[1].tolist() == pytest.approx([0.5, 0.5, 0.075, 0.075, 0.5, 0.5])
    assert found.advantages[2].tolist() == pytest.approx([-1.0] * 6)
    assert found.gammas[0].tolist() == pytest.approx([1, 1, 0.5, 0.5, 1, 1])
    lower = torch.tensor([0.6, -0.15, -0.75], dtype=torch.float64)  # a redundant step is punished whole
    punished = rescale(lower, credit.accuracy, scored, 6, 1, config, of_correctness=credit.of_correctness)
    assert punished.advantages[1].tolist() == pytest.approx([0.5, 0.5, -0.15, -0.15, 0.5, 0.5])
    with pytest.raises(AttnPOError, match="needs of_correctness"):
        rescale(credit.advantages, credit.accuracy, scored, 6, 1, config)


def test_returns_are_whitened_over_the_tokens_of_the_batch() -> None:
    """Against the mean and the sample standard deviation of all tokens' returns."""
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    spans = [[(0, 3, 0.5), (0, 5, -0.25)], [], [(2, 9, 0.125)], []]
    lengths, keep = torch.tensor([6, 4, 9, 5]), torch.tensor([True, True, True, True])
    truncate = torch.tensor([6, 4, 4, 5])
    credit = assign(Shaped(rewards, spans=spans, keep=keep, truncate_at=truncate), lengths, rewards, 2, "reinforce_pp")
    at_tokens = credit.advantages[:, None] + token_offsets(credit.offsets, 9)
    plain = rewards[:, None] + token_offsets(spans, 9)
    inside = torch.arange(9) < truncate[:, None]
    expected = (plain - plain[inside].mean()) / plain[inside].std()
    torch.testing.assert_close(at_tokens[inside], expected[inside], rtol=1e-7, atol=0)
    dropped = assign(
        Shaped(rewards, spans=spans, keep=torch.tensor([1, 1, 0, 0]) > 0), lengths, rewards, 2, "reinforce_pp"
    )
    assert dropped.advantages[2:].tolist() == [0, 0] and dropped.offsets[2:] == [[], []]
    equal = assign(Shaped(rewards * 0 + 0.9), lengths, rewards, 2, "reinforce_pp")
    assert not equal.advantages.any()
    assert not assign(Shaped(rewards), lengths, rewards, 1, "reinforce_pp").advantages.any()


def test_returns_are_discounted_from_the_token_that_earns() -> None:
    # Half a token earlier: a response of 3 tokens earns 1 at its last one, and .8 at its second.
    rewards, lengths = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([3, 2])
    shaped = Shaped(rewards, spans=[[(0, 2, 0.8)], []], discount=0.5)
    credit = assign(shaped, lengths, rewards, 2, "reinforce_pp")
    at_tokens = credit.advantages[:, None] + token_offsets(credit.offsets, 3)
    plain = torch.tensor([0.25 + 0.4, 0.5 + 0.8, 1, 0, 0], dtype=torch.float64)
    expected = (plain - plain.mean()) / plain.std()
    torch.testing.assert_close(torch.cat([at_tokens[0], at_tokens[1, :2]]), expected, rtol=1e-7, atol=0)
    # What a range earns may stand behind the tokens that are left: they have less of it, the farther it is.
    cut = Shaped(rewards, spans=[[(0, 3, 0.8)], []], discount=0.5, truncate_at=torch.tensor([2, 2]))
    credit = assign(cut, lengths, rewards, 2, "reinforce_pp")
    at_tokens = credit.advantages[:, None] + token_offsets(credit.offsets, 2)
    plain = torch.tensor([0.5 + 0.2, 1 + 0.4, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(at_tokens.flatten(), (plain - plain.mean()) / plain.std(), rtol=1e-7, atol=0)
    with pytest.raises(AttnPOError, match="estimator 'rloo' has no returns to discount"):
        assign(shaped, lengths, rewards, 2)
