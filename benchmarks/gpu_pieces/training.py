"""Training steps through `AttnPOTrainer`: what one takes, and whether the weights move."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from padding import lengths_of
from scoring import paper_heads
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import prompt_ids
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer
from gpu_pieces.inputs import (
    TOKENS,
    Rows,
    Setting,
    peak_gib,
    reset_peak,
    response_ids,
    saved_model,
    synchronize,
    tokenizer,
)

GROUP = 8
"""Rollouts of a prompt."""
MICRO_BATCH = 2
LEARNING_RATE = 2e-6


def step(setting: Setting) -> Rows:
    """TLMRE's step and AttnPO's on the same responses; then whether weights in float32 and in bfloat16 move."""
    mean, limit, rows = (120, 250, 16) if setting.small else (3500, 8000, 64)
    lengths = lengths_of(mean, 0.7, limit, rows, torch.Generator().manual_seed(0)).clamp(min=mean // 10).tolist()
    responses = response_ids(lengths)
    seconds: dict[str, float] = {}

    def timed(name: str, attnpo: bool) -> dict[str, Any]:
        """The second step: the first one warms up."""
        found, _ = train(setting, setting.model(torch.float32), 2, responses, attnpo)
        first, second = found.pop("steps_s")
        seconds[name] = second
        ratio = {"ratio": round(second / seconds["TLMRE"], 3)} if attnpo and "TLMRE" in seconds else {}
        return {"step_s": second, "first_step_s": first, **ratio, **found}

    yield "TLMRE", partial(timed, "TLMRE", False)
    yield "AttnPO", partial(timed, "AttnPO", True)
    few = response_ids([mean // 4] * GROUP)
    yield "weights in float32", partial(moved, setting, torch.float32, few)
    yield "weights in bfloat16", partial(moved, setting, torch.bfloat16, few)


def long(setting: Setting) -> Rows:
    """AttnPO's step on a group of the longest responses."""
    length = 512 if setting.small else 16384

    def measured() -> dict[str, Any]:
        model = setting.model(torch.float32)
        found, _ = train(setting, model, 1, response_ids([length] * GROUP))
        (only,) = found.pop("steps_s")
        return {"step_s": only, **found}

    yield f"AttnPO, {GROUP} x {length:,}", measured


def colocated(setting: Setting) -> Rows:
    """AttnPO with rollouts by vLLM in this process."""
    yield "AttnPO, 3 steps", partial(with_vllm, setting)


def with_vllm(setting: Setting) -> dict[str, Any]:
    """Steps on a model with few tokens, so that by chance its responses have steps and `</think>`, and end."""
    if importlib.util.find_spec("vllm") is None:
        return {"skipped": "vLLM is not installed"}
    start, budget = time.perf_counter(), 128 if setting.small else 512
    model, _ = load_model(str(saved_model(setting, "few-tokens", vocab=TOKENS)), dtype=torch.float32)
    options: dict[str, Any] = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_max_model_length": budget + 128,
        "max_completion_length": budget,
        "gradient_accumulation_steps": 16,
        "min_step_chars": 1,  # the texts are random
    }
    found, log = train(setting, model, 3, None, **options)
    found["in_all_s"] = round(time.perf_counter() - start, 1)
    for name, key in (
        ("importance_ratio", "sampling/importance_sampling_ratio/mean"),
        ("logp_difference", "sampling/sampling_logp_difference/mean"),
    ):
        found[name] = [round(entry[key], 5) for entry in log]
    return found


def train(
    setting: Setting,
    model: PreTrainedModel,
    steps: int,
    responses: Sequence[Sequence[int]] | None,
    attnpo: bool = True,
    **options: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train a model on responses that are given, or with None on sampled ones.

    Args:
        responses: all that a step takes, in groups of `GROUP`; the same ones in each step.
        options: further arguments of `AttnPOConfig`.

    Returns:
        what was measured (seconds of each step; in the last one the scoring's share of the time and the share of the
        tokens that AttnPO rescales; columns over real tokens of the loss's forward passes; the peak of the memory), and
        the trainer's log, an entry a step.
    """
    tokens = tokenizer()
    given: dict[str, Any] = {}
    if responses is not None:
        given = {"rollout_func": partial(_given, responses)}
        options = {"gradient_accumulation_steps": len(responses) // MICRO_BATCH, **options}
        options = {"max_completion_length": max(map(len, responses)), **options}
    config = AttnPOConfig(
        str(setting.scratch / "training"),
        attnpo=attnpo,
        heads=[list(head) for head in paper_heads(model.config)] if attnpo else None,
        length_reward="tlmre",
        length_reward_args={"alpha": 0.2},
        # With both, next to no score of random attention is under its baseline, and nothing would be rescaled.
        credit={"schedule": False, "difficulty": False},
        learning_rate=LEARNING_RATE,
        num_generations=GROUP,
        per_device_train_batch_size=MICRO_BATCH,
        max_steps=steps,
        bf16=setting.cuda,
        use_cpu=not setting.cuda,
        gradient_checkpointing=True,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        seed=0,
        **options,
    )
    questions = [{"prompt": [{"role": "user", "content": f"What is {i} + {i}?"}]} for i in range(64)]
    reset_peak(setting)
    trainer = AttnPOTrainer(
        model=model,
        reward_funcs=_two_of_three_correct,
        args=config,
        train_dataset=Dataset.from_list(questions),
        processing_class=tokens,
        **given,
    )
    clock, columns = _Clock(setting), _Columns()
    trainer.add_callback(clock)
    with model.register_forward_pre_hook(columns, with_kwargs=True):
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    found = {
        "steps_s": clock.seconds,
        "scoring_share": log[-1].get("attnpo/scoring_time_share"),
        "rescaled_share": log[-1]["attnpo/pa_token_share"] + log[-1]["attnpo/na_token_share"],
        "padded_over_real": round(columns.all / int(columns.real), 3),
        "peak_gib": peak_gib(setting),
        "mean_tokens": log[-1]["completions/mean_length"],
    }
    return found, log


def moved(setting: Setting, dtype: torch.dtype, responses: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The share of the weights that three steps change, and by how much, in the first, a middle and the last layer."""
    model = setting.model(dtype)
    last = model.config.num_hidden_layers - 1
    layers = nn.ModuleList([model.model.layers[number] for number in (0, last // 2, last)])
    before = {name: weight.detach().clone() for name, weight in layers.named_parameters() if weight.ndim == 2}
    train(setting, model, 3, responses)
    after = dict(layers.named_parameters())
    changes = [(after[name].detach().float() - weight.float()).abs() for name, weight in before.items()]
    count = sum(change.numel() for change in changes)
    return {
        "changed_share": sum(int((change > 0).sum()) for change in changes) / count,
        "mean_change": sum(float(change.double().sum()) for change in changes) / count,
    }


def _given(responses: Sequence[Sequence[int]], prompts: list[Any], trainer: AttnPOTrainer) -> dict[str, Any]:
    """TRL's `rollout_func`: the responses that there are, whatever is asked."""
    texts = [prompt[0]["content"] for prompt in prompts]
    ids = [list(response) for response in responses]
    return {"prompt_ids": prompt_ids(tokenizer(), texts), "completion_ids": ids, "logprobs": None}


def _two_of_three_correct(completions: list[Any], **_: Any) -> list[float]:
    return [float(place % 3 > 0) for place in range(len(completions))]


class _Clock(TrainerCallback):
    """Seconds of each optimizer step, rollouts included."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        synchronize(self.setting)
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronize(self.setting)
        self.seconds.append(round(time.perf_counter() - self.start, 3))


class _Columns:
    """A hook on the model: counts the tokens of the forward passes that a backward pass follows."""

    def __init__(self) -> None:
        self.all = 0
        self.real: int | torch.Tensor = 0  # stays on the GPU, which nothing waits for

    def __call__(self, _: nn.Module, __: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self.all += arguments["attention_mask"].numel()
            self.real = self.real + arguments["attention_mask"].sum()
