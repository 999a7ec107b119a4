"""Multiple choice: the order of the options and the prompt. Pure functions on strings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from attnpo.errors import AttnPOError

LETTERS = "ABCDEFGHIJ"

# The wording of simple-evals (github.com/openai/simple-evals, common.py, MIT).
INSTRUCTION = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before answering."
)


def prompt(problem: str, choices: Sequence[str]) -> str:
    """The instruction, the problem and its options, a line each: `A) first option`."""
    letters = LETTERS[: len(choices)]
    options = "\n".join(f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    return f"{INSTRUCTION.format(letters=letters)}\n\n{problem}\n\n{options}"


_AMONG = re.compile(
    r"\babove\b"
    r"|\b(?:all|none|any|both|each|either|neither|one|two|some) of (?:the|these|those|them)\b"
    r"|\b(?:options?|choices?|answers?|statements?) \(?[a-j]\b",
    re.IGNORECASE,
)
_LETTERS_TOGETHER = re.compile(r"\b[A-J]\)?(?: ?, ?(?:and |or )?|/| (?:and|or|nor|&) )\(?[A-J]\b")


def shuffled(problem_id: str, choices: Sequence[str], answer: str) -> tuple[list[str], str]:
    """The options in an order that depends only on the problem's id, and the letter of the right one in that order.

    The order follows from hashes of the id, so it is the same in every run, on every machine and in every selection of
    problems. A problem with an option that refers to other options ("all of the above", "both A and B") keeps its
    published order, because another order would make that option wrong.

    Args:
        problem_id: the problem's id.
        choices: the options, 2 to 10 of them, in published order.
        answer: the letter of the right one in published order.

    Raises:
        AttnPOError: another number of options, or no option has that letter.
    """
    letters = LETTERS[: len(choices)]
    if not 2 <= len(choices) <= len(LETTERS) or len(answer) != 1 or answer not in letters:
        raise AttnPOError(
            f"{problem_id} has {len(choices)} choices and the answer {answer!r}; give 2 to {len(LETTERS)} choices and "
            "the letter of one of them"
        )
    order = list(range(len(choices)))
    if not any(_AMONG.search(choice) or _LETTERS_TOGETHER.search(choice) for choice in choices):
        order.sort(key=lambda i: hashlib.sha256(f"{problem_id}\n{i}".encode()).digest())
    return [choices[i] for i in order], letters[order.index(letters.index(answer))]
