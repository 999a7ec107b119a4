"""The verdict on a response, and the part of a response that is graded."""

from __future__ import annotations

from typing import NamedTuple

from attnpo.method.steps import THINK_END


class Grade(NamedTuple):
    """Verdict on one response."""

    correct: bool
    parse_failed: bool
    """The response has exactly one `</think>`, but no answer could be read after it."""
    extracted: str | None
    """The answer as it was read; None if there is none."""
    reason: str
    """Why, in one word. `no_think_end` and `many_think_ends` are common to all graders; each names its others."""


def answer_part(response: str) -> str | None:
    """The text after `</think>`; None unless there is exactly one `</think>`."""
    _, *rest = response.split(THINK_END)
    return rest[0] if len(rest) == 1 else None


def no_answer_reason(response: str) -> str:
    """The reason of `Grade` for a response whose `answer_part` is None."""
    return "many_think_ends" if THINK_END in response else "no_think_end"
