r"""Numbers and words beside numbers, in LaTeX: thousands, mixed numbers, repeating decimals, words of quantity, units.

Used by `attnpo.grading.normalise`, and by the comparison to refuse what has no one reading.
"""

from __future__ import annotations

import re

LONGEST = 1000
"""No rule is tried on a text of more characters, so that none takes long."""
SPACE = r"(?:\\[,;:>! ]|\\(?:thin|med|thick)space(?![a-zA-Z])|\\q?quad(?![a-zA-Z])|[\s~])"
_TEXT = r"\\(?:text(?:bf|it|rm|normal)?|mbox|mathrm|mathit|mathbf|operatorname)\s*"
_NUMBER = r"\d(?:[\d.,]*\d)?"

_THOUSANDS = re.compile(rf"(?<![\d.,_^])[1-9]\d{{0,2}}(?:(?:{SPACE}+|\{{,\}}|,\\!\s*)\d{{3}}(?!\d))+")
_SEPARATOR = re.compile(rf"{SPACE}|[{{}},]|\\!")
_TEX_DIGITS = re.compile(r"\\([dtc]?frac|[dt]?binom)\s*(\d)\s*(\d)")
_MIXED = re.compile(
    rf"(?<![\d.,_^])(\d+)(?:{SPACE}+(\d+)\s*/\s*(\d+)(?![\d.])|{SPACE}*\\[dtc]?frac\s*\{{\s*(\d+)\s*\}}\s*\{{\s*(\d+)\s*\}})"
)
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{(\d+)\}")
_SIDE_BY_SIDE = re.compile(rf"(?<![\d.,_^]){_NUMBER}{SPACE}+\.?\d")
_IMPROPER = re.compile(rf"(?<![\d.,_^])\d+{SPACE}*\\[dtc]?frac\s*\{{\s*(\d+)\s*\}}\s*\{{\s*(\d+)\s*\}}")

_SCALES = {
    "hundred": "10^{2}",
    "thousand": "10^{3}",
    "million": "10^{6}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
    "dozen": "12",
    "lakh": "10^{5}",
    "crore": "10^{7}",
    "k": "10^{3}",
    "mn": "10^{6}",
    "bn": "10^{9}",
}
_LONG = "|".join(word for word in _SCALES if len(word) > 3)
_SCALED_TEXT = re.compile(rf"(?<=\d){SPACE}*{_TEXT}\{{\s*({'|'.join(_SCALES)})s?(?![a-zA-Z-])([^{{}}]*)\}}")
_SCALED = re.compile(rf"(?<=\d){SPACE}*(?<![a-zA-Z])({_LONG})s?(?![a-zA-Z-])")
_AND_A_HALF = re.compile(
    rf"(?<=\d){SPACE}*(?:{_TEXT}\{{\s*and (?:a|one)[ -]half\b([^{{}}]*)\}}|and (?:a|one)[ -]half\b)"
)

_ONES = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[a-z]+teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
)
_PARTS = "half|halves|thirds?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand|million|billion)ths?"
_VALUE = re.compile(
    rf"\b(?:{_ONES}|{_PARTS}|(?:{'|'.join(_SCALES)})s?|plus|minus|squared|cubed|factorial|twice|than|or|not)\b(?!-)",
    re.IGNORECASE,
)
_WORDS_AT_END = re.compile(
    rf"(?<=\S)(?:(?:{SPACE}|/)*{_TEXT}\{{[^{{}}]*\}}(?:\^\{{?\d\}}?)?)+$|(?<=[\d}})])\s+[a-zA-Z]+(?:[ -][a-zA-Z]+)*$"
)
_NO_UNIT = "sqrt|sinh|cosh|tanh|arc[a-z]+"
_UNIT_WORDS = re.compile(
    rf"^(-?[\d.,/]+(?:\\cdot(?:10\^\{{\d+\}}|12))?)\s+((?!(?:{_NO_UNIT})\b)[a-z]{{4,}}(?: [a-z]+)*)$"
)
_UNIT_TEXTS = re.compile(rf"(?<=\S)(?:(?:{SPACE}|/)*\\(?:text|mbox)\{{[^{{}}]*\}}(?:\^\{{?\d\}}?)?)+$")
_SHORT = "USD|EUR|GBP|CAD|AUD|INR|Rs|km|cm|mm|nm|kg|mg|mL|ml|ft|yd|mi|lbs?|oz|hrs?|mins?|secs?|mph|kmph|kph|kmh"
_UNIT_SIGNS = re.compile(
    rf"^(-?{_NUMBER}){SPACE}*(?:{_SHORT}|in)(?:\^\{{?[23]\}}?)?(?:/(?:{_SHORT}|h|s|min)(?:\^\{{?[23]\}}?)?)?$"
)
_CURRENCY_FIRST = re.compile(
    r"^(?:(?:USD|EUR|GBP|CAD|AUD|INR|Rs\.?)\s*|\\text\{\s*(?:USD|EUR|GBP|CAD|AUD|INR|Rs\.?)\s*\}\s*)(?=\d)"
)


def read_numbers(text: str) -> str:
    r"""Give numbers one form.

    1. Groups of three digits that any spaces part are joined: `10 000`, `10\;000`, `1{,}234`, `1,\!234`.
    2. Mixed numbers, with a proper fraction of digits, become `3\frac{1}{2}`: `3 1/2`, `3~\frac{1}{2}`.
    3. Repeating decimals become fractions: `0.1\overline{6}`.
    """
    text = _THOUSANDS.sub(lambda match: _SEPARATOR.sub("", match[0]), text)
    text = _TEX_DIGITS.sub(r"\\\1{\2}{\3}", text)
    text = _MIXED.sub(_mixed, text)
    return _REPEATING.sub(_repeating, text)


def _mixed(match: re.Match[str]) -> str:
    whole, *parts = match.groups()
    above, below = filter(None, parts)
    return rf"{whole}\frac{{{above}}}{{{below}}}" if int(above) < int(below) else match[0]


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, period = match.groups()
    above = int(whole + fixed + period) - int((whole + fixed) or "0")
    return rf"\frac{{{above}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"


def count_words(text: str) -> str:
    r"""Replace words of quantity after a number: `3 million` is `3\cdot10^{6}`, `2 and a half` is `2\frac{1}{2}`."""
    text = _AND_A_HALF.sub(lambda match: r"\frac{1}{2}" + _rest(match[1]), text)
    text = _SCALED_TEXT.sub(lambda match: rf"\cdot{_SCALES[match[1]]}" + _rest(match[2]), text)
    return _SCALED.sub(lambda match: rf"\cdot{_SCALES[match[1]]}", text)


def _rest(words: str | None) -> str:
    return rf"\text{{{words}}}" if words and words.strip() else ""


def drop_units(text: str) -> str:
    r"""Remove units, unless a word of value is among them (`2 \text{ thirds}`, `18 \text{ or more}`).

    Units are `\text{}` at the end with its power, plain words after a number if the first has four letters or more,
    the usual short ones after a number (`cm^2`, `km/h`, `USD`), and the name of a currency before a number. A single
    plain letter is never one.
    """
    text = _UNIT_WORDS.sub(lambda match: match[0] if _VALUE.search(match[2]) else match[1], text)
    text = _UNIT_TEXTS.sub(lambda match: match[0] if _VALUE.search(match[0]) else "", text)
    return _CURRENCY_FIRST.sub("", _UNIT_SIGNS.sub(r"\1", text))


def has_no_one_reading(text: str) -> bool:
    r"""Whether numbers stand side by side (`2 3`, `2\frac{7}{2}`), or words of value are left at the end.

    Of more than 1,000 characters, which `normalise` leaves as they are, this is not asked.
    """
    if len(text) > LONGEST:
        return False
    if _SIDE_BY_SIDE.search(text):
        return True
    if any(int(match[1]) >= int(match[2]) for match in _IMPROPER.finditer(text)):
        return True
    words = _WORDS_AT_END.search(text)
    return bool(words and _VALUE.search(words[0]) and re.search(r"\d", text[: words.start()]))


_OPPOSITES = {
    "am": ("day", 0),
    "pm": ("day", 1),
    "bc": ("era", 0),
    "bce": ("era", 0),
    "ad": ("era", 1),
    "north": ("compass", 0),
    "south": ("compass", 1),
    "east": ("compass", 2),
    "west": ("compass", 3),
    "left": ("side", 0),
    "right": ("side", 1),
    **dict.fromkeys(("up", "increase", "gain", "profit", "rise", "more"), ("sense", 0)),
    **dict.fromkeys(("down", "decrease", "loss", "drop", "fall", "less"), ("sense", 1)),
}
_BETWEEN = rf"(?:{SPACE}|\\text\{{)"
_OPPOSITE = re.compile(
    # The short words may be products of variables elsewhere.
    rf"(?<=\d){_BETWEEN}*([ap])\.? ?m\b|(?<=\d){_BETWEEN}+(bce?|ad)\b"
    rf"|(?<![a-z\\])({'|'.join(word for word in _OPPOSITES if len(word) > 3 or word == 'up')})\b"
)


def opposed(one: str, other: str) -> bool:
    """Whether two answers name opposites, such as a.m. and p.m., east and west, increase and decrease."""
    found, others = _senses(one), _senses(other)
    return any(group in others and found[group] != others[group] for group in found)


def _senses(text: str) -> dict[str, set[int]]:
    senses: dict[str, set[int]] = {}
    for match in _OPPOSITE.finditer(text.lower()):
        group, sense = _OPPOSITES[f"{match[1]}m" if match[1] else match[2] or match[3]]
        senses.setdefault(group, set()).add(sense)
    return senses
