"""What people watch of a training: a few figures of its newest step, from a log's entry. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shown_figures(entry: Mapping[str, Any], attnpo: bool) -> str:
    """Accuracy, mean tokens of a response and, with AttnPO, the share of tokens whose advantage it lowers.

    What the entry of the log does not hold as a number is left out.
    """
    figures = []
    if _is_number(accuracy := entry.get("attnpo/group_accuracy")):
        figures.append(f"accuracy {accuracy:.2f}")
    if _is_number(tokens := entry.get("completions/mean_length")):
        figures.append(f"{tokens:.0f} tokens")
    lowered: list[Any] = [entry.get(f"attnpo/{name}_token_share") for name in ("pa", "na")]
    if attnpo and all(map(_is_number, lowered)):
        figures.append(f"{sum(lowered):.1%} of tokens attenuated")
    return ", ".join(figures)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
