"""AttnPO on TRL: `GRPOTrainer` with a length reward over whole groups and advantages rescaled step by step.

Two methods are overridden, each through `super()`:

- `_calculate_rewards` shapes the gathered correctness into a length reward, since a process alone sees only its own
  completions, and groups may be larger than that;
- `_generate_and_score_completions` adds a second advantage, whitens over the batch, drops groups and cuts responses
  where the length reward asks for it, and turns the (B,) advantages into (B, T) ones, `gamma * A`, which TRL's loss
  takes. A response that was cut is wrong, so nothing of it is rescaled; p, the share of the group that is correct,
  counts it as wrong.

Deviations from the published verl code: steps are aligned on the sampled ids (theirs re-tokenizes decoded text); clip,
token-mean loss and constant learning rate are TRL's versions of the same rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOConfig, GRPOTrainer

from attnpo.errors import AttnPOError
from attnpo.method.attention import Head
from attnpo.method.credit import CreditConfig, baseline_score, oracle_scores, step_gammas, token_gammas
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import TokenSteps, align_steps, token_bytes_table
from attnpo.rewards import (
    ESTIMATORS,
    REWARDS,
    Context,
    Shaped,
    batch_whitened,
    check_reward,
    context_fields,
    grpo_advantages,
    rloo_advantages,
    shape_rewards,
)
from attnpo.rewards.repetition import repeats_itself
from attnpo.sampling.decoding import SkipFinishedRows

StepLabels = Callable[[Mapping[str, Any], Sequence[str]], list[bool]]
"""From a row of the data set and the texts of a response's steps to one bool a step, True for essential."""
ROUNDING = 1e-6
"""Advantages and centred rewards this near to 0 are float32 noise: they choose neither PA nor NA."""


@dataclass
class AttnPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` with the paper's defaults, and the fields that AttnPO adds.

    Batch sizes stay TRL's: `per_device_train_batch_size * num_processes * gradient_accumulation_steps` rollouts
    a step, in groups of `num_generations`.
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
            "help": "'rloo': reward minus the mean of the others'; 'grpo': TRL's, over the group's std; 'batch': less "
            "the group's mean, then whitened over the batch. Default: what `REWARDS` names for the length reward."
        },
    )
    attnpo: bool = field(
        default=True, metadata={"help": "Rescale the advantages by attention; off: the length reward alone."}
    )
    heads: list[Any] | None = field(
        default=None, metadata={"help": "Key-Focus Heads as [[layer, head], ...], both from 0."}
    )
    step_scores: str = field(
        default="attention",
        metadata={
            "help": "'attention': the mean over the heads; 'oracle': from the trainer's `step_labels`, an upper bound."
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
    loss_batch_size: int | None = field(
        default=16,
        metadata={
            "help": "Responses a forward pass of the loss takes, of like length so that little of it is padding; null: "
            "all of a micro-batch. On one process alone."
        },
    )
    scoring_batch_size: int = field(default=8, metadata={"help": "Responses a forward pass of the scoring takes."})
    scoring_chunk_rows: int = field(
        default=4096,
        metadata={"help": "Attention rows (sequence, head, query) held at once; memory is this many times T floats."},
    )
    scoring_full_forward: bool = field(
        default=False,
        metadata={"help": "Run all layers when scoring; needed where parameters are sharded (ZeRO-3, FSDP)."},
    )

    # The paper's settings where TRL's defaults differ [C].
    learning_rate: float = field(default=2e-6, metadata={"help": "Initial learning rate for AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The scheduler type to use."})
    num_generations: int | None = field(default=8, metadata={"help": "Rollouts per prompt, G."})
    max_completion_length: int | None = field(default=16384, metadata={"help": "Response budget in tokens."})
    scale_rewards: str = field(
        default="auto",
        metadata={
            "help": "'none': no division by the group's std; 'auto': 'group' for the estimator 'grpo', else 'none'."
        },
    )
    beta: float = field(default=0.0, metadata={"help": "KL coefficient; the paper has no KL term."})
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={"help": "TRL's default sums log-ratios over the sequence, which masks long responses away."},
    )

    def __post_init__(self) -> None:
        if self.length_reward not in REWARDS:
            raise AttnPOError(f"length_reward is {self.length_reward!r}; choose one of {', '.join(sorted(REWARDS))}")
        if self.advantage_estimator is None:
            self.advantage_estimator = REWARDS[self.length_reward].estimator
        if self.advantage_estimator not in ESTIMATORS:
            raise AttnPOError(
                f"advantage_estimator is {self.advantage_estimator!r}; choose one of {', '.join(ESTIMATORS)}"
            )
        if self.scale_rewards == "auto":
            self.scale_rewards = "group" if self.advantage_estimator == "grpo" else "none"
        super().__post_init__()
        if self.advantage_estimator != "grpo" and self.scale_rewards != "none":
            raise AttnPOError(
                f"scale_rewards is {self.scale_rewards!r}, but the estimator {self.advantage_estimator!r} does not "
                "divide by TRL's std; set it to 'none', or advantage_estimator to 'grpo'"
            )
        check_reward(self.length_reward, self.length_reward_args or {}, self.num_generations or 8)
        if self.step_scores not in ("attention", "oracle"):
            raise AttnPOError(f"step_scores is {self.step_scores!r}; choose 'attention' or 'oracle'")
        if self.attnpo and self.step_scores == "attention" and not self.heads:
            raise AttnPOError("attnpo is on but heads is empty; find heads with `attnpo probe`, or set attnpo=False")
        self._refuse_unaligned_checkpoints()

    def _refuse_unaligned_checkpoints(self) -> None:
        """A checkpoint between two generations would resume with rollouts that the straight run never saw."""
        if self.save_strategy != "steps":
            return
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
            AttnPOError: a field that `CreditConfig` does not have.
        """
        known = set(CreditConfig.__dataclass_fields__)
        unknown = sorted(set(self.credit or {}) - known)
        if unknown:
            raise AttnPOError(f"credit has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return CreditConfig(**(self.credit or {}))


class AttnPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose first reward function is correctness (0 or 1), shaped and rescaled as `args` say.

    Works with any decoder that `attnpo.method.attention` knows and any tokenizer that writes `</think>`. A length
    told in the prompt is the data set's column `told`. `step_labels` is for `step_scores="oracle"` alone; every other
    argument is `GRPOTrainer`'s.

    Raises:
        AttnPOError: a head that the model lacks, a correctness that is not 0 or 1, advantages that are not finite,
            oracle scores without labels.
    """

    _tag_names = ["trl", "attnpo"]  # noqa: RUF012  (as in TRL)
    _name = "AttnPO"
    args: AttnPOConfig
    model: torch.nn.Module
    _logs: dict[str, Any]

    def __init__(self, *args: Any, step_labels: StepLabels | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.attnpo and self.args.step_scores == "oracle" and step_labels is None:
            raise AttnPOError("step_scores is 'oracle' but there are no labels; pass step_labels to AttnPOTrainer")
        self.credit_config = self.args.credit_config()
        self.heads: list[Head] = [(int(layer), int(head)) for layer, head in self.args.heads or []]
        self.reward_state: dict[str, Any] = {}
        self._step_labels = step_labels
        self._bytes_table = token_bytes_table(self._tokenizer) if self.args.attnpo else []
        self._rollouts: dict[str, Any] = {}
        self._scoring_seconds = 0.0
        if not self.args.use_vllm:
            unwrapped = self.accelerator.unwrap_model(self.model)
            SkipFinishedRows(unwrapped, self.generation_config.eos_token_id)
        self.add_callback(_ScoringShare(self))
        self.add_callback(_RewardState(self))

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        correct = rewards_per_func[:, 0].double()
        if not bool(((correct == 0) | (correct == 1)).all()):
            bad = correct[(correct != 0) & (correct != 1)][0].item()
            raise AttnPOError(
                f"the first reward function must return correctness, 0 or 1, but returned {bad}; put others after it"
            )
        group_size = self._group_size()
        lengths = self._gathered([len(ids) for ids in completion_ids_list])
        name, training = self.args.length_reward, self.model.training
        context = self._context(name, inputs, completion_ids_list)
        shaped = shape_rewards(name, lengths, correct, group_size, self.args.length_reward_args or {}, context)
        if training and shaped.state is not None:
            self.reward_state = shaped.state
        rewards_per_func[:, 0] = shaped.rewards.to(rewards_per_func)
        # In evaluation the rewards alone count: nothing is cut or dropped there.
        cut = lengths if shaped.cut is None or not training else torch.minimum(shaped.cut, lengths)
        kept = torch.ones_like(correct) if shaped.kept is None or not training else shaped.kept.double()
        correct = correct * (cut == lengths)
        accuracy = correct.view(-1, group_size).mean(1).repeat_interleave(group_size)
        first = self.accelerator.process_index * len(prompts)
        self._rollouts = {
            "local": (local := slice(first, first + len(prompts))),
            "inputs": inputs,
            "ids": completion_ids_list,
            "correct": correct[local].bool(),
            "group_accuracy": accuracy[local],
            "neutral": self._neutral(rewards_per_func)[local],
            "shaped": shaped,
            "cut": cut,
            "kept": kept,
        }
        metrics = self._metrics[self._mode()]
        metrics["attnpo/group_accuracy"].append(accuracy.mean().item())
        if shaped.cut is not None:
            metrics["rollouts/cut_share"].append((cut < lengths).double().mean().item())
        if shaped.kept is not None:
            metrics["rollouts/kept_share"].append(kept.mean().item())
        return rewards_per_func

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        output = super()._generate_and_score_completions(inputs)
        advantages = self._advantages(output["advantages"])
        self._mask_cut_and_dropped(output)
        gammas = torch.ones_like(output["completion_ids"], dtype=advantages.dtype)
        choice = advantages.masked_fill(self._rollouts["neutral"] | (advantages.abs() <= ROUNDING), 0)
        start = time.perf_counter()
        if self.args.attnpo:
            self._fill_gammas(gammas, choice, output)
        self._scoring_seconds += time.perf_counter() - start
        rescaled = advantages.unsqueeze(1) * gammas  # (B, T)
        if not bool(torch.isfinite(rescaled).all()):
            raise AttnPOError("an advantage is not finite; check the reward functions for NaN and infinity")
        output["advantages"] = rescaled
        self._log_gammas(gammas, choice, output["completion_mask"])
        self._relog_advantages(rescaled, output["completion_mask"])
        return output

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):  # type: ignore[no-untyped-def]
        score = super()._get_per_token_logps_and_entropies
        size = self.args.loss_batch_size
        # Several forward passes before one backward are DDP's and ZeRO's to forbid; images are not told apart by row.
        whole = size is None or len(input_ids) <= size or self.accelerator.num_processes > 1
        if whole or kwargs.get("compute_aux_loss") or kwargs.get("pixel_values") is not None:
            return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        prompt = input_ids.shape[1] - logits_to_keep
        lengths = attention_mask[:, prompt:].sum(1).clamp(min=1)
        order = lengths.argsort()
        parts: list[list[torch.Tensor]] = [[], []]
        for rows in order.split(size):
            width = int(lengths[rows].max())
            ids, mask = input_ids[rows, : prompt + width], attention_mask[rows, : prompt + width]
            for part, values in zip(parts, score(model, ids, mask, width, *args, **kwargs)[:2], strict=True):
                if values is not None:
                    part.append(torch.nn.functional.pad(values, (0, logits_to_keep - width)))
        back = order.argsort()
        logps, entropies = (torch.cat(part)[back] if part else None for part in parts)
        return logps, entropies, None

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _group_size(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval  # type: ignore[return-value]

    def _gathered(self, values: Sequence[float]) -> torch.Tensor:
        """The values of all processes, one a completion, in the order of the gathered rewards."""
        return self.accelerator.gather(torch.tensor(values, device=self.accelerator.device))

    def _context(self, name: str, inputs: list[dict[str, Any]], ids: list[list[int]]) -> Context:
        wanted = context_fields(name)
        told = repeats = None
        if "told" in wanted:
            if any(row.get("target_length", row.get("told")) is None for row in inputs):
                raise AttnPOError(f"{name} needs the length told in each prompt; give the data set a column 'told'")
            told = self._gathered([float(row.get("target_length") or row["told"]) for row in inputs])
        if "repeats" in wanted:
            repeats = self._gathered([repeats_itself(response) for response in ids])
        return Context(
            step=self.state.global_step + 1,
            total_steps=max(self.state.max_steps, 1),
            seed=self.args.seed,
            told=told,
            repeats=repeats,
            state=self.reward_state,
        )

    def _neutral(self, rewards_per_func: torch.Tensor) -> torch.Tensor:
        """(N,) bool: where TRL's advantage is 0 but for rounding, which a small std may blow up."""
        group_size, shifted = self._group_size(), self.args.advantage_estimator == "batch"
        if group_size < 2 or shifted or rewards_per_func.isnan().all(1).any():
            return torch.zeros(len(rewards_per_func), dtype=torch.bool, device=rewards_per_func.device)
        total = (rewards_per_func * self.reward_weights.to(rewards_per_func)).nansum(1)
        return rloo_advantages(total, group_size).abs() <= ROUNDING

    def _advantages(self, advantages: torch.Tensor) -> torch.Tensor:
        """TRL's advantages (B,) of this process made into those of the estimator, with the second one added."""
        group_size, estimator = self._group_size(), self.args.advantage_estimator
        shaped: Shaped = self._rollouts["shaped"]
        local: slice = self._rollouts["local"]
        if estimator == "rloo" and group_size > 1:  # evaluation may take single rollouts
            advantages = advantages * (group_size / (group_size - 1))
        if shaped.second is not None and group_size > 1:
            normalise = grpo_advantages if estimator == "grpo" else rloo_advantages
            second = normalise(shaped.second, group_size)
            if shaped.second_weight is not None:
                second = second * shaped.second_weight
            advantages = advantages + second[local].to(advantages)
            self._rollouts["neutral"] = self._rollouts["neutral"] & (second[local] == 0)
        kept = self._rollouts["kept"]
        if estimator == "batch":
            gathered = self.accelerator.gather(advantages)
            advantages = batch_whitened(gathered, self._rollouts["cut"] * kept)[local].to(advantages)
        return advantages * kept[local].to(advantages)

    def _mask_cut_and_dropped(self, output: dict[str, Any]) -> None:
        """Take tokens past a cut and dropped groups out of the loss and out of the number of tokens it is over."""
        shaped: Shaped = self._rollouts["shaped"]
        if shaped.cut is None and shaped.kept is None:
            return
        local: slice = self._rollouts["local"]
        mask = output["completion_mask"]
        places = torch.arange(mask.shape[1], device=mask.device)
        counted = (places < self._rollouts["cut"][local, None]) & (self._rollouts["kept"][local, None] > 0)
        output["completion_mask"] = mask = mask * counted.to(mask)
        in_loss = mask * output["tool_mask"] if "tool_mask" in output else mask
        output["num_items_in_batch"] = self.accelerator.gather(in_loss.sum()).sum()

    def _fill_gammas(self, gammas: torch.Tensor, advantages: torch.Tensor, output: dict[str, Any]) -> None:
        """Overwrite the (B, T) `gammas` of correct responses with at least `min_steps` steps."""
        aligned: dict[int, TokenSteps] = {}
        for row, ids in enumerate(self._rollouts["ids"]):
            if self._rollouts["correct"][row] and advantages[row] != 0:
                steps = align_steps(
                    ids,
                    self._bytes_table,
                    phrases=self.args.phrases,
                    min_chars=self.args.min_step_chars,
                    lone_trigger_chars=self.args.lone_trigger_chars,
                )
                if steps is not None and len(steps.steps) >= self.credit_config.min_steps:
                    aligned[row] = steps
        scores = self._labelled(aligned) if self.args.step_scores == "oracle" else self._score(aligned, output)
        baselines = []
        for row, steps in aligned.items():
            accuracy = float(self._rollouts["group_accuracy"][row])
            answer_tokens = steps.answer[1] - steps.answer[0]
            total_tokens = int(output["prompt_mask"][row].sum()) + len(self._rollouts["ids"][row])
            baselines.append(
                baseline_score(accuracy, answer_tokens, total_tokens, self.credit_config.baseline_exponent)
            )
            owner = torch.tensor(steps.step_of_token, device=gammas.device)
            has_tokens = torch.zeros(len(steps.steps), dtype=torch.bool, device=gammas.device)
            has_tokens[owner[owner >= 0]] = True
            per_step = step_gammas(
                scores[row].to(gammas.device),
                float(advantages[row]),
                accuracy,
                answer_tokens,
                total_tokens,
                self.state.global_step + 1,  # steps count from 1, as in verl
                self.credit_config,
                has_tokens,
            )
            gammas[row, : len(owner)] = token_gammas(per_step, owner).to(gammas)
        local = torch.tensor([[sum(baselines), len(baselines)]], dtype=torch.float64, device=gammas.device)
        total, count = self.accelerator.gather(local).sum(0).tolist()
        self._metrics[self._mode()]["attnpo/baseline_score"].append(total / count if count else math.nan)

    def _labelled(self, aligned: dict[int, TokenSteps]) -> dict[int, torch.Tensor]:
        """Scores (K,) of each row in `aligned` from the labels of its steps."""
        assert self._step_labels is not None
        return {
            row: oracle_scores(
                self._step_labels(self._rollouts["inputs"][row], [steps.text[s.start : s.end] for s in steps.steps])
            )
            for row, steps in aligned.items()
        }

    def _score(self, aligned: dict[int, TokenSteps], output: dict[str, Any]) -> dict[int, torch.Tensor]:
        """Step scores (K,) of each row in `aligned`, the mean over the chosen heads."""
        rows = sorted(aligned, key=lambda row: len(self._rollouts["ids"][row]))  # little padding in a batch
        size = self.args.scoring_batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        if self.args.scoring_full_forward:  # sharded parameters: every process must run as many forwards
            batches += [[] for _ in range(int(self._gathered([len(batches)]).max()) - len(batches))]
        model = self.model_wrapped if self.args.scoring_full_forward else self.accelerator.unwrap_model(self.model)
        scores: dict[int, torch.Tensor] = {}
        for batch in batches:
            responses = [
                Response(
                    output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist(),
                    self._rollouts["ids"][row],
                    aligned.get(row),
                )
                for row in batch or [0]  # an empty turn still takes part in the sharded forward
            ]
            with self.accelerator.autocast():
                per_head = score_batch(
                    model,
                    self.heads,
                    responses if batch else [responses[0]._replace(steps=None)],
                    self.accelerator.device,
                    chunk_rows=self.args.scoring_chunk_rows,
                    stop_early=not self.args.scoring_full_forward,
                )
            scores |= {row: score.mean(0) for row, score in zip(batch, per_head, strict=False)}
        return scores

    def _log_gammas(self, gammas: torch.Tensor, advantages: torch.Tensor, completion_mask: torch.Tensor) -> None:
        tokens = completion_mask.bool()
        lowered = (gammas < 1) & tokens
        positive = (advantages > 0).unsqueeze(1)
        sums = torch.stack(
            [
                (lowered & positive).sum(),
                (lowered & ~positive).sum(),
                (gammas * tokens).sum(),
                tokens.sum(),
            ]
        ).double()
        pa, na, gamma, count = self.accelerator.gather(sums.unsqueeze(0)).sum(0).tolist()
        self._metrics[self._mode()]["attnpo/pa_token_share"].append(pa / max(count, 1.0))
        self._metrics[self._mode()]["attnpo/na_token_share"].append(na / max(count, 1.0))
        self._metrics[self._mode()]["attnpo/mean_gamma"].append(gamma / max(count, 1.0))

    def _relog_advantages(self, rescaled: torch.Tensor, completion_mask: torch.Tensor) -> None:
        """Put the rescaled advantages, token means, where TRL logged the plain ones."""
        tokens = completion_mask.sum(1).clamp(min=1)
        means = self.accelerator.gather((rescaled * completion_mask).sum(1) / tokens).tolist()
        logged = self._logs["advantages"]
        for _ in means:
            logged.pop()
        logged.extend(means)


class _ScoringShare(TrainerCallback):
    """Logs the time the scoring pass took as a share of the whole step."""

    def __init__(self, trainer: AttnPOTrainer) -> None:
        self.trainer = trainer
        self.start = 0.0

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.start = time.perf_counter()
        self.trainer._scoring_seconds = 0.0

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        share = self.trainer._scoring_seconds / (time.perf_counter() - self.start)
        self.trainer._metrics["train"]["attnpo/scoring_time_share"].append(share)


class _RewardState(TrainerCallback, ExportableState):
    """Carries the length reward's state in the checkpoints' `trainer_state.json`."""

    def __init__(self, trainer: AttnPOTrainer) -> None:
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in the form that transformers wants."""
        return {"args": {}, "attributes": {"reward_state": self.trainer.reward_state}}

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.trainer.reward_state = stored["attributes"]["reward_state"]
