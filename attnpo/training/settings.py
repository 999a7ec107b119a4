"""Settings of training and of its methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from attnpo.errors import AttnPOError


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Reinforcement learning with TRL's GRPOTrainer, shared by all methods."""

    split: str = "train"
    steps: int
    """Optimizer steps."""
    prompts_per_step: int = 16
    group_size: int = 8
    """Rollouts per prompt, G."""
    learning_rate: float
    temperature: float = 1.0
    max_completion_tokens: int
    max_prompt_tokens: int | None = None
    """Problems whose prompt has more tokens, counted in the chat template, are left out; none: all are kept."""
    save_steps: int
    """Checkpoint interval in optimizer steps."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig, passed as they are."""


@dataclass(frozen=True, kw_only=True)
class TellSection:
    """A length told in the prompt, in training and in evaluation."""

    text: str
    """Put behind the problem and a space; `{n}` stands for the number of tokens, as in `Think for {n} tokens.`"""
    low: int
    high: int
    """In training each problem is told its own n, drawn uniformly from low to high by the run's seed."""
    evaluate: int
    """The n of all problems in evaluation."""

    def instruct(self, problem: str, n: int) -> str:
        """The problem with the length told."""
        return f"{problem} {self.text.replace('{n}', str(n))}"

    add_to = instruct


TargetLengthSection = TellSection


@dataclass(frozen=True, kw_only=True)
class MethodSection:
    """One trained row of the table."""

    label: str
    """Name in tables and figures."""
    reward: str
    """A name in `attnpo.rewards.REWARDS`."""
    reward_args: dict[str, Any] = field(default_factory=dict)
    estimator: Literal["rloo", "grpo", "batch"] | None = None
    """How rewards become advantages, see `attnpo.rewards.ESTIMATORS`; none: the one that the reward comes with."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig for this method alone, over those of `train.grpo`."""
    tell: TellSection | None = None
    """Tell a length in the prompt."""
    attnpo: bool = False
    """Rescale the advantages step by step by the attention of Key-Focus Heads."""
    credit: dict[str, Any] = field(default_factory=dict)
    """Fields of `attnpo.method.credit.CreditConfig`, over the profile's `credit`; used if `attnpo`."""
    heads: Literal["top", "worst", "random", "all", "oracle"] | list[tuple[int, int]] = "top"
    """`top`, `worst`: the probe's best or worst heads; `random`: drawn by the run's seed; `all`: every head of the
    model; `oracle`: labels in place of attention (`attnpo.method.credit.oracle_scores`); or a list of [layer, head],
    both from 0."""
    n_heads: int | None = None
    """How many heads, for `top`, `worst` and `random`; none: `probe.heads`."""
    phrases: Literal["published", "corrected"] | None = None
    """Phrase set that cuts the steps; none: that of `steps`."""
    snapshots: int | None = None
    """Keep the weights every this many optimizer steps, as `snapshots/STEP` of the run; none: only the last."""
    tune: list[dict[str, Any]] = field(default_factory=list)
    """Trials: partial method sections, each merged over this one as the method `NAME@1`, `NAME@2`, ..."""

    def __post_init__(self) -> None:
        if self.n_heads is not None and (self.n_heads < 1 or self.heads not in ("top", "worst", "random")):
            raise AttnPOError(
                f"method {self.label!r}: n_heads {self.n_heads} must be at least 1 and goes with heads top, worst or "
                f"random, not {self.heads!r}"
            )
        if self.tell is not None and ("{n}" not in self.tell.text or not 0 < self.tell.low <= self.tell.high):
            raise AttnPOError(f"method {self.label!r}: tell needs {{n}} in its text and 0 < low <= high")

    @property
    def target_length(self) -> TellSection | None:
        """The field `tell` by its new name."""
        return self.tell

    @property
    def needs_probe(self) -> bool:
        """Whether training waits for the probe's heads.json."""
        return self.attnpo and self.heads in ("top", "worst")
