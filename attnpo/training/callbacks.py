"""What goes along with a training run: its log, snapshots of the weights, the share of scoring, the reward's state."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer

from attnpo.files import atomic_write_bytes
from attnpo.method.steps import THINK_END
from attnpo.sampling.models import state_dtype
from attnpo.training.shown import clock, shown_figures

logger = logging.getLogger(__name__)


class LogFile(TrainerCallback):
    """Appends what the trainer logs to a file, a line a step, without its closing summary of durations.

    A resumed run first cuts off the steps after its checkpoint, which it takes again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Cut the file back to the steps of the checkpoint; to nothing without one."""
        if state.is_world_process_zero:
            cut_log(self.path, state.log_history)

    def on_log(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Append the newest entry and wait until it is on the disk."""
        if state.is_world_process_zero and _is_of_a_step(entry := state.log_history[-1]):
            with self.path.open("ab") as file:
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())


def cut_log(path: Path, history: Iterable[Mapping[str, Any]]) -> None:
    """Bring a log to the steps of a checkpoint's history.

    Lines that the history has stay as they are, byte for byte (a checkpoint sorts the keys of an entry). What the file
    lacks is taken from the history.
    """
    there = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    kept: list[bytes] = []
    for entry in filter(_is_of_a_step, history):
        line = there[len(kept)] if len(kept) < len(there) else b""
        kept.append(line if _same(line, entry) else _line(entry))
    if kept != there or not path.is_file():
        atomic_write_bytes(path, b"".join(kept))


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def _same(line: bytes, entry: Mapping[str, Any]) -> bool:
    try:
        return line.endswith(b"\n") and json.dumps(json.loads(line), sort_keys=True) == json.dumps(
            entry, sort_keys=True
        )
    except ValueError:
        return False


def _is_of_a_step(entry: Mapping[str, Any]) -> bool:
    return "train_runtime" not in entry


class ProgressLine(TrainerCallback):
    """Shows a training on standard error, in place of TRL's bar and its dict of all that is logged.

    It says once where the log is. Then a terminal gets a bar with the figures of the last step and the time left,
    anything else a line a step.
    """

    def __init__(self, log: Path) -> None:
        self.log = log

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Begin at the step of the checkpoint."""
        if state.is_world_process_zero:
            print(f"every figure of each step: {self.log}", file=sys.stderr, flush=True)
        self.bar = tqdm(
            desc="training", total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True,
            disable=not (state.is_world_process_zero and sys.stderr.isatty()),
        )  # fmt: skip
        self.first, self.begin = state.global_step, time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        """Show a step; what else is logged, such as an evaluation, is not shown."""
        if not state.is_world_process_zero or "attnpo/group_accuracy" not in logs:
            return
        figures = shown_figures(logs, args.attnpo)
        self.bar.set_postfix_str(figures, refresh=False)
        self.bar.update(state.global_step - self.bar.n)
        if self.bar.disable:
            seconds = (time.monotonic() - self.begin) / (state.global_step - self.first)
            left = clock(seconds * (state.max_steps - state.global_step))
            line = f"step {state.global_step}/{state.max_steps}: {figures}, {left} left"
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Leave the bar as it is."""
        self.bar.close()


class Snapshots(TrainerCallback):
    """Keeps the weights every `every` optimizer steps as `folder/STEP`, but not after the last step.

    A snapshot appears whole or not at all. Its configuration states `dtype`, see `attnpo.training.run.run_training`.
    """

    def __init__(self, trainer: GRPOTrainer, every: int, folder: Path, dtype: torch.dtype) -> None:
        self.trainer, self.every, self.folder, self.dtype = trainer, every, folder, dtype

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Save the weights if the step is a multiple of `every`."""
        step = state.global_step
        if step % self.every or step >= state.max_steps:
            return
        partial = self.folder / f".{step}"
        self.trainer.save_model(str(partial))
        if state.is_world_process_zero:
            state_dtype(partial, self.dtype)
            # A run that was killed after this step has left a snapshot of the same name.
            shutil.rmtree(self.folder / str(step), ignore_errors=True)
            partial.rename(self.folder / str(step))


class ScoringShare(TrainerCallback):
    """Logs the time that aligning and scoring took as a share of the whole step.

    Where the scores are read in a pass that TRL makes anyway, it is the time of aligning alone.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.start = 0.0

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Begin to count."""
        self.start = time.perf_counter()
        self.trainer._scoring_seconds = 0.0

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Log the share."""
        share = self.trainer._scoring_seconds / (time.perf_counter() - self.start)
        self.trainer._metrics["train"]["attnpo/scoring_time_share"].append(share)

    def on_train_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Say so if nothing was ever scored."""
        if self.trainer.args.attnpo and self.start and not self.trainer._n_scored:
            logger.warning(
                "NO RESPONSE WAS RESCALED: no correct one had an advantage, %s and %d steps; see phrases, "
                "min_step_chars and credit",
                THINK_END,
                self.trainer.credit_config.min_steps,
            )


class RewardState(TrainerCallback, ExportableState):
    """Carries the length reward's state in the checkpoints' `trainer_state.json`."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in the form that transformers wants."""
        return {"args": {}, "attributes": {"reward_state": self.trainer.reward_state}}

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Take over the state of the checkpoint."""
        stored = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.trainer.reward_state = stored["attributes"]["reward_state"]
