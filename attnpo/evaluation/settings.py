"""Settings of an evaluation."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from attnpo.schema import STRICT, Count, Names, NotNegative, TopP

RESPONSES_FOLDER = "responses"
"""Holds the responses so far of an evaluation in its folder, see `attnpo.evaluation.resume`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSection:
    """Sampling through lm-eval."""

    tasks: Names
    samples: Count | None
    """Responses per problem, k; null: each task's own."""
    temperature: NotNegative = 0.6
    """0 decodes greedily."""
    top_p: TopP = 0.95
    max_completion_tokens: Count
    batch_size: Count
    limit: Count | None = None
    """Only the first this many problems of each task; null: all of them."""
