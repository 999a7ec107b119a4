"""The accuracy of the untrained model on the problems that it will be trained on, from samples that are taken once."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import track

from attnpo.files import atomic_write_json
from attnpo.training.answers import accuracies
from attnpo.training.settings import AnswerConfig

PART = 32
"""Problems that a process answers before what is known is written to the disk."""
logger = logging.getLogger(__name__)


def add_reference(trainer: Any, path: Path, samples: int, part: int = PART) -> None:
    """Give the trainer's data set the column `reference`: the share of right responses of its model as it is now.

    Only problems that the training will come to are answered, as in training: at its temperature and top_p, within its
    budget. The random numbers of the training are left as they were. Every process calls it, before the training.

    Args:
        trainer: TRL's; its data set has a column `id`.
        path: of the file with what is known, which is not sampled again. It is written after each `part` problems.
        samples: responses to each problem.
        part: see `PART`.
    """
    args, data = trainer.args, trainer.train_dataset
    known = _read(path, samples)
    wanted = [data[index] for index in trained_on(trainer)]
    missing = list({row["id"]: row for row in wanted if row["id"] not in known}.values())
    config = AnswerConfig(
        words="",
        samples=samples,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_completion_length,
    )
    if missing:
        logger.info("the untrained model answers %d problems, %d times each", len(missing), samples)
    at, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    parts = [missing[start : start + part * processes] for start in range(0, len(missing), part * processes)]
    for rows in track(parts, "untrained model", disable=at > 0 or not parts, console=Console(stderr=True)):
        mine = rows[at::processes]
        with torch.random.fork_rng():
            torch.manual_seed(args.seed * 1_000_003 + len(known) * processes + at)
            found = accuracies(trainer, mine, [[]] * len(mine), config)
        shares = [(row["id"], share) for row, share in zip(mine, found, strict=True)]
        known |= dict(gather_object(shares) if processes > 1 else shares)
        if at == 0:
            atomic_write_json(path, {"samples": samples, "accuracy": known})
    trainer.train_dataset = data.add_column("reference", [known.get(id) for id in data["id"]])


def trained_on(trainer: Any) -> list[int]:
    """The rows of the trainer's data set that the training will come to, ascending, by the sampler of its prompts."""
    args = trainer.args
    turns = args.max_steps * args.gradient_accumulation_steps * args.generation_batch_size
    met = list(itertools.islice(iter(trainer._get_train_sampler()), turns))
    # A second epoch has another order, and may come to rows that the first left out at its end.
    return sorted(set(met)) if len(met) == turns else list(range(len(trainer.train_dataset)))


def _read(path: Path, samples: int) -> dict[str, float]:
    """What is known from so many samples a problem; a file of another number is not looked at."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return stored["accuracy"] if stored.get("samples") == samples else {}
