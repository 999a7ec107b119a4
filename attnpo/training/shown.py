"""What people watch of a training: a few figures of its newest step, from a log's entry. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shown_figures(entry: Mapping[str, Any], attnpo: bool) -> str:
    """Accuracy, mean tokens of a response and, with AttnPO, the share of tokens whose advantage it lowers.

    What the entry of the log does not hold as a number is left out.
    """
    accuracy = entry.get("attnpo/group_accuracy")
    tokens = entry.get("completions/mean_length")
    lowered = [entry.get(f"attnpo/{name}_token_share") for name in ("pa", "na")] if attnpo else [None]
    figures = [
        f"accuracy {accuracy:.2f}" if isinstance(accuracy, int | float) else "",
        f"{tokens:.0f} tokens" if isinstance(tokens, int | float) else "",
        f"{sum(lowered):.1%} of tokens attenuated" if all(isinstance(share, int | float) for share in lowered) else "",
    ]
    return ", ".join(filter(None, figures))


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
