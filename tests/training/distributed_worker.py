"""One process of tests/test_distributed.py: one training step, what it saw written to a JSON file of its rank."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
from fakes import correctness
from small_training import RESCALED
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.testbed import MODEL_DIR, problems
from attnpo.training.run import leave_process_group
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

LIMIT = 90
"""Tokens that `dler` keeps."""


def main(out: Path, full_forward: bool, length_reward: str) -> None:
    short = [p for p in problems.load("train") if p.chain == 2][:40]
    config = AttnPOConfig(
        **RESCALED | {"max_steps": 1},
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_completion_length=160,
        length_reward=length_reward,
        length_reward_args={"limit": LIMIT} if length_reward == "dler" else None,
    )
    trainer = AttnPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        reward_funcs=correctness,
        args=config,
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in short]
        ),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )
    if full_forward:  # as with sharded parameters
        trainer._sharded = lambda: True  # type: ignore[method-assign]
    seen: dict[str, Any] = {}
    calculate, generate = trainer._calculate_rewards, trainer._generate_and_score_completions

    def spy_calculate(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        rewards = calculate(inputs, prompts, completions, ids)
        first = trainer.accelerator.process_index * len(ids)
        local, credit = slice(first, first + len(ids)), trainer._credit
        assert credit is not None
        seen["lengths"] = [len(response) for response in ids]
        seen["correct"] = credit.correct[local].int().tolist()
        seen["group_accuracy"] = credit.accuracy[local].tolist()
        seen["left"] = credit.truncate_at[local].tolist()
        return rewards

    def spy(inputs: Any) -> Any:
        output = generate(inputs)
        seen["prompts"] = [example["prompt"][0]["content"] for example in inputs]
        seen["last_token_advantage"] = [
            output["advantages"][row, left - 1].item() for row, left in enumerate(seen["left"])
        ]
        seen["items"] = int(output["num_items_in_batch"])
        seen["loss_tokens"] = output["completion_mask"].sum(1).tolist()
        seen["least_gamma"] = float(
            (output["advantages"].abs().amin(1) / output["advantages"].abs().amax(1)).nan_to_num(1).min()
        )
        return output

    trainer._calculate_rewards = spy_calculate  # type: ignore[method-assign]
    trainer._generate_and_score_completions = spy  # type: ignore[method-assign]
    trainer.train()
    seen["logged_advantages"] = list(trainer._logs["advantages"])
    seen["log"] = trainer.state.log_history[0]
    (out / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "full", sys.argv[3])
    leave_process_group()
