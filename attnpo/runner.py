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
import functools
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import attnpo
from attnpo.errors import AttnPOError
from attnpo.profile import BASES, Profile, build, checkout_root
from attnpo.results import Run, canonical_json, model_identity, run_id

Kind = Literal["probe", "train", "eval", "responses", "ensemble", "intervention", "stability"]
STUDIES: tuple[Kind, ...] = ("responses", "ensemble", "intervention", "stability")
"""Kinds of run that study the heads: `attnpo study`."""
WATCH_VARIABLE = "ATTNPO_RUNNER_PIPE"
"""Set for a job's process: the file descriptor whose end of file says that the runner is gone."""

RUNS_OF: dict[str, tuple[Kind, ...]] = {
    "fig_curves": ("train",),
    "fig_phrases": ("train",),
    "fig_heads": ("probe", "ensemble", "intervention"),
    "fig_stability": ("stability",),
}
"""Artefact to the kinds of run that it is made of; all others: evaluations."""

_TESTBED_TASK = "attnpo_testbed"
_NEWER = {"estimator", "grpo", "tell", "n_heads", "phrases", "snapshots"}
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""For glibc: keep freed memory. Else every decoding step maps its tensors anew: 10 to 20 % of the time on a CPU."""
_POLL_SECONDS = 0.2
_LINE_SECONDS = 30.0  # between two progress lines where there is no terminal


@dataclass(frozen=True, eq=False)
class Job:
    """One run of the plan with the runs it waits for."""

    kind: Kind
    method: str | None
    seed: int
    run: Run
    needs: tuple[Run, ...] = ()
    artefact: str | None = None
    """The artefact whose own evaluation it is."""

    @property
    def title(self) -> str:
        """For people, e.g. `train attnpo seed 0`."""
        words = (self.kind, self.method, f"seed {self.seed}", self.artefact and f"({self.artefact})")
        return " ".join(str(w) for w in words if w is not None)

    def arguments(self, profile: Profile, results_dir: Path, consent: bool = False) -> list[str]:
        """What follows `attnpo` on the command line; consent: to run what the model writes."""
        words = ["study", self.kind] if self.kind in STUDIES else [self.kind]
        words += ["--profile", str(profile.path), "--results", str(results_dir.parent)]
        words += ["--method", self.method] if self.method is not None else []
        words += ["--seed", str(self.seed)] if self.method is not None else []
        words += ["--artefact", self.artefact] if self.artefact is not None else []
        words += ["--confirm-run-unsafe-code"] if consent and self.kind == "eval" else []
        return [*words, "--quick"] if profile.quick else words


# the plan


@functools.cache
def problems_identity(data: str, split: str) -> str:
    """SHA-256 of a split's problems and answers; a data set on the hub goes by its name alone."""
    if data != "testbed" and not data.endswith((".json", ".jsonl")):
        return data
    from attnpo.data import load_items

    rows = [[item.id, item.text, item.answer] for item in load_items(data, split)]
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()


def probe_spec(profile: Profile) -> dict[str, Any]:
    """What determines the probe."""
    return {
        **_common(profile, "probe", 0),
        "steps": asdict(profile.steps),
        "probe": asdict(profile.probe),
        "problems": problems_identity(profile.data, profile.probe.split),
    }


def train_spec(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What determines a training run; the method's label and its other trials do not."""
    section = profile.method(method)
    settings = asdict(section)
    del settings["label"], settings["tune"]
    if not section.attnpo:
        for name in ("credit", "heads", "n_heads", "phrases"):
            del settings[name]
    elif section.heads == "random" and section.n_heads is None:
        settings["n_heads"] = profile.probe.heads
    # What is not set is left out, so that a setting that is new to profiles changes no id of a run without it.
    settings = {k: v for k, v in settings.items() if k not in _NEWER or v not in (None, {})}
    return {
        **_common(profile, "train", seed),
        "method": method,
        "settings": settings,
        "steps": asdict(profile.steps) if section.attnpo else None,
        "train": asdict(profile.train),
        "problems": problems_identity(profile.data, profile.train.split),
        "probe": run_id(probe_spec(profile)) if section.needs_probe else None,
    }


def eval_spec(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What determines an evaluation of a method's model, or of the untrained one (`base`)."""
    section = profile.evaluation_of(method)
    testbed = any(task.startswith(_TESTBED_TASK) for task in section.tasks)
    splits = ("validation",) if "@" in method else ("test", "shifted")
    return {
        **_common(profile, "eval", seed),
        "method": method,
        "evaluate": asdict(section),
        "problems": [problems_identity("testbed", split) for split in splits] if testbed else None,
        "train": None if method in BASES else run_id(train_spec(profile, method, seed)),
    }


def study_spec(profile: Profile, kind: Kind, method: str | None = None, seed: int = 0) -> dict[str, Any]:
    """What determines a study of the heads, see `STUDIES`; only `stability` has a method and its seed.

    Raises:
        AttnPOError: the profile cannot make it.
    """
    study = profile.studied()
    sampling = ["split", "problems", "samples", "temperature", "max_completion_tokens", "batch_size"]
    more = {
        "responses": sampling,
        "ensemble": ["ensemble"],
        "intervention": ["heads", "dropped", "answer_tokens", "answer_temperature"],
        "stability": ["heads"],
    }[kind]
    settings = {key: value for key, value in asdict(study).items() if key in more}
    spec: dict[str, Any] = {**_common(profile, kind, seed), "study": settings}
    if kind == "responses":
        return {**spec, "problems": problems_identity(profile.data, study.split)}
    spec |= {"responses": run_id(study_spec(profile, "responses")), "steps": asdict(profile.steps)}
    if kind == "stability":
        assert method is not None
        spec |= {"method": method, "train": run_id(train_spec(profile, method, seed))}
    if kind == "ensemble" or study.heads == "top":
        spec |= {"probe": run_id(probe_spec(profile)), "heads": profile.probe.heads}
    return spec


def _common(profile: Profile, kind: Kind, seed: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "seed": seed,
        "model": model_identity(profile.model, profile.revision),
        "attnpo": attnpo.__version__,
    }


def plan_runs(profile: Profile, results_dir: Path, base: str = "base", kinds: Collection[str] = ("eval",)) -> list[Job]:
    """The runs of `kinds` and what they wait for, for all methods of the profile (see `Profile.narrowed`).

    Each job comes after the ones it needs.

    Raises:
        AttnPOError: a study that the profile cannot make.
    """
    probe = Run.at(results_dir, probe_spec(profile))
    jobs: list[Job] = []
    trained = set(kinds) & {"train", "eval", "stability"}
    studied = [kind for kind in STUDIES if kind in kinds]
    if studied:
        responses = Run.at(results_dir, study_spec(profile, "responses"))
        jobs.append(Job("responses", None, 0, responses))

    def study(kind: Kind, needs: tuple[Run, ...], method: str | None = None, seed: int = 0) -> Job:
        spec = study_spec(profile, kind, method, seed)
        return Job(kind, method, seed, Run.at(results_dir, spec), (*needs, probe) if "probe" in spec else needs)

    jobs += [study(kind, (responses,)) for kind in studied if kind in ("ensemble", "intervention")]
    for seed in profile.seeds_of(base) if trained else []:
        after: list[Job] = []
        if "eval" in kinds:
            run = Run.at(results_dir, eval_spec(profile, base, seed))
            after.append(Job("eval", base, seed, run, (), profile.artefact))
        for name, method in profile.methods.items():
            if seed not in profile.seeds_of(name):
                continue
            train = Run.at(results_dir, train_spec(profile, name, seed))
            jobs.append(Job("train", name, seed, train, (probe,) if method.needs_probe else ()))
            if "eval" in kinds:
                run = Run.at(results_dir, eval_spec(profile, name, seed))
                after.append(Job("eval", name, seed, run, (train,), profile.artefact))
            if "stability" in kinds:
                after.append(study("stability", (responses, train), name, seed))
        jobs += after  # a seed to its end before the next one: a stopped plan shows whole seeds
    if "probe" in kinds or any(probe in job.needs for job in jobs):
        jobs.insert(0, Job("probe", None, 0, probe))
    return jobs


def plan_artefacts(profile: Profile, results_dir: Path, names: Iterable[str]) -> dict[str, list[Job] | AttnPOError]:
    """The jobs of each artefact, or why the profile cannot make it."""
    plans: dict[str, list[Job] | AttnPOError] = {}
    for name in names:
        kinds = RUNS_OF.get(name, ("eval",))
        try:
            if {"probe", "ensemble"} & set(kinds):
                _check_labels(profile)
            plans[name] = plan_runs(profile.narrowed(name), results_dir, kinds=kinds)
        except AttnPOError as error:
            plans[name] = error
    return plans


def all_jobs(plans: Iterable[list[Job] | AttnPOError]) -> list[Job]:
    """The jobs of several plans, each run once."""
    jobs: dict[str, Job] = {}
    for plan in plans:
        for job in [] if isinstance(plan, AttnPOError) else plan:
            jobs.setdefault(job.run.id, job)
    return list(jobs.values())


def left_to_do(plan: list[Job], recorded: bool = False) -> list[Job]:
    """What of a plan is to be run.

    Args:
        plan: each job behind those it needs.
        recorded: leave out what is recorded, and what only such runs need.
    """
    left: list[Job] = []
    needed: set[str] = set()
    for job in reversed(plan):
        # What others need of a run is its models or samples, of the probe its ranking, which is its record.
        takes = recorded and (job.kind == "probe" or job.run.id not in needed)
        if job.run.state() not in ("finished", *(["recorded"] if takes else [])):
            left.insert(0, job)
            needed |= {run.id for run in job.needs}
    return left


def estimate_seconds(profile: Profile, jobs: list[Job], left: list[Job], workers: int) -> tuple[float, set[str]]:
    """Seconds that those that are `left` of the jobs will take, and the kinds of run of which nothing is known.

    From what finished runs of the kind took, else from the profile's `seconds`.
    """
    known = _known_seconds(jobs)
    seconds, unknown = 0.0, set[str]()
    for job in left:
        mean = known.get(job.kind) or ([profile.seconds[job.kind]] if job.kind in profile.seconds else [])
        seconds += sum(mean) / len(mean) if mean else 0.0
        unknown |= set() if mean else {job.kind}
    return seconds / workers, unknown


def _check_labels(profile: Profile) -> None:
    from attnpo.labels import LABELERS

    if profile.data not in LABELERS:
        raise AttnPOError(
            f"profile {profile.name}: step labels are known for {', '.join(LABELERS)}, not for {profile.data!r}"
        )


def check_methods(profile: Profile) -> None:
    """Raise now what a job would raise only after minutes: unknown rewards, wrong arguments, wrong credit settings.

    Loads torch, so call it only where there is something to run.
    """
    from attnpo.credit import CreditConfig
    from attnpo.labels import LABELERS
    from attnpo.rewards import REWARDS, check_reward

    for name in profile.methods:
        method, at = profile.method(name), f"{profile.path.name}: methods.{name}"
        try:
            group_size = {**profile.train.grpo, **method.grpo}.get("num_generations", profile.train.group_size)
            check_reward(method.reward, method.reward_args, group_size)
        except AttnPOError as error:
            key = "reward" if method.reward not in REWARDS else "reward_args"
            raise AttnPOError(f"{at}.{key}: {error}") from error
        build(CreditConfig, method.credit, profile.path.name, f"methods.{name}.credit")
        if method.attnpo and method.heads == "oracle" and profile.data not in LABELERS:
            raise AttnPOError(f"{at}.heads: oracle labels are known for {', '.join(LABELERS)}, not {profile.data!r}")


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
    if profile.model == "testbed":
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


def _known_seconds(jobs: Iterable[Job]) -> dict[str, list[float]]:
    """Durations of finished runs by kind, from the manifests (in a clone, those of the repository)."""
    known: dict[str, list[float]] = {}
    for job in jobs:
        manifest = job.run.manifest()
        if manifest is not None and manifest.get("finished") is not None:
            known.setdefault(job.kind, []).append(manifest["wall_seconds"])
    return known


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
