"""Where a piece of thinking states the gold answer."""

from __future__ import annotations

import pytest

from attnpo.grading.stated import states_answer


@pytest.mark.parametrize(
    "text",
    [
        "Then 37 * 4 = 48.",
        "So the answer is 48.",
        "So, 48.",
        "Therefore, we get \\boxed{48}.",
        "the total is **48**, which looks right",
        "x = 12 * 4 = 48 = 6 * 8",
        "That gives $48$.",
        "Hence the result: \\(48\\).",
        "12 + 36 = 48, so that is done.",
        "Final Answer: 48",
        "Now 40 + 8 = 48, yes.",
    ],
)
def test_a_result_is_stated(text: str) -> None:
    assert states_answer(text, "48")


@pytest.mark.parametrize(
    "text",
    [
        "48 * 2 = 96.",
        "Then 48 + 4 is needed.",
        "It is 48 + 4.",
        "x = 48y",
        "x = 480.",
        "x = 4.48",
        "x = -48",
        "We have 48.5 so far.",
        "",
        "no number here",
    ],
)
def test_an_operand_or_another_value_is_no_statement(text: str) -> None:
    assert not states_answer(text, "48")


def test_answers_that_are_no_integers() -> None:
    assert states_answer("so $x = \\frac{3}{4}$.", "\\frac34")
    assert states_answer("The interval is (0, 9).", "(0,9)")
    assert states_answer("Thus the expression becomes $2x+1$.", "2x+1")
    assert states_answer("we have 3.5 so far", "3.5")
    assert not states_answer("so x = 3", "\\frac34")
    assert not states_answer("So it is.", "")


def test_a_long_text_is_read_in_linear_time() -> None:
    assert not states_answer("x = 1 is so = " * 20_000, "48")
