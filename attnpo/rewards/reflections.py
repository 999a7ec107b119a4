"""How often a response reflects: the words that ARLCP counts (ZeweiYu1/ARLCP `src/rm.py`, commit c8ff44f [C])."""

from __future__ import annotations

import re

KEYWORDS = (
    *("wait", "alternatively", "hold on", "another thought", "verify", "think again", "but", "however"),
    *("alternative", "check", "double-check", "oh", "hmm"),
)
_PATTERN = re.compile(rf"\b(?:{'|'.join(map(re.escape, KEYWORDS))})\b", re.IGNORECASE)


def count_reflections(text: str) -> int:
    """The number of whole words and phrases of `KEYWORDS` in a response, in any case; `double-check` is one."""
    return len(_PATTERN.findall(text))
