r"""Multiple choice: the order of the options, the prompt, and the grader. Pure functions on strings.

A response states its answer in a box (`\boxed{B}`), after "Answer:" or after "the answer is", as a letter or as an
option's text. Its last statement alone counts. A statement that names no option, or more than one, is a parse
failure: nothing is guessed, and no earlier statement is taken in its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from attnpo.grading.math import Grade, answer_part, extract_boxed
from attnpo.method.steps import THINK_END
from attnpo.problems.choice import LETTERS

_UNREADABLE = ("no_answer", "unparsed", "ambiguous")


class _Statement(NamedTuple):
    start: int
    content: str
    formal: bool
    """In a box or after a colon: an answer is meant. Else ("the answer is ...") it may be mere prose."""


_FORMAL = re.compile(r"\banswer(?:\s+is)?[\s*_]*[:：]", re.IGNORECASE)
_PROSE = re.compile(
    r"\b(?:answer|option|choice)(?:\s+(?:to|for|here)\b[^.\n:]{0,60}?)?\s+(?:is|would be|must be)\b", re.IGNORECASE
)
_LEAD = re.compile(r"[\s*_:]*")
_LONGEST = 1000
"""Characters of a statement that are read."""


def _statements(text: str) -> list[_Statement]:
    """Where an answer is stated, in order; of boxes only the last."""
    found = []
    for pattern, formal in ((_FORMAL, True), (_PROSE, False)):
        for match in pattern.finditer(text):
            # The answer may stand on the next line.
            start = _LEAD.match(text, match.end()).end()  # type: ignore[union-attr]
            line = text[start : start + _LONGEST].split("\n", 1)[0]
            found.append(_Statement(match.start(), line, formal))
    if (box := text.rfind("\\boxed")) >= 0:
        found.append(_Statement(box, (extract_boxed(text) or "")[:_LONGEST], True))
    return sorted(found, key=lambda statement: (statement.start, statement.formal))


_WRAPPED = re.compile(r"\\(?:text|mbox|fbox|boxed|emph|text(?:bf|it|rm|sf|tt)|math(?:bf|it|rm|sf|tt))\s*\{([^{}]*)\}")
_MARKS = re.compile(r"\$|\\[()\[\]]|\*\*|__|`")
_SPACES = re.compile(r"(?:\\[ ,;:!]|~|\s)+")
_QUOTES = " *_\"'“”‘’"


def _plain(text: str) -> str:
    """Without marks of LaTeX, Markdown and quotation, and without the full stop at the end."""
    while (inner := _WRAPPED.sub(r"\1", text)) != text:
        text = inner
    text = _SPACES.sub(" ", _MARKS.sub("", text)).strip(_QUOTES)
    return text.removesuffix(".").strip(_QUOTES)


_LETTER_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:,;]?")
_LETTER_FIRST = re.compile(r"(?i:(?:option|choice|letter) )?([(\[]?)([A-Z])([)\]]?)(?![\w'’^_{\\])(.*)", re.DOTALL)
_ANOTHER = re.compile(r"\s*(?:,|/|;|&|\bor\b|\band\b)+\s*(?:(?:also|option|choice)\s+)*[(\[]?([A-Z])\b(?!['’])")
_FORMULA = re.compile(r"\s*[=+*<>|]|-\w")
_WORD = re.compile(r" (?!because\b|since\b|as\b|is\b|and\b|or\b|for\b)[a-z]")
_STOP = re.compile(r"[.;]\s|\s(?:because|since)\s")
_AMBIGUOUS = "?"


def _read(content: str, choices: Sequence[str], *, whole: bool = False) -> str | None:
    """The letter that a statement names, `_AMBIGUOUS`, or None if it names no option.

    With `whole`, the content must be nothing but the letter, the option's text, or both.
    """
    content = _plain(content)
    letters = LETTERS[: len(choices)]
    alone = _LETTER_ALONE.fullmatch(content)
    if alone and alone[1] in letters:
        return alone[1]
    if named := _by_text(content, choices):
        return named
    if alone:
        return alone[1].upper() if alone[1].upper() in letters else None
    if (first := _LETTER_FIRST.fullmatch(content)) and first[2] in letters:
        opening, letter, closing, rest = first.groups()
        named = _by_text(rest.lstrip(" .:,;-–—=)"), choices)
        if named:
            # A letter beside the text of another option.
            return letter if named in (letter, _AMBIGUOUS) else _AMBIGUOUS
        if whole:
            return None
        if (other := _ANOTHER.match(rest)) and other[1] in letters and other[1] != letter:
            return _AMBIGUOUS
        # "A" may be the article, and any letter a variable.
        if _FORMULA.match(rest) or (letter in "AI" and not (opening or closing) and _WORD.match(rest)):
            return None
        return letter
    if whole:
        return None
    texts = (_by_text(content[: stop.start()], choices) for stop in _STOP.finditer(content))
    return next(filter(None, texts), None)


def _by_text(content: str, choices: Sequence[str]) -> str | None:
    """The letter of the option with this text, `_AMBIGUOUS` if several have it; letter case decides where it can."""
    content = _plain(content)
    if not content:
        return None
    options = [_plain(choice) for choice in choices]
    for fold in (str, str.casefold):
        named = [LETTERS[i] for i, option in enumerate(options) if fold(option) == fold(content)]
        if named:
            return named[0] if len(named) == 1 else _AMBIGUOUS
    return None


def extract_choice(answer: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """What the text after `</think>` says.

    1. The last statement: a box, or what follows "Answer:"; or what follows "the answer is", "the correct option is"
       and the like, where that names an option at all.
    2. Without any statement, the last line, if it is an option's letter, its text or both, and no other line is those
       of another option.

    Args:
        answer: the text.
        choices: the options, in the order in which the prompt gave them.

    Returns:
        (letter, "") or, without one: (what was read instead, the reason of `Grade`).
    """
    for statement in reversed(_statements(answer)):
        letter = _read(statement.content, choices)
        if letter == _AMBIGUOUS:
            return statement.content, "ambiguous"
        if letter:
            return letter, ""
        if statement.formal:
            return statement.content, "unparsed"
    lines = [line[:_LONGEST] for line in answer.splitlines() if line.strip()]
    letters = [_read(line, choices, whole=True) for line in lines]
    last = letters[-1] if letters else None
    if last is None:
        return None, "no_answer"
    if last == _AMBIGUOUS or len(set(letters) - {None}) > 1:
        return lines[-1], "ambiguous"
    return last, ""


def grade_choice(response: str, choices: Sequence[str], gold: str) -> Grade:
    """Grade one response, thinking included, whose prompt gave `choices`, of which the one with letter `gold` is right.

    Reasons beside "equal" and "different": "no_think_end", "many_think_ends"; and, as parse failures, "no_answer",
    "ambiguous" (several options are named) and "unparsed" (the last statement names no option).
    """
    answer = answer_part(response)
    if answer is None:
        return Grade(False, False, None, "many_think_ends" if THINK_END in response else "no_think_end")
    extracted, reason = extract_choice(answer, choices)
    reason = reason or ("equal" if extracted == gold else "different")
    return Grade(reason == "equal", reason in _UNREADABLE, extracted, reason)


class ChoiceGrader(NamedTuple):
    """The grader of one problem's responses, for `attnpo.evaluation.responses.judge`."""

    choices: Sequence[str]

    def grade(self, responses: Sequence[str], golds: Sequence[str]) -> list[Grade]:
        """Grade N responses against the N letters beside them."""
        return [grade_choice(response, self.choices, gold) for response, gold in zip(responses, golds, strict=True)]
