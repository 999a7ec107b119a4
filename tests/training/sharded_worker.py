"""One process of tests/training/test_sharded.py: two training steps on given rollouts, the parameters sharded or whole.

The rollouts are given (`rollout_func`), as each process samples with random numbers of its own: two processes would
not sample what one samples. Scoring, log-probabilities and loss run on the model as it is.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from small_training import RESCALED
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.method.scores import score_batch
from attnpo.sampling.sampler import prompt_ids
from attnpo.testbed import MODEL_DIR, problems
from attnpo.testbed.traces import Habits, write_trace
from attnpo.training.run import leave_process_group
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

GROUP = RESCALED["num_generations"]
RIGHT = (7, 2)
"""How many responses of each of two problems are right, so that the processes score unequal numbers."""
ROLLOUTS = GROUP * len(RIGHT)


def main(out: Path, processes: int, iterations: int) -> None:
    """Train, sharded by FSDP2 if there are two processes; rollouts serve as many steps as `iterations` says.

    The model goes to `out`/model; `out`/rankN.json gets the log and, for each scoring pass, its number of responses.
    """
    items = [problem for problem in problems.load("train") if problem.chain == 3][: len(RIGHT)]
    by_text = {problem.text: problem for problem in items}
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    right = dict(zip(by_text, RIGHT, strict=True))
    passes: list[int] = []

    def given(prompts: list[Any], trainer: AttnPOTrainer) -> dict[str, Any]:
        texts, seen, responses = [prompt[0]["content"] for prompt in prompts], Counter[str](), []
        for text in texts:
            rng = random.Random(f"{text} {seen[text]} {trainer.state.global_step}")
            seen[text] += 1
            trace = write_trace(by_text[text], rng, Habits(slip=0.0)).text
            responses.append(tokenizer(trace, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])
        return {"prompt_ids": prompt_ids(tokenizer, texts), "completion_ids": responses, "logprobs": None}

    def made_up(prompts: list[Any], **_: Any) -> list[float]:
        seen: Counter[str] = Counter()
        rewards = []
        for text in (prompt[0]["content"] for prompt in prompts):
            rewards.append(float(seen[text] < right[text]))
            seen[text] += 1
        return rewards

    sharded = {"fsdp": True, "fsdp_config": {"version": 2}} if processes > 1 else {}
    args = AttnPOConfig(
        **RESCALED,
        output_dir=str(out / "trainer"),
        num_iterations=iterations,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=ROLLOUTS // 4 // processes,
        max_completion_length=256,
        scoring_batch_tokens=1,  # a pass a response
        **sharded,
    )
    if sharded:
        shard_on_cpu(args)
    trainer = AttnPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        reward_funcs=made_up,
        rollout_func=given,
        args=args,
        train_dataset=datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in by_text]),
        processing_class=tokenizer,
    )

    def counted(model: Any, heads: Any, batch: Any, *arguments: Any, **options: Any) -> Any:
        passes.append(sum(response.steps is not None for response in batch))
        return score_batch(model, heads, batch, *arguments, **options)

    with mock.patch("attnpo.training.trainer.score_batch", counted):
        trainer.train()
    trainer.save_model(str(out / "model"))
    seen = {
        "passes": passes,
        "log": trainer.state.log_history,
        "sharded": trainer._sharded(),
        "shards": sum(isinstance(parameter, DTensor) for parameter in trainer.model.parameters()),
    }
    (out / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(seen))


def shard_on_cpu(args: AttnPOConfig) -> None:
    """Have accelerate shard on CPUs too.

    It takes its FSDP plugin on GPUs alone and wraps in DDP on CPUs, though torch's FSDP2 runs on gloo. The state says
    which of the two it is, so the state is set as a run on GPUs sets it.
    """
    state = Accelerator(cpu=True).state
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**args.fsdp_plugin_args)
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    leave_process_group()
