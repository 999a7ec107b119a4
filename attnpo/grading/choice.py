r"""Is an answer to a multiple-choice problem right? Pure functions on strings.

A response states its answer in a box (`\boxed{B}`), after "Answer:" or after "the answer is", as a letter or as the
text of an option. Only the last statement counts. If it names no option, or more than one, that is a parse failure:
nothing is guessed, and no earlier statement is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from attnpo.grading.grade import Grade, answer_part, no_answer_reason
from attnpo.grading.math import extract_boxed
from attnpo.problems.choice import LETTERS

_UNREADABLE = ("no_answer", "unparsed", "ambiguous")


class _Statement(NamedTuple):
    start: int
    content: str
    formal: bool
    """In a box or after a colon, so an answer is meant. Otherwise ("the answer is ...") it may be mere prose."""


_MEANT = (
    "the|my|our|this|so|thus|hence|therefore|final|correct|right|best|true|only|likely|appropriate|suitable|accurate|"
    "valid"
)
_NOUN = "answer|option|choice"
_FORMAL = re.compile(
    r"(?<![\w'’-])(?:([\w'’-]+)\s+)?(?:answer|(?:correct|right|best|final)\s+(?:option|choice))(?:\s+is)?[\s*_]*[:：]"
    r"|答案[\s*_]*(?:[:：]|是|为)",
    re.IGNORECASE,
)
_DENIED = re.compile(
    "wrong|incorrect|false|bad|other|another|not|unlikely|invalid|rejected|tempting|previous|initial", re.IGNORECASE
)
"""Words that make a formal line one about a wrong answer."""
_PROSE = re.compile(
    rf"(?:^[ \t]*|[^\w\s'’-]\s*|\b(?:{_MEANT})\s+)(?:{_NOUN})(?:\s+(?:to|for|here)\b[^.\n:]{{0,60}}?)?"
    r"\s+(?:is|would be|must be)\b",
    re.IGNORECASE | re.MULTILINE,
)
_VERDICT = re.compile(
    rf"(?:^|[.!?:;,]\s*|\b(?i:so|thus|hence|therefore|that|only|clearly|letter|{_NOUN})\s+)[\s*_]*"
    r"(?:[(\[]([A-Z])[)\]]|([A-Z]))[*_]*\s+is\s+(?:indeed\s+)?[*_]*"
    rf"(?:(?:the\s+)?(?:(?i:correct|right|best|final))(?:\s+(?:{_NOUN}|one))?|the\s+(?:{_NOUN}))"
    r"[*_]*\s*(?=[.!,;]|$|\b(?:because|since|as)\b)",
    re.MULTILINE,
)
_DOUBT = re.compile(
    r"\b(?:not|never|if|unless|whether|suppose|assume|might|may|could|many|some|people|students|others)\b|n['’]t\b",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\b(?:or|and|n?either|nor|than)\s*$", re.IGNORECASE)
_CLAUSE = re.compile(r"[.!?:;,\n]")
_LEAD = re.compile(r"[\s*_:]*")
_LONGEST = 1000
"""Only so many characters of a statement are read."""


def _statements(text: str) -> list[_Statement]:
    """The statements of an answer, in order; of boxes only the last."""
    found = []
    for pattern, formal in ((_FORMAL, True), (_PROSE, False)):
        for match in pattern.finditer(text):
            if (formal and _DENIED.fullmatch(match[1] or "")) or (not formal and _doubted(text, match.start())):
                continue
            # The answer may stand on the next line.
            start = _LEAD.match(text, match.end()).end()  # type: ignore[union-attr]
            line = text[start : start + _LONGEST].split("\n", 1)[0]
            found.append(_Statement(match.start(), line, formal))
    if (box := text.rfind("\\boxed")) >= 0:
        found.append(_Statement(box, (extract_boxed(text) or "")[:_LONGEST], True))
    return sorted(found, key=lambda statement: (statement.start, statement.formal))


def _doubted(text: str, position: int) -> bool:
    """Whether the clause before a place denies, supposes or ascribes what follows, or names it beside others."""
    before = _CLAUSE.split(text[max(0, position - _LONGEST) : position])[-1]
    return bool(_DOUBT.search(before) or _SEVERAL.search(before))


_WRAPPED = re.compile(r"\\(?:text|mbox|fbox|boxed|emph|text(?:bf|it|rm|sf|tt)|math(?:bf|it|rm|sf|tt))\s*\{([^{}]*)\}")
_MARKS = re.compile(r"\$|\\[()\[\]]|\*\*|__|`")
_SPACES = re.compile(r"(?:\\[ ,;:!]|~|\s)+")
_QUOTES = " *_\"'“”‘’"


def _plain(text: str) -> str:
    """The text without marks of LaTeX, Markdown and quotation, and without a full stop at the end."""
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
    """The letter that a statement names, `_AMBIGUOUS` if it names several, or None if it names no option.

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
            # The letter and the text must be of the same option.
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
    """The letter of the option with this text; `_AMBIGUOUS` if several have it, None if none has.

    Letter case is ignored only if no option has the text in the same case.
    """
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
    """The option that an answer names.

    1. The last statement counts: a box, or what follows "Answer:", "Correct option:" and the like, or what follows
       "the answer is", "the correct option is" and the like. Statements of the last kind count only if they name an
       option. Words that speak of another answer ("the wrong answer is"), deny or suppose ("if the answer is") make
       no statement.
    2. Without any statement, sentences such as "option B is correct" and "(B) is the answer" count if all name one
       option.
    3. Without these too, the last line counts if it is an option's letter, its text or both, and no other line names
       another option in the same way.

    Args:
        answer: the text after `</think>`.
        choices: the options, in the order in which the prompt gave them.

    Returns:
        (letter, "") or, if there is none, (the text that was read, the reason of `Grade`).
    """
    for statement in reversed(_statements(answer)):
        letter = _read(statement.content, choices)
        if letter == _AMBIGUOUS:
            return statement.content, "ambiguous"
        if letter:
            return letter, ""
        if statement.formal:
            return statement.content, "unparsed"
    verdicts = [match for match in _VERDICT.finditer(answer) if not _doubted(answer, match.start(match.lastindex or 0))]
    named = {match[1] or match[2] for match in verdicts} & set(LETTERS[: len(choices)])
    if named:
        return (verdicts[-1][0], "ambiguous") if len(named) > 1 else (named.pop(), "")
    lines = [line[:_LONGEST] for line in answer.splitlines() if line.strip()]
    letters = [_read(line, choices, whole=True) for line in lines]
    last = letters[-1] if letters else None
    if last is None:
        return None, "no_answer"
    if last == _AMBIGUOUS or len(set(letters) - {None}) > 1:
        return lines[-1], "ambiguous"
    return last, ""


def grade_choice(response: str, choices: Sequence[str], gold: str) -> Grade:
    """Grade one response.

    Args:
        response: the text, thinking included.
        choices: the options, in the order in which the prompt gave them.
        gold: the letter of the right one.

    Returns:
        The grade. The reasons are "equal", "different", "no_think_end", "many_think_ends" and, as parse failures,
        "no_answer", "ambiguous" (several options are named) and "unparsed" (the last statement names no option).
    """
    answer = answer_part(response)
    if answer is None:
        return Grade(False, False, None, no_answer_reason(response))
    extracted, reason = extract_choice(answer, choices)
    reason = reason or ("equal" if extracted == gold else "different")
    return Grade(reason == "equal", reason in _UNREADABLE, extracted, reason)


class ChoiceGrader(NamedTuple):
    """The grader of one problem's responses, for `attnpo.evaluation.responses.judge`."""

    choices: Sequence[str]

    def grade(self, responses: Sequence[str], golds: Sequence[str]) -> list[Grade]:
        """Grade N responses against the N letters beside them."""
        return [grade_choice(response, self.choices, gold) for response, gold in zip(responses, golds, strict=True)]
