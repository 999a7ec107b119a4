"""Runs the jobs of a plan side by side, so that a stopped call goes on where it stood.

Each job is one process (`python -m attnpo.cli …`) on one thread; a finished run is never started again.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, suppress
from graphlib import TopologicalSorter
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from attnpo.environment import shipped, short_path
from attnpo.files import locked
from attnpo.runs.plan import Job, check_methods
from attnpo.runs.profile import Profile
from attnpo.runs.progress import Display
from attnpo.testbed import MODELS

WATCH_VARIABLE = "ATTNPO_RUNNER_PIPE"
"""Set for a job's process: the file descriptor whose end of file says that the runner is gone."""
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""For glibc: keep freed memory. Without it every decoding step maps its tensors anew: 10 to 20 % of a CPU's time."""
_ERROR = "attnpo: "  # what a command of ours begins its error line with
_POLL_SECONDS = 0.2
_END_SECONDS = 10.0  # for the supervisor of a launcher to kill what that started


def only_runner(results_dir: Path) -> AbstractContextManager[BinaryIO]:
    """Hold `results_dir` against a second runner.

    Raises:
        AttnPOError: another runner is at work there.
    """
    message = f"{results_dir}: another `attnpo run` is at work here; wait for it or stop it"
    return locked(results_dir / ".lock", message=message)


def run_jobs(
    profile: Profile,
    results_dir: Path,
    plan: list[Job],
    left: list[Job],
    workers: int,
    console: Console,
    consent: bool = False,
) -> list[Job]:
    """Run what is left of a plan, `workers` jobs at a time.

    A failed job is reported with its log, and the others go on; but once two of a kind have failed with the same words,
    no other of that kind is started. On SIGINT or SIGTERM, and when this process dies in any way, the jobs' processes
    are killed.

    Args:
        profile: of the jobs.
        results_dir: results/<profile>.
        plan: the whole plan, for the count of runs.
        left: the jobs to run, see `left_to_do`; those that are ready start in this order.
        workers: processes side by side.
        console: where progress is shown.
        consent: the user's, to tasks that run what the model writes.

    Returns:
        The jobs that failed, and those that waited for them or would have failed alike.
    """
    if not left:
        return []
    check_methods(profile)
    waiting = {job.run.id: job for job in left}
    order = {id: place for place, id in enumerate(waiting)}
    waits = TopologicalSorter({id: [run.id for run in job.needs if run.id in order] for id, job in waiting.items()})
    waits.prepare()
    ready: list[str] = []
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: list[Job] = []
    causes: Counter[tuple[str, str]] = Counter()  # of failures, by kind of job
    hopeless: set[str] = set()  # kinds of job
    done = len(plan) - len(left)
    read_end, write_end = os.pipe()  # write_end closes with this process, and the jobs see it
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Display(len(plan), done, profile.train.steps if profile.train else 0, console) as display:
            while True:
                ready = sorted([*ready, *waits.get_ready()], key=order.__getitem__)
                ready = [id for id in ready if waiting[id].kind not in hopeless]
                while ready and len(running) < workers:
                    job = waiting.pop(ready.pop(0))
                    running[job] = _start(job, profile, results_dir, read_end, consent)
                if not running:  # all are done, or what is left waits for a failed job
                    break
                time.sleep(_POLL_SECONDS)
                for job, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    if process.returncode == 0 and job.run.state() == "finished":
                        waits.done(job.run.id)
                        done += 1
                    else:
                        failed.append(job)
                        cause = _cause(job)
                        display.say(_failure(job, process.returncode, cause))
                        causes[job.kind, cause.replace(job.run.id, "")] += process.returncode > 0
                        if job.kind not in hopeless and max(causes[key] for key in causes if key[0] == job.kind) > 1:
                            hopeless.add(job.kind)
                            display.say(f"two {job.kind} runs failed alike, so no other is started")
                display.update(running, done)
    finally:
        os.close(write_end)
        for job, process in running.items():
            if _launcher(job, profile):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        signal.signal(signal.SIGTERM, previous)
        os.close(read_end)
    return [*failed, *waiting.values()]


def die_with_runner() -> None:
    """In a job's process: a thread that ends the process and all it started once the runner is gone."""
    descriptor = os.environ.pop(WATCH_VARIABLE, None)
    if descriptor is None:
        return

    def watch() -> None:
        os.read(int(descriptor), 1)  # returns at end of file only: nothing is ever written
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _launcher(job: Job, profile: Profile) -> list[str]:
    return profile.launch.train if job.kind == "train" else []


def _start(job: Job, profile: Profile, results_dir: Path, watch: int, consent: bool) -> subprocess.Popen[bytes]:
    environment = {**_KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    launcher = _launcher(job, profile)
    if not launcher:
        environment[WATCH_VARIABLE] = str(watch)
    if profile.model in MODELS:
        environment["HF_HUB_OFFLINE"] = "1"
    job.run.folder.mkdir(parents=True, exist_ok=True)
    if launcher:  # installed beside the interpreter, if anywhere
        program = shutil.which(launcher[0], path=str(Path(sys.executable).parent)) or launcher[0]
        launcher = [program, *map(_file, launcher[1:])]
    command = [*(launcher or [sys.executable]), "-m", "attnpo.cli", *job.arguments(profile, results_dir, consent)]
    supervisor = [sys.executable, "-m", "attnpo.runs.supervise", str(watch)] if launcher else []
    with (job.run.folder / "job.log").open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [*supervisor, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            pass_fds=(watch,), start_new_session=True,
        )  # fmt: skip


def _file(word: str) -> str:
    """A word of a launcher; one that names a file of ours, not of the current folder, as that file's path."""
    ours = shipped(word)
    return str(ours) if ours.is_file() and not Path(word).exists() else word


def _cause(job: Job) -> str:
    """What the job's last attempt died of: its error line, or else the last line of its log."""
    text = (job.run.folder / "job.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.rpartition("\n$ ")[2].splitlines()[1:] if line.strip()]
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return (errors or lines or ["it said nothing"])[-1]


def _failure(job: Job, code: int, cause: str) -> str:
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"failed: {job.title} ({how}), see {short_path(job.run.folder / 'job.log')}: {cause}"
