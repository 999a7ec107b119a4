"""Settings of training and of its methods."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from attnpo.method.steps import THINK_END
from attnpo.probing.settings import HeadList, Phrases
from attnpo.schema import STRICT, Count, Index, NotNegative, Options, Positive, Seed, TopP

CHECKPOINTS_FOLDER = "checkpoints"
"""Holds the last checkpoints of a training run in its folder."""
CARD = "README.md"
"""The model card in a model's folder, as the hub calls it."""
SAMPLED = "rollouts/sampled_tokens"
"""Name of the number of tokens sampled for a step in the logs of a training."""
KEPT = ("trace_samples",)
"""Settings of a training that say what is kept to be looked at, and determine nothing of it."""
REPORTING = ("report_to", "run_name", "project", "trackio_space_id")
"""Arguments under `grpo` that say where a training is shown, and determine nothing of it."""


def _variant(credit: dict[str, Any]) -> dict[str, Any]:
    if "reading" in credit:
        raise ValueError("'reading' is called 'variant' now")
    return credit


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GRPONumbers:
    """Those arguments of TRL's GRPOConfig whose range TRL does not check; None: TRL's default."""

    learning_rate: NotNegative | None = None
    temperature: Positive | None = None
    top_p: TopP | None = None
    num_generations: Annotated[int, Field(ge=2)] | None = None
    max_completion_length: Count | None = None
    per_device_train_batch_size: Count | None = None
    gradient_accumulation_steps: Count | None = None
    num_iterations: Count | None = None
    seed: Seed | None = None

    @classmethod
    def among(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """The ones among the arguments that are set."""
        return {name: value for name, value in arguments.items() if name in cls.__dataclass_fields__}


_TO_HUB = (
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_token",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
)
_OURS = {
    "output_dir": "the checkpoints lie in the run's folder, where resuming looks for them",
    "resume_from_checkpoint": "a run goes on from its last checkpoint by itself",
    "save_only_model": "a run could not go on from its checkpoints",
    "save_strategy": "set train.save_steps",
    "save_steps": "set train.save_steps",
    "save_total_limit": "the last two checkpoints are kept",
    "logging_steps": "every step is logged",
    "logging_strategy": "every step is logged",
    **dict.fromkeys(_TO_HUB, "`attnpo push` uploads a trained model, with its results on its card"),
    "max_steps": "set train.steps",
    "num_train_epochs": "set train.steps",
    "seed": "set seeds",
    "length_reward": "set reward of the method",
    "length_reward_args": "set reward_args of the method",
    "advantage_estimator": "set estimator of the method",
    "attnpo": "set attnpo of the method",
    "heads": "set heads of the method",
    "step_scores": "set heads of the method",
    "credit": "set credit",
    "selection": "set selection of the method",
    "exits": "set exits of the method",
    "answers": "set answers of the method",
    "openings": "set openings of the method",
    "phrases": "set steps.phrases",
    "min_step_chars": "set steps.min_chars",
    "lone_trigger_chars": "set steps.lone_trigger_chars",
}
"""Arguments of the trainer that the harness sets itself, and what to do in place of setting them."""
_OF_TRAIN = {
    "learning_rate": "learning_rate",
    "temperature": "temperature",
    "num_generations": "group_size",
    "max_completion_length": "max_completion_tokens",
}
"""Arguments that a single method may set, and the keys of `train` for all of them."""


def _whole(shares: dict[str, float]) -> dict[str, float]:
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"{shares} have shares of {sum(shares.values()):g} in all; make them 1")
    return shares


def _of_trl(grpo: dict[str, Any]) -> dict[str, Any]:
    for name in grpo:
        if name in _OURS:
            raise ValueError(f"{name!r} is not for grpo: {_OURS[name]}")
    GRPONumbers(**GRPONumbers.among(grpo))
    return grpo


def _of_all_methods(grpo: dict[str, Any]) -> dict[str, Any]:
    for name in grpo:
        if name in _OF_TRAIN:
            raise ValueError(f"{name!r} is not for grpo: set train.{_OF_TRAIN[name]}")
    return _of_trl(grpo)


CreditOptions = Annotated[Options, AfterValidator(_variant)]
"""Fields of `attnpo.method.credit.CreditConfig`."""


Openings = Annotated[dict[Annotated[str, Field(min_length=1)], Positive], AfterValidator(_whole)]
"""Texts that responses begin with, and the share of a group that begins with each, 1 in all."""


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
    trace_samples: Index = 0
    """Rollouts of each step that are kept in the run's `rollouts.jsonl`, to be looked at with `attnpo trace`."""
    grpo: Annotated[Options, AfterValidator(_of_all_methods)] = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig, passed as they are; none of those that a run sets by itself."""


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


@dataclass(frozen=True, config=STRICT)
class AnswerConfig:
    """How answers behind a beginning are sampled; the defaults are those of VSRM's published code [C]."""

    words: str = THINK_END
    """What is put behind the beginning; the model goes on with its answer."""
    samples: Count = 5
    """Answers behind each beginning."""
    temperature: Positive = 0.6
    top_p: TopP = 0.95
    max_tokens: Count = 768
    """Budget of an answer."""
    batch_size: Count = 128
    """Answers that a process generates at once; vLLM fills its batches by itself."""


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
    estimator: Literal["rloo", "centred", "grpo", "batch", "reinforce_pp", "reward"] | None = None
    """How rewards become advantages, see `attnpo.method.advantages.ESTIMATORS`; null: the one that the reward comes
    with."""
    grpo: Annotated[Options, AfterValidator(_of_trl)] = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig for this method alone, over those of `train.grpo`."""
    target_length: TargetLengthSection | None = None
    """Put a target length in the prompt."""
    prefill: str = ""
    """Put at the end of every prompt, behind the chat template's `<think>`, in training and, as the trained model's
    template has it, wherever that model is asked later. AutoThink's is `"...\\n"`."""
    attnpo: bool = False
    """Rescale the advantages step by step by the attention of Key-Focus Heads."""
    credit: CreditOptions = field(default_factory=dict)
    """Fields of `attnpo.method.credit.CreditConfig`, over the profile's `credit`; used if `attnpo`."""
    selection: Options | None = None
    """Fields of `attnpo.method.selection.SelectionConfig`: which steps lose their advantage (SAS), with or without
    `attnpo`; null: none."""
    exits: Options | None = None
    """Fields of `attnpo.training.exits.ExitConfig`: a group is one response and its thinking stopped at random places
    (S-GRPO), with reward `s_grpo` alone; null: a group is that many responses."""
    openings: Openings | None = None
    """Texts that the responses of a group begin with in training, by their shares, as in AdaptThink
    `{"</think>": 0.5, "Alright": 0.5}`, see `attnpo.training.openings`; null: nothing is given."""
    reference_samples: Count = 16
    """Responses of the untrained model to each problem, where the reward compares with its accuracy (`adaptthink`)."""
    answers: Options | None = None
    """Fields of `AnswerConfig`: how answers behind parts of a thinking are sampled, where `reward` or `heads` ask for
    them (`vsrm`, `prefix_gain`); null: as in VSRM's published code."""
    heads: (
        Literal["top", "worst", "random", "all", "oracle", "first_answer", "confidence", "prefix_gain"] | HeadList
    ) = "top"
    """`top`, `worst`: the probe's best or worst heads; `random`: drawn by the run's seed; `all`: every head of the
    model; or a list of [layer, head], both from 0. In place of attention: `oracle`, `first_answer`: labels, 1 for an
    essential step (`attnpo.method.credit.oracle_scores`); `confidence`: log-probabilities (`confidence_scores`);
    `prefix_gain`: accuracy of answers behind each step (`gain_scores`), sampled as `answers` says."""
    n_heads: Count | None = None
    """How many heads, for `top`, `worst` and `random`; null: `probe.heads`."""
    phrases: Phrases | None = None
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
    def step_scores(self) -> str:
        """What the trainer scores steps by: `attention`, or what `heads` names in its place."""
        if self.heads == "oracle" or self.heads == "first_answer":
            return "labels"
        return self.heads if self.heads == "confidence" or self.heads == "prefix_gain" else "attention"

    @property
    def needs_probe(self) -> bool:
        """Whether training waits for the probe's heads.json."""
        return self.attnpo and self.heads in ("top", "worst")
