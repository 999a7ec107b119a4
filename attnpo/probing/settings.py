"""Settings of the segmentation, the probe and the studies of the heads."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from attnpo.problems.training_sets import STANDARD, Columns
from attnpo.sampling.settings import SamplingSection
from attnpo.schema import STRICT, Count, Index, NotNegative, Positive, Share

T = TypeVar("T")


def _different(items: list[T]) -> list[T]:
    for item in items:
        if items.count(item) > 1:
            name = f"head {list(item)}" if isinstance(item, tuple) else repr(item)
            raise ValueError(f"{name} stands twice; leave one of them out")
    return items


HeadList = Annotated[list[tuple[Index, Index]], Field(min_length=1), AfterValidator(_different)]
"""Heads as [layer, head], both from 0."""


Phrases = Literal["published", "corrected"]
"""Phrase sets that cut the thinking into steps."""

AnswerSource = Literal["prefix_gain", "sampled_ablation"]
"""The sources that sample answers, see `attnpo.probing.answers`."""

LabelSource = Literal["oracle", "first_answer", "prefix_gain", "ablation", "sampled_ablation", "judge"]
"""Who says which steps are essential, see `attnpo.probing.labels`."""

Sources = Annotated[list[LabelSource], Field(min_length=2), AfterValidator(_different)]
"""Several sources."""

Vote = Literal["unanimous", "majority"]
"""How the labels of several judges become one, see `attnpo.probing.labels.voted`."""


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
    data_columns: Columns = STANDARD
    """What the columns of a file or a hub data set are called."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StepsSection:
    """How the thinking is cut into steps: the arguments of `attnpo.method.steps.split_steps`."""

    phrases: Phrases = "corrected"
    """Phrase set."""
    min_chars: Index = 80
    """Steps shorter than this many characters merge into a neighbour; 1 merges none."""
    lone_trigger_chars: Index = 15
    """A summary step with at most this many characters beside its trigger merges to the right."""


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")) or not url.rstrip("/").endswith("/chat/completions"):
        raise ValueError(
            f"{url!r} is no address of a chat; give it whole, as http://localhost:8000/v1/chat/completions"
        )
    return url


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JudgeSection:
    """A model that labels steps, behind an OpenAI-compatible endpoint: a hosted one, `vllm serve`, Ollama."""

    base_url: Annotated[str, AfterValidator(_address)]
    """The whole address, such as http://localhost:8000/v1/chat/completions."""
    model: str
    """The name under which the server knows it."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, if the server wants one."""
    temperature: NotNegative = 0.0
    max_tokens: Count = 8192
    """Budget of a reply."""
    concurrent: Count = 8
    """Requests at once."""
    attempts: Count = 6
    """How often a request is made before an error that may pass (429, 5xx, no answer) ends the probe."""
    wait: NotNegative = 1.0
    """Seconds before the second attempt; each further wait is twice as long, a minute at most."""
    timeout: Positive = 600.0
    """Seconds until a request counts as not answered."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProbeSection(SamplingSection):
    """How Key-Focus Heads are found: sample responses, label their steps, score them, rank the heads."""

    split: str = "train"
    """Problems to sample."""
    labels: LabelSource | Sources = "oracle"
    """One of `oracle` (the testbed alone has it), `first_answer`, `prefix_gain`, `ablation`, `sampled_ablation` and
    `judge`, or several, of which only steps on which all agree are labelled; see `attnpo.probing.labels`."""
    judges: list[JudgeSection] = field(default_factory=list)
    """`judge`: who is asked."""
    vote: Vote = "unanimous"
    """`judge`: how the labels of several become one."""
    forced_answer: str = "\n\n**Final Answer**\n\\boxed{"
    """`ablation`: what is put between `</think>` and the gold answer, as the model would write it. A brace follows.
    `prefix_gain` and `sampled_ablation`: what each answer begins with; empty: the model's answer is its own."""
    answers: Count = 5
    """`prefix_gain`, `sampled_ablation`: answers to each shortened thinking."""
    answer_tokens: Count = 32
    """`prefix_gain`, `sampled_ablation`: budget of each of them."""
    heads: Count = 3
    """Key-Focus Heads that training uses: the best this many by Step Ranking Accuracy."""
    bootstrap: Count = 1000
    """Draws (of responses) for the interval of each head's Step Ranking Accuracy."""

    @property
    def sources(self) -> list[LabelSource]:
        """The sources of the labels, one or several."""
        return [self.labels] if isinstance(self.labels, str) else self.labels

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ("judge" in self.sources) != bool(self.judges):
            raise ValueError("judges (--judge-url, --judge-model) go with labels judge alone, which needs one or more")
        return self


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
