r"""Rewrites an answer into LaTeX that math-verify reads. The rules are in `docs/grading.md`."""

from __future__ import annotations

import re

from attnpo.grading import characters, quantities

PLAIN_INTEGER = re.compile(r"[+-]?(?:[0-9]{1,300}|[0-9]{1,3}(?:,[0-9]{3}){1,99})")

_FONTS = re.compile(
    r"\\(?:boldsymbol|bm|pmb|underline|mathsf|mathtt|textcolor\s*\{[^{}]*\})\s*(\{(?:[^{}]|\{[^{}]*\})*\})"
)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")


def _compiled(*rules: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


# In the order of the list in `normalise`.
_MARKS = _compiled(
    (r"\\?\$", ""),
    (r"^[\s=]+|\s*(?<!\.)(?<!\\right)(?<!\\)[.,;]\s*$|\s+$", ""),
    (r"\.\s*\}$", "}"),
    (r"\\degree(?![a-zA-Z])", r"^{\\circ}"),
    (r"\\\\\[-?[\d.]+\s*[a-z]{2}\]", r"\\\\"),
    (r"\\mathrm\{([ei])\}", r"\1"),
    (r"\\[bB]igg?[lr]?(?![a-zA-Z])|^\\(?:approx|[lL]arge|huge)(?![a-zA-Z])\s*|\\color\s*\{[^{}]*\}", ""),
    (r"_\{?\\(?:max|min)\s*\}?", ""),
    (r"^[a-zA-Z]\s*(?=\([^()]*\]$|\[[^\[\]]*\)$)", ""),
    (r"^\\(?:text|textbf|mbox|mathrm|mathbf)\{\s*(\d[^{}]*)\}$", r"\1"),
    (r"\s*(?:\\text\{\s*)?\bper ?cent\b\s*\}?$", r"\\%"),
)
_QUANTIFIER = re.compile(r"(?<=\S)[,\s]*(?:\\q?quad\s*)?(?:\\forall|(?:\\text\{\s*)?\bfor (?:all|every|any|each)\b).*$")


def normalise(answer: str) -> str:
    r"""Rewrite what math-verify does not read by itself. The answer and the gold answer are treated alike.

    1. Unicode becomes LaTeX (`characters.latex`).
    2. Commands of font and colour are removed, with what they hold kept.
    3. Dollar signs of mathematics mode and of money are removed; so are an equals sign at the start, white space at
       the ends, and one full stop, comma or semicolon at the end.
    4. `\degree` becomes `^{\circ}`; `\\[4pt]` between the rows of a matrix becomes `\\`; `\mathrm{e}` and `\mathrm{i}`
       become `e` and `i`.
    5. `\big` and its variants are removed; so are `\approx` and commands of size at the start.
    6. The subscripts `_{\max}` and `_{\min}` of a name are removed.
    7. The name before a half-open interval is removed: `t(0,4]` cannot be a call.
    8. An answer that is all in one `\text{18 dollars}` leaves it. "percent" at the end becomes `\%`.
    9. Numbers get one form (`quantities.read_numbers`), words of quantity are counted out (`quantities.count_words`)
       and units are removed (`quantities.drop_units`).
    10. A quantifier at the end is removed: `f(x)=2x \text{ for all } x`.
    11. Degrees beside a trigonometric function become radians.

    Plain integers, and answers of more than 1,000 characters, stay as they are, so that no rule takes long.
    """
    if len(answer) > quantities.LONGEST or PLAIN_INTEGER.fullmatch(answer):
        return answer
    answer = characters.latex(answer)
    while (bare := _FONTS.sub(r"\1", answer)) != answer:
        answer = bare
    for pattern, replacement in _MARKS:
        answer = pattern.sub(replacement, answer)
    answer = quantities.drop_units(quantities.count_words(quantities.read_numbers(answer)))
    answer = _QUANTIFIER.sub("", answer)
    if _TRIGONOMETRIC.search(answer):
        answer = _DEGREES.sub(r"\\frac{\1\\pi}{180}", answer)
    return answer.strip()
