"""Every length reward against values worked out by hand, and what must hold for all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from small_rewards import SMALL

from attnpo.errors import AttnPOError
from attnpo.method.advantages import ESTIMATORS, batch_whitened, grpo_advantages
from attnpo.rewards import REWARDS, Context, Shaped, check_reward, context_fields, shape_rewards
from attnpo.rewards.adaptive_target import smallest_target
from attnpo.rewards.reflections import count_reflections
from attnpo.rewards.repetition import repeats_itself
from attnpo.rewards.vsrm import split_points, step_rewards, vsrm_rewards

# Formulas in float64: only the order of the operations may differ from the hand's.
TOLERANCE = 1e-12


def shaped(name: str, lengths: list[int], correct: list[int], size: int | None = None, **kwargs: Any) -> Shaped:
    """The reward on whole groups; fields of the context go by name beside the arguments."""
    context = {key: kwargs.pop(key) for key in list(kwargs) if key in Context.__dataclass_fields__}
    size = size or len(lengths)
    return shape_rewards(name, torch.tensor(lengths), torch.tensor(correct), size, kwargs, Context(**context))


def rewards(name: str, *args: Any, **kwargs: Any) -> Any:
    return pytest.approx(shaped(name, *args, **kwargs).rewards.tolist(), abs=TOLERANCE)


def test_rloo_and_grpo_are_correctness() -> None:
    for name in ("rloo", "grpo"):
        assert rewards(name, [5, 9], [1, 0]) == [1, 0]
    assert (REWARDS["rloo"].estimator, REWARDS["grpo"].estimator) == ("rloo", "grpo")


def test_kimi() -> None:
    # min 100, max 300: lambda = .5, 0, -.5, .25; wrong ones take min(0, lambda). Weight .4.
    # correct 100: 1 + .4 * .5; wrong 200: 0; wrong 300: .4 * -.5; correct 150: 1 + .4 * .25
    assert rewards("kimi", [100, 200, 300, 150], [1, 0, 0, 1]) == [1.2, 0, -0.2, 1.1]
    assert rewards("kimi", [7, 7], [1, 0]) == [1, 0]  # equal lengths: no bonus


def test_thinkprune_tightens_in_equal_parts_and_cuts() -> None:
    # 6 steps, limits 30, 20, 10: steps 1-2, 3-4, 5-6. Lengths 10, 15, 25, 35, all correct.
    by_step = {
        step: shaped(
            "thinkprune", [10, 15, 25, 35], [1, 1, 1, 1], limits=[30, 20, 10], step=step, total_steps=6
        ).rewards.tolist()
        for step in range(1, 8)
    }
    assert by_step[1] == by_step[2] == [1, 1, 1, 0]
    assert by_step[3] == by_step[4] == [1, 1, 0, 0]
    assert by_step[5] == by_step[6] == by_step[7] == [1, 0, 0, 0]
    first = shaped("thinkprune", [10, 40], [0, 1], limits=[30])
    assert first.rewards.tolist() == [0, 0]
    assert first.truncate_at is not None and first.truncate_at.tolist() == [30, 30]
    assert first.keep is None
    with pytest.raises(AttnPOError, match=r"limits \[3, 3\]: give at least one, each below"):
        shaped("thinkprune", [1, 2], [1, 1], limits=[3, 3])


def test_l1() -> None:
    asked = torch.tensor([100.0, 100.0, 100.0, 100.0])
    # exact, alpha .01: 1 - .01 * |100 - 80| = .8; wrong: -.01 * 50 = -.5; 1; 1 - .01 * 200 = -1
    assert rewards("l1_exact", [80, 150, 100, 300], [1, 0, 1, 1], alpha=0.01, target_length=asked) == [
        0.8,
        -0.5,
        1,
        -1,
    ]
    # max, alpha .01, delta .5: .01 * 20 + .5 = .7; wrong 0; .5; .01 * -200 + .5 < 0
    assert rewards("l1_max", [80, 150, 100, 300], [1, 0, 1, 1], alpha=0.01, target_length=asked) == [0.7, 0, 0.5, 0]
    # a budget of 1000 tokens left is clipped at 1
    assert rewards("l1_max", [80, 80], [1, 0], alpha=0.01, target_length=torch.tensor([1000, 1000])) == [1, 0]
    for name in ("l1_exact", "l1_max"):
        with pytest.raises(AttnPOError, match="give the method a `target_length` section"):
            shaped(name, [1, 2], [1, 0])


def test_laser() -> None:
    # target 100: 1 + .5, exactly at it too; past it 1; wrong -.5
    assert rewards("laser", [100, 101, 5, 500], [1, 1, 0, 0], target=100) == [1.5, 1, -0.5, -0.5]
    assert rewards("laser", [100, 101, 5, 500], [1, 1, 0, 0], target=100, wrong=0.0, bonus=0.2) == [1.2, 1, 0, 0]


def test_laser_d_chooses_the_smallest_length_with_one_correct_response_expected() -> None:
    ladder = [50, 100, 150, 200]
    # Easy, G = 8: floor(16 / 3) = 5 correct at least; floor(5 * share) >= 1 needs a share of .2: 2 of these 10.
    seen = [40, 90, 120, 130, 140, 150, 160, 170, 180, 190]
    assert smallest_target(2, seen, ladder, 8) == 100
    # Medium: floor(8 / 3) = 2, share .5: 40, 90, 120, 130, 140 are within 150 (and 150 itself).
    assert smallest_target(1, seen, ladder, 8) == 150
    # Hard: 1, share 1: all of them.
    assert smallest_target(0, seen, ladder, 8) == 200
    assert smallest_target(0, [*seen, 500], ladder, 8) == 200  # none reaches it: the longest
    assert smallest_target(2, [], ladder, 8) == 200


def test_laser_d_rechooses_and_carries_its_state() -> None:
    ladder = {"lower": 50, "upper": 200, "interval": 50, "every": 2}
    # Two groups of 3: 2 of 3 correct is easy (>= 2/3), 1 of 3 medium (>= 1/3).
    lengths, correct = [40, 120, 160, 90, 60, 180], [1, 1, 0, 0, 0, 1]
    first = shaped("laser_d", lengths, correct, 3, step=1, **ladder)
    # Targets start at upper, 200: every correct one gets the bonus.
    assert first.rewards.tolist() == [1.5, 1.5, -0.5, -0.5, -0.5, 1.5]
    assert first.state == {"targets": [200.0] * 3, "seen": [[], [90, 60, 180], [40, 120, 160]], "chosen_at": 0}
    second = shaped("laser_d", lengths, correct, 3, step=2, state=first.state, **ladder)
    assert second.state is not None and second.state["seen"][1] == [90, 60, 180] * 2
    third = shaped("laser_d", lengths, correct, 3, step=3, state=second.state, **ladder)
    # Easy: floor(2 * share) >= 1 needs .5; within 50: 1/3, 100: 1/3, 150: 2/3 -> 150.
    # Medium: floor(1 * share) >= 1 needs all: 60, 90, 180 -> 200. Hard: nothing seen -> 200.
    assert third.state is not None and third.state["targets"] == [200.0, 200.0, 150.0]
    assert third.state["seen"] == first.state["seen"] and third.state["chosen_at"] == 2
    assert third.rewards.tolist() == [1.5, 1.5, -0.5, -0.5, -0.5, 1.5]
    fourth = shaped("laser_d", [151, 150, 1], [1, 1, 0], step=4, state=third.state, **ladder)
    assert fourth.rewards.tolist() == [1, 1.5, -0.5]
    assert first.state["seen"][2] == [40, 120, 160]  # a state given in is not changed


def test_laser_de_lets_wrong_responses_explore_unless_they_repeat() -> None:
    ladder = {"lower": 50, "upper": 100, "interval": 50}
    repeats = torch.tensor([False, False, True, False])
    # Target 100 at first: correct within 1.5; wrong within -.5; wrong past it 0, but -.5 if it repeats; correct past 1
    found = rewards("laser_de", [90, 120, 120, 120], [1, 0, 0, 1], repeats=repeats, **ladder)
    assert found == [1.5, 0, -0.5, 1]
    assert rewards("laser_de", [90, 80, 80, 90], [1, 0, 0, 1], repeats=repeats, **ladder) == [1.5, -0.5, -0.5, 1.5]
    with pytest.raises(AttnPOError, match="needs `repeats`"):
        shaped("laser_de", [1], [1])


def test_arlcp_weighs_reflections_the_more_the_more_there_are() -> None:
    # Correct: L 100, 200, 300 has z -1.224745, 0, 1.224745 with population std 81.6497; R 5, 3, 1 the other way round.
    # w1 of R 5, 3, 1 is .15, .1, .05; sigmoid(1.224745) is .772897. 1 - .15 * .772897 - .05 * .227103 = .872710.
    counts = torch.tensor([5, 3, 1, 0])
    found = shaped("arlcp", [100, 200, 300, 50], [1, 1, 1, 0], few=2, many=4, reflections=counts)
    assert found.rewards.tolist() == pytest.approx([0.872710, 0.9, 0.872710, 0], abs=1e-6)
    # At the bounds the smaller weight holds: R 2, 4 has w1 .05, .1, and z -1, 1. L 10, 30: z -1, 1; sigmoid(1) .731059.
    counts = torch.tensor([2, 4])
    found = shaped("arlcp", [10, 30], [1, 1], few=2, many=4, reflections=counts)
    assert found.rewards.tolist() == pytest.approx([1 - 0.2 * 0.268941, 1 - 0.2 * 0.731059], abs=1e-6)
    # A lone correct response loses half of alpha, whatever its length, and a wrong one has nothing to lose.
    assert rewards("arlcp", [10, 999], [1, 0], reflections=torch.tensor([99, 99])) == [0.9, 0]
    with pytest.raises(AttnPOError, match="needs `reflections`"):
        shaped("arlcp", [1], [1])
    for wrong in ({"alpha": 1.0}, {"alpha": -0.1}, {"few": -1}, {"many": 39}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            rewards("arlcp", [1], [1], reflections=torch.tensor([1]), **wrong)


def test_reflections_are_whole_words_in_any_case() -> None:
    assert count_reflections("Wait, hold on. HMM, let me double-check: but however I check it, oh") == 8
    assert count_reflections("awaiting checked butter ohm verified alternatives") == 0
    assert count_reflections("think again about another thought; alternatively, verify an alternative") == 5
    assert count_reflections("") == 0


def test_decs_takes_from_what_stands_behind_the_first_answer() -> None:
    # max_length 200: 1 + .1 * (1 - 100 / 200) is 1.05, .05 below 1.1, for tokens 30 to 69; no redundant thinking in the
    # second, no answer in the thinking of the third, the fourth is wrong.
    prefixes = torch.tensor([[30, 70, 1, 4], [50, 50, 3, 3], [0, 40, 0, 2], [10, 40, 1, 5]])
    found = shaped("decs", [100, 80, 60, 300], [1, 1, 1, 0], necessary=prefixes, max_length=200)
    assert found.rewards.tolist() == pytest.approx([1.1, 1.1, 1.1, 0])
    assert found.spans == [[(30, 70, pytest.approx(-0.05))], [], [], []]
    # Longer than max_length counts as max_length: 1, .1 below.
    (span,), _ = shaped("decs", [999, 1], [1, 1], necessary=prefixes[:2], max_length=200).spans or []
    assert span == (30, 70, pytest.approx(-0.1))


def test_decs_drops_groups_by_its_curriculum() -> None:
    prefixes = torch.tensor([[1, 2, 1, 2]] * 12)
    correct = [1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1]  # groups of two: mixed, wrong, solved, mixed, solved, solved
    first = shaped("decs", [10] * 12, correct, 2, necessary=prefixes)
    assert first.keep is not None and first.keep.tolist() == [c in (0, 3) for c in range(6) for _ in range(2)]
    assert first.state == {"share": 0.0, "ratio": 0.5}
    # Two mixed groups and a share of .5 let int(.5 * 2 / .5) = 2 solved ones in, the first two of three.
    later = shaped("decs", [10] * 12, correct, 2, necessary=prefixes, state={"share": 0.5, "ratio": 0.25})
    assert later.keep is not None and later.keep.tolist() == [c in (0, 2, 3, 4) for c in range(6) for _ in range(2)]
    assert later.state == {"share": pytest.approx(0.5 + 0.2 * (0.5 - 0.25)), "ratio": 0.5}
    back = shaped("decs", [10] * 12, correct, 2, necessary=prefixes, state={"share": 0.01, "ratio": 0.9})
    assert back.state == {"share": 0.0, "ratio": 0.5}
    none = shaped("decs", [10] * 2, [0, 0], 2, necessary=prefixes[:2], state={"share": 0.3, "ratio": 0.9})
    assert none.state == {"share": 0.3, "ratio": 0.9}
    still = shaped("decs", [10] * 12, correct, 2, necessary=prefixes, training=False)
    assert still.keep is None and still.state is None
    with pytest.raises(AttnPOError, match="needs `necessary`"):
        shaped("decs", [1], [1])
    for wrong in ({"high": 1.05}, {"low": -1}, {"slope": -0.1}, {"pace": -1}, {"max_length": 0}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            shaped("decs", [1], [1], necessary=prefixes[:1], **wrong)


def test_lc_r1_crops_and_rewards_ending_in_time() -> None:
    # L' of the first is 100 - (70 - 30) = 60; of the second 80; the third never states the answer: 50; longest 80.
    sentences = torch.tensor([[30, 70, 1], [60, 60, 1], [0, 40, 1], [10, 40, 1], [0, 90, 0]])
    lengths, correct = [100, 80, 50, 40, 90], [1, 1, 1, 0, 0]
    found = shaped("lc_r1", lengths, correct, sentence=sentences)
    share = 80 + 1e-4
    expected = [3 - 60 / share, 3 - 80 / share, 3 - 50 / share, 1, 0]
    assert found.rewards.tolist() == pytest.approx(expected, abs=1e-9)
    assert found.crops is not None
    assert found.crops.tolist() == [[30, 70], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert found.bonus == [[(70, 71, pytest.approx(1 - 30 / 70))], [], [(40, 41, -1)], [], []]
    group = shaped("lc_r1", lengths, correct, sentence=sentences, who="group", alpha=0.5, gamma=2.0)
    expected = [2 + 0.5 * (1 - 60 / share), 2.5 - 40 / share, 2.5 - 25 / share, 1.5 - 20 / share, 0.5 - 45 / share]
    assert group.rewards.tolist() == pytest.approx(expected, abs=1e-9)
    assert group.bonus is not None and group.bonus[2] == [(40, 41, -2)]
    nobody = shaped("lc_r1", [9, 9], [0, 0], sentence=sentences[:2], who="group")
    assert nobody.rewards.tolist() == [1, 1]
    still = shaped("lc_r1", lengths, correct, sentence=sentences, training=False)
    assert still.crops is None and still.bonus is None and still.rewards.tolist() == found.rewards.tolist()
    with pytest.raises(AttnPOError, match="needs `sentence`"):
        shaped("lc_r1", [1], [1])
    for wrong in ({"alpha": -1}, {"gamma": -1}, {"who": "all"}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            shaped("lc_r1", [1], [1], sentence=sentences[:1], **wrong)


def test_depo_rewards_short_correct_responses_and_lowers_what_is_left_of_the_advantage_in_the_tail() -> None:
    # Correct lengths 10, 20, 30: mean 20, std sqrt(200 / 3), z = -sqrt(1.5), 0, sqrt(1.5); three of them are correct.
    tails = torch.tensor([[3, 8, 2], [0, 9, 0], [4, 20, 0], [2, 9, 5]])
    found = shaped("depo", [10, 20, 30, 40], [1, 1, 1, 0], tail=tails)
    weight = 0.2 * (1 - math.exp(-0.2 * 3)) * math.sqrt(1.5)
    assert found.rewards.tolist() == pytest.approx([1 + weight, 1, 1 - weight, 0], abs=1e-6)
    # Only the first is correct, has a tail and turns around in it, twice.
    assert found.factors == [[(3, 8, pytest.approx(1 - 0.5 * (1 - math.exp(-1))))], [], [], []]
    assert found.sign == "both"
    assert shaped("depo", [10, 20], [1, 0], tail=tails[:2], clip="members").sign == "wrong"
    # One of max_length is overlong, right or wrong.
    assert shaped("depo", [10, 20, 30], [1, 1, 0], tail=tails[:3], max_length=20).rewards[1:].tolist() == [-1, -1]
    still = shaped("depo", [10, 20, 30, 40], [1, 1, 1, 0], tail=tails, training=False)
    assert (still.sign, still.factors) == (None, None) and torch.equal(still.rewards, found.rewards)
    with pytest.raises(AttnPOError, match="needs `tail`"):
        shaped("depo", [1], [1])
    for wrong in ({"alpha": 1}, {"beta": -1}, {"beta": 1.5}, {"clip": "all"}, {"max_length": 0}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            shaped("depo", [1], [1], tail=tails[:1], **wrong)


def test_adaptthink_compares_with_the_untrained_model_and_pays_for_not_thinking() -> None:
    form = torch.tensor([[1, 1], [0, 1], [1, 1], [0, 0]])
    reference = torch.tensor([0.5, 0.5, 0.25, 1.0])
    found = rewards("adaptthink", [9] * 4, [1, 1, 0, 0], form=form, reference=reference)
    assert found == [0.5, 0.55, -0.25, -0.95]
    assert rewards("adaptthink", [9], [1], form=form[1:2], reference=reference[:1], delta=0) == [0.5]
    # They are the advantages.
    plain = torch.tensor([0.5, 0.55, -0.25, -0.95], dtype=torch.float64)
    assert torch.equal(ESTIMATORS[REWARDS["adaptthink"].estimator](plain, 2), plain)
    for wrong in ({"delta": -0.1}, {"reference": None}, {"reference": torch.tensor([1.5])}, {"form": None}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            shaped("adaptthink", [1], [1], **{"form": form[:1], "reference": reference[:1]} | wrong)


def test_vsrm_pays_steps_that_change_the_accuracy_of_the_answer() -> None:
    # .2 -> .2 -> .2 -> .8 -> .6: nothing for two steps, whose next change is 2 and 1 steps away, then +.6 and -.2.
    assert step_rewards([0.2, 0.2, 0.2, 0.8, 0.6], 0.7, 4) == pytest.approx([0.6 * 0.49, 0.6 * 0.7, 0.6, -0.2])
    assert step_rewards([0.2, 0.2, 0.2, 0.8], 0.7, 1) == pytest.approx([0, 0.6 * 0.7, 0.6])
    assert step_rewards([0.5], 0.7, 4) == step_rewards([], 0.7, 4) == []
    none = math.nan
    prefixes = torch.tensor(
        [[[3, 0.0], [7, 0.5], [12, 0.5]], [[4, 1.0], [9, 1.0], [none, none]], [[5, 0.0], [none, none], [none, none]]]
    )
    lengths, correct = torch.tensor([20, 15, 9]), torch.tensor([1, 1, 0])
    found = vsrm_rewards(lengths, correct, 3, prefixes=prefixes)
    assert found.rewards.tolist() == [1, 1, 0]
    # The reward of step 1 stands at token 3, that of step 2 (nothing changes any more) is none.
    assert found.spans == [[(0, 4, pytest.approx(0.5))], [], []]
    assert vsrm_rewards(lengths, correct, 3, prefixes=prefixes, training=False).spans is None
    # At the end of step 1, which is token 6, the step is credited too.
    found = vsrm_rewards(lengths, correct, 3, at="end", discount=0.5, prefixes=prefixes)
    assert found.spans == [[(0, 7, pytest.approx(0.5))], [], []]
    assert found.discount == 0.5
    for wrong in ({"decay": -1}, {"lookahead": -1}, {"discount": 0}, {"discount": 1.5}, {"at": "middle"}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            shaped("vsrm", [1], [1], prefixes=prefixes[:1], **wrong)
    with pytest.raises(AttnPOError, match="needs `prefixes`"):
        vsrm_rewards(lengths, correct, 3)


def test_vsrm_splits_before_the_sentences_with_triggers() -> None:
    text = "So one. Two but three! Four, hold\nOn we go? attributes, HOWEVER. Hold on. Done."
    # `So` has no sentence before it; `but` splits behind `one.`, `HOWEVER` and the `but` of a word behind `go?`.
    assert split_points(text, 0, 0) == [0, 7, 43, 64]
    assert [text[at:][:4] for at in split_points(text, 0, 0)] == ["So o", " Two", " att", " Hol"]
    assert split_points(text, 8, 0) == [43, 64]  # none before character 8
    assert split_points(text, 7, 30) == [7, 43]  # 64 is 21 behind 43
    assert split_points(text, 7, 36) == [7, 43] and split_points(text, 7, 37) == [7, 64]
    assert split_points("a wait", 1, 0) == split_points("", 0, 0) == split_points("Nothing. Here.", 0, 0) == []
    for wrong in ({"first": -1}, {"apart": -1}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            check_reward("vsrm", wrong, 4)
    check_reward("vsrm", {"first": 3, "apart": 4, "decay": 0.5}, 4)


def test_s_grpo_halves_the_reward_of_each_further_right_answer() -> None:
    assert rewards("s_grpo", [1, 2, 3, 4, 5], [0, 1, 1, 0, 1]) == [0, 1, 0.5, 0, 0.25]
    assert rewards("s_grpo", [1, 2, 3, 4], [1, 0, 0, 1], 2) == [1, 0, 0, 1]
    assert rewards("s_grpo", [1, 2], [1, 1], training=False) == [1, 1]
    assert REWARDS["s_grpo"].estimator == "centred" and REWARDS["s_grpo"].exits


def test_autothink_pays_for_answers_without_thinking() -> None:
    # thinking: right, wrong; not thinking: right, wrong; then no answer, whichever way.
    form = torch.tensor([[1, 1], [1, 1], [0, 1], [0, 1], [1, 0], [0, 0]])
    plain = {"stages": [{"steps": 1}]}
    assert rewards("autothink", [9] * 6, [1, 0, 1, 0, 0, 0], form=form, **plain) == [1, 0, 2, -1, 0, 0]


def test_autothink_shapes_by_length_within_the_correct_and_within_the_wrong_ones() -> None:
    # correct 10, 20, 30 (z -1, 0, 1) and wrong 10, 30 (z -/+ 1 / sqrt 2); the last group has one of each: no term.
    form = torch.ones(7, 2)
    stages = [{"steps": 1, "alpha": 0.5, "beta": 0.25}]
    lengths, correct = [10, 20, 30, 10, 30], [1, 1, 1, 0, 0]
    root = math.sqrt(0.5)
    expected = [math.exp(0.5), 1, math.exp(-0.5), 1 - math.exp(0.25 * root), 1 - math.exp(-0.25 * root)]
    assert rewards("autothink", lengths, correct, form=form[:5], stages=stages) == expected
    assert rewards("autothink", [10, 90], [1, 0], form=form[:2], stages=stages) == [1, 0]
    # Equal lengths have no term either: the std is taken as 1e-6, the difference is 0.
    assert rewards("autothink", [10, 10], [1, 1], form=form[:2], stages=stages) == [1, 1]


def test_autothink_keeps_either_way_from_taking_over_the_batch() -> None:
    # Three of four think: f = 2 * (.75 - .5) = .5. The other way is not above its share.
    form = torch.tensor([[1, 1], [1, 1], [1, 1], [0, 1]])
    half = {"stages": [{"steps": 1, "balance": 0.5}]}
    assert rewards("autothink", [9] * 4, [1, 0, 1, 1], form=form, **half) == [0.5, -0.5, 0.5, 2]
    # One of four thinks: right ones that do not come to (1 - f) * 2 + f, wrong ones to -(1 - f) - 2 f.
    assert rewards("autothink", [9] * 4, [1, 1, 0, 1], form=1 - form + torch.tensor([0, 1]), **half) == [
        1.5,
        1.5,
        -1.5,
        1,
    ]
    # All of them: f is at most 1.
    assert rewards("autothink", [9] * 2, [1, 0], form=torch.ones(2, 2), **half) == [0, -1]


def test_autothink_goes_through_its_stages() -> None:
    form = torch.ones(2, 2)
    stages = [{"steps": 1, "balance": 0.5}, {"steps": 2}, {"steps": 1, "alpha": 1.0}]
    by_step = [
        shaped("autothink", [10, 20], [1, 1], form=form, stages=stages, step=step, total_steps=8).rewards[0].item()
        for step in (1, 2, 3, 6, 7, 8, 9)
    ]
    last = pytest.approx(math.exp(math.sqrt(0.5)))
    assert by_step == [0, 0, 1, 1, last, last, last]
    with pytest.raises(AttnPOError, match="needs `form`"):
        shaped("autothink", [1], [1])
    for wrong, name in (
        ([{"steps": -1}], "steps"),
        ([{"steps": 1, "balance": 2}], "balance"),
        ([{"steps": 1, "gamma": 2}], "gamma"),
        ([], "at least one"),
        ([{"steps": 0}], "at least one"),
    ):
        with pytest.raises(AttnPOError, match=name):
            shaped("autothink", [1], [1], form=torch.ones(1, 2), stages=wrong)


def test_repetition() -> None:
    filler = list(range(100, 130))
    assert repeats_itself([1, 2, 3, 4] * 3 + filler)
    assert not repeats_itself([1, 2, 3, 4] * 2 + filler)
    assert not repeats_itself([1, 2, 3, 4, *filler[:20], 1, 2, 3, 4, *filler[20:], 1, 2, 3, 4])  # too far apart
    assert not repeats_itself([7] * 40)  # one token again and again is no 4-gram that counts
    assert not repeats_itself([])


def test_overlong() -> None:
    # max 200, cache 50: nothing up to 150, then (L - 150) / 50, 1 from 200 on.
    assert rewards("overlong", [150, 175, 200, 999, 160], [1, 1, 1, 1, 0], max_length=200, cache=50) == [
        1,
        0.5,
        0,
        0,
        -0.2,
    ]
    with pytest.raises(AttnPOError, match="cache 300 must be above 0 and at most max_length 200"):
        shaped("overlong", [1], [1], max_length=200, cache=300)


def test_shorter() -> None:
    # S = 120, the shortest correct one. alpha 2, beta .01: 2 - .3; 2; wrong: -.01 * 40; 2 - 1.8
    assert rewards("shorter", [150, 120, 80, 300], [1, 1, 0, 1], beta=0.01) == [1.7, 2, -0.4, 0.2]
    # None correct: S = mean = 20
    assert rewards("shorter", [10, 30], [0, 0], beta=0.01, alpha=1.0) == [-0.1, -0.1]


def test_diet() -> None:
    # All correct: e = 0, t = 0, x = L. Mean 20, population std sqrt(200 / 3); score -z. Step 0: cos(0), so w = .5.
    one = shaped("diet", [10, 20, 30], [1, 1, 1], step=0)
    z = 10 / math.sqrt(200 / 3)
    assert one.rewards.tolist() == [1, 1, 1]
    assert one.auxiliary is not None and one.auxiliary.tolist() == pytest.approx([z, 0, -z], abs=TOLERANCE)
    assert one.auxiliary_weight is not None and one.auxiliary_weight.tolist() == pytest.approx([0.5] * 3)
    # Half way the cosine is at 1/2, after a half period at 0, and back after a whole one.
    for step, share in ((50, 0.5), (100, 0.0), (200, 1.0)):
        weight = shaped("diet", [10, 20, 30], [1, 1, 1], step=step).auxiliary_weight
        assert weight is not None and weight.tolist() == pytest.approx([0.5 * share] * 3)
    # Half wrong: e = .5; t between 40 and 50 of a budget of 100, so lengths up to 40 all lie within it: no spread.
    half = shaped("diet", [10, 20, 30, 40], [1, 1, 0, 0], budget=100)
    assert half.auxiliary is not None and half.auxiliary.tolist() == [0, 0, 0, 0]
    assert half.auxiliary_weight is not None and half.auxiliary_weight[0] == pytest.approx(0.25, rel=1e-3)  # .5 * p
    # Far past every target, x - t differs by a constant: z = +-1, for the correct one alone.
    far = shaped("diet", [1000, 2000], [1, 0], budget=100)
    assert far.auxiliary is not None and far.auxiliary.tolist() == pytest.approx([1, 0], abs=TOLERANCE)


def test_diet_draws_from_seed_and_step_alone() -> None:
    lengths, correct = list(range(30, 110, 10)), [1, 0, 1, 0, 1, 0, 1, 0]
    scores = {
        key: shaped("diet", lengths, correct, budget=150, seed=key[0], step=key[1]).auxiliary.tolist()  # type: ignore[union-attr]
        for key in ((0, 1), (0, 2), (1, 1))
    }
    again = shaped("diet", lengths, correct, budget=150, seed=0, step=1).auxiliary
    assert again is not None and again.tolist() == scores[0, 1]
    assert len({tuple(s) for s in scores.values()}) == 3


def test_dler() -> None:
    # Limit 100: group 1 keeps both kinds; group 2 loses its only correct one and is dropped; group 3 all correct.
    found = shaped("dler", [90, 101, 50, 200, 90, 100], [1, 1, 0, 1, 1, 1], 2, limit=100)
    assert found.rewards.tolist() == [1, 0, 0, 0, 1, 1]
    assert found.keep is not None and found.keep.tolist() == [True, True, False, False, False, False]
    assert found.truncate_at is not None and found.truncate_at.tolist() == [100] * 6


def test_dot() -> None:
    # 7 times 100, once 400: mean 137.5, sample std 106.07, T = floor(137.5 + 2 * 106.07) = 349; 400 - 349 >= 32.
    lengths = [100] * 7 + [400]
    found = shaped("dot", lengths, [1] * 8, std_multiplier=2.0)
    assert found.rewards.tolist() == [1] * 7 + [0]
    assert found.truncate_at is not None and found.truncate_at.tolist() == [100] * 7 + [349]
    assert found.keep is not None and found.keep.all()
    # One token short of the margin, one wrong response, equal lengths: nothing is cut and the groups are dropped
    # unless they have both kinds.
    for others, correct, changes, kept in (
        (lengths, [1] * 8, {"margin": 52}, False),
        (lengths, [0] + [1] * 7, {}, True),
        ([100] * 8, [1] * 8, {"margin": 0}, False),
        (lengths, [0] * 8, {}, False),
    ):
        same = shaped("dot", others, correct, std_multiplier=2.0, **changes)
        assert same.rewards.tolist() == correct
        assert same.truncate_at is not None and same.truncate_at.tolist() == others
        assert same.keep is not None and same.keep.tolist() == [kept] * 8


def test_dot_refuses_a_multiplier_that_no_length_can_reach() -> None:
    # (8 - 1) / sqrt(8) = 2.47
    with pytest.raises(AttnPOError, match=r"std_multiplier 3\.0 can cut nothing in groups of 8.* 2\.47 std"):
        shaped("dot", [100] * 8, [1] * 8)
    assert shaped("dot", [1] * 31 + [10_000], [1] * 32).rewards.tolist() == [1] * 31 + [0]
    assert shaped("dot", [5], [1]).rewards.tolist() == [1]  # single rollouts of an evaluation


@given(st.integers(2, 12).flatmap(lambda n: st.lists(st.integers(1, 1000), min_size=n, max_size=n)))
def test_no_length_is_further_than_that_from_the_mean(lengths: list[int]) -> None:
    values = torch.tensor(lengths, dtype=torch.float64)
    n = len(lengths)
    assert values.max() - values.mean() <= (n - 1) / math.sqrt(n) * values.std() + 1e-9


def test_grpo_advantages() -> None:
    # Mean .5, sample std of 1, 0: sqrt(.5)
    std = math.sqrt(0.5)
    expected = [0.5 / (std + 1e-4), -0.5 / (std + 1e-4)]
    assert grpo_advantages(torch.tensor([1.0, 0.0]), 2).tolist() == pytest.approx(expected, abs=TOLERANCE)
    assert grpo_advantages(torch.full((3,), 0.9), 3).tolist() == [0, 0, 0]


def test_batch_whitening_counts_tokens_and_leaves_out_what_weighs_nothing() -> None:
    # Tokens 1, 3, 4, 0: mean = (.5 - 1.5 + 2) / 8 = .125; squares: (.375**2 + 3 * .625**2 + 4 * .375**2) / 7
    advantages, tokens = torch.tensor([0.5, -0.5, 0.5, 7.0]), torch.tensor([1, 3, 4, 0])
    std = math.sqrt((5 * 0.375**2 + 3 * 0.625**2) / 7 + 1e-8)
    expected = [0.375 / std, -0.625 / std, 0.375 / std, 0]
    assert batch_whitened(advantages, tokens).tolist() == pytest.approx(expected, abs=TOLERANCE)
    assert batch_whitened(torch.full((3,), 0.25), torch.tensor([1, 2, 3])).tolist() == [0, 0, 0]
    assert batch_whitened(torch.ones(2), torch.zeros(2)).tolist() == [0, 0]
    with pytest.raises(AttnPOError, match="weights .* must match"):
        batch_whitened(torch.ones(2), torch.ones(3))


# what must hold for all


CORRECT_NEVER_LESS = {
    "rloo",
    "grpo",
    "tlmre",
    "kimi",
    "thinkprune",
    "l1_max",
    "laser",
    "laser_d",
    "laser_de",
    "dler",
    "arlcp",
    "decs",
    "lc_r1",
}
"""Rewards where within a group no wrong response earns more than a correct one, by their formula."""

groups = st.integers(2, 8).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(1, 192), min_size=size, max_size=size),
        st.one_of(
            st.lists(st.integers(0, 1), min_size=size, max_size=size),
            st.sampled_from([[0] * size, [1] * size, [1] + [0] * (size - 1)]),
        ),
        st.permutations(range(size)),
    )
)


def on_group(name: str, lengths: list[int], correct: list[int], order: list[int], **changes: Any) -> Shaped:
    asked = torch.full((len(lengths),), 90)
    repeats = torch.tensor([n % 3 == 0 for n in lengths])[order]
    picked = [lengths[i] for i in order], [correct[i] for i in order]
    context = {"target_length": asked, "repeats": repeats, "reflections": torch.tensor([n % 7 for n in lengths])[order]}
    context["necessary"] = torch.tensor([[n // 3, n // 2, n % 2, 2] for n in lengths])[order]
    context["sentence"] = torch.tensor([[n // 3, n // 2, 1] for n in lengths])[order]
    context["tail"] = torch.tensor([[n // 3, n // 2, n % 4] for n in lengths])[order]
    context["form"] = torch.tensor([[n % 3 > 0, n % 5 > 0] for n in lengths]).int()[order]
    context["reference"] = torch.full((len(lengths),), 0.25)
    context["prefixes"] = torch.tensor([[[n // 3, n % 2 / 2], [n // 2, n % 3 / 2]] for n in lengths])[order]
    return shaped(name, *picked, total_steps=10, **context, **SMALL.get(name, {}), **changes)


def finite(result: Shaped) -> bool:
    parts = (result.rewards, result.auxiliary, result.auxiliary_weight)
    return all(bool(part.isfinite().all()) for part in parts if part is not None)


@pytest.mark.parametrize("name", REWARDS)
@settings(max_examples=40)
@given(groups, st.integers(1, 10))
def test_every_reward_is_finite_and_does_not_look_at_the_order(
    name: str, group: tuple[list[int], list[int], list[int]], step: int
) -> None:
    lengths, correct, order = group
    plain = on_group(name, lengths, correct, list(range(len(order))), step=step)
    if REWARDS[name].exits:  # its group has an order
        order = list(range(len(order)))
    mixed = on_group(name, lengths, correct, order, step=step)
    assert finite(plain)
    assert plain.rewards.shape == (len(lengths),)
    assert plain.rewards.dtype == torch.float64
    # sums over the group run in another order
    assert torch.allclose(plain.rewards[order], mixed.rewards, atol=1e-9)
    for one, other in ((plain.keep, mixed.keep), (plain.truncate_at, mixed.truncate_at)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one[order], other)
    if plain.truncate_at is not None:
        gone = torch.tensor(lengths) > plain.truncate_at
        assert not plain.rewards[gone].any()


@pytest.mark.parametrize("name", sorted(CORRECT_NEVER_LESS))
@settings(max_examples=40)
@given(groups)
def test_a_correct_response_never_earns_less_than_a_wrong_one(
    name: str, group: tuple[list[int], list[int], list[int]]
) -> None:
    lengths, correct, _ = group
    found = on_group(name, lengths, correct, list(range(len(lengths)))).rewards
    right, wrong = found[torch.tensor(correct) == 1], found[torch.tensor(correct) == 0]
    if name not in {"thinkprune", "dler"} and len(right) and len(wrong):
        assert right.min() >= wrong.max()
    assert not len(wrong) or not len(right) or right.max() >= wrong.max()


@pytest.mark.parametrize("name", sorted(name for name in REWARDS if not REWARDS[name].exits))
@pytest.mark.parametrize("correct", [[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]])
def test_equal_lengths_say_nothing_but_correctness(name: str, correct: list[int]) -> None:
    found = on_group(name, [90] * 4, correct, [0, 1, 2, 3])
    assert finite(found)
    assert found.auxiliary is None or not found.auxiliary.any()
    for value in (0, 1):
        assert len({r for r, c in zip(found.rewards.tolist(), correct, strict=True) if c == value}) <= 1


@pytest.mark.parametrize("name", sorted(set(REWARDS) - {"diet"}))
def test_groups_do_not_see_each_other(name: str) -> None:
    lengths, correct = [90, 130, 60, 100, 20, 180, 80, 70], [1, 1, 0, 1, 1, 1, 1, 1]
    context = {"target_length": torch.full((8,), 90), "repeats": torch.tensor([False] * 8)}
    context["reflections"] = torch.arange(8)
    context["necessary"] = torch.tensor([[n // 3, n // 2, n % 2, 2] for n in lengths])
    context["sentence"] = torch.tensor([[n // 3, n // 2, 1] for n in lengths])
    context["tail"] = torch.tensor([[n // 3, n // 2, n % 4] for n in lengths])
    context["form"] = torch.ones(8, 2)
    context["prefixes"], context["reference"] = torch.ones(8, 2, 2), torch.full((8,), 0.25)
    together = shaped(name, lengths, correct, 4, **context, **SMALL.get(name, {}))
    for start in (0, 4):
        part = slice(start, start + 4)
        of_part = {field: value[part] for field, value in context.items()}
        alone = shaped(name, lengths[part], correct[part], **of_part, **SMALL.get(name, {}))
        assert torch.equal(together.rewards[part], alone.rewards)


@pytest.mark.parametrize("name", REWARDS)
def test_shapes_and_values_are_checked(name: str) -> None:
    context = {"target_length": torch.ones(4), "repeats": torch.zeros(4, dtype=torch.bool)}
    context |= {"reflections": torch.ones(4), "necessary": torch.ones(4, 4)}
    context |= {"sentence": torch.ones(4, 3), "tail": torch.ones(4, 3), "form": torch.ones(4, 2)}
    context["prefixes"], context["reference"] = torch.ones(4, 2, 2), torch.full((4,), 0.25)
    with pytest.raises(AttnPOError, match="groups of 3"):
        shaped(name, [1, 2, 3, 4], [1, 0, 1, 0], 3, **SMALL.get(name, {}), **context)
    with pytest.raises(AttnPOError, match="correct holds 2"):
        shaped(name, [1, 2, 3, 4], [1, 0, 2, 0], 4, **SMALL.get(name, {}), **context)


@pytest.mark.parametrize("name", REWARDS)
def test_arguments_are_checked_before_training(name: str) -> None:
    check_reward(name, SMALL.get(name, {}), 8)
    with pytest.raises(AttnPOError, match=f"reward '{name}' has no argument 'wait'"):
        check_reward(name, {"wait": 1}, 8)


def test_a_context_field_is_no_argument_and_values_are_tried() -> None:
    with pytest.raises(AttnPOError, match="reward 'diet' has no argument 'step'; it has budget, half_period, weight"):
        check_reward("diet", {"step": 3}, 8)
    with pytest.raises(AttnPOError, match="no reward 'tlmr'; there are rloo, grpo"):
        check_reward("tlmr", {}, 8)
    with pytest.raises(AttnPOError, match="target -1 must be finite and at least 0"):
        check_reward("laser", {"target": -1}, 8)
    for name in REWARDS:
        assert context_fields(name) <= set(Context.__dataclass_fields__)


def test_the_documentation_has_a_row_for_each() -> None:
    lines = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8").splitlines()
    rows = {cells[1].strip(" `"): cells for line in lines if len(cells := line.split("|")) == 7}
    assert set(REWARDS) <= set(rows)
    for name, reward in REWARDS.items():
        assert rows[name][3].strip(" `") == reward.estimator
