"""AttnPO on TRL: `GRPOTrainer` with a length reward over whole groups and advantages rescaled step by step.

Two methods are overridden, each through `super()`:

- `_calculate_rewards` shapes the gathered correctness into a length reward, since a process alone sees only its own
  completions, and groups may be larger than that;
- `_generate_and_score_completions` turns the (B,) advantages into (B, T) ones, `gamma * A`, which TRL's loss takes.

Deviations from the published verl code: steps are aligned on the sampled ids (theirs re-tokenizes decoded text); clip,
token-mean loss and constant learning rate are TRL's versions of the same rules.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from attnpo.attention import Head, attention_received, step_scores
from attnpo.credit import CreditConfig, baseline_score, step_gammas, token_gammas
from attnpo.errors import AttnPOError
from attnpo.rewards import REWARDS
from attnpo.steps import TokenSteps, align_steps, token_bytes_table


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
    advantage_estimator: str = field(
        default="rloo",
        metadata={"help": "'rloo': reward minus the mean of the others' (needs scale_rewards='none'); 'grpo': TRL's."},
    )
    attnpo: bool = field(
        default=True, metadata={"help": "Rescale the advantages by attention; off: the length reward alone."}
    )
    heads: list[Any] | None = field(
        default=None, metadata={"help": "Key-Focus Heads as [[layer, head], ...], both from 0."}
    )
    phrases: str = field(default="corrected", metadata={"help": "Phrase set of the segmentation."})
    min_step_chars: int = field(
        default=80, metadata={"help": "Steps shorter than this many characters merge into a neighbour."}
    )
    lone_trigger_chars: int = field(
        default=15, metadata={"help": "A summary step with at most this much beside its trigger merges to the right."}
    )
    credit: dict[str, Any] | None = field(
        default=None, metadata={"help": "Fields of `attnpo.credit.CreditConfig`, such as {'warmup_steps': 1000}."}
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
    scale_rewards: str = field(default="none", metadata={"help": "'none': no division by the group's std."})
    beta: float = field(default=0.0, metadata={"help": "KL coefficient; the paper has no KL term."})
    vllm_importance_sampling_mode: str = field(
        default="token_truncate",
        metadata={"help": "TRL's default sums log-ratios over the sequence, which masks long responses away."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.advantage_estimator not in ("rloo", "grpo"):
            raise AttnPOError(f"advantage_estimator is {self.advantage_estimator!r}; choose 'rloo' or 'grpo'")
        if self.advantage_estimator == "rloo" and self.scale_rewards != "none":
            raise AttnPOError(
                f"scale_rewards is {self.scale_rewards!r}, but RLOO does not divide by a std; set it to 'none', "
                "or advantage_estimator to 'grpo'"
            )
        if self.length_reward not in REWARDS:
            raise AttnPOError(f"length_reward is {self.length_reward!r}; choose one of {', '.join(sorted(REWARDS))}")
        if self.attnpo and not self.heads:
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

    Works with any decoder that `attnpo.attention` knows and any tokenizer that writes `</think>`; every other
    argument is `GRPOTrainer`'s.

    Raises:
        AttnPOError: a head that the model lacks, a correctness that is not 0 or 1, advantages that are not finite.
    """

    _tag_names = ["trl", "attnpo"]  # noqa: RUF012  (as in TRL)
    _name = "AttnPO"
    args: AttnPOConfig
    model: torch.nn.Module
    _logs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.credit_config = self.args.credit_config()
        self.heads: list[Head] = [(int(layer), int(head)) for layer, head in self.args.heads or []]
        self._bytes_table = token_bytes_table(self._tokenizer) if self.args.attnpo else []
        self._rollouts: dict[str, Any] = {}
        self._scoring_seconds = 0.0
        self.add_callback(_ScoringShare(self))

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        correct = rewards_per_func[:, 0].double()
        if not bool(((correct == 0) | (correct == 1)).all()):
            bad = correct[(correct != 0) & (correct != 1)][0].item()
            raise AttnPOError(
                f"the first reward function must return correctness, 0 or 1, but returned {bad}; put others after it"
            )
        group_size = self._group_size()
        local_lengths = torch.tensor([len(ids) for ids in completion_ids_list], device=correct.device)
        lengths = self.accelerator.gather(local_lengths)
        shaped = REWARDS[self.args.length_reward](lengths, correct, group_size, **(self.args.length_reward_args or {}))
        rewards_per_func[:, 0] = shaped.to(rewards_per_func)
        accuracy = correct.view(-1, group_size).mean(1).repeat_interleave(group_size)
        first = self.accelerator.process_index * len(prompts)
        local = slice(first, first + len(prompts))
        self._rollouts = {
            "ids": completion_ids_list,
            "correct": correct[local].bool(),
            "group_accuracy": accuracy[local],
        }
        self._metrics[self._mode()]["attnpo/group_accuracy"].append(accuracy.mean().item())
        return rewards_per_func

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        output = super()._generate_and_score_completions(inputs)
        advantages = output["advantages"]
        group_size = self._group_size()
        if self.args.advantage_estimator == "rloo" and group_size > 1:  # evaluation may take single rollouts
            advantages = advantages * (group_size / (group_size - 1))
        gammas = torch.ones_like(output["completion_ids"], dtype=advantages.dtype)
        start = time.perf_counter()
        if self.args.attnpo:
            self._fill_gammas(gammas, advantages, output)
        self._scoring_seconds += time.perf_counter() - start
        rescaled = advantages.unsqueeze(1) * gammas  # (B, T)
        if not bool(torch.isfinite(rescaled).all()):
            raise AttnPOError("an advantage is not finite; check the reward functions for NaN and infinity")
        output["advantages"] = rescaled
        self._log_gammas(gammas, advantages, output["completion_mask"])
        self._relog_advantages(rescaled, output["completion_mask"])
        return output

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _group_size(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval  # type: ignore[return-value]

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
        scores = self._score(aligned, output)
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
                scores[row],
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

    def _score(self, aligned: dict[int, TokenSteps], output: dict[str, Any]) -> dict[int, torch.Tensor]:
        """Step scores (K,) of each row in `aligned`, the mean over the chosen heads."""
        rows = sorted(aligned, key=lambda row: len(self._rollouts["ids"][row]))
        size = self.args.scoring_batch_size
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        if self.args.scoring_full_forward:  # sharded parameters: every process must run as many forwards
            most = int(self.accelerator.gather(torch.tensor([len(batches)], device=self.accelerator.device)).max())
            batches += [[] for _ in range(most - len(batches))]
        model = self.model_wrapped if self.args.scoring_full_forward else self.accelerator.unwrap_model(self.model)
        scores: dict[int, torch.Tensor] = {}
        all_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        prompt_width = output["prompt_ids"].shape[1]
        for batch in batches:
            picked = batch or [0]  # an empty turn still takes part in the sharded forward
            ids = all_ids[picked]
            mask = torch.zeros_like(ids)
            queries = torch.zeros_like(ids, dtype=torch.bool)
            owner = torch.full_like(ids, -1)
            mask[:, :prompt_width] = output["prompt_mask"][picked]
            for i, row in enumerate(picked):
                length = len(self._rollouts["ids"][row])
                mask[i, prompt_width : prompt_width + length] = 1
                if row in aligned:
                    steps = aligned[row]
                    queries[i, prompt_width + steps.answer[0] : prompt_width + steps.answer[1]] = True
                    owner[i, prompt_width : prompt_width + length] = torch.tensor(
                        steps.step_of_token, device=owner.device
                    )
                else:
                    queries[i, prompt_width + length - 1] = True
            width = int(mask.sum(0).nonzero().max()) + 1  # sorted by length: the tail is padding
            with self.accelerator.autocast():
                received = attention_received(
                    model,
                    ids[:, :width],
                    mask[:, :width],
                    self.heads,
                    queries[:, :width],
                    chunk_rows=self.args.scoring_chunk_rows,
                    stop_early=not self.args.scoring_full_forward,
                )
            most_steps = max((len(aligned[row].steps) for row in batch), default=1)
            per_head = step_scores(received, owner[:, :width], most_steps)  # (B, H, K)
            for i, row in enumerate(batch):
                scores[row] = per_head[i, :, : len(aligned[row].steps)].mean(0)
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
