"""Results on disk: runs with manifests under `raw/`, and tables derived from them.

    results/<profile>/raw/<run_id>/manifest.json    what determined the run, and what it ran on
    results/<profile>/raw/<run_id>/samples.jsonl    (eval) a line per sample
    results/<profile>/raw/<run_id>/model, log.jsonl (train), heads.json (probe)
    results/<profile>/raw/<run_id>/record.csv       what tables and figures need of it
    results/<profile>/derived/*.csv                 a pure function of the records

A run is finished once its manifest says so and all its outputs are there; the manifest is the last file that
is written. Manifests and records are small and belong in git, samples and models do not: in a clone a run is
`recorded`.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnpo.errors import AttnPOError
from attnpo.metrics import PHRASE_KINDS, budgets_below, pass_at_k_each, phrase_counts
from attnpo.steps import THINK_END
from attnpo.testbed import model_path
from attnpo.testbed.oracle import CAUSES, error_cause

if TYPE_CHECKING:
    import pandas as pd

State = Literal["absent", "unfinished", "recorded", "finished"]

_PACKAGES = [
    "attnpo",
    "torch",
    "transformers",
    "trl",
    "lm_eval",
    "datasets",
    "accelerate",
    "tokenizers",
    "safetensors",
    "math-verify",
    "numpy",
    "pandas",
]
_LOCK_SECONDS = 10.0  # a job whose runner was killed takes a moment to die


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def run_id(spec: Mapping[str, Any]) -> str:
    """Name of the run that `spec` determines: a readable prefix and 12 hex digits of the spec's SHA-256."""
    digest = hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:12]
    words = [spec["kind"], spec.get("method"), f"s{spec['seed']}"]
    return "-".join(str(w) for w in [*words, digest] if w is not None)


def sha256_files(paths: Iterable[Path]) -> str:
    """One SHA-256 over names and contents of the files, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0")
        digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, computed once a process for as long as its size and time of change are the same."""
    found = path.stat()
    return _digest(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_identity(model: str, revision: str | None) -> dict[str, Any]:
    """What names a profile's model for good: a hash of the files of a folder, or hub id and revision."""
    folder = Path(model_path(model))
    if folder.is_dir():
        files = [p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"}]
        return {"name": model if model == "testbed" else folder.name, "sha256": sha256_files(files)}
    return {"name": model, "revision": revision}


def atomic_write_text(path: Path, text: str) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old text or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def atomic_write_csv(path: Path, table: pd.DataFrame) -> None:
    """`atomic_write_text` of a table, six digits a number."""
    atomic_write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_text` of indented JSON."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def atomic_write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """`atomic_write_text` of one JSON value a line."""
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a JSON-lines file.

    Raises:
        AttnPOError: a line that is not JSON, named by its number.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise AttnPOError(
                    f"{path}:{number}: not JSON ({error.msg}); delete {path.parent} and run again"
                ) from error


@dataclass(frozen=True)
class Run:
    """One computation and its folder. `spec` is what determines it; its hash names the folder."""

    folder: Path
    spec: dict[str, Any]

    @staticmethod
    def at(results_dir: Path, spec: dict[str, Any]) -> Run:
        """The run that `spec` determines under `results_dir` (results/<profile>), there or not yet."""
        return Run(results_dir / "raw" / run_id(spec), json.loads(canonical_json(spec)))

    @property
    def id(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, None if there is none.

        Raises:
            AttnPOError: it is not JSON, or it was written for another spec.
        """
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["spec"] != self.spec:
                raise AttnPOError(f"{path}: written for another run; delete {self.folder} and run again")
            return manifest
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
            raise AttnPOError(f"{path}: not a manifest ({error}); delete {self.folder} and run again") from error

    def state(self) -> State:
        """How far it is.

        `finished`: done, all outputs there. `recorded`: done, and of its outputs what the tables need is there, as in
        a fresh clone. `unfinished`: begun. `absent`: none of these.
        """
        manifest = self.manifest()
        if manifest is None:
            return "absent"
        if manifest.get("finished") is None:
            return "unfinished"
        outputs = manifest["outputs"]
        there = {
            name
            for name, output in outputs.items()
            if (self.folder / name).is_file() and (self.folder / name).stat().st_size == output["bytes"]
        }
        kind = self.spec.get("kind")
        if (kind in _RECORDS and RECORD_FILE not in there) or (kind == "probe" and "heads.json" not in there):
            return "absent"
        return "finished" if len(there) == len(outputs) else "recorded"

    def done(self) -> bool:
        """Whether tables and figures can be made of it."""
        return self.state() in ("recorded", "finished")

    def record(self) -> pd.DataFrame:
        """Its rows of the derived table of its kind; of a run that is done."""
        import pandas as pd

        return pd.read_csv(self.folder / RECORD_FILE, dtype={"problem_id": str, "chain": str})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock file; released by the system when the process dies, however it dies.

        Raises:
            AttnPOError: another live process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise AttnPOError(
                            f"{self.folder}: another process computes this run; wait or stop it"
                        ) from None
                    time.sleep(0.1)
            yield

    def compute(self, command: str, work: Callable[[Path], Iterable[Path]], context: Mapping[str, Any]) -> bool:
        """Do the run unless it is finished; False if there was nothing to do.

        Args:
            command: how to do it again, for the manifest.
            work: given the folder, does it (or goes on with it) and returns its output files, inside it.
            context: more for the manifest, e.g. profile and input hashes.

        Raises:
            AttnPOError: another live process computes it.
        """
        with self.lock():
            before = self.manifest()
            state = self.state()
            if state == "finished":
                return False
            now = _now()
            manifest: dict[str, Any] = {
                "run_id": self.id,
                **context,
                "spec": self.spec,
                "command": command,
                "git": git_state(),
                "versions": package_versions(),
                "device": device(),
                "started": now,
                "resumed": [],
                "finished": None,
                "wall_seconds": 0.0,
                "outputs": {},
            }
            if state == "unfinished" and before is not None:
                manifest["started"] = before["started"]
                manifest["resumed"] = [*before["resumed"], now]
                manifest["wall_seconds"] = before["wall_seconds"] + self._seconds_of_last_attempt(before)
            atomic_write_json(self.folder / "manifest.json", manifest)
            begin = time.monotonic()
            outputs = list(work(self.folder))
            if read := _RECORDS.get(str(self.spec.get("kind"))):
                outputs.append(self.folder / RECORD_FILE)
                atomic_write_csv(outputs[-1], read(self))
            manifest["device"] = device()  # torch is loaded by now: an accelerator shows
            manifest["finished"] = _now()
            manifest["wall_seconds"] = round(manifest["wall_seconds"] + time.monotonic() - begin, 2)
            manifest["outputs"] = {
                str(path.relative_to(self.folder)): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for path in sorted(outputs)
            }
            atomic_write_json(self.folder / "manifest.json", manifest)
            return True

    def _seconds_of_last_attempt(self, manifest: dict[str, Any]) -> float:
        """Seconds a killed attempt is known to have worked: to the last file it wrote."""
        begun = datetime.fromisoformat([manifest["started"], *manifest["resumed"]][-1]).timestamp()
        skip = {".lock", "job.log"}  # touched by the new attempt
        last = max(p.stat().st_mtime for p in self.folder.rglob("*") if p.is_file() and p.name not in skip)
        return round(max(0.0, last - begun), 2)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state() -> dict[str, Any]:
    """Commit of the checkout the package runs from and whether anything but results/ differs from it; None
    where it is no git checkout."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--", ".", ":!results")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def package_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a number; None if not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def device() -> dict[str, Any]:
    """What the run computes on: processor name, usable cores, threads, accelerator (once torch is loaded)."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    torch = sys.modules.get("torch")
    accelerator = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "accelerator": accelerator,
    }


# raw -> records -> derived

COUNTS = [
    *("n", "correct", "parse_failed", "missing_think_end", "truncated", "retokenized"),
    *("tokens", "thinking_tokens", "answer_tokens", "correct_tokens"),
    *(f"phrases_{kind}" for kind in PHRASE_KINDS),
]
"""Columns of problems.csv that every sample has: sums over the samples of a problem."""


def derive(results_dir: Path, runs: Iterable[Run], artefact: str | None = None) -> None:
    """Write `derived/*.csv` from the records of `runs`.

    runs; from evaluations problems, metrics, estimates; from training curves; and one of each study of the heads. A
    table of which no run is done is left as it is.

    Args:
        results_dir: results/<profile>.
        runs: those of a plan.
        artefact: write to `derived/<artefact>/` what belongs to it alone.

    Raises:
        AttnPOError: a manifest that cannot be read.
    """
    import pandas as pd

    from attnpo.estimates import estimate_table

    runs = list(runs)
    records: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if run.spec["kind"] in _RECORDS and run.done():
            records.setdefault(run.spec["kind"], []).append(run.record())
    tables = {"runs": run_table(run for run in runs if (run.manifest() or {}).get("finished"))}
    for kind, parts in records.items():
        tables[{"eval": "problems", "train": "curves"}.get(kind, kind)] = pd.concat(parts, ignore_index=True)
    if "problems" in tables:
        tables["metrics"] = metric_table(tables["problems"])
        tables["estimates"] = estimate_table(tables["problems"], task_groups())
    for name, table in tables.items():
        atomic_write_csv(results_dir / "derived" / (artefact or "") / f"{name}.csv", table)


def _problems(run: Run) -> pd.DataFrame:
    limit = run.spec.get("evaluate", {}).get("max_completion_tokens")
    budgets = [] if limit is None else budgets_below(limit)
    return problem_table([(run, read_jsonl(run.folder / "samples.jsonl"))], budgets)


def _curve(run: Run) -> pd.DataFrame:
    return curve_table([(run, read_jsonl(run.folder / "log.jsonl"))])


def _rows(run: Run) -> pd.DataFrame:
    """The rows of <kind>.json, with method and seed."""
    import pandas as pd

    content = json.loads((run.folder / f"{run.spec['kind']}.json").read_text(encoding="utf-8"))
    return pd.DataFrame([{key: run.spec.get(key) for key in ("method", "seed")} | row for row in content])


def _answers(run: Run) -> pd.DataFrame:
    """A row per (condition, problem) of the intervention: sums over its responses."""
    import pandas as pd

    table = pd.DataFrame(read_jsonl(run.folder / "samples.jsonl")).assign(n=1).drop(columns="response")
    return table.groupby(["condition", "problem_id"], sort=False).sum(numeric_only=True).reset_index()


RECORD_FILE = "record.csv"

_RECORDS: dict[str, Callable[[Run], pd.DataFrame]] = {
    "eval": _problems,
    "train": _curve,
    "ensemble": _rows,
    "stability": _rows,
    "intervention": _answers,
}
"""Kind of run -> what is kept of its raw files in its record: the rows of a derived table."""


def _task_configs() -> Iterator[dict[str, Any]]:
    """The contents of our lm-eval YAML files, with `!function` read as text."""
    import yaml

    from attnpo.lm_eval_hook import tasks_folder

    class Loader(yaml.SafeLoader):
        pass

    def as_text(loader: yaml.SafeLoader, node: Any) -> Any:
        return loader.construct_scalar(node)

    Loader.add_constructor("!function", as_text)
    folder = tasks_folder()
    for path in sorted(Path(folder).rglob("*.yaml")) if folder else []:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        if isinstance(content, dict):
            yield content


def task_groups() -> dict[str, list[str]]:
    """Our lm-eval groups and the tasks in each, groups within groups unfolded: name -> tasks."""
    members: dict[str, list[str]] = {}
    for content in _task_configs():
        if "group" in content:
            entries = content.get("task") or []
            members[content["group"]] = [e if isinstance(e, str) else e.get("task") or e.get("group") for e in entries]

    def unfold(name: str) -> list[str]:
        return [task for member in members[name] for task in (unfold(member) if member in members else [member])]

    return {name: unfold(name) for name in members}


def check_consent(names: Iterable[str], confirmed: bool) -> None:
    """Refuse, before anything is computed, tasks or groups that run what a model wrote unless the user agreed.

    Raises:
        AttnPOError: one of them does, and `confirmed` is false.
    """
    groups = task_groups()
    wanted = {task for name in names for task in groups.get(name, [name])}
    unsafe = {str(content["task"]) for content in _task_configs() if content.get("unsafe_code")} & wanted
    if unsafe and not confirmed:
        raise AttnPOError(
            f"{', '.join(sorted(unsafe))} runs programs that the model writes, in a sandbox; "
            "agree with --confirm-run-unsafe-code, or take it out of the tasks"
        )


def run_table(runs: Iterable[Run]) -> pd.DataFrame:
    """A row per finished run: kind, method, seed, run_id, wall_seconds."""
    import pandas as pd

    rows = []
    for run in runs:
        manifest = run.manifest()
        assert manifest is not None
        row = {key: run.spec.get(key) for key in ("kind", "method", "seed")}
        rows.append({**row, "run_id": run.id, "wall_seconds": manifest["wall_seconds"]})
    return pd.DataFrame(rows, columns=["kind", "method", "seed", "run_id", "wall_seconds"])


def problem_table(
    samples: Iterable[tuple[Run, Iterable[Mapping[str, Any]]]], budgets: Iterable[int] = ()
) -> pd.DataFrame:
    """A row per (method, seed, task, problem): sums over its samples, that is `COUNTS`, one column a step label,
    `wrong_CAUSE` where steps are labelled, and `correct_at_B`, the samples that are correct and ended within B tokens.

    `truncated` is NaN where a sample's finish reason is not known.

    Args:
        samples: eval runs with the lines of their samples.jsonl.
        budgets: the Bs.
    """
    import pandas as pd

    budgets = list(budgets)
    keys = ["method", "seed", "task", "problem_id", "chain"]
    sums: dict[tuple[Any, ...], dict[str, float]] = {}
    for run, lines in samples:
        for sample in lines:
            chain = sample.get("meta", {}).get("chain")
            key = (run.spec["method"], run.spec["seed"], sample["task"], str(sample["problem_id"]), chain)
            row = sums.setdefault(key, {})
            for name, count in _counts(sample, budgets).items():
                row[name] = row.get(name, 0) + count
    if not sums:
        return pd.DataFrame(columns=[*keys, *COUNTS])
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | row for key, row in sums.items()])


def _counts(sample: Mapping[str, Any], budgets: Iterable[int]) -> dict[str, float]:
    """What one sample adds to its problem's row."""
    tokens, correct, finish = sample["tokens"], bool(sample["correct"]), sample["finish"]
    steps, chain = sample.get("steps") or {}, sample.get("meta", {}).get("chain")
    cause = error_cause(steps, chain) if steps and chain and not correct else None
    phrases = phrase_counts(sample["text"].split(THINK_END, 1)[0])
    return {
        "n": 1,
        "correct": int(correct),
        "parse_failed": int(sample["parse_failed"]),
        "missing_think_end": int(sample["think_tags"] == 0),
        "truncated": int(finish == "length") if finish else math.nan,
        "retokenized": int(sample["counted"] == "retokenized"),
        "tokens": tokens["total"],
        "thinking_tokens": tokens["thinking"],
        "answer_tokens": tokens["answer"],
        "correct_tokens": tokens["total"] if correct else 0,
        **{f"phrases_{kind}": count for kind, count in phrases.items()},
        **{f"correct_at_{b}": int(correct and finish != "length" and tokens["total"] <= b) for b in budgets},
        **{f"steps_{label}": count for label, count in steps.items()},
        **{f"wrong_{name}": int(name == cause) for name in CAUSES if steps and chain},
    }


def metric_table(problems: pd.DataFrame) -> pd.DataFrame:
    """A row per (method, seed, task, chain), chain "all" included: shares and means over the responses, and pass@k
    for each k that all its problems have responses for."""
    import pandas as pd

    keys = ["method", "seed", "task", "chain"]
    if problems.empty:
        return pd.DataFrame(columns=[*keys, "problems", "n", "accuracy"])
    both = pd.concat([problems.assign(chain="all"), problems[problems["chain"].notna()]], ignore_index=True)
    numbers = [c for c in problems.columns if c not in (*keys, "problem_id")]
    most = both.groupby("task")["n"].min()  # responses that every problem of the task has
    reach = both["task"].map(most)
    passes = {}
    for k in range(1, int(most.max()) + 1):
        enough = both[reach >= k]
        each = pd.Series(pass_at_k_each(enough["correct"], enough["n"], k), index=enough.index)
        passes[f"pass@{k}"] = each.groupby([enough[key] for key in keys], sort=False).mean()
    groups = both.groupby(keys, sort=False)
    sums = groups[numbers].sum()
    sums = sums.where(groups[numbers].count().eq(groups.size(), axis=0))  # unknown for one problem: unknown
    table = pd.DataFrame({"problems": groups.size(), "n": sums["n"], "accuracy": sums["correct"] / sums["n"]})
    wrong = sums["n"] - sums["correct"]
    table["tokens_of_correct"] = sums["correct_tokens"] / sums["correct"].where(sums["correct"] > 0)
    table["tokens_of_wrong"] = (sums["tokens"] - sums["correct_tokens"]) / wrong.where(wrong > 0)
    table["tokens_per_correct"] = sums["tokens"] / sums["correct"].where(sums["correct"] > 0)
    shares = sums.drop(columns=["n", "correct", "correct_tokens"]).div(sums["n"], axis=0)
    return pd.concat([table, shares, pd.DataFrame(passes).reindex(table.index)], axis=1).reset_index()


def sample_lines(
    task: str, problem_id: Any, document: Mapping[str, Any], responses: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The lines of a samples.jsonl for one problem, from its document and the k records of `attnpo.responses`."""
    meta = {key: document[key] for key in ("chain", "subject") if key in document}
    for k, response in enumerate(responses):
        yield {"task": task, "problem_id": problem_id, "k": k, **response, "meta": meta}


def trial_table(runs: Iterable[Run], overlays: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A row per trial of `attnpo run tune`: method, trial, its settings, seeds, accuracy, tokens, AES, chosen.

    Accuracy and tokens are means over seeds and tasks; `chosen` is 1 for the trial of each method with the highest
    Accuracy-Efficiency Score against the untrained model on the same problems, the first of equals.

    Args:
        runs: those of the plan; evaluations that are not finished leave their trial out.
        overlays: trial, such as `kimi@2`, to its entry under `tune`.

    Raises:
        AttnPOError: the untrained model has not been evaluated.
    """
    import pandas as pd

    from attnpo.metrics import aes

    evals = [run.record() for run in runs if run.spec["kind"] == "eval" and run.done()]
    if not evals:
        raise AttnPOError("no trial is evaluated; run the plan to its end")
    table = metric_table(pd.concat(evals, ignore_index=True))
    table = table[table["chain"].eq("all")]
    means = table.groupby("method", sort=False)[["accuracy", "tokens"]].mean()
    if "base@" not in means.index:
        raise AttnPOError("the untrained model is not evaluated on the validation problems; run the plan to its end")
    base = means.loc["base@"]
    rows = []
    for name, overlay in overlays.items():
        if name in means.index:
            stem, _, trial = name.partition("@")
            accuracy, tokens = means.loc[name]
            score = aes(accuracy, tokens, base["accuracy"], base["tokens"])
            seeds = table.loc[table["method"].eq(name), "seed"].nunique()
            rows.append([stem, int(trial), canonical_json(overlay), seeds, accuracy, tokens, score])
    columns = ["method", "trial", "settings", "seeds", "accuracy", "tokens", "aes"]
    found = pd.DataFrame(rows, columns=columns)
    best = found.groupby("method", sort=False)["aes"].idxmax()
    return found.assign(chosen=found.index.isin(best).astype(int))


def curve_table(logs: Iterable[tuple[Run, Iterable[Mapping[str, Any]]]]) -> pd.DataFrame:
    """A row per (method, seed, step) with every number that training logged, without its closing summary."""
    import pandas as pd

    rows = []
    for run, lines in logs:
        for line in lines:
            if "train_runtime" in line:
                continue
            numbers = {k: v for k, v in line.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
            rows.append({"method": run.spec["method"], "seed": run.spec["seed"], **numbers})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["method", "seed", "step"])
