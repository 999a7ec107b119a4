"""Settings of the segmentation, the probe and the studies of the heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Source:
    """The model that is probed and trained, and the problems that it is asked."""

    model: str
    """The embedded model (`attnpo.testbed.EMBEDDED`), a hub id or a folder."""
    revision: str | None
    """Hub revision, if `model` is a hub id."""
    data: str
    """The embedded problems, a JSON-lines file or a hub data set, see `attnpo.testbed.load_problems`."""


@dataclass(frozen=True, kw_only=True)
class StepsSection:
    """How the thinking is cut into steps: the arguments of `attnpo.method.steps.split_steps`."""

    phrases: str = "corrected"
    """Phrase set: `published` or `corrected`."""
    min_chars: int = 80
    """Steps shorter than this many characters merge into a neighbour; 1 merges none."""
    lone_trigger_chars: int = 15
    """A summary step with at most this many characters beside its trigger merges to the right."""


@dataclass(frozen=True, kw_only=True)
class ProbeSection:
    """Finding Key-Focus Heads: sample, label, score, rank."""

    split: str = "train"
    problems: int
    """Problems sampled from `split`."""
    samples: int
    """Responses per problem."""
    temperature: float = 1.0
    max_completion_tokens: int
    batch_size: int = 128
    """Responses generated at once."""
    heads: int = 3
    """Key-Focus Heads that training uses: the best this many by Step Ranking Accuracy."""
    bootstrap: int = 1000
    """Draws (responses) for the interval of each head's Step Ranking Accuracy."""


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """Studies of the heads of the untrained model, on responses of its own: see `attnpo.probing.studies`."""

    split: str = "validation"
    """Problems to sample; better not those of the probe, which chose the heads."""
    problems: int
    samples: int
    """Responses per problem."""
    temperature: float = 1.0
    max_completion_tokens: int
    batch_size: int = 128
    heads: Literal["top"] | list[tuple[int, int]] = "top"
    """Key-Focus Heads: `top`, the probe's best `probe.heads`, or a list of [layer, head], both from 0."""
    ensemble: int = 8
    """The ensemble curve goes from one head to this many."""
    dropped: float = 0.3
    """Intervention: share of the steps that are dropped from the thinking, rounded up."""
    answer_tokens: int = 64
    """Intervention: budget of the answer that follows."""
    answer_temperature: float = 1.0
