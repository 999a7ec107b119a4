"""Progress of a plan while it runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from attnpo.runs.plan import Job, _known_seconds
from attnpo.runs.profile import Profile

_LINE_SECONDS = 30.0  # between two progress lines where there is no terminal


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


class _Display:
    """Progress of the plan: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, profile: Profile, plan: list[Job], finished: set[str], workers: int, console: Console):
        self.steps, self.plan, self.workers, self.console = profile.train.steps, plan, workers, console
        self.begun: dict[Job, tuple[float, int]] = {}  # time and optimizer step at which this process found it
        self.seconds = profile.seconds
        self.rates = self._expected_seconds()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.total = self.bars.add_task("all", total=len(plan), completed=len(finished), note="")
        self.tasks: dict[Job, Any] = {}
        self.last_line, self.last_done = 0.0, -1

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, running: dict[Job, Any], finished: set[str]) -> None:
        now = time.monotonic()
        for job in list(self.tasks):
            if job not in running:
                self.bars.remove_task(self.tasks.pop(job))
                if job.run.id in finished:
                    self.rates.setdefault(job.kind, []).append(now - self.begun[job][0])
        for job in running:
            if job not in self.tasks:
                self.begun[job] = (
                    now,
                    steps_done(job.run.folder / "log.jsonl") if job.kind == "train" else 0,
                )
                self.tasks[job] = self.bars.add_task(f"  {job.title}", total=1.0, note="")
            left = self._seconds_left(job, now)
            elapsed = now - self.begun[job][0]
            share = 0.0 if left is None else elapsed / max(elapsed + left, 1e-9)
            note = f"{clock(elapsed)}" if left is None else f"{clock(left)} left"
            if job.kind == "train":
                step = steps_done(job.run.folder / "log.jsonl")
                share, note = step / self.steps, f"step {step}/{self.steps}, {note}"
            self.bars.update(self.tasks[job], completed=share, note=note)
        done = sum(job.run.id in finished for job in self.plan)
        remaining = self._all_left(finished, now)
        note = f"{done}/{len(self.plan)} runs" + (f", about {clock(remaining)} left" if remaining is not None else "")
        self.bars.update(self.total, completed=done, note=note)
        due = now - self.last_line > _LINE_SECONDS or done != self.last_done
        if not self.console.is_terminal and due:
            self.say("; ".join([note, *(job.title for job in running)]))
            self.last_line, self.last_done = now, done

    def _expected_seconds(self) -> dict[str, list[float]]:
        """Durations of finished runs by kind, else those that the profile expects."""
        known = _known_seconds(self.plan)
        return {kind: [seconds] for kind, seconds in self.seconds.items() if kind not in known} | known

    def _mean_seconds(self, kind: str) -> float | None:
        known = self.rates.get(kind)
        return sum(known) / len(known) if known else None

    def _seconds_left(self, job: Job, now: float) -> float | None:
        begun, first_step = self.begun[job]
        if job.kind == "train":
            step = steps_done(job.run.folder / "log.jsonl")
            if step > first_step:
                return (now - begun) / (step - first_step) * (self.steps - step)
        mean = self._mean_seconds(job.kind)
        return None if mean is None else max(0.0, mean - (now - begun))

    def _all_left(self, finished: set[str], now: float) -> float | None:
        """Seconds until the plan is done; None while nothing is known of what is left."""
        guesses: dict[str, float | None] = {}
        for kind in {job.kind for job in self.plan}:
            running = [(left, now - self.begun[j][0]) for j in self.tasks if j.kind == kind
                       if (left := self._seconds_left(j, now)) is not None]  # fmt: skip
            mean = self._mean_seconds(kind)
            guesses[kind] = mean if mean is not None or not running else sum(map(sum, running)) / len(running)
        known = [g for g in guesses.values() if g is not None]
        if not known:
            return None
        seconds = 0.0
        for job in self.plan:
            if job.run.id not in finished:
                guess = guesses[job.kind]
                whole = sum(known) / len(known) if guess is None else guess
                left = self._seconds_left(job, now) if job in self.tasks else whole
                seconds += whole if left is None else left
        return seconds / self.workers


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
