"""Unicode signs of mathematics as LaTeX, for `attnpo.grading.normalise`."""

from __future__ import annotations

import re
import unicodedata

# Before Unicode's compatibility forms (NFKC) are taken, which would make `o` of `º` and `R` of `ℝ`.
_FIRST = str.maketrans(
    {
        "º": "°",
        "˚": "°",
        "∶": ":",
        "…": r"\ldots ",
        **{letter: rf"\mathbb{{{plain}}}" for letter, plain in zip("ℝℕℤℚℂ", "RNZQC", strict=True)},
        **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"),
    }
)
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒", "-"),
        **dict.fromkeys("·⋅∙•", r"\cdot "),
        **dict.fromkeys("≤⩽≦", r"\le "),
        **dict.fromkeys("≥⩾≧", r"\ge "),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("€£¥₹", ""),
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "′": "'",
        "。": ".",
        "、": ",",
        "∣": "|",
        "°": r"^{\circ}",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "×": r"\times ",
        "÷": r"\div ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "∖": r"\setminus ",
        "∧": r"\land ",
        "∨": r"\lor ",
        "≈": r"\approx ",
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
    }
)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜ]+")
_FRACTION = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_ROOT = re.compile(r"([√∛∜])\s*(?:(\d+(?:\.\d+)?|\\?[a-zA-Z]+)|\{([^{}]*)\}|\(([^()]*)\))")
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}


def latex(text: str) -> str:
    r"""The text with LaTeX for signs of Unicode: `2√5`, `x²`, `½`, `–3`, `90º`, `（1，2）` and their like.

    Full-width and other compatibility forms become plain letters, digits, brackets and spaces (NFKC).
    """
    if text.isascii():
        return text
    text = text.translate(_FIRST)
    text = _RAISED.sub(lambda match: f"^{{{_plain(match[0])}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{_plain(match[0])}}}", text)
    text = _FRACTION.sub(lambda match: r"\frac{{{}}}{{{}}}".format(*_plain(match[0]).split("⁄")), text)
    text = _plain(text)
    while (rooted := _ROOT.sub(_root, text)) != text:
        text = rooted
    return text.translate(_SIGNS)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _root(match: re.Match[str]) -> str:
    sign, *contents = match.groups()
    return rf"\sqrt{_DEGREES[sign]}{{{next(part for part in contents if part is not None)}}}"
