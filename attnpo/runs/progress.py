"""Progress of a plan while it runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from attnpo.runs.outlook import clock
from attnpo.runs.plan import Job

_LINE_SECONDS = 30.0  # between two lines where there is no terminal


def steps_done(log: Path) -> int:
    """The last optimizer step that a training log records; 0 if there is none."""
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65_536))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # a line being written, or TRL's summary line
            continue
    return 0


class Display:
    """Bars for the plan and each running job on a terminal; elsewhere a line when a run ends and now and then.

    Args:
        runs: of the whole plan.
        finished: of these, before anything is run.
        train_steps: optimizer steps of a training run.
        console: where to write.
    """

    def __init__(self, runs: int, finished: int, train_steps: int, console: Console) -> None:
        self.runs, self.train_steps, self.console = runs, train_steps, console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=math.inf,  # runs take minutes: rich's half a minute would see none end
        )
        self.all = self.bars.add_task("runs", total=runs, completed=finished)
        self.tasks: dict[Job, TaskID] = {}
        self.last_line, self.last_done = 0.0, -1

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, running: Collection[Job], done: int) -> None:
        """Show what runs, and that `done` runs of the plan are finished."""
        for job in [job for job in self.tasks if job not in running]:
            self.bars.remove_task(self.tasks.pop(job))
        share = 0.0  # of the running trainings, so that the time left is known before a run has ended
        for job in running:
            total = self.train_steps if job.kind == "train" else None
            steps = steps_done(job.run.folder / "log.jsonl") if total else 0
            share += steps / total if total else 0
            if job not in self.tasks:
                self.tasks[job] = self.bars.add_task(f"  {job.title}", total=total, completed=steps)
            self.bars.update(self.tasks[job], completed=steps)
        self.bars.update(self.all, completed=done + share)
        now = time.monotonic()
        if not self.console.is_terminal and (done != self.last_done or now - self.last_line > _LINE_SECONDS):
            remaining = self.bars.tasks[0].time_remaining
            left = "" if not remaining else f", about {clock(remaining)} left"
            self.say("; ".join([f"{done}/{self.runs} runs{left}", *(job.title for job in running)]))
            self.last_line, self.last_done = now, done
