"""What every problem has, whatever its source."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass


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
