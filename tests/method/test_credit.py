from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from places import GOLDEN

from attnpo.errors import AttnPOError
from attnpo.method.credit import CreditConfig, baseline_score, confidence_scores, gain_scores, step_gammas, token_gammas

VECTORS = json.loads((GOLDEN / "credit.json").read_text())
# The golden vectors come from the same formulas in float64; only the order of the operations may differ.
TOLERANCE = 1e-9


def gammas_of(scores, advantage=1.0, p=1.0, answer=10, total=100, step=10_000, **config):
    tensor = torch.tensor(scores, dtype=torch.float64)
    return step_gammas(tensor, advantage, p, answer, total, step, CreditConfig(**config)).tolist()


def test_golden_vectors():
    assert len(VECTORS) == 400
    for i, v in enumerate(VECTORS):
        config = CreditConfig(
            v["baseline_exponent"], v["attenuation_exponent"], v["floor"], warmup_steps=v["warmup_steps"]
        )
        place = (v["group_accuracy"], v["answer_tokens"], v["total_tokens"])
        base = baseline_score(*place, v["baseline_exponent"])
        assert base == pytest.approx(v["expected_baseline"], abs=TOLERANCE)
        scores = torch.tensor(v["step_scores"], dtype=torch.float64)
        gammas = step_gammas(scores, v["advantage"], *place, v["global_step"], config)
        assert gammas.tolist() == pytest.approx(v["expected_scale"], abs=TOLERANCE), f"vector {i}"


def test_readings_of_positive_attenuation():
    # p = 1/2: S_base = .25 * .1 = .025, d = .25; S = .0125 is half of it.
    assert gammas_of([0.0125, 0.5], p=0.5) == pytest.approx([0.25 * 0.5 + 0.75, 1])
    assert gammas_of([0.0125, 0.5], p=0.5, variant="summary") == pytest.approx([0.25 * 0.5, 1])
    assert gammas_of([0.0125, 0.5], p=0.5, floor=0.2) == pytest.approx([0.8 * 0.875 + 0.2, 1])
    assert gammas_of([0.0125, 0.5], p=0.5, floor=0.2, variant="summary") == pytest.approx([0.8 * 0.125 + 0.2, 1])


@pytest.mark.parametrize(("variant", "opens_after"), [("published", 250), ("summary", 750)])
def test_schedule_opens_strictly_after_its_step(variant, opens_after):
    at = {step: gammas_of([0.0, 1.0], p=0.75, step=step, variant=variant)[0] for step in (opens_after, opens_after + 1)}
    assert at[opens_after] == 1
    assert at[opens_after + 1] < 1
    assert gammas_of([0.0, 1.0], p=0.75, step=0, variant=variant, schedule=False)[0] < 1


def test_negative_attenuation_has_no_schedule():
    assert gammas_of([0.01, 0.1, 0.2], advantage=-1.0, step=0) == [1, 1, 0]


def test_switches():
    low_high = [0.01, 0.2]
    assert gammas_of(low_high, positive=False) == [1, 1]
    assert gammas_of(low_high, advantage=-1.0, negative=False) == [1, 1]
    assert gammas_of(low_high, advantage=0.0) == [1, 1]
    assert gammas_of([0.01]) == [1]
    assert gammas_of([0.01], min_steps=1) == pytest.approx([0.1])
    # Without difficulty, p = 1/2 acts as p = 1 does in both powers, and still delays the schedule.
    assert gammas_of([0.05, 0.2], p=0.5, difficulty=False) == gammas_of([0.05, 0.2]) == pytest.approx([0.5, 1])
    assert gammas_of([0.05, 0.2], p=0.5, difficulty=False, step=500) == [1, 1]


def test_steps_without_tokens_keep_their_advantage():
    scores = torch.tensor([0.01, float("nan"), 0.2])
    has_tokens = torch.tensor([True, False, True])
    positive = step_gammas(scores, 1.0, 1.0, 10, 100, 10_000, has_tokens=has_tokens)
    assert positive.tolist() == pytest.approx([0.1, 1, 1], abs=1e-7)  # the scores are float32
    assert step_gammas(scores, -1.0, 1.0, 10, 100, 10_000, has_tokens=has_tokens).tolist() == [1, 1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_unusable_scores_are_refused(bad, advantage):
    with pytest.raises(AttnPOError, match=r"step score .* of step 1"):
        gammas_of([0.1, bad, 0.2], advantage=advantage)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("advantage nan", {"advantage": float("nan")}),
        ("group_accuracy 1.5", {"p": 1.5}),
        ("group_accuracy nan", {"p": float("nan")}),
        ("answer_tokens 0", {"answer": 0}),
        ("at most total_tokens 9", {"total": 9}),
        ("floor 1.5", {"floor": 1.5}),
        ("variant 'paper'", {"variant": "paper"}),
        ("warmup_steps -1", {"warmup_steps": -1}),
        ("baseline_exponent nan", {"baseline_exponent": float("nan")}),
    ],
)
def test_values_out_of_range_are_named(message, arguments):
    with pytest.raises(AttnPOError, match=message):
        gammas_of([0.1, 0.2], **arguments)


def test_shapes_are_checked():
    with pytest.raises(AttnPOError, match="pass one response"):
        step_gammas(torch.zeros(2, 2), 1.0, 1.0, 10, 100, 0)
    with pytest.raises(AttnPOError, match="must match"):
        step_gammas(torch.zeros(2), 1.0, 1.0, 10, 100, 0, has_tokens=torch.ones(3, dtype=torch.bool))


def test_token_gammas_are_one_outside_steps():
    gammas = torch.tensor([0.25, 0.0, 0.5], dtype=torch.float64)
    step_of_token = torch.tensor([0, 0, 2, -1, 1, -1, -1])
    assert token_gammas(gammas, step_of_token).tolist() == [0.25, 0.25, 0.5, 1, 0, 1, 1]
    assert token_gammas(torch.ones(0), torch.tensor([-1, -1])).tolist() == [1, 1]
    for wrong in (3, -2):
        with pytest.raises(AttnPOError, match=f"step index {wrong}"):
            token_gammas(gammas, torch.tensor([0, wrong]))


unit = st.floats(0, 1)
exponent = st.floats(0, 4)
configs = st.builds(
    CreditConfig,
    baseline_exponent=exponent,
    attenuation_exponent=exponent,
    floor=unit,
    warmup_steps=st.floats(0, 2000),
    positive=st.booleans(),
    negative=st.booleans(),
    schedule=st.booleans(),
    difficulty=st.booleans(),
    variant=st.sampled_from(["published", "summary"]),
    min_steps=st.integers(0, 3),
)
responses = st.tuples(
    st.lists(st.floats(0, 2), min_size=0, max_size=6),
    st.floats(-2, 2),
    unit,
    st.integers(1, 500),
    st.integers(500, 20_000),
    st.integers(0, 3000),
)


@given(responses, configs)
def test_gammas_stay_in_range_and_keep_the_sign(response, config):
    scores, advantage, *rest = response
    gammas = step_gammas(torch.tensor(scores, dtype=torch.float64), advantage, *rest, config)
    assert gammas.shape == (len(scores),)
    assert ((gammas >= 0) & (gammas <= 1)).all()
    assert (gammas * advantage * advantage >= 0).all()
    if advantage > 0:
        assert (gammas >= config.floor - 1e-12).all()  # 1 - (1 - floor) is floor up to rounding


@given(responses)
def test_both_switches_off_leave_every_advantage(response):
    scores, *rest = response
    config = CreditConfig(positive=False, negative=False)
    gammas = step_gammas(torch.tensor(scores, dtype=torch.float64), *rest, config)
    assert torch.equal(gammas, torch.ones(len(scores), dtype=torch.float64))


@given(st.integers(1, 500), st.integers(500, 20_000), unit)
def test_uniform_attention_scores_the_baseline_over_its_difficulty(answer, total, p):
    # Each of |F| answer rows gives 1/total to each token, so every step scores |F|/total.
    assert baseline_score(p, answer, total) == p**2 * (answer / total)
    assert gammas_of([answer / total] * 3, advantage=1.0, p=1.0, answer=answer, total=total) == [1, 1, 1]
    assert gammas_of([answer / total] * 3, advantage=-1.0, p=1.0, answer=answer, total=total) == [1, 1, 1]


def test_gain_in_place_of_attention() -> None:
    """Against values by hand: gains of .1, .2, -.3 and .75 are .5, 1, 0 and 3.75 of what keeps a step whole."""
    found = gain_scores([0.25, 0.35, 0.55, 0.25, 1.0], 3, 12)
    base = baseline_score(1.0, 3, 12)
    assert found.tolist() == pytest.approx([base / 2, base, 0, base * 3.75], rel=1e-12)
    config = CreditConfig(schedule=False)
    assert step_gammas(found, 1.0, 1.0, 3, 12, 1, config).tolist() == pytest.approx([0.5, 1, 0, 1], rel=1e-9)
    # At p = .5 the baseline is a quarter: under NA all that gain more than .05 are spared.
    assert step_gammas(found, -1.0, 0.5, 3, 12, 1, config).tolist() == [0, 0, 1, 0]
    assert gain_scores([1.0, 1.0], 3, 12).tolist() == [0]
    assert gain_scores([0.5, 0.75], 3, 12, enough=0.25).tolist() == [base]


def test_confidence_in_place_of_attention() -> None:
    """Against values by hand: a step as confident as the whole has the baseline score at p = 1."""
    logps = torch.tensor([-1.0, -2.0, -3.0, -2.0, -9.0])
    steps = torch.tensor([0, 0, 1, 3, -1])  # step 2 has no token
    found = confidence_scores(logps, steps, 4, 3, 12)
    base = baseline_score(1.0, 3, 12)
    assert found[[0, 1, 3]].tolist() == pytest.approx([base * math.exp(0.5), base * math.exp(-1), base], rel=1e-12)
    assert found[2].isnan()
    gammas = step_gammas(found, 1.0, 1.0, 3, 12, 1, CreditConfig(schedule=False), torch.tensor([1, 1, 0, 1]) > 0)
    assert gammas.tolist() == pytest.approx([1, math.exp(-1), 1, 1], rel=1e-12)
    with pytest.raises(AttnPOError, match="log-probability of a sampled token is not finite"):
        confidence_scores(logps * math.inf, steps, 4, 3, 12)
