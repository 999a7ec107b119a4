"""Are two answers equal? math-verify parses and compares, with our rules for numbers and for solution sets.

Runs in the process of `_math_verify_worker`, because a comparison may take forever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, grader, parse, verify

from attnpo.grading import solution_sets
from attnpo.grading.quantities import has_no_one_reading

DIGITS = 1000
"""Two numbers without decimals are equal if they agree in so many digits. Only sums that cancel are computed so far."""
PLACES = 6
_HUNDREDTH = sympy.UnevaluatedExpr(sympy.Rational(1, 100))
"""What math-verify reads a percent sign as."""

_VARIABLE = re.compile(r"(?<![a-zA-Z])[a-zA-Z]{1,2}(?![a-zA-Z])")
_DECIMAL = re.compile(r"\.\d")
_COMMAND = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_NORMALISATION = LatexExtractionConfig().normalization_config
_CONFIGS = {
    units: LatexExtractionConfig(
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=replace(_NORMALISATION, units=units),
    )
    for units in (False, True)
}


def judge(answer: str, gold: str) -> str:
    """Compare the contents of two boxes, both after `normalise`, by math-verify with these options and rules.

    1. Only the box is read. If it cannot be parsed, or has no one reading (`quantities.has_no_one_reading`), that is a
       parse failure; no number is picked out of it.
    2. Units are dropped only if the gold answer has no variable: with a variable, `6m` may be six times m.
    3. Inequalities, intervals and unions of them may be equal, whichever of the two is the gold answer.
    4. Numbers are compared by `same_number`.
    5. A percent sign may stand on one side only, as in math-verify's rule for integers. 62.5% also equals 0.625.
    6. The letter i is the imaginary unit.

    Returns:
        "equal", "different", "unparsed" (the answer cannot be read) or "gold_unparsed".
    """
    config = _CONFIGS[not _VARIABLE.search(_COMMAND.sub(" ", gold))]

    def read(text: str) -> list[Any]:
        # math-verify's own timeouts stay off, because they are signals that cannot interrupt a long computation in C.
        found = parse(f"\\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None)
        return [_with_imaginary_unit(part) for part in found] if "i" in text else found

    if has_no_one_reading(gold):
        return "gold_unparsed"
    if has_no_one_reading(answer):
        return "unparsed"
    same_set = solution_sets.same(gold, answer, lambda text: [_exact(part) for part in read(text)])
    # Ends of intervals that are decimals may still be equal after rounding.
    if same_set or (same_set is False and not _DECIMAL.search(gold + answer)):
        return "equal" if same_set else "different"
    parsed_gold, parsed_answer = read(gold), read(answer)
    if not parsed_gold:
        return "gold_unparsed"
    if not parsed_answer:
        return "unparsed"
    if ("%" in gold) != ("%" in answer):
        parsed_gold += read(gold.replace("\\%", "").replace("%", ""))
        parsed_answer += read(answer.replace("\\%", "").replace("%", ""))
    with _our_numbers():
        equal = verify(parsed_gold, parsed_answer, allow_set_relation_comp=True, timeout_seconds=None)
    return "equal" if equal else "different"


def _with_imaginary_unit(expression: Any) -> Any:
    letters = {symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"}
    return expression.xreplace(letters) if letters else expression


def same_number(gold: Any, answer: Any, places: int, precision: int) -> bool:
    """Whether two expressions are numerically equal; takes the place of math-verify's own function.

    A decimal, with or without a power of ten, equals another number if both are equal after rounding to `PLACES`
    places. If the gold answer is below 0.1, places are counted from its first digit other than 0; nothing but 0 equals
    0. So 0.333333 is 1/3, and 0.333 is not. Other numbers are equal if their difference is 0 in all of `DIGITS` digits:
    nothing is too small to count.
    """
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return _compare_as_the_library(gold, answer, places, precision)
    decimal = _is_decimal(gold) or _is_decimal(answer)
    if gold.free_symbols or answer.free_symbols:
        return not decimal and bool(_exact(gold) - _exact(answer) == 0)
    if decimal:
        return _same_decimal(_exact(gold).doit(), _exact(answer).doit())
    if all(grader.is_atomic_or_pct_atomic(side, sympy.Number) for side in (gold, answer)):
        return _compare_as_the_library(gold, answer, places, precision)
    return _vanishes(_exact(gold) - _exact(answer))


_compare_as_the_library = grader.sympy_numeric_eq


@contextmanager
def _our_numbers() -> Iterator[None]:
    """math-verify compares numbers by `same_number`, wherever they stand in sets, tuples, matrices and equations."""
    grader.sympy_numeric_eq = same_number
    try:
        yield
    finally:
        grader.sympy_numeric_eq = _compare_as_the_library


def _exact(expression: Any) -> Any:
    """The expression with its decimals and percentages as fractions."""
    fractions = {number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)}
    return expression.xreplace(fractions | {_HUNDREDTH: sympy.Rational(1, 100)})


def _vanishes(difference: Any) -> bool:
    """Whether a number is 0; one whose first digit is none of the first `DIGITS` of its terms counts as 0."""
    value = difference.evalf(2, maxn=DIGITS)
    return all(part == 0 or getattr(part, "_prec", 2) == 1 for part in value.as_real_imag())


def _is_decimal(number: Any) -> bool:
    if grader.is_atomic_or_pct_atomic(number, sympy.Float):
        return True
    if not isinstance(number, sympy.Mul) or len(number.args) != 2:
        return False
    return any(part.is_Float for part in number.args) and any(part.as_base_exp()[0] == 10 for part in number.args)


def _same_decimal(gold: Any, answer: Any) -> bool:
    if not gold.is_finite or not answer.is_finite or gold == 0:
        return bool(gold == answer)
    scale = 10 ** (PLACES + leading_zeros(gold))
    return bool((gold * scale).round() == (answer * scale).round())


def leading_zeros(number: Any) -> int:
    """How many zeros follow the point of a number below 0.1; 0 for larger ones."""
    size = abs(number).evalf()
    return max(0, -int(sympy.floor(sympy.log(size, 10))) - 1)
