"""Progress of a plan while it runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

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
from rich.table import Column

from attnpo.environment import short_path
from attnpo.runs.plan import Job
from attnpo.training.shown import clock, shown_figures

_LINE_SECONDS = 30.0  # between two lines where there is no terminal
_TAIL = 65_536  # bytes at a log's end in which its newest entry is looked for


def last_entry(log: Path) -> dict[str, Any]:
    """The newest whole entry of a training's log, with its optimizer step in `step`; `{"step": 0}` if there is none."""
    if log.is_file():
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().splitlines()
        for line in reversed(lines):
            try:
                entry = json.loads(line)
            except ValueError:  # a line being written, or the end of one
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                return entry
    return {"step": 0}


class Display:
    """Bars for the plan and each running job on a terminal; elsewhere a line when a run ends and now and then.

    Beside a running training stand the figures of its newest step; when it is first seen, a line says where its log is.

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
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[figures]}", table_column=Column()),  # the one that wraps where room is short
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=math.inf,  # runs take minutes: rich's half a minute would see none end
        )
        self.all = self.bars.add_task("runs", total=runs, completed=finished, figures="")
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
        titles = []
        for job in running:
            total = self.train_steps if job.kind == "train" else None
            entry = last_entry(job.run.folder / "log.jsonl") if total else {"step": 0}
            steps, figures = entry["step"], ""
            share += steps / total if total else 0
            if total and steps:
                figures = shown_figures(entry, job.run.spec["settings"]["attnpo"])
            if job not in self.tasks:
                self.tasks[job] = self.bars.add_task(f"  {job.title}", total=total, completed=steps, figures=figures)
                if total:
                    self.say(f"{job.title}: see {short_path(job.run.folder / 'job.log')}, and log.jsonl beside it")
            self.bars.update(self.tasks[job], completed=steps, figures=figures)
            at = ", ".join(filter(None, [f"step {steps}/{total}", figures]))
            titles.append(f"{job.title} ({at})" if total and steps else job.title)
        self.bars.update(self.all, completed=done + share)
        now = time.monotonic()
        if not self.console.is_terminal and (done != self.last_done or now - self.last_line > _LINE_SECONDS):
            remaining = self.bars.tasks[0].time_remaining
            left = "" if not remaining else f", about {clock(remaining)} left"
            self.say("; ".join([f"{done}/{self.runs} runs{left}", *titles]))
            self.last_line, self.last_done = now, done
