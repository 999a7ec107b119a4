"""Does a piece of thinking state the gold answer as a result? A rule on texts, without a judge and without a process.

DECS (2509.25827) asks a trained 1.5B model where the first correct answer stands. Ours reads what stands in a box or
behind a sign or word that announces a result, and compares it with the gold answer as
`attnpo.grading.math.quick_verdict` does. A value in the middle of a computation (`2 * 3`) is no result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attnpo.grading.math import extract_boxed, quick_verdict

_ANNOUNCED = re.compile(
    r"(?:=|≈|\\approx|\\implies|\\Rightarrow|→|⇒"
    r"|\b(?:is|are|be|get|gets|gives?|equals?|becomes?|yields?|obtain|answer|result|so|thus|therefore|hence|have)\b)"
    r"[\s,:]*",
    re.IGNORECASE,
)
_SENTENCE_END = r"\n|[.!?](?=\s|$)"
_ENDS = tuple(
    re.compile(pattern)
    for pattern in (
        _SENTENCE_END + r"|[,;:](?=\s)|=|≈|\\approx|\\implies|\\Rightarrow|→|⇒|\s(?:so|which|and|or|as|for|when)\s",
        _SENTENCE_END,
    )
)
"""A value ends at the next of these: `48 = 6 * 8` is 48, `(0, 9)` is one value."""
_AROUND = " \t*_$`"
_MATH_ENDS = ("\\(", "\\)", "\\[", "\\]")
_LONGEST = 200
"""Characters of a value at most, so that the time is linear in the text."""


def states_answer(text: str, gold: str) -> bool:
    """Whether the text states the gold answer as a result.

    Args:
        text: thinking, such as a step; it may have several lines.
        gold: the answer as it would stand in a box. An empty one is never stated.
    """
    return bool(gold.strip()) and any(quick_verdict(value, gold) is True for value in set(_results(text)))


def _results(text: str) -> Iterator[str]:
    """What the text gives as a result: boxes, and what follows a sign or a word that announces one."""
    for place in re.finditer(r"\\boxed", text):
        boxed = extract_boxed(text[place.start() : _end_of_line(text, place.start())])
        if boxed:
            yield boxed.strip()
    for announced in _ANNOUNCED.finditer(text):
        following = text[announced.end() : announced.end() + _LONGEST]
        for mark in _MATH_ENDS:
            following = following.replace(mark, " ")
        for pattern in _ENDS:
            end = pattern.search(following)
            if value := following[: end.start() if end else None].strip(_AROUND):
                yield value


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
