"""AttnPO on TRL: sample, assign advantages, score the steps, rescale.

Deviations from the published verl code:

- Steps are aligned on the sampled ids; theirs decodes the ids and tokenizes the text again, so positions can slip.
- Clip, token-mean loss and the constant learning rate are TRL's versions of the same rules.
- A response that a baseline truncates is wrong: it is not rescaled, and p counts it as wrong.

Five methods of `GRPOTrainer` are overridden, each through `super()`:

- `_calculate_rewards` shapes the correctness of all processes into a length reward and assigns the advantages, since a
  process alone sees only its own completions and a group may lie on several processes.
- `_generate_and_score_completions` takes those advantages in place of TRL's, drops what they drop, and rescales them
  into (B, T) advantages, which TRL's loss takes.
- `_prepare_inputs` deals the micro-batches of an optimizer step out again by length, and
  `_get_per_token_logps_and_entropies` runs on the columns that are not padding, so that little work is lost on padding.
- `_generate_single_turn`, through which all sampling goes, counts what is sampled.

Where TRL computes the policy's log-probabilities of the rollouts anyway, the heads are read during that forward pass,
so that scoring costs the attention rows alone. TRL grades after that pass, so the rows of every response with enough
steps are computed there, also of those that turn out wrong. Elsewhere correct responses get a pass of their own.

The mathematics is `attnpo.method.credit` (`assign`, `rescale`); a port to another engine is an adapter like this one.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import get_comet_experiment_url, get_config_model_id, get_trackio_space_url, nanstd

from attnpo.environment import telemetry_wanted
from attnpo.errors import AttnPOError
from attnpo.method.attention import Head, check_heads
from attnpo.method.credit import (
    Credit,
    Rescaled,
    ScoredSteps,
    Shaped,
    assign,
    confidence_scores,
    gain_scores,
    oracle_scores,
    rescale,
    token_offsets,
)
from attnpo.method.scores import Response, in_batches, score_batch, scoring_pass
from attnpo.method.selection import SelectionConfig, batch_factors
from attnpo.method.steps import TokenSteps, align_steps, token_bytes_table
from attnpo.rewards import REWARDS, Context, arguments_of, context_fields, shape_rewards
from attnpo.sampling.fast import fast_decoding
from attnpo.training.answers import accuracies, as_table, not_correctness, split_places, step_places
from attnpo.training.batches import ORDERLESS_LOSSES, of_like_length, span
from attnpo.training.callbacks import RewardState, ScoringShare
from attnpo.training.card import About, model_card
from attnpo.training.checks import check_data_set, checked_reward, warn_without_think_end
from attnpo.training.config import AttnPOConfig
from attnpo.training.cropping import cropped
from attnpo.training.exits import EarlyExits
from attnpo.training.measured import Rollouts, measured, needs_bytes
from attnpo.training.openings import Openings
from attnpo.training.settings import CARD, SAMPLED

__all__ = ["AttnPOConfig", "AttnPOTrainer", "StepLabels"]

StepLabels = Callable[[Mapping[str, Any], Sequence[str]], list[bool]]
"""From a row of the data set and the texts of a response's steps to one bool a step, True for essential."""
SHAPED = "shaped"
"""Name of the shaped reward in the logs, beside those of the reward functions."""
LOSS_ROWS = 16
"""Responses that a forward pass of the loss takes on a single process."""


class AttnPOTrainer(GRPOTrainer):
    """`GRPOTrainer` whose first reward function is correctness (0 or 1), shaped and rescaled as `args` say.

    Works with any decoder that `attnpo.method.attention` knows and any tokenizer that writes `</think>`. A length that
    the prompt asks for is the data set's column `target_length`. `step_labels` is for `step_scores="labels"` alone,
    `about` has names for the model card; every other argument is `GRPOTrainer`'s.

    Raises:
        AttnPOError: a head that the model lacks, a correctness that is not 0 or 1, advantages that are not finite,
            scores from labels without labels.
    """

    args: AttnPOConfig
    model: torch.nn.Module
    _logs: dict[str, Any]

    def __init__(
        self, *args: Any, step_labels: StepLabels | None = None, about: About | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._about = about
        check_data_set(self.train_dataset, (self.args.generation_batch_size or 0) // (self.num_generations or 1))
        self.reward_funcs = [checked_reward(function) for function in self.reward_funcs]
        if self.args.attnpo and self.args.step_scores == "labels" and step_labels is None:
            raise AttnPOError("step_scores is 'labels' but there are no labels; pass step_labels to AttnPOTrainer")
        self.credit_config = self.args.credit_config()
        assert not isinstance(self.args.heads, str)  # a file was read when the arguments were made
        self.selection_config = self.args.selection_config()
        self.heads: list[Head] = [(int(layer), int(head)) for layer, head in self.args.heads or []]
        if self.args.attnpo and self.args.step_scores == "attention":
            check_heads(self.accelerator.unwrap_model(self.model), self.heads)
        self.reward_state: dict[str, Any] = {}
        self._step_labels = step_labels
        by_step = self.args.attnpo or self.selection_config is not None
        exits = self.args.exit_config()
        by_step = (
            by_step
            or exits is not None
            or self.args.asks_for_answers
            or needs_bytes(context_fields(self.args.length_reward))
        )
        self._bytes_table = token_bytes_table(self._tokenizer) if by_step else []
        if exits is not None:
            self.rollout_func = EarlyExits(exits, self._bytes_table)
        self._openings: Openings | None = None
        if self.args.openings is not None:
            self.rollout_func = self._openings = Openings(self.args.openings, self._tokenizer)
        if self.args.attnpo:
            warn_without_think_end(self._tokenizer, self._bytes_table)
        self._n_scored = 0
        self._credit: Credit | None = None  # of all processes; TRL's callback hands it on
        self._graded = torch.empty(0)  # correctness of all processes, before it is shaped
        self._read_next = False  # whether TRL's next pass of the policy is to be read
        self._read: dict[int, ScoredSteps] | None = None  # what was read in it, by local row
        self._scoring_seconds = 0.0
        self._n_sampled = 0  # tokens of this process since they were logged
        if not self.args.use_vllm:
            unwrapped = self.accelerator.unwrap_model(self.model)
            fast_decoding(unwrapped, self.generation_config.eos_token_id)  # for good
        self.add_callback(ScoringShare(self))
        self.add_callback(RewardState(self))

    def _send_telemetry(self) -> None:
        """TRL's, only where it is asked for: a thread that looks up a host while this one sets environment variables
        may crash the process."""
        if telemetry_wanted():
            super()._send_telemetry()

    def create_model_card(  # type: ignore[override]  # TRL's has another signature than transformers'
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """In place of TRL's, under its name: README.md in `output_dir`, which TRL also writes with every checkpoint.

        Args:
            model_name: of the trained model, where the trainer has no `about`.
            dataset_name: the data set's id on the hub, likewise.
            tags: more of them.
        """
        if not self.is_world_process_zero():
            return
        about = self._about or self._known(model_name, dataset_name)
        tracked = getattr(sys.modules.get("wandb"), "run", None)  # loaded by now if anything is sent there
        pages = {
            "Weights & Biases": getattr(tracked, "url", None),
            "Trackio": get_trackio_space_url(),
            "Comet": get_comet_experiment_url(),
        }
        links = {name: url for name, url in pages.items() if url is not None}
        more = [tags] if isinstance(tags, str) else tags or []
        card = model_card(about, self.args, self.state.global_step, self.accelerator.num_processes, links, more)
        card.save(Path(str(self.args.output_dir)) / CARD)

    def _known(self, model_name: str | None, dataset_name: str | None) -> About:
        """What the trainer knows by itself of what a card names."""
        config: Any = self.model.config
        base = get_config_model_id(config)
        on_hub = bool(base) and not Path(base).is_absolute() and not Path(base).exists()
        reward = self.args.length_reward
        return About(
            name=model_name or Path(str(self.args.output_dir)).name,
            base=base if on_hub else Path(base).name or "a model without a name",
            base_on_hub=on_hub,
            revision=getattr(config, "_commit_hash", None) if on_hub else None,
            data=dataset_name or "a data set without a name",
            data_on_hub=dataset_name is not None,
            method=f"AttnPO on the length reward {reward}" if self.args.attnpo else f"the length reward {reward}",
        )

    # The step, from rollouts to what the loss takes.

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):  # type: ignore[no-untyped-def]
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        correct, training = rewards_per_func[:, 0].double(), self.model.training
        if not bool(((correct == 0) | (correct == 1)).all()):
            raise not_correctness(correct[(correct != 0) & (correct != 1)][0].item())
        lengths = self._gathered([len(ids) for ids in completion_ids_list])
        shaped = self._shape(lengths, correct, inputs, completion_ids_list)
        if training and shaped.state is not None:
            self.reward_state = shaped.state
        weights = self.reward_weights.to(correct)
        credit = self._credit = assign(
            # In evaluation the rewards alone count: nothing is truncated or dropped.
            replace(
                shaped,
                rewards=shaped.rewards.to(weights) * weights[0],
                keep=shaped.keep if training else None,
                truncate_at=shaped.truncate_at if training else None,
            ),
            lengths,
            correct,
            self._group_size(),
            str(self.args.advantage_estimator),
            (rewards_per_func[:, 1:] * weights[1:]).nansum(1),
        )
        self._log_value("attnpo/group_accuracy", credit.accuracy.mean())
        if shaped.truncate_at is not None:
            self._log_value("rollouts/cut_share", (credit.truncate_at < lengths).double().mean())
        if shaped.keep is not None:
            self._log_value("rollouts/kept_share", credit.keep.double().mean())
        self._graded = rewards_per_func[:, 0].clone()
        rewards_per_func[:, 0] = shaped.rewards.to(rewards_per_func)
        return rewards_per_func

    def _generate_and_score_completions(self, inputs):  # type: ignore[no-untyped-def]
        self._read_next, self._read = self._shares_pass(), None
        output = super()._generate_and_score_completions(inputs)
        self._read_next = False
        self._log_correctness()
        credit, self._credit = self._credit, None
        assert credit is not None  # TRL has called _calculate_rewards
        first = self.accelerator.process_index * len(inputs)
        local = slice(first, first + len(inputs))
        advantages = credit.advantages[local]
        pairs = zip(output["completion_ids"], output["completion_mask"].bool(), strict=True)
        ids = [row[mask].tolist() for row, mask in pairs]
        self._keep_in_loss(output, credit.loss_tokens[local])
        scored: dict[int, ScoredSteps] = {}
        if self.args.attnpo and self.model.training:
            scored = self._scored(inputs, output, ids, credit.correct[local] & (advantages != 0))
        # Optimizer steps count from 1, as in verl.
        width, step = output["completion_ids"].shape[1], self.state.global_step + 1
        offsets = token_offsets(credit.offsets[local], width)
        rescaled = rescale(
            advantages, credit.accuracy[local], scored, width, step,
            self.credit_config if self.args.attnpo else None, offsets, credit.of_correctness[local],
        )  # fmt: skip
        if not bool(torch.isfinite(rescaled.advantages).all()):
            raise AttnPOError("an advantage is not finite; check the reward functions for NaN and infinity")
        output["advantages"] = rescaled.advantages.float()
        self._log_rescaling(rescaled, advantages, output["completion_mask"])
        if self.selection_config is not None and self.model.training:
            factors = self._selected(output, ids, credit.correct[local], self.selection_config)
            output["advantages"] *= factors.to(output["advantages"])
        if self._openings is not None and self.model.training:
            texts = [row["opening"] for row in inputs]
            output["old_per_token_logps"] = self._openings.as_sampled(self._sampled_logps(output), texts)
        if credit.crops is not None and self.model.training:
            output = self._cropped(output, credit.crops[local])
        self._log_value(SAMPLED, self._gathered([self._n_sampled]).sum())
        self._n_sampled = 0
        return output

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        sampled = super()._generate_single_turn(*args, **kwargs)
        self._n_sampled += sum(map(len, sampled[0]))
        return sampled

    def _prepare_inputs(self, generation_batch):  # type: ignore[no-untyped-def]
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        orderless = self.loss_type in ORDERLESS_LOSSES and self.top_entropy_quantile == 1.0
        if not self.model.training or self._buffered_inputs is before or not orderless:
            return inputs
        window = min(self.args.gradient_accumulation_steps, self.args.steps_per_generation)
        self._buffered_inputs = of_like_length(self._buffered_inputs, window)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(  # type: ignore[no-untyped-def]
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        score = super()._get_per_token_logps_and_entropies
        if kwargs.get("compute_aux_loss") or kwargs.get("pixel_values") is not None:
            return score(model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs)
        size = batch_size or len(input_ids)
        if self.accelerator.num_processes == 1:  # several forward passes before one backward: DDP and ZeRO forbid it
            size = min(size, LOSS_ROWS)
        prompt = input_ids.shape[1] - logits_to_keep
        to_read = self._steps_to_read(model, input_ids[:, prompt:], attention_mask[:, prompt:])
        order = attention_mask[:, prompt:].sum(1).argsort()
        parts: list[list[torch.Tensor]] = [[], []]
        for rows in order.split(size):
            first, _ = span(attention_mask[rows, :prompt])
            _, width = span(attention_mask[rows, prompt:])
            ids, mask = (x[rows, first : prompt + width] for x in (input_ids, attention_mask))
            with nullcontext() if to_read is None else self._reading(model, rows, to_read, mask, prompt - first):
                logps_and_entropies = score(model, ids, mask, width, **kwargs)[:2]
            for part, values in zip(parts, logps_and_entropies, strict=True):
                if values is not None:
                    part.append(torch.nn.functional.pad(values, (0, logits_to_keep - width)))
        back = order.argsort()
        logps, entropies = (torch.cat(part)[back] if part else None for part in parts)
        return logps, entropies, None

    # Its parts.

    def _group_size(self) -> int:
        return self.num_generations if self.model.training else self.num_generations_eval  # type: ignore[return-value]

    def _gathered(self, values: Sequence[Any]) -> torch.Tensor:
        """The values of all processes, one a completion, in the order of the gathered rewards."""
        return self.accelerator.gather(torch.tensor(values, device=self.accelerator.device))

    def _shape(
        self, lengths: torch.Tensor, correct: torch.Tensor, inputs: list[dict[str, Any]], ids: list[list[int]]
    ) -> Shaped:
        """The length reward of the gathered rollouts."""
        name = self.args.length_reward
        of_each = measured(context_fields(name), Rollouts(name, inputs, ids, self._tokenizer, self._bytes_table))
        known = {field: self._gathered(values) for field, values in of_each.items()}
        if REWARDS[name].splits is not None and self.model.training:
            known["prefixes"] = self._prefixes(inputs, ids)
        context = Context(
            step=self.state.global_step + 1,
            total_steps=max(self.state.max_steps, 1),
            seed=self.args.seed,
            training=self.model.training,
            state=self.reward_state,
            **known,
        )
        return shape_rewards(name, lengths, correct, self._group_size(), self.args.length_reward_args or {}, context)

    def _prefixes(self, inputs: list[dict[str, Any]], ids: list[list[int]]) -> torch.Tensor:
        """`Context.prefixes` of the gathered rollouts: answers are sampled behind the splits of each thinking."""
        splits = REWARDS[self.args.length_reward].splits
        assert splits is not None
        split = functools.partial(splits, **arguments_of(splits, self.args.length_reward_args or {}))
        places = [split_places(response, self._bytes_table, split) for response in ids]
        found = self._answered(inputs, ids, dict(enumerate(places)))
        width = int(self._gathered([max(map(len, places))]).max())
        table = as_table(places, found, width).to(self.accelerator.device)
        return self.accelerator.gather(table)

    def _answered(
        self, inputs: list[dict[str, Any]], ids: list[list[int]], places: Mapping[int, Sequence[int]]
    ) -> list[float]:
        """The accuracy of answers behind so many tokens of the rows, those of a row side by side."""
        asked = [(row, place) for row, of_row in places.items() for place in of_row]
        rows, begun = [inputs[row] for row, _ in asked], [ids[row][:place] for row, place in asked]
        return accuracies(self, rows, begun, self.args.answer_config())

    def _keep_in_loss(self, output: dict[str, Any], loss_tokens: torch.Tensor) -> None:
        """Take all but the first `loss_tokens` (B,) of each response out of the loss and out of its token count."""
        mask = output["completion_mask"]
        places = torch.arange(mask.shape[1], device=mask.device)
        output["completion_mask"] = mask = mask * (places < loss_tokens[:, None]).to(mask)
        self._count_tokens(output)

    def _count_tokens(self, output: dict[str, Any]) -> None:
        mask = output["completion_mask"]
        in_loss = mask * output["tool_mask"] if "tool_mask" in output else mask
        output["num_items_in_batch"] = self.accelerator.gather(in_loss.sum()).sum()

    def _scored(
        self, inputs: list[dict[str, Any]], output: dict[str, Any], ids: list[list[int]], wanted: torch.Tensor
    ) -> dict[int, ScoredSteps]:
        """Steps and step scores of the `wanted` rows (B,) that have at least `min_steps` steps."""
        rows = wanted.nonzero()[:, 0].tolist()
        if self._read is not None:
            return {row: self._read[row] for row in rows if row in self._read}
        start = time.perf_counter()
        aligned = self._aligned({row: ids[row] for row in rows})
        prompts = {row: output["prompt_ids"][row][output["prompt_mask"][row].bool()].tolist() for row in aligned}
        if self.args.step_scores == "labels":
            assert self._step_labels is not None
            scores = {row: oracle_scores(self._step_labels(inputs[row], s.texts)) for row, s in aligned.items()}
        elif self.args.step_scores == "confidence":
            logps = self._sampled_logps(output)
            scores = {row: _confidence(logps[row], s, len(prompts[row])) for row, s in aligned.items()}
        elif self.args.step_scores == "prefix_gain":
            places = {row: step_places(s) for row, s in aligned.items()}
            behind = iter(self._answered(inputs, ids, places))
            of_row = {row: list(itertools.islice(behind, len(places[row]))) for row in aligned}
            scores = {row: _gain(of_row[row], s, len(prompts[row])) for row, s in aligned.items()}
        else:
            scores = self._attention_scores({row: Response(prompts[row], ids[row], s) for row, s in aligned.items()})
        self._scoring_seconds += time.perf_counter() - start
        return {row: ScoredSteps(s, scores[row], len(prompts[row])) for row, s in aligned.items()}

    def _aligned(self, ids: Mapping[int, list[int]]) -> dict[int, TokenSteps]:
        """Steps of the rows that have at least `min_steps`, by row."""
        settings = (self.args.phrases, self.args.min_step_chars, self.args.lone_trigger_chars)
        found = {row: align_steps(response, self._bytes_table, *settings) for row, response in ids.items()}
        return {row: s for row, s in found.items() if s is not None and len(s.steps) >= self.credit_config.min_steps}

    def _selected(
        self, output: dict[str, Any], ids: list[list[int]], correct: torch.Tensor, config: SelectionConfig
    ) -> torch.Tensor:
        """Factors (B, T) on the advantages: 0 in the steps that lose theirs, see `attnpo.method.selection`."""
        logps, tokens = self._sampled_logps(output), output["completion_mask"].bool()
        first = self.accelerator.process_index * len(ids)
        draws = [random.Random(f"{self.args.seed} {self.state.global_step} {first + row}") for row in range(len(ids))]
        factors = batch_factors(logps, ids, self._bytes_table, correct.tolist(), config, draws)
        lost = torch.stack([((factors == 0) & tokens).sum(), tokens.sum()])
        n_lost, n_tokens = self.accelerator.gather(lost[None]).sum(0).tolist()
        self._log_value("selection/token_share", n_lost / max(n_tokens, 1))
        return factors

    def _sampled_logps(self, output: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities (B, T) of the responses under the policy that sampled them."""
        logps = output.get("old_per_token_logps")
        # Where the policy has not changed since it sampled, TRL makes no pass for them.
        return self._logps(output) if logps is None else logps

    def _logps(self, output: dict[str, Any]) -> torch.Tensor:
        """Log-probabilities (B, T) of the responses under the policy as it is now, from a pass of their own."""
        rows, mask = (torch.cat([output[f"prompt_{x}"], output[f"completion_{x}"]], 1) for x in ("ids", "mask"))
        with torch.no_grad():
            score, size = self._get_per_token_logps_and_entropies, self.args.per_device_train_batch_size
            logps, _, _ = score(self.model, rows, mask, output["completion_ids"].shape[1], size)
        return logps

    def _cropped(self, output: dict[str, Any], crops: torch.Tensor) -> dict[str, Any]:
        """The rollouts without the tokens that are cropped; the policy's ratio to itself begins at 1."""
        shorter, lost = cropped(output, crops)
        self._count_tokens(shorter)
        if "old_per_token_logps" in shorter:
            shorter["old_per_token_logps"] = self._logps(shorter)
        self._log_value("rollouts/cropped_share", self.accelerator.gather(lost).double().mean())
        return shorter

    # Scores from a pass that TRL makes anyway.

    def _shares_pass(self) -> bool:
        """Whether TRL computes the policy's log-probabilities of the rollouts anyway, and its pass can be read.

        It is the same on all processes. With dropout the pass would not be that of a scoring pass.
        """
        if not self.args.attnpo or self.args.step_scores != "attention" or not self.model.training or self._is_vlm:
            return False
        generate_every = (self.args.steps_per_generation or 1) * self.num_iterations
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        if self.args.gradient_accumulation_steps % generate_every == 0 and not corrected:
            return False
        return not any(_dropout_of(module) > 0 for module in self.model.modules())

    def _steps_to_read(
        self, model: torch.nn.Module, completion_ids: torch.Tensor, completion_mask: torch.Tensor
    ) -> dict[int, TokenSteps] | None:
        """Steps of the responses (B, T) by row; None if this pass is not to be read.

        Read is the policy's first pass of a generation; that of a reference model or of the loss is not.
        """
        if not self._read_next or model is not self.model:
            return None
        self._read_next, self._read = False, {}
        start = time.perf_counter()
        pairs = enumerate(zip(completion_ids, completion_mask.bool(), strict=True))
        aligned = self._aligned({row: ids[mask].tolist() for row, (ids, mask) in pairs})
        self._scoring_seconds += time.perf_counter() - start
        return aligned

    @contextmanager
    def _reading(
        self,
        model: torch.nn.Module,
        rows: torch.Tensor,
        steps: Mapping[int, TokenSteps],
        mask: torch.Tensor,
        start: int,
    ) -> Iterator[None]:
        """Score the steps of the rows (b,) during the pass over `mask` (b, T); responses begin at column `start`."""
        assert self._read is not None
        found = [steps.get(row) for row in rows.tolist()]
        with scoring_pass(model, self.heads, found, mask, start, chunk_rows=self.args.scoring_chunk_rows) as per_head:
            yield
        prompt_tokens = mask[:, :start].sum(1).tolist()
        for row, of_row, scores, n_tokens in zip(rows.tolist(), found, per_head, prompt_tokens, strict=True):
            if of_row is not None:
                self._read[row] = ScoredSteps(of_row, scores.mean(0), n_tokens)

    # Scores from a pass of their own.

    def _attention_scores(self, responses: dict[int, Response]) -> dict[int, torch.Tensor]:
        """Step scores (K,) of each response, the mean over the chosen heads."""
        rows = list(responses)
        lengths = [responses[row].n_tokens for row in rows]
        batches = [[rows[i] for i in batch] for batch in in_batches(lengths, self.args.scoring_batch_tokens)]
        sharded = self._sharded()
        if sharded:  # every process takes part in as many forward passes, with a token of its own if need be
            batches += [[]] * (int(self._gathered([len(batches)]).max()) - len(batches))
        idle = Response([0], [0], None)
        model = self.model_wrapped if sharded else self.accelerator.unwrap_model(self.model)
        scores: dict[int, torch.Tensor] = {}
        for batch in batches:
            with self.accelerator.autocast():
                per_head = score_batch(
                    model,
                    self.heads,
                    [responses[row] for row in batch] or [idle],
                    self.accelerator.device,
                    chunk_rows=self.args.scoring_chunk_rows,
                    stop_early=not sharded,
                )
            scores |= {row: score.mean(0) for row, score in zip(batch, per_head, strict=False)}
        return scores

    def _sharded(self) -> bool:
        """Whether the parameters are spread over the processes (FSDP, ZeRO-3)."""
        state = self.accelerator.state
        deepspeed = getattr(state, "deepspeed_plugin", None)
        return getattr(state, "fsdp_plugin", None) is not None or (deepspeed is not None and deepspeed.zero_stage == 3)

    # What is logged.

    def _log_value(self, name: str, value: Any) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(float(value))

    def _log_correctness(self) -> None:
        """Put correctness where TRL has logged the shaped reward under its name, and that under `shaped`."""
        name, graded = self.reward_func_names[0], self._graded
        metrics = self._metrics["train" if self.model.training else "eval"]
        for measure, value in (("mean", graded.mean()), ("std", nanstd(graded))):
            of_name = metrics[f"rewards/{name}/{measure}"]
            metrics[f"rewards/{SHAPED}/{measure}"].append(of_name.pop())
            of_name.append(value.item())
        logged = self._logs["rewards"]
        shaped = list(logged[name])[-len(graded) :]
        logged[SHAPED].extend(shaped)
        _replace_end(logged[name], graded.tolist())

    def _log_rescaling(self, rescaled: Rescaled, advantages: torch.Tensor, completion_mask: torch.Tensor) -> None:
        """Shares of tokens that PA and NA touch, and the rescaled advantages where TRL logged its own."""
        tokens = completion_mask.bool()
        lowered, positive = (rescaled.gammas < 1) & tokens, (advantages > 0).unsqueeze(1)
        sums = [(lowered & positive).sum(), (lowered & ~positive).sum(), (rescaled.gammas * tokens).sum(), tokens.sum()]
        local = [*map(float, sums), math.fsum(rescaled.baselines), len(rescaled.baselines)]
        totals = self.accelerator.gather(torch.tensor([local], dtype=torch.float64, device=tokens.device)).sum(0)
        pa, na, gamma, count, baselines, scored = totals.tolist()
        for name, value in (("pa_token_share", pa), ("na_token_share", na), ("mean_gamma", gamma)):
            self._log_value(f"attnpo/{name}", value / max(count, 1.0))
        if self.args.attnpo and self.model.training:
            self._log_value("attnpo/baseline_score", baselines / scored if scored else math.nan)
            self._n_scored += int(scored)
        means = (rescaled.advantages.float() * tokens).sum(1) / tokens.sum(1).clamp(min=1)
        gathered = self.accelerator.gather(means).tolist()
        _replace_end(self._logs["advantages"], gathered)


def _replace_end(logged: deque[float], values: list[float]) -> None:
    """Put values where TRL has just logged as many; a log is bounded, so of a large evaluation batch it has the end."""
    earlier = list(logged)[: -len(values)]
    logged.clear()
    logged.extend(earlier + values)


def _confidence(logps: torch.Tensor, steps: TokenSteps, prompt_tokens: int) -> torch.Tensor:
    """Step scores (K,) of a response from its padded log-probabilities (T,)."""
    tokens = torch.tensor(steps.step_of_token, device=logps.device)
    answer = steps.answer[1] - steps.answer[0]
    return confidence_scores(logps[: len(tokens)], tokens, len(steps.steps), answer, prompt_tokens + len(tokens))


def _gain(accuracies: list[float], steps: TokenSteps, prompt_tokens: int) -> torch.Tensor:
    """Step scores (K,) of a response from the K + 1 accuracies around its steps."""
    return gain_scores(accuracies, steps.answer[1] - steps.answer[0], prompt_tokens + len(steps.step_of_token))


def _dropout_of(module: torch.nn.Module) -> float:
    """The share of values that a module drops in training mode, 0 if it drops none."""
    share = module.p if isinstance(module, torch.nn.Dropout) else getattr(module, "attention_dropout", 0)
    return share if isinstance(share, float) else 0.0
