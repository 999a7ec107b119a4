"""SAS against values worked out by hand."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnpo.errors import AttnPOError
from attnpo.method.selection import SelectionConfig, paragraph_of_token, selection_factors

# Steps of 2, 1, 3 and 1 tokens with mean log-probability -1, -3, -.5 and -2; two tokens of none.
STEPS = [0, 0, 1, 2, 2, 2, 3, -1, -1]
LOGPS = torch.tensor([-0.5, -1.5, -3.0, -1.0, -0.5, 0.0, -2.0, -9.0, float("nan")])


@pytest.mark.parametrize(
    ("share", "correct", "lost"),
    [
        (0.3, True, {1, 3}),  # ceil(1.2) of four, the least confident
        (0.25, True, {1}),
        (0.3, False, {2, 0}),  # the most confident
        (0.5, False, {2, 0}),
        (0.51, False, {2, 0, 3}),
        (0.0, True, set()),
        (1.0, True, {0, 1, 2, 3}),
    ],
)
def test_the_least_confident_steps_of_a_correct_response_lose_their_advantage(
    share: float, correct: bool, lost: set[int]
) -> None:
    found = selection_factors(LOGPS, STEPS, correct, SelectionConfig(share=share))
    assert found.tolist() == [0.0 if step in lost else 1.0 for step in STEPS]
    assert found.dtype == torch.float64


def test_wrong_responses_can_be_left_alone() -> None:
    config = SelectionConfig(only_correct=True)
    assert selection_factors(LOGPS, STEPS, False, config).tolist() == [1.0] * 9
    assert torch.equal(selection_factors(LOGPS, STEPS, True, config), selection_factors(LOGPS, STEPS, True))


def test_the_published_slip_takes_all_of_a_correct_response_and_nothing_of_a_wrong_one() -> None:
    config = SelectionConfig(variant="published")
    assert selection_factors(LOGPS, STEPS, True, config).tolist() == [0.0] * 7 + [1.0] * 2
    assert selection_factors(LOGPS, STEPS, False, config).tolist() == [1.0] * 9


def test_random_steps_are_as_many_and_drawn_again_alike() -> None:
    config = SelectionConfig(choose="random")
    found = [selection_factors(LOGPS, STEPS, True, config, random.Random(seed)) for seed in range(40)]
    lost = [frozenset(step for step, factor in zip(STEPS, row, strict=True) if not factor) for row in found]
    assert all(len(steps) == 2 and -1 not in steps for steps in lost)
    assert len(set(lost)) == 6  # every pair of four is drawn
    assert torch.equal(found[7], selection_factors(LOGPS, STEPS, True, config, random.Random(7)))
    with pytest.raises(AttnPOError, match="pass random numbers"):
        selection_factors(LOGPS, STEPS, True, config)


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_share_is_rounded_up_whatever_floats_do(n: int, share: float) -> None:
    config = SelectionConfig(share=share)
    found = selection_factors(-torch.arange(n, dtype=torch.float64), list(range(n)), True, config)
    lost = int((found == 0).sum())
    assert lost - 1 < share * n + 1e-6 and lost + 1e-6 >= share * n - 1e-6
    assert not found[n - lost :].any()  # the least confident


@pytest.mark.parametrize("n", [10, 20, 30, 90, 100])
def test_three_tenths_of_a_round_number_is_exact(n: int) -> None:
    found = selection_factors(torch.zeros(n), list(range(n)), True)
    assert int((found == 0).sum()) == 3 * n // 10


def test_a_response_without_steps_keeps_its_advantage() -> None:
    assert selection_factors(torch.zeros(2), [-1, -1], True).tolist() == [1, 1]
    assert selection_factors(torch.zeros(0), [], True).tolist() == []


def test_bad_input_is_an_error() -> None:
    with pytest.raises(AttnPOError, match="differ"):
        selection_factors(torch.zeros(2), [0], True)
    with pytest.raises(AttnPOError, match="not finite"):
        selection_factors(torch.tensor([float("nan")]), [0], True)
    for wrong in ({"share": 1.1}, {"share": -0.1}, {"separator": ""}, {"choose": "x"}, {"variant": "x"}):
        with pytest.raises(AttnPOError, match=next(iter(wrong))):
            SelectionConfig(**wrong)


TABLE = [b"a", b"\n\n", b".\n\n", b"\n", b"</think>", b" </", b"think>", b""]


@pytest.mark.parametrize(
    ("ids", "steps"),
    [
        ([0, 1, 0, 0, 2, 0, 4, 0], [0, 0, 1, 1, 1, 2, -1, -1]),
        ([0, 3, 3, 0, 4, 0], [0, 0, 0, 1, -1, -1]),  # the separator lies across two tokens
        ([0, 3, 0, 3, 0, 4], [0, 0, 0, 0, 0, -1]),
        ([0, 1, 0], [0, 0, 1]),  # without an end all is thinking
        ([0, 1, 4, 0], [0, 0, -1, -1]),  # no empty step at the end
        ([1, 1, 0, 4], [0, 1, 2, -1]),
        ([0, 7, 99, 4], [0, 0, 0, -1]),  # tokens without bytes
        ([4, 0, 1, 0], [-1, -1, -1, -1]),
        ([], []),
    ],
)
def test_paragraphs_end_with_the_token_that_holds_the_separator(ids: list[int], steps: list[int]) -> None:
    assert paragraph_of_token(ids, TABLE) == steps


def test_another_separator() -> None:
    assert paragraph_of_token([0, 3, 0, 4], TABLE, "\n") == [0, 0, 1, -1]
