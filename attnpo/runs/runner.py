"""The jobs behind a table and how they run: planned by what determines them, side by side, resumable.

    probe ─┬─ train (method × seed) ─┬─ eval
           │                         └─ stability
           └─ ensemble, intervention
    responses ── ensemble, intervention, stability        (of the untrained model, for the studies of its heads)
    eval of the untrained model (seed)

Each job is one process (`python -m attnpo.cli …`) on one thread; a finished run is never started again. The
run ids chain: a training run's spec contains the probe's id, an evaluation's the training run's. So the whole
plan is known before anything has run, and a changed profile gives new ids to just what it changes.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.runs.plan import Job, check_methods
from attnpo.runs.profile import Profile
from attnpo.runs.progress import _Display
from attnpo.testbed import EMBEDDED

WATCH_VARIABLE = "ATTNPO_RUNNER_PIPE"
"""Set for a job's process: the file descriptor whose end of file says that the runner is gone."""
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""For glibc: keep freed memory. Else every decoding step maps its tensors anew: 10 to 20 % of the time on a CPU."""
_POLL_SECONDS = 0.2


# running it


@contextmanager
def only_runner(results_dir: Path) -> Iterator[None]:
    """Hold `results_dir` against a second runner.

    Raises:
        AttnPOError: another runner is at work there.
    """
    results_dir.mkdir(parents=True, exist_ok=True)
    with (results_dir / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AttnPOError(f"{results_dir}: another `attnpo run` is at work here; wait for it or stop it") from None
        yield


def run_jobs(
    profile: Profile,
    results_dir: Path,
    plan: list[Job],
    left: list[Job],
    workers: int,
    console: Console,
    consent: bool = False,
) -> list[Job]:
    """Run what is left of a plan, `workers` at a time; the failed and the jobs that waited for them come back.

    `left`: see `left_to_do`; `consent`: the user's, to tasks that run what the model writes.
    A failed job is reported with its log and the others go on. On SIGINT or SIGTERM, and when this process
    dies in any way, the jobs' processes are killed.
    """
    waiting = list(left)
    finished = {job.run.id for job in plan} - {job.run.id for job in left}
    if not waiting:
        return []
    check_methods(profile)
    read_end, write_end = os.pipe()  # write_end closes with this process, and the jobs see it
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: list[Job] = []
    display = _Display(profile, plan, finished, workers, console)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with display:
            while waiting or running:
                ready = [job for job in waiting if all(run.id in finished for run in job.needs)]
                for job in ready[: max(0, workers - len(running))]:
                    waiting.remove(job)
                    running[job] = _start(job, profile, results_dir, read_end, consent)
                if not running:  # what is left waits for a failed job
                    break
                time.sleep(_POLL_SECONDS)
                for job, process in list(running.items()):
                    if process.poll() is not None:
                        del running[job]
                        if process.returncode == 0 and job.run.state() == "finished":
                            finished.add(job.run.id)
                        else:
                            failed.append(job)
                            display.say(_failure(job, process.returncode))
                display.update(running, finished)
    finally:
        for process in running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.signal(signal.SIGTERM, previous)
        os.close(read_end)
        os.close(write_end)
    return failed + waiting


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


def _start(job: Job, profile: Profile, results_dir: Path, watch: int, consent: bool) -> subprocess.Popen[bytes]:
    environment = {**_KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    launcher = profile.launch.train if job.kind == "train" else []
    if not launcher:  # a launcher's own processes do not inherit the descriptor
        environment[WATCH_VARIABLE] = str(watch)
    if profile.model == EMBEDDED:
        environment["HF_HUB_OFFLINE"] = "1"
    job.run.folder.mkdir(parents=True, exist_ok=True)
    if launcher:  # installed beside the interpreter, if anywhere
        launcher = [shutil.which(launcher[0], path=str(Path(sys.executable).parent)) or launcher[0], *launcher[1:]]
    command = [*(launcher or [sys.executable]), "-m", "attnpo.cli", *job.arguments(profile, results_dir, consent)]
    with (job.run.folder / "job.log").open("ab") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=(watch,),
            cwd=checkout_root() if launcher else None, start_new_session=True,
        )  # fmt: skip


def _failure(job: Job, code: int) -> str:
    log = job.run.folder / "job.log"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"failed: {job.title} ({how}), see {_relative(log)}: {lines[-1] if lines else 'it said nothing'}"


def _relative(path: Path) -> str:
    root = checkout_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
