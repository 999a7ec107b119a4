"""Train one method with one seed, as a profile says: `attnpo train`."""

from __future__ import annotations

import gc
import json
import logging
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_jsonl
from attnpo.grading.math import Grader
from attnpo.method.attention import all_heads
from attnpo.method.phrases import PHRASE_KINDS, phrase_counts
from attnpo.method.steps import split_steps, thinking_part
from attnpo.probing.heads import HeadRanking
from attnpo.probing.labels import LABELERS
from attnpo.problems.training_sets import Item
from attnpo.sampling.generation import load_model, text_of
from attnpo.testbed import load_items, oracle
from attnpo.training.settings import TargetLengthSection
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer, StepLabels

if TYPE_CHECKING:
    from attnpo.runs.profile import Profile

logger = logging.getLogger(__name__)


def run_training(profile: Profile, method: str, seed: int, heads_file: Path | None, out_dir: Path) -> Path:
    """Train `method`, from the last checkpoint if there is one, and save the model.

    Every process of a distributed run calls it, and has left the process group when it returns.

    Args:
        profile: every hyperparameter.
        method: a key of `profile.methods`.
        seed: of prompts and sampling; methods with the same seed see the same prompts in the same order.
        heads_file: the probe's heads.json, for methods that take the top heads.
        out_dir: gets `model/`, `log.jsonl` (a line a step), `snapshots/STEP/` if the method wants them and, until it is
            done, `checkpoints/`.

    Returns:
        the model's folder.

    Raises:
        AttnPOError: heads are needed and heads_file is None, or the settings contradict each other.
    """
    _train(profile, method, seed, heads_file, out_dir)
    leave_process_group()
    return out_dir / "model"


def _train(profile: Profile, method: str, seed: int, heads_file: Path | None, out_dir: Path) -> None:
    section = profile.method(method)
    model, tokenizer = load_model(profile.model, profile.revision)
    heads = choose_heads(profile, method, seed, heads_file, model) if section.attnpo else None
    items = load_items(profile.data, profile.train.split)
    dataset = datasets.Dataset.from_list(training_rows(items, section.target_length, seed))
    config = training_config(profile, method, seed, heads, out_dir / "checkpoints")
    with Grader() as grader:
        trainer = AttnPOTrainer(
            model=model,
            reward_funcs=Correctness(grader, tokenizer, items, profile),
            args=config,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[_LogFile(out_dir / "log.jsonl")],
            step_labels=_labels(profile, items) if config.step_scores == "oracle" else None,
        )
        if section.snapshots is not None:
            trainer.add_callback(_Snapshots(trainer, section.snapshots, out_dir / "snapshots"))
        checkpoint = last_checkpoint(out_dir / "checkpoints")
        if checkpoint is not None:
            logger.info("going on from %s", checkpoint.name)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(out_dir / "model"))
    if trainer.accelerator.is_main_process:
        tokenizer.save_pretrained(out_dir / "model")
        shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)


def leave_process_group() -> None:
    """End the communication between processes; to be called last, by every process, when nothing holds the trainer.

    A process that exits with gloo's threads alive may be aborted after its work is done: a thread that lets go of a
    tensor needs an interpreter that is not there any more (pytorch/pytorch#179291). Destroying the group ends the
    threads only if nothing else holds it, and the trainer's model does, in a cycle of references.
    """
    gc.collect()
    accelerate.PartialState().destroy_process_group()


def choose_heads(
    profile: Profile, method: str, seed: int, heads_file: Path | None, model: PreTrainedModel
) -> list[list[int]] | None:
    """The heads [layer, head] whose attention rescales, as the method's `heads` says; None for the oracle.

    Raises:
        AttnPOError: the probe's heads are asked for and heads_file is None, or more heads than there are.
    """
    section = profile.method(method)
    wanted = section.heads
    count = section.n_heads or profile.probe.heads
    if wanted == "oracle":
        return None
    if wanted == "top" or wanted == "worst":
        if heads_file is None:
            raise AttnPOError(f"method {method!r} takes the probe's {wanted} heads; run `attnpo probe` first")
        ranking = HeadRanking.load(heads_file)
        heads = ranking.top(count) if wanted == "top" else ranking.top(len(ranking.heads))[-count:]
    elif wanted == "all":
        heads = all_heads(model)
    elif wanted == "random":
        heads = all_heads(model)
        if count > len(heads):
            raise AttnPOError(f"method {method!r}: n_heads {count}, but the model has {len(heads)}; lower it")
        heads = sorted(random.Random(seed).sample(heads, count))
    else:
        heads = wanted
    logger.info("heads (layer, head): %s", heads)
    return [list(head) for head in heads]


def training_rows(items: list[Item], tell: TargetLengthSection | None, seed: int) -> list[dict[str, Any]]:
    """Rows of the data set: prompt, answer, id, and `told`, the length in the prompt, drawn for each problem."""
    lengths = random.Random(seed)
    rows = []
    for item in items:
        row: dict[str, Any] = {"answer": item.answer, "id": item.id}
        text = item.text
        if tell is not None:
            row["told"] = lengths.randint(tell.low, tell.high)
            text = tell.add_to(text, row["told"])
        rows.append({"prompt": [{"role": "user", "content": text}], **row})
    return rows


def _labels(profile: Profile, items: list[Item]) -> StepLabels:
    if profile.data not in LABELERS:
        raise AttnPOError(f"heads 'oracle' needs step labels; they are known for {', '.join(LABELERS)}")
    by_id, label = {item.id: item for item in items}, LABELERS[profile.data]
    return lambda row, texts: label(by_id[row["id"]], texts)


def training_config(
    profile: Profile, method: str, seed: int, heads: list[list[int]] | None, checkpoints: Path
) -> AttnPOConfig:
    """The trainer's arguments: the profile's, with `train.grpo` and the method's `grpo` (TRL's own names) over them.

    Raises:
        AttnPOError: the rollouts of a step do not divide over processes and accumulation, or `grpo` has a name that
            TRL does not know.
    """
    section, train, steps = profile.method(method), profile.train, profile.steps
    grpo = {**train.grpo, **section.grpo}
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
        "bf16": on_gpu,
        "gradient_checkpointing": on_gpu,
        "use_cpu": not on_gpu,
        "gradient_accumulation_steps": 1,
        "length_reward": section.reward,
        "length_reward_args": section.reward_args,
        "advantage_estimator": section.estimator,
        "attnpo": section.attnpo,
        "heads": heads,
        "step_scores": "oracle" if section.heads == "oracle" else "attention",
        "credit": section.credit,
        "phrases": section.phrases or steps.phrases,
        "min_step_chars": steps.min_chars,
        "lone_trigger_chars": steps.lone_trigger_chars,
        **grpo,
    }
    unknown = sorted(set(arguments) - set(AttnPOConfig.__dataclass_fields__))
    if unknown:
        where = f"methods.{method}.grpo" if unknown[0] in section.grpo else "train.grpo"
        raise AttnPOError(f"{where}.{unknown[0]}: TRL's GRPOConfig has no such argument; see its documentation")
    rollouts = train.prompts_per_step * train.group_size
    if "per_device_train_batch_size" not in grpo:
        shares = accelerate.PartialState().num_processes * arguments["gradient_accumulation_steps"]
        if rollouts % shares:
            raise AttnPOError(
                f"{rollouts} rollouts a step do not divide by {shares} (processes x gradient_accumulation_steps); "
                "change prompts_per_step or gradient_accumulation_steps"
            )
        arguments["per_device_train_batch_size"] = rollouts // shares
    config = AttnPOConfig(**arguments)
    if config.generation_batch_size != rollouts:
        raise AttnPOError(
            f"train.grpo makes {config.generation_batch_size} rollouts a step, but prompts_per_step x group_size is "
            f"{rollouts}; leave per_device_train_batch_size out, or make them agree"
        )
    return config


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end (`trainer_state.json` is written last), or None."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            logger.warning("%s is not complete, taking the one before it", path.name)
            continue
        return path
    return None


class Correctness:
    """TRL reward function: 1 for a correct response, 0 for any other; on the testbed it also logs steps by label."""

    __name__ = "correctness"

    def __init__(self, grader: Grader, tokenizer: PreTrainedTokenizerBase, items: list[Item], profile: Profile) -> None:
        self.grader = grader
        self.tokenizer = tokenizer
        self.items = {item.id: item for item in items}
        self.profile = profile

    def __call__(
        self, completion_ids: list[list[int]], answer: list[str], id: list[str], log_metric: Any, **_: Any
    ) -> list[float]:
        """One reward a completion, from its sampled ids; TRL passes the data set's columns by name."""
        texts = [text_of(ids, self.tokenizer) for ids in completion_ids]
        grades = self.grader.grade(texts, answer)
        counts = [phrase_counts(thinking_part(text)) for text in texts]
        for kind in PHRASE_KINDS:
            log_metric(f"phrases/{kind}", sum(count[kind] for count in counts) / len(counts))
        log_metric("grader/parse_failed", sum(grade.parse_failed for grade in grades) / len(grades))
        if self.profile.data == "testbed":
            self._log_steps(texts, id, log_metric)
        return [float(grade.correct) for grade in grades]

    def _log_steps(self, texts: list[str], ids: list[str], log_metric: Any) -> None:
        counts: Counter[str] = Counter()
        settings = self.profile.steps
        for text, problem_id in zip(texts, ids, strict=True):
            thinking = thinking_part(text)
            steps = split_steps(thinking, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
            problem = self.items[problem_id].testbed
            assert problem is not None
            counts.update(oracle.count_steps(problem, [thinking[s.start : s.end] for s in steps]))
        for label, count in counts.items():
            log_metric(f"steps/{label}", count / len(texts))


class _Snapshots(TrainerCallback):
    """Keeps the weights every `every` optimizer steps, each whole or not at all; the last step is the run's model."""

    def __init__(self, trainer: AttnPOTrainer, every: int, folder: Path) -> None:
        self.trainer, self.every, self.folder = trainer, every, folder

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        step = state.global_step
        if step % self.every or step >= state.max_steps:
            return
        partial = self.folder / f".{step}"
        self.trainer.save_model(str(partial))
        if state.is_world_process_zero:
            shutil.rmtree(self.folder / str(step), ignore_errors=True)  # of an attempt that was killed later
            partial.rename(self.folder / str(step))


class _LogFile(TrainerCallback):
    """Keeps `log.jsonl` equal to the trainer's history, which checkpoints carry: a resumed run repeats no line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            atomic_write_jsonl(self.path, state.log_history)
