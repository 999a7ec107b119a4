"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Sampling through lm-eval."""

    tasks: list[str]
    samples: int | None
    """Responses per problem, k; null: each task's own."""
    temperature: float = 0.6
    top_p: float = 0.95
    max_completion_tokens: int
    batch_size: int
    limit: int | None = None
    """Only the first this many problems of each task; none: all of them."""
