"""Settings of the segmentation, the probe and the studies of the heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from attnpo.sampling.settings import SamplingSection
from attnpo.schema import STRICT, Count, Index, Positive, Share


def _different(heads: list[tuple[int, int]]) -> list[tuple[int, int]]:
    for head in heads:
        if heads.count(head) > 1:
            raise ValueError(f"head {list(head)} stands twice; leave one of them out")
    return heads


HeadList = Annotated[list[tuple[Index, Index]], Field(min_length=1), AfterValidator(_different)]
"""Heads as [layer, head], both from 0."""


Phrases = Literal["published", "corrected"]
"""Phrase sets that cut the thinking into steps."""

LabelSource = Literal["oracle", "first_answer", "ablation"]
"""Who says which steps are essential, see `attnpo.probing.labels`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Source:
    """The model that is probed and trained, and the problems that it is asked."""

    model: str
    """One of `attnpo.testbed.MODELS`, a hub id or a folder."""
    revision: str | None
    """Hub revision, if `model` is a hub id."""
    data: str
    """The testbed's problems, a file or a hub data set, see `attnpo.problems.training_sets.load`."""
    data_revision: str | None = None
    """Hub revision, if `data` is a hub data set."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StepsSection:
    """How the thinking is cut into steps: the arguments of `attnpo.method.steps.split_steps`."""

    phrases: Phrases = "corrected"
    """Phrase set."""
    min_chars: Index = 80
    """Steps shorter than this many characters merge into a neighbour; 1 merges none."""
    lone_trigger_chars: Index = 15
    """A summary step with at most this many characters beside its trigger merges to the right."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProbeSection(SamplingSection):
    """How Key-Focus Heads are found: sample responses, label their steps, score them, rank the heads."""

    split: str = "train"
    """Problems to sample."""
    labels: LabelSource = "oracle"
    """`oracle`, which the testbed alone has, `first_answer` or `ablation`; see `attnpo.probing.labels`."""
    forced_answer: str = "\n\n**Final Answer**\n\\boxed{"
    """`ablation`: what is put between `</think>` and the gold answer, as the model would write it. A brace follows."""
    heads: Count = 3
    """Key-Focus Heads that training uses: the best this many by Step Ranking Accuracy."""
    bootstrap: Count = 1000
    """Draws (of responses) for the interval of each head's Step Ranking Accuracy."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StudySection(SamplingSection):
    """Studies of the heads of the untrained model, on responses of its own: see `attnpo.probing.studies`."""

    split: str = "validation"
    """Problems to sample. Those of the probe chose the heads, so others are better here."""
    heads: Literal["top"] | HeadList = "top"
    """Key-Focus Heads: `top`, the probe's best `probe.heads`, or a list of [layer, head], both from 0."""
    ensemble: Count = 8
    """The ensemble curve goes from one head to this many."""
    dropped: Share = 0.3
    """Intervention: share of the steps that are dropped from the thinking, rounded up."""
    answer_tokens: Count = 64
    """Intervention: budget of the answer that follows."""
    answer_temperature: Positive = 1.0
