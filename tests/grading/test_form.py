"""Whether a response thinks, and whether it has an answer."""

from __future__ import annotations

import pytest

from attnpo.grading.form import form_of

TABLE = [bytes([i]) for i in range(256)]
"""A token a byte."""


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2 + 3 = 5\n</think>\n\\boxed{5}", (True, True)),
        ("\n</think>\n\n\\boxed{5}", (False, True)),
        ("...\n</think>\\boxed{5}", (False, True)),
        ("… </think>\\boxed{5}", (False, True)),
        ("</think>5", (False, False)),
        ("</think>\\boxed{ }", (False, False)),
        ("so \\boxed{5}", (True, False)),
        ("so \\boxed{5}</think>five", (True, False)),
        ("a</think>b</think>\\boxed{5}", (True, True)),
        ("", (False, False)),
    ],
)
def test_the_form_of_a_response(text: str, form: tuple[bool, bool]) -> None:
    assert form_of(list(text.encode()), TABLE) == form


def test_bytes_that_are_no_text_are_thinking() -> None:
    assert form_of([255, *b"</think>\\boxed{5}"], TABLE) == (True, True)
