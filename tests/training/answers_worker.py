"""One process of tests/training/test_distributed.py: what it saw of answers, openings and the reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
from fakes import correctness
from small_training import TWO_STEPS
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.testbed import MODEL_DIR, problems
from attnpo.training.answers import accuracies
from attnpo.training.reference import add_reference
from attnpo.training.run import leave_process_group
from attnpo.training.settings import AnswerConfig
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer


def main(out: Path) -> None:
    short = [p for p in problems.load("train") if p.chain == 2][:40]
    config = AttnPOConfig(
        **TWO_STEPS | {"max_steps": 3, "num_generations": 8},
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        max_completion_length=120,
        attnpo=False,
        length_reward="vsrm",
        length_reward_args={"first": 20, "apart": 20},
        answers={"words": "</think>\n", "samples": 2, "max_tokens": 32},
        openings={"</think>": 0.5, "First,": 0.5},
    )
    trainer = AttnPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        reward_funcs=correctness,
        args=config,
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer, "id": p.id} for p in short]
        ),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )
    rank = trainer.accelerator.process_index
    add_reference(trainer, out / "reference.json", 2, part=1)
    row = trainer.train_dataset[0]
    answers = AnswerConfig(samples=2, max_tokens=8)
    # One process asks more than the other, or nothing, or both nothing.
    uneven = [len(accuracies(trainer, [row] * n[rank], [[]] * n[rank], answers)) for n in ((3, 1), (0, 2), (0, 0))]
    seen: dict[str, Any] = {"uneven": uneven, "openings": [], "prefixes": []}
    ask, generate = trainer._prefixes, trainer._generate_and_score_completions

    def spy_ask(inputs: Any, ids: Any) -> Any:
        prefixes = ask(inputs, ids)
        seen["prefixes"].append(prefixes.nan_to_num(-1).tolist())
        return prefixes

    def spy(inputs: Any) -> Any:
        output = generate(inputs)
        seen["openings"].append([example["opening"] for example in inputs])
        return output

    trainer._prefixes = spy_ask  # type: ignore[method-assign]
    trainer._generate_and_score_completions = spy  # type: ignore[method-assign]
    trainer.train()
    seen["reference"] = trainer.train_dataset["reference"][:]
    seen["steps"] = trainer.state.global_step
    (out / f"rank{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_process_group()
