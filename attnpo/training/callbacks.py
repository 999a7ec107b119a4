"""What a training run writes while it goes on: its log and snapshots of the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import TrainerCallback
from trl import GRPOTrainer

from attnpo.files import atomic_write_jsonl
from attnpo.sampling.models import state_dtype


class LogFile(TrainerCallback):
    """Writes the trainer's history to a file, a line a step.

    Checkpoints carry the history, so a resumed run repeats no line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Write the whole history again."""
        if state.is_world_process_zero:
            atomic_write_jsonl(self.path, state.log_history)


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
