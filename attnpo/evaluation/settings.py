"""Settings of an evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError
from attnpo.schema import STRICT, Count, Names, NotNegative, TopP

RESPONSES_FOLDER = "responses"
"""Holds the responses so far of an evaluation in its folder."""

EvaluationBackend = Literal["hf", "vllm", "server"]
"""`hf`: transformers, a batch at a time; `vllm`: vLLM's offline engine on the same machine; `server`: an
OpenAI-compatible server, which runs already."""


def check_address(backend: str, base_url: str | None) -> None:
    """Check that an address is given with backend `server`, and with no other.

    Raises:
        AttnPOError: it is missing, or one too many.
    """
    if (backend == "server") != (base_url is not None):
        raise AttnPOError(f"base_url goes with backend server, and only with it; not {base_url!r} with {backend!r}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSection:
    """What an evaluation samples, and how."""

    tasks: Names
    """Names of tasks and groups, and paths of data files, from the current folder."""
    samples: Count | None
    """Responses per problem, k; null: each task's own."""
    temperature: NotNegative = 0.6
    """0 decodes greedily."""
    top_p: TopP = 0.95
    max_completion_tokens: Count
    batch_size: Count
    """`hf`: responses generated at once; `server`: requests at once; vLLM fills its batches by itself."""
    limit: Count | None = None
    """Only the first this many problems of each task; null: all of them."""
    backend: EvaluationBackend = "hf"
    base_url: str | None = None
    """`server`: its whole address, such as http://localhost:8000/v1/completions."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_address(self.backend, self.base_url)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FreeEvaluation:
    """An evaluation without a profile, of any model. What is null is each task's own."""

    model: str
    """`testbed`, the embedded one, a folder or a hub id; of a server, the name under which it knows the model."""
    revision: str | None = None
    tasks: Names
    samples: Count | None = None
    temperature: NotNegative | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    batch_size: Count = 32
    limit: Count | None = None
    backend: EvaluationBackend = "hf"
    base_url: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_address(self.backend, self.base_url)
        return self
