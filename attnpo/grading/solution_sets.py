r"""Sets of real numbers that are written as intervals, inequalities, or both: `(0,9)\cup(9,36)`, `0<x<36, x\ne9`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended.logic import And
from sympy.core.relational import Relational

from attnpo.grading.quantities import SPACE

_SET = re.compile(r"[<>]|\\(?:[lg](?:eq?(?:slant)?|t)|neq?|cup|infty|setminus|backslash|mathbb)(?![a-zA-Z])")
_BUILDER = re.compile(
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?(?::|\||\\mid(?![a-zA-Z])|\\vert(?![a-zA-Z]))(.*)\\\}",
    re.DOTALL,
)
_SPACE = re.compile(SPACE)
_SIZED = re.compile(r"\\(?:left|middle|right)(?![a-zA-Z])\s*")
_OR = re.compile(r",?\s*(?:\\(?:text|mbox)\s*\{\s*,?\s*or\s*\}|\bor\b|\\(?:lor|vee|cup)(?![a-zA-Z]))")
_AND = re.compile(r",?\s*(?:\\(?:text|mbox)\s*\{\s*,?\s*and\s*\}|\band\b|\\(?:land|wedge|cap)(?![a-zA-Z]))")
_COMMA = re.compile("[,;]")


class _Solutions(NamedTuple):
    numbers: Any
    """A set of sympy."""
    variables: frozenset[str]
    """The name of the unknown, if the text has one."""
    condition: bool
    """Written as a condition on the unknown, not as a set."""


def same(gold: str, answer: str, read: Callable[[str], list[Any]]) -> bool | None:
    """Whether two texts state the same set of real numbers; None if that cannot be told.

    `or` and the sign of union join, and so do commas and `and` between intervals. `and` and commas beside a condition
    intersect; if commas leave nothing, they join, as `x<2, x>3` is meant. The unknown may have any name, but the same
    in both texts.

    Args:
        gold: LaTeX after `normalise`.
        answer: the same.
        read: gives what math-verify parses of a text, decimals as fractions.
    """
    if not _SET.search(gold) and not _SET.search(answer):
        return None
    ours, theirs = _union(answer, read), _union(gold, read)
    if ours is None or theirs is None:
        return None
    if len(ours.variables | theirs.variables) > 1:
        return False
    return True if ours.numbers == theirs.numbers else ours.numbers.symmetric_difference(theirs.numbers).is_empty


def _union(text: str, read: Callable[[str], list[Any]]) -> _Solutions | None:
    text = _SPACE.sub(" ", _SIZED.sub("", text)).strip()
    if built := _BUILDER.fullmatch(text):
        text = built[2]
    return _joined([_intersection(part, read) for part in _split(text, _OR)], sympy.Union)


def _intersection(text: str, read: Callable[[str], list[Any]]) -> _Solutions | None:
    parts = [_list(part, read) for part in _split(text, _AND)]
    meet = "\\cap" in text or any(part is not None and part.condition for part in parts)
    return _joined(parts, sympy.Intersection if meet else sympy.Union)


def _list(text: str, read: Callable[[str], list[Any]]) -> _Solutions | None:
    parts = [_atom(part, read) for part in _split(text, _COMMA)]
    if any(part is not None and part.condition for part in parts):
        met = _joined(parts, sympy.Intersection)
        if met is None or not met.numbers.is_empty:
            return met
    return _joined(parts, sympy.Union)


def _joined(parts: list[_Solutions | None], operation: Any) -> _Solutions | None:
    read = [part for part in parts if part is not None]
    if len(read) < len(parts):
        return None
    variables = frozenset().union(*(part.variables for part in read))
    if len(variables) > 1:
        return None
    return _Solutions(operation(*(part.numbers for part in read)), variables, any(part.condition for part in read))


def _atom(text: str, read: Callable[[str], list[Any]]) -> _Solutions | None:
    parsed = read(text)
    if len(parsed) != 1:
        return None
    (value,) = parsed
    if isinstance(value, sympy.Set):
        return None if value.free_symbols else _Solutions(value.doit(), frozenset(), False)
    if not isinstance(value, (Relational, And)) or len(value.free_symbols) != 1:
        return None
    (symbol,) = value.free_symbols
    name = frozenset({symbol.name})
    if isinstance(value, sympy.Eq) and value.lhs == symbol and isinstance(value.rhs, sympy.Set):
        return _Solutions(value.rhs.doit(), name, True)
    # math-verify's And keeps the order of a chain and does not solve it.
    links = value.args if isinstance(value, And) else (value,)
    if not all(isinstance(link, Relational) and _solvable(link, symbol) for link in links):
        return None
    return _Solutions(sympy.Intersection(*(link.doit().as_set() for link in links)), name, True)


def _solvable(link: Any, symbol: Any) -> bool:
    """Whether the unknown stands alone on one side, so that no solver is needed."""
    return (link.lhs == symbol) != (link.rhs == symbol) and link.free_symbols == {symbol}


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of a text between separators outside all brackets."""
    depth, depths = 0, []
    for character in text:
        depth -= character in ")]}"
        depths.append(depth)
        depth += character in "([{"
    parts, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]
