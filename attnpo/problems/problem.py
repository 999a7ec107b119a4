"""What every problem has, whatever its source, and what tells one set of them from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from attnpo.files import canonical_json


@dataclass(frozen=True)
class Problem:
    """One problem and its gold answer. A source with more to say about its problems has a subclass of its own."""

    id: str
    """Unique within its source."""
    text: str
    """What is asked."""
    answer: str
    """The gold answer as it would stand in a box; with choices, the letter of the right one; empty for programs."""
    _: KW_ONLY
    choices: tuple[str, ...] = ()
    """The options in the order of the source; none where the answer is written freely."""
    subject: str = ""


def problems_digest(problems: Iterable[Problem]) -> str:
    """SHA-256 of ids, texts and answers, in order."""
    rows = [[problem.id, problem.text, problem.answer] for problem in problems]
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()
