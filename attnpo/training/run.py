"""Train one method with one seed, as the sections of a profile say: `attnpo train`."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import os
import random
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import accelerate
import datasets
import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback

from attnpo.environment import usable_cores
from attnpo.errors import AttnPOError, first_line
from attnpo.files import atomic_write_bytes
from attnpo.grading.math import Grader
from attnpo.method.attention import Head
from attnpo.method.steps import token_bytes_table
from attnpo.probing.labels import BY_TEXT, check_labels
from attnpo.probing.settings import LabelSource, Source, StepsSection
from attnpo.problems.problem import Problem
from attnpo.rewards import context_fields
from attnpo.sampling.models import (
    checkpoint_dtype,
    context_of,
    load_model,
    load_tokenizer,
    model_config,
    state_dtype,
)
from attnpo.sampling.sampler import check_room, prompt_ids
from attnpo.testbed import MODELS, load_problems, model_path, on_hub
from attnpo.testbed.problems import SCALES
from attnpo.training.callbacks import LogFile, ProgressLine, Snapshots, cut_log
from attnpo.training.card import About
from attnpo.training.correctness import Correctness
from attnpo.training.heads import choose_heads
from attnpo.training.reference import add_reference
from attnpo.training.rollouts import ROLLOUTS_FILE, RolloutFile
from attnpo.training.settings import CARD, CHECKPOINTS_FOLDER, MethodSection, TargetLengthSection, TrainSection
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer, StepLabels

TRACKERS = {"tensorboard": ["tensorboard", "tensorboardX"], "trackio": ["trackio"], "wandb": ["wandb"]}
"""What `report_to` may name of the extra `trackers`, and the packages one of which it needs."""
logger = logging.getLogger(__name__)


# the data set


def training_rows(
    problems: Sequence[Problem], target_length: TargetLengthSection | None, seed: int
) -> list[dict[str, Any]]:
    """Rows of the data set: prompt, answer and id of each problem.

    With `target_length` the prompt asks for a number of tokens, which `seed` draws for each problem; the row holds it
    as `target_length`.
    """
    lengths = random.Random(seed)
    rows = []
    for problem in problems:
        row: dict[str, Any] = {"answer": problem.answer, "id": problem.id}
        text = problem.text
        if target_length is not None:
            row["target_length"] = lengths.randint(target_length.low, target_length.high)
            text = target_length.add_to(text, row["target_length"])
        rows.append({"prompt": [{"role": "user", "content": text}], **row})
    return rows


def prefilled(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Put `text` at the end of the prompts that the tokenizer's chat template makes for a model to answer.

    Raises:
        AttnPOError: it has no chat template, or several.
    """
    if text and not isinstance(tokenizer.chat_template, str):
        raise AttnPOError(f"prefill {text!r} needs a tokenizer with one chat template; this one has none, or several")
    if text:
        tokenizer.chat_template += f"{{% if add_generation_prompt %}}{{{{ {json.dumps(text)} }}}}{{% endif %}}"


def drop_long_prompts(
    rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[dict[str, Any]]:
    """The rows whose prompt has at most `max_tokens` tokens, counted in the chat template.

    Raises:
        AttnPOError: none has.
    """
    prompts = prompt_ids(tokenizer, [row["prompt"][0]["content"] for row in rows])
    kept = [row for row, ids in zip(rows, prompts, strict=True) if len(ids) <= max_tokens]
    logger.info("%d of %d prompts have more than %d tokens: dropped", len(rows) - len(kept), len(rows), max_tokens)
    if not kept:
        shortest = min(map(len, prompts))
        raise AttnPOError(
            f"train.max_prompt_tokens is {max_tokens}, but the shortest of {len(rows)} training prompts has {shortest} "
            "tokens; raise it"
        )
    return kept


def check_context(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, train: TrainSection, context: int | None
) -> None:
    """Check that each prompt and its response fit into the model's context of so many tokens; None: it has no bound.

    Raises:
        AttnPOError: they do not.
    """
    known = train.max_prompt_tokens
    if context is None or (known is not None and known + train.max_completion_tokens <= context):
        return
    check_room(
        prompt_ids(tokenizer, [row["prompt"][0]["content"] for row in rows]), train.max_completion_tokens, context
    )


# the configuration


def check_grpo(train: TrainSection, method: MethodSection) -> None:
    """Check that TRL knows the names in `grpo`.

    Raises:
        AttnPOError: it does not know one.
    """
    for where, grpo in (("train.grpo", train.grpo), (f"method {method.label!r}: grpo", method.grpo)):
        if unknown := sorted(set(grpo) - set(AttnPOConfig.__dataclass_fields__)):
            raise AttnPOError(f"{where}.{unknown[0]}: TRL's GRPOConfig has no such argument; see its documentation")


def training_config(
    steps: StepsSection,
    train: TrainSection,
    method: MethodSection,
    seed: int,
    heads: Sequence[Head] | None,
    checkpoints: Path,
) -> AttnPOConfig:
    """The trainer's arguments. `train.grpo`, and over it `method.grpo`, replace any of them by TRL's own names.

    Raises:
        AttnPOError: the rollouts of a step do not divide over processes and accumulation, `grpo` has a name that
            TRL does not know, or it reports to a tracker that is not installed.
    """
    check_grpo(train, method)
    grpo = method.grpo_over(train)
    on_gpu = torch.cuda.is_available()
    arguments: dict[str, Any] = {
        "output_dir": str(checkpoints),
        "seed": seed,
        "max_steps": train.steps,
        "learning_rate": train.learning_rate,
        "temperature": train.temperature,
        "num_generations": train.group_size,
        "max_completion_length": train.max_completion_tokens,
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "run_name": checkpoints.parent.name,
        "bf16": on_gpu,
        "gradient_checkpointing": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_accumulation_steps": 1,
        "length_reward": method.reward,
        "length_reward_args": method.reward_args,
        "advantage_estimator": method.estimator,
        "attnpo": method.attnpo,
        "heads": None if heads is None else [list(head) for head in heads],
        "step_scores": method.step_scores,
        "credit": method.credit,
        "selection": method.selection,
        "exits": method.exits,
        "answers": method.answers,
        "openings": method.openings,
        "phrases": method.phrases or steps.phrases,
        "min_step_chars": steps.min_chars,
        "lone_trigger_chars": steps.lone_trigger_chars,
        **grpo,
    }
    _check_trackers(arguments["report_to"])
    rollouts = train.prompts_per_step * train.group_size
    if "per_device_train_batch_size" not in grpo:
        shares = process_state().num_processes * arguments["gradient_accumulation_steps"]
        if rollouts % shares:
            raise AttnPOError(
                f"{rollouts} rollouts a step do not divide by {shares} (processes x gradient_accumulation_steps); "
                "change prompts_per_step or gradient_accumulation_steps"
            )
        arguments["per_device_train_batch_size"] = rollouts // shares
    try:
        config = AttnPOConfig(**arguments)
    except AttnPOError:
        raise
    except (TypeError, ValueError) as error:
        raise AttnPOError(f"TRL's GRPOConfig refuses the arguments ({first_line(error)}); change grpo") from error
    if config.generation_batch_size != rollouts:
        raise AttnPOError(
            f"train.grpo makes {config.generation_batch_size} rollouts a step, but prompts_per_step x group_size is "
            f"{rollouts}; leave per_device_train_batch_size out, or make them agree"
        )
    return config


def _check_trackers(names: str | list[str] | None) -> None:
    for name in [names] if isinstance(names, str) else names or []:
        packages = TRACKERS.get(name, [])
        if packages and not any(map(importlib.util.find_spec, packages)):
            raise AttnPOError(f"train.grpo.report_to: {name} is not installed; pip install 'attnpo[trackers]'")


# the run


def run_training(
    source: Source,
    steps: StepsSection,
    train: TrainSection,
    method: MethodSection,
    seed: int,
    heads_file: Path | None,
    default_heads: int,
    out_dir: Path,
) -> Path:
    """Train a method, from the last checkpoint if there is one, and save the model.

    The weights are trained and saved in float32. The configuration that is saved beside them states the dtype of the
    untrained checkpoint: whoever loads the model with `dtype="auto"`, as sampling and lm-eval do, gets that one.

    Every process of a distributed run calls it, and has left the process group when it returns.

    Args:
        source: the model and the problems.
        steps: how the thinking is cut into steps.
        train: what all methods share.
        method: the method, its `credit` complete.
        seed: of prompts and sampling; methods with the same seed see the same prompts in the same order.
        heads_file: the probe's heads.json, for methods that take its top or worst heads.
        default_heads: how many heads, where the method has no `n_heads`.
        out_dir: gets `model/` with its card, `log.jsonl` (a line a step), `rollouts.jsonl` and `snapshots/STEP/` if
            they are wanted, `reference.json` if the reward compares with the untrained model, and `checkpoints/`, which
            the caller deletes when it needs no resuming any more.

    Returns:
        the model's folder.

    Raises:
        AttnPOError: heads are needed and heads_file is None, the settings contradict each other, no prompt is short
            enough, or a prompt and its response exceed the model's context.
    """
    check_grpo(train, method)
    dtype = checkpoint_dtype(source.model, source.revision)
    checkpoint = last_checkpoint(out_dir / CHECKPOINTS_FOLDER, train.steps)
    if checkpoint is not None and _global_step(checkpoint) == train.steps:
        logger.info("%s is the end of the training", checkpoint.name)
        if process_state().is_main_process:
            _take_model(checkpoint, out_dir)
            _take_card(out_dir)
            state_dtype(out_dir / "model", dtype)
        leave_process_group()
        return out_dir / "model"
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out_dir / "tensorboard"))  # theirs goes with the checkpoints
    tokenizer = load_tokenizer(source.model, source.revision)
    prefilled(tokenizer, method.prefill)
    problems = load_problems(source.data, train.split, source.data_revision, source.data_columns)
    rows = training_rows(problems, method.target_length, seed)
    if train.max_prompt_tokens is not None:
        rows = drop_long_prompts(rows, tokenizer, train.max_prompt_tokens)
    check_context(rows, tokenizer, train, context_of(model_config(source.model, source.revision)))
    model, _ = load_model(source.model, source.revision, dtype=torch.float32)
    heads = choose_heads(method, seed, heads_file, default_heads, model) if method.attnpo else None
    config = training_config(steps, train, method, seed, heads, out_dir / CHECKPOINTS_FOLDER)
    logger.info(
        "the weights are trained in float32 (the checkpoint's are %s), the passes run in %s",
        str(dtype).removeprefix("torch."),
        "bfloat16" if config.bf16 else "float16" if config.fp16 else "float32",
    )
    with Grader(workers=grading_workers()) as grader:
        trainer = AttnPOTrainer(
            model=model,
            reward_funcs=Correctness(grader, tokenizer, problems, steps, _rollouts(source, train, tokenizer, out_dir)),
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[LogFile(out_dir / "log.jsonl")],
            step_labels=_labels(method, source.data, problems) if config.step_scores == "labels" else None,
            about=about_training(source, train, method, out_dir.name, getattr(model.config, "_commit_hash", None)),
        )
        for theirs in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(theirs)
        trainer.add_callback(ProgressLine(out_dir / "log.jsonl"))
        if method.snapshots is not None:
            trainer.add_callback(Snapshots(trainer, method.snapshots, out_dir / "snapshots", dtype))
        if "reference" in context_fields(method.reward):
            add_reference(trainer, out_dir / "reference.json", method.reference_samples)
        if checkpoint is not None:
            logger.info("going on from %s", checkpoint.name)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(out_dir / "model"))
    trainer.create_model_card()
    if trainer.accelerator.is_main_process:
        state_dtype(out_dir / "model", dtype)
        tokenizer.save_pretrained(out_dir / "model")
        _take_card(out_dir)
    del trainer, model  # they hold the process group
    leave_process_group()
    return out_dir / "model"


def about_training(
    source: Source, train: TrainSection, method: MethodSection, name: str, commit: str | None = None
) -> About:
    """What the model card says beside the trainer's arguments.

    Args:
        source: the model and the problems. Of a folder or a file the card has the name, not the path.
        train: what all methods share.
        method: the method.
        name: of the trained model.
        commit: the model's on the hub, if it is known more exactly than by the revision.
    """
    local = source.model in MODELS or Path(model_path(source.model)).is_dir()
    own = source.data in SCALES
    base = MODELS[source.model].label if source.model in MODELS else Path(source.model).name
    more = {"split of the data": f"`{train.split}`"}
    if method.target_length is not None:
        more["target length, in each prompt"] = f"`{method.target_length.text}`"
    if method.prefill:
        more["prefill, at the end of each prompt"] = f"`{json.dumps(method.prefill)}`"
    return About(
        name=name,
        base=base if local else source.model,
        base_on_hub=not local,
        revision=None if local else commit or source.revision,
        data=source.data if on_hub(source.data) else "the testbed's problems" if own else Path(source.data).name,
        data_on_hub=on_hub(source.data),
        data_revision=source.data_revision,
        method=method.label,
        more=more,
    )


def _rollouts(
    source: Source, train: TrainSection, tokenizer: PreTrainedTokenizerBase, out_dir: Path
) -> RolloutFile | None:
    """Where rollouts of each step are kept, by the first process, if any are wanted."""
    if not train.trace_samples or not process_state().is_main_process:
        return None
    about = {"data": source.data, "split": train.split}
    table, end = token_bytes_table(tokenizer), int(tokenizer.eos_token_id)
    return RolloutFile(out_dir / ROLLOUTS_FILE, train.trace_samples, table, end, about)


def grading_workers() -> int:
    """How many workers grade for this process, 1 to 4: the cores that it may use, shared by the node's processes.

    The launcher says how many these are (`LOCAL_WORLD_SIZE`); where it does not, they are taken to be all of the run's.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or process_state().num_processes)
    return max(1, min(4, usable_cores() // processes))


def _labels(method: MethodSection, data: str, problems: Sequence[Problem]) -> StepLabels:
    """Labels of `heads: oracle` or `first_answer` for a row of the data set, which names its problem by id.

    A step without a label counts as essential, so that it is left alone.
    """
    source: LabelSource = "oracle" if method.heads == "oracle" else "first_answer"
    check_labels([source], data)
    by_id = {problem.id: problem for problem in problems}
    return lambda row, texts: [label is not False for label in BY_TEXT[source](by_id[row["id"]], texts)]


def last_checkpoint(folder: Path, steps: int | None = None) -> Path | None:
    """The newest checkpoint that is whole, or None. `trainer_state.json` is written last.

    With `steps`, those of the whole training, one at the end counts only if it holds the model's weights in
    safetensors: the trainer cannot go on from it, as it would take another step. Sharded ones do not hold them.
    """
    named = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    found = sorted(named, key=_global_step, reverse=True)
    for path in found:
        if why := _damage(path):
            logger.warning("%s is not whole (%s), taking the one before it", path.name, why)
            continue
        if steps is None or _global_step(path) < steps or any(path.glob("*.safetensors")):
            return path
    return None


def _damage(checkpoint: Path) -> str | None:
    """Why nothing can go on from a checkpoint; None: it can."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return first_line(error)
    if not isinstance(state, dict) or state.get("global_step") != _global_step(checkpoint):
        return "trainer_state.json is that of another step"
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    names = [path.relative_to(checkpoint).as_posix() for path in files]
    if not any(re.search(r"\.(safetensors|distcp)$|model[^/]*\.(bin|pt)$", name) for name in names):
        return "it has no weights"
    if not any(name.startswith(("optimizer", "global_step")) for name in names):
        return "it has no state of the optimizer"
    for path in files:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):  # its header says where it ends
                    continue
        except (OSError, SafetensorError) as error:
            return f"{path.name}: {first_line(error)}"
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.name} is cut"
    return None


def _global_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _take_model(checkpoint: Path, out_dir: Path) -> None:
    """Copy the model of the last step to `model/`, and bring the log to that step."""
    not_the_model = shutil.ignore_patterns(
        "optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "global_step*", "latest", "*.py",
        "pytorch_model*",
    )  # fmt: skip
    shutil.rmtree(out_dir / "model", ignore_errors=True)
    shutil.copytree(checkpoint, out_dir / "model", ignore=not_the_model)
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    cut_log(out_dir / "log.jsonl", history)


def _take_card(out_dir: Path) -> None:
    """Copy the card that was written with the last checkpoint, or after it, to the model."""
    card = (out_dir / CHECKPOINTS_FOLDER / CARD).read_bytes()
    atomic_write_bytes(out_dir / "model" / CARD, card)


def process_state() -> accelerate.PartialState:
    """accelerate's state of this process. On CPUs it sees the other processes only if it is told to compute there."""
    return accelerate.PartialState(cpu=not torch.cuda.is_available())


def leave_process_group() -> None:
    """End the communication between processes. Every process calls it last, when nothing holds the trainer any more.

    A process that exits while gloo's threads run may be aborted after its work is done: a thread that lets go of a
    tensor needs the interpreter, which is gone by then (pytorch/pytorch#179291). Destroying the group ends the threads
    only if nothing else holds it, and the trainer's model holds it in a cycle of references, hence the collection.
    """
    gc.collect()
    process_state().destroy_process_group()
