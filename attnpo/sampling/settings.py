"""Settings of what samples the problems of a probe or a study."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from attnpo.schema import STRICT, Count, Positive

Backend = Literal["hf", "vllm"]
"""`hf`: transformers, a batch at a time; `vllm`: vLLM's offline engine on the same machine."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SamplingSection:
    """How the responses are sampled that a section of the profile is about."""

    problems: Count
    """Problems sampled from the section's `split`."""
    samples: Count
    """Responses per problem."""
    temperature: Positive = 1.0
    max_completion_tokens: Count
    batch_size: Count = 128
    """Responses generated at once; vLLM fills its batches by itself."""
    backend: Backend = "hf"
    """What samples: `hf`, transformers, or `vllm`."""
