"""Settings of training and of its methods."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from attnpo.probing.settings import HeadList
from attnpo.schema import STRICT, Count, Options, Positive

CHECKPOINTS_FOLDER = "checkpoints"
"""Holds the last checkpoints of a training run in its folder."""
REPORTING = ("report_to", "run_name", "project", "trackio_space_id")
"""Arguments under `grpo` that say where a training is shown, and determine nothing of it."""


def _variant(credit: dict[str, Any]) -> dict[str, Any]:
    if "reading" in credit:
        raise ValueError("'reading' is called 'variant' now")
    return credit


CreditOptions = Annotated[Options, AfterValidator(_variant)]
"""Fields of `attnpo.method.credit.CreditConfig`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSection:
    """Reinforcement learning with TRL's GRPOTrainer, shared by all methods."""

    split: str = "train"
    steps: Count
    """Optimizer steps."""
    prompts_per_step: Count = 16
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts per prompt, G."""
    learning_rate: Positive
    temperature: Positive = 1.0
    max_completion_tokens: Count
    max_prompt_tokens: Count | None = None
    """Problems whose prompt has more tokens, counted in the chat template, are left out; null: all are kept."""
    save_steps: Count
    """Checkpoint interval in optimizer steps."""
    grpo: Options = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig, passed as they are."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TargetLengthSection:
    """A target length in the prompt, in training and in evaluation."""

    text: str
    """Put behind the problem and a space; `{n}` stands for the number of tokens, as in `Think for {n} tokens.`"""
    low: Count
    high: Count
    """In training each problem has its own n, drawn uniformly from low to high by the run's seed."""
    evaluate: Count
    """The n of all problems in evaluation."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "{n}" not in self.text or self.low > self.high:
            raise ValueError(
                f"needs {{n}} in its text, not {self.text!r}, and low <= high, not {self.low}, {self.high}"
            )
        return self

    def add_to(self, problem: str, n: int) -> str:
        """The problem with the target length n behind it."""
        return f"{problem} {self.text.replace('{n}', str(n))}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MethodSection:
    """One trained row of the table."""

    RENAMED: ClassVar = {"tell": "target_length"}
    """Keys of earlier profiles to their names now."""

    label: str
    """Name in tables and figures."""
    reward: str
    """A name in `attnpo.rewards.REWARDS`."""
    reward_args: Options = field(default_factory=dict)
    estimator: Literal["rloo", "grpo", "batch"] | None = None
    """How rewards become advantages, see `attnpo.method.advantages.ESTIMATORS`; null: the one that the reward comes
    with."""
    grpo: Options = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig for this method alone, over those of `train.grpo`."""
    target_length: TargetLengthSection | None = None
    """Put a target length in the prompt."""
    attnpo: bool = False
    """Rescale the advantages step by step by the attention of Key-Focus Heads."""
    credit: CreditOptions = field(default_factory=dict)
    """Fields of `attnpo.method.credit.CreditConfig`, over the profile's `credit`; used if `attnpo`."""
    heads: Literal["top", "worst", "random", "all", "oracle"] | HeadList = "top"
    """`top`, `worst`: the probe's best or worst heads; `random`: drawn by the run's seed; `all`: every head of the
    model; `oracle`: labels in place of attention (`attnpo.method.credit.oracle_scores`); or a list of [layer, head],
    both from 0."""
    n_heads: Count | None = None
    """How many heads, for `top`, `worst` and `random`; null: `probe.heads`."""
    phrases: Literal["published", "corrected"] | None = None
    """Phrase set that cuts the steps; null: that of `steps`."""
    snapshots: Count | None = None
    """Keep the weights every this many optimizer steps, as `snapshots/STEP` of the run; null: only the last."""
    tune: list[Options] = field(default_factory=list)
    """Trials: partial method sections, each merged over this one as the method `NAME@1`, `NAME@2`, ..."""

    def grpo_over(self, train: TrainSection) -> dict[str, Any]:
        """Arguments of TRL's GRPOConfig: the method's own over those of all methods."""
        return {**train.grpo, **self.grpo}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.n_heads is not None and self.heads not in ("top", "worst", "random"):
            raise ValueError(f"n_heads {self.n_heads} goes with heads top, worst or random, not {self.heads!r}")
        return self

    @property
    def needs_probe(self) -> bool:
        """Whether training waits for the probe's heads.json."""
        return self.attnpo and self.heads in ("top", "worst")
