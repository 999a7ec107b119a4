"""The trainer's arguments: TRL's `GRPOConfig` with the paper's defaults, and the fields that AttnPO adds."""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar

import pydantic
from packaging.version import Version
from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig

from attnpo.errors import AttnPOError
from attnpo.method.advantages import ESTIMATORS
from attnpo.method.credit import CreditConfig
from attnpo.method.selection import SelectionConfig
from attnpo.probing.heads import HeadRanking
from attnpo.probing.settings import HeadList, Phrases, ProbeSection
from attnpo.rewards import REWARDS, check_reward
from attnpo.sampling.vllm import OLDEST
from attnpo.schema import STRICT, Count, Index, Options, build
from attnpo.training.exits import ExitConfig
from attnpo.training.settings import AnswerConfig, CreditOptions, GRPONumbers, Openings

T = TypeVar("T")

STEP_SCORES = ("attention", "labels", "confidence", "prefix_gain")
VLLM_VERSIONS = (OLDEST, "0.31.0")
"""The first and the last version of vLLM that TRL 1.16 supports."""


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class _Ours:
    """What the fields that AttnPO adds may be, where it is no choice among names."""

    length_reward_args: Options | None
    heads: HeadList | None
    phrases: Phrases
    min_step_chars: Index
    lone_trigger_chars: Index
    credit: CreditOptions | None
    selection: Options | None
    exits: Options | None
    answers: Options | None
    openings: Openings | None
    scoring_batch_tokens: Count
    scoring_chunk_rows: Count


@dataclass
class AttnPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` with the paper's defaults, and the fields that AttnPO adds.

    Batch sizes stay TRL's: `per_device_train_batch_size * num_processes * gradient_accumulation_steps` rollouts
    a step, in groups of `num_generations`. Training is in bfloat16 where the accelerator has it, else in float32.

    Raises:
        AttnPOError: values that are unknown or contradict each other.
    """

    length_reward: str = field(
        default="tlmre",
        metadata={"help": "Name in `attnpo.rewards.REWARDS`; it shapes the first reward function's correctness."},
    )
    length_reward_args: dict[str, Any] | None = field(
        default=None, metadata={"help": "Arguments of the length reward, such as {'alpha': 0.2}."}
    )
    advantage_estimator: str | None = field(
        default=None,
        metadata={
            "help": "'rloo': reward minus the mean of the others; 'grpo': minus the group's mean, over its std; "
            "'batch': minus the group's mean, then whitened over the batch. Default: what `REWARDS` names."
        },
    )
    attnpo: bool = field(
        default=True, metadata={"help": "Rescale the advantages by attention; off: the length reward alone."}
    )
    heads: list[Any] | str | None = field(
        default=None,
        metadata={
            "help": "Key-Focus Heads as [[layer, head], ...], both from 0, or the path of the heads.json that "
            "`attnpo probe` wrote, whose best three are taken."
        },
    )
    step_scores: str = field(
        default="attention",
        metadata={
            "help": "'attention': the mean over the heads; 'labels': from the trainer's `step_labels`; 'confidence': "
            "from the log-probabilities of the tokens; 'prefix_gain': from answers behind each step, see `answers`."
        },
    )
    phrases: str = field(default="corrected", metadata={"help": "Phrase set of the segmentation."})
    min_step_chars: int = field(
        default=80, metadata={"help": "Steps shorter than this many characters merge into a neighbour."}
    )
    lone_trigger_chars: int = field(
        default=15, metadata={"help": "A summary step with at most this much beside its trigger merges to the right."}
    )
    credit: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "Fields of `attnpo.method.credit.CreditConfig`, such as {'warmup_steps': 1000}."},
    )
    selection: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Fields of `attnpo.method.selection.SelectionConfig`, such as {'share': 0.3}: the least confident "
            "steps of correct responses lose their advantage (SAS). Default: none does."
        },
    )
    exits: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Fields of `attnpo.training.exits.ExitConfig`, {} for its defaults: each group is one response and "
            "its thinking stopped at random places (S-GRPO). Default: a group is that many responses."
        },
    )
    answers: dict[str, Any] | None = field(
        default=None,
        metadata={
            "help": "Fields of `attnpo.training.settings.AnswerConfig`, such as {'samples': 5}: how answers behind a "
            "part of a thinking are sampled, where they are asked for (VSRM, step_scores 'prefix_gain')."
        },
    )
    openings: dict[str, float] | None = field(
        default=None,
        metadata={
            "help": "Texts that the responses of a group begin with, and their shares, such as {'</think>': 0.5, "
            "'Alright': 0.5} (AdaptThink); see `attnpo.training.openings`. Default: nothing is given."
        },
    )
    scoring_batch_tokens: int = field(
        default=65536,
        metadata={"help": "Tokens of a forward pass of the scoring, padding included; one response at least."},
    )
    scoring_chunk_rows: int = field(
        default=4096,
        metadata={"help": "Attention rows (sequence, head, query) held at once; memory is this many times T floats."},
    )

    # The paper's settings where TRL's defaults differ [C].
    learning_rate: float = field(default=2e-6, metadata={"help": "Initial learning rate for AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The scheduler type to use."})
    num_generations: int | None = field(default=8, metadata={"help": "Rollouts per prompt, G."})
    max_completion_length: int | None = field(default=16384, metadata={"help": "Response budget in tokens."})
    scale_rewards: str = field(
        default="auto", metadata={"help": "Follows from advantage_estimator: 'group' for 'grpo', else 'none'."}
    )
    beta: float = field(default=0.0, metadata={"help": "KL coefficient; the paper has no KL term."})
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={"help": "TRL's default sums log-ratios over the sequence, which masks long responses away."},
    )

    def __post_init__(self) -> None:
        build(GRPONumbers, GRPONumbers.among(vars(self)), "AttnPOConfig")
        if isinstance(self.heads, str | PathLike):
            ranking = HeadRanking.load(self.heads)
            self.heads = [list(head) for head in ranking.top(min(ProbeSection.heads, len(ranking.heads)))]
        if self.heads is not None and hasattr(self.heads, "tolist"):  # an array
            self.heads = self.heads.tolist()
        ours = {name: getattr(self, name) for name in _Ours.__dataclass_fields__}
        build(_Ours, {**ours, "heads": self.heads or None}, "AttnPOConfig")
        _one_of("length_reward", self.length_reward, sorted(REWARDS))
        if self.advantage_estimator is None:
            self.advantage_estimator = REWARDS[self.length_reward].estimator
        _one_of("advantage_estimator", self.advantage_estimator, list(ESTIMATORS))
        _one_of("step_scores", self.step_scores, list(STEP_SCORES))
        divides = self.advantage_estimator == "grpo"
        scale = "group" if divides else "none"
        if self.scale_rewards not in ("auto", scale):
            raise AttnPOError(
                f"scale_rewards is {self.scale_rewards!r}, but the estimator {self.advantage_estimator!r} "
                f"{'divides' if divides else 'does not divide'} by the group's std; leave scale_rewards out"
            )
        self.scale_rewards = scale
        if self.bf16 is None and not self.fp16:
            self.bf16 = is_torch_bf16_gpu_available()  # TRL takes it for granted, and fails on a CPU
        super().__post_init__()
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise AttnPOError(
                f"multi_objective_aggregation is {self.multi_objective_aggregation!r}, but rewards are summed "
                "before the advantages are estimated; leave it out"
            )
        check_reward(self.length_reward, self.length_reward_args or {}, self.num_generations or 8)
        if self.attnpo and self.step_scores == "attention" and not self.heads:
            raise AttnPOError("attnpo is on but heads is empty; find heads with `attnpo probe`, or set attnpo=False")
        if REWARDS[self.length_reward].crops and self.beta:
            raise AttnPOError(
                f"{self.length_reward} crops responses, but beta is {self.beta}: the reference model saw them whole; "
                "leave beta out"
            )
        self._check_exits()
        self._check_openings()
        if self.answers is not None and not self.asks_for_answers:
            asking = " or ".join(name for name, reward in REWARDS.items() if reward.splits)
            raise AttnPOError(
                f"answers go with length_reward {asking}, or with attnpo and step_scores 'prefix_gain', but "
                f"length_reward is {self.length_reward!r}, step_scores {self.step_scores!r}; leave answers out"
            )
        self.answer_config()
        apart = self.credit_config().length_credit
        if apart != "all" and self.advantage_estimator in ("batch", "reinforce_pp"):
            raise AttnPOError(
                f"credit.length_credit is {apart!r}, but {self.advantage_estimator!r} whitens over the batch, with the "
                "length reward in it; choose another advantage_estimator"
            )
        self.selection_config()
        self._refuse_unaligned_checkpoints()
        if self.use_vllm:
            _check_vllm()

    def _check_exits(self) -> None:
        """Early exits and their reward go together; what they put into a response has no log-probability of vLLM's."""
        config = self.exit_config()
        if config is None and REWARDS[self.length_reward].exits:
            raise AttnPOError(
                f"length_reward {self.length_reward!r} goes by the order of early exits, but exits is not set; "
                "set exits={} for the defaults"
            )
        if config is not None and not REWARDS[self.length_reward].exits:
            raise AttnPOError(f"exits go with length_reward 's_grpo', not {self.length_reward!r}; leave exits out")
        if config is not None and config.loss == "all" and self.use_vllm and self.vllm_importance_sampling_correction:
            raise AttnPOError(
                "exits with loss 'all' under vLLM needs vllm_importance_sampling_correction=False: the words that stop "
                "a thinking were not sampled"
            )

    def _check_openings(self) -> None:
        """What a response is made to begin with was not sampled, and stands at its beginning."""
        reward = REWARDS[self.length_reward]
        if self.openings is None and reward.openings:
            raise AttnPOError(
                f"length_reward {self.length_reward!r} compares responses that were made to begin in several ways, but "
                "openings is not set; give the texts, as {'</think>': 0.5, 'Alright': 0.5}"
            )
        if self.openings is not None and (self.exits is not None or reward.crops):
            other = f"length_reward {self.length_reward!r} crops responses" if reward.crops else "exits is set"
            raise AttnPOError(f"openings do not go with that, but {other}; leave one of them out")
        if self.openings is not None and self.use_vllm and self.vllm_importance_sampling_correction:
            raise AttnPOError(
                "openings under vLLM need vllm_importance_sampling_correction=False: what responses are made to begin "
                "with is corrected for already"
            )

    def _refuse_unaligned_checkpoints(self) -> None:
        """A checkpoint between two generations would resume with rollouts that the straight run never saw."""
        if self.save_strategy != "steps":
            return
        if self.save_steps <= 0:
            raise AttnPOError(f"save_steps is {self.save_steps}; give a number of steps, at least 1")
        micro_steps = (self.steps_per_generation or 1) * self.num_iterations
        period = math.lcm(micro_steps, self.gradient_accumulation_steps) // self.gradient_accumulation_steps
        if self.save_steps != int(self.save_steps):
            raise AttnPOError(f"save_steps is {self.save_steps}; give a whole number, a multiple of {period}")
        if int(self.save_steps) % period:
            right = max(period, round(self.save_steps / period) * period)
            raise AttnPOError(
                f"save_steps is {int(self.save_steps)}, but rollouts are generated every {period} steps; a run resumed "
                f"in between would differ from a straight one: set save_steps to {right}"
            )

    def credit_config(self) -> CreditConfig:
        """The credit rule's constants.

        Raises:
            AttnPOError: a field that `CreditConfig` does not have, or a value that it cannot have.
        """
        return _built(CreditConfig, self.credit or {}, "credit")

    def selection_config(self) -> SelectionConfig | None:
        """Which steps lose their advantage; None: none does.

        Raises:
            AttnPOError: as `credit_config`.
        """
        return None if self.selection is None else _built(SelectionConfig, self.selection, "selection")

    @property
    def asks_for_answers(self) -> bool:
        """Whether answers behind parts of thinkings are sampled."""
        by_gain = self.attnpo and self.step_scores == "prefix_gain"
        return by_gain or REWARDS[self.length_reward].splits is not None

    def answer_config(self) -> AnswerConfig:
        """How answers behind parts of thinkings are sampled, where they are.

        Raises:
            AttnPOError: as `credit_config`.
        """
        return _built(AnswerConfig, self.answers or {}, "answers")

    def exit_config(self) -> ExitConfig | None:
        """How thinking is stopped early; None: it is not.

        Raises:
            AttnPOError: as `credit_config`.
        """
        return None if self.exits is None else _built(ExitConfig, self.exits, "exits")


def _built(cls: type[T], values: dict[str, Any], name: str) -> T:
    """A configuration of the method from the values of one argument."""
    known = set(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    unknown = sorted(set(values) - known)
    if unknown:
        raise AttnPOError(f"{name} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
    build(cls, values, "AttnPOConfig", name)
    return cls(**values)


def _check_vllm() -> None:
    """Refuse a vLLM that TRL does not work with; that there is none, TRL says itself."""
    try:
        found = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return
    low, high = VLLM_VERSIONS
    if not Version(low) <= Version(Version(found).public) <= Version(high):
        raise AttnPOError(f"vLLM {found} is installed, but TRL 1.16 takes {low} to {high}; install one of these")


def _one_of(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise AttnPOError(f"{name} is {value!r}; choose one of {', '.join(known)}")
