"""Whether a response thinks, and whether it has an answer: what is right about it before it is graded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from attnpo.grading.math import extract_boxed
from attnpo.method.steps import THINK_END, split_at_think_end


class Form(NamedTuple):
    """What a response consists of."""

    thinks: bool
    """Something stands before the first `</think>` but dots and white space, which a prompt may have begun."""
    answered: bool
    """There is a `</think>`, and behind the last one a box that holds something."""


def form_of(ids: Sequence[int], table: Sequence[bytes]) -> Form:
    """The form of a response.

    Args:
        ids: of a response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of its tokenizer.
    """
    parts = split_at_think_end(ids, table)
    thinking = parts.raw[: parts.tag_start].decode("utf-8", "replace")
    answer = parts.raw.rpartition(THINK_END.encode())[2].decode("utf-8", "replace") if parts.tags else ""
    boxed = extract_boxed(answer)
    return Form(bool(thinking.strip(" .\t\r\n…")), bool((boxed or "").strip()))
