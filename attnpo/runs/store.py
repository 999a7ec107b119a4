"""Results on disk: runs with manifests under `raw/`, and tables derived from them.

    results/<profile>/raw/<run_id>/manifest.json    what determined the run, and what it ran on
    results/<profile>/raw/<run_id>/attempt.json     the same of an attempt that has not finished yet
    results/<profile>/raw/<run_id>/new/             (attempt) what replaces record.csv or heads.json in the end
    results/<profile>/raw/<run_id>/samples.jsonl    (eval) a line per sample
    results/<profile>/raw/<run_id>/model, log.jsonl (train), heads.json (probe)
    results/<profile>/raw/<run_id>/record.csv       what tables and figures need of it
    results/<profile>/derived/*.csv                 a pure function of the records

A run is finished once `attempt.json` has become `manifest.json` and all its outputs are there. Before that all outputs
are on the disk and hashed; after that the new record moves to its place, and then what was kept for resuming is
deleted. So a stop at any moment loses nothing that was finished. Manifests and records are small and belong in git,
samples and models do not: in a clone a run is `recorded`, and stays so until another attempt has finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from attnpo.environment import device, git_state, package_versions
from attnpo.errors import AttnPOError
from attnpo.evaluation.settings import RESPONSES_FOLDER
from attnpo.files import (
    atomic_write_csv,
    atomic_write_json,
    canonical_json,
    locked,
    replace_durably,
    sha256_file,
    to_disk,
)
from attnpo.runs.manifests import check_manifest
from attnpo.runs.records import RECORD_FILE, RECORDS
from attnpo.training.settings import CHECKPOINTS_FOLDER

if TYPE_CHECKING:
    import pandas as pd

State = Literal["absent", "unfinished", "recorded", "finished"]
_LOCK_SECONDS = 10.0  # for a job whose runner was killed to die
_TAKEN = (RECORD_FILE, "heads.json")
"""Outputs that tables and figures are made of. They are small."""
_RESTS = {"train": CHECKPOINTS_FOLDER, "eval": RESPONSES_FOLDER}
"""Kind of run -> the folder that it resumes from, deleted once the run is finished."""


def run_id(spec: Mapping[str, Any]) -> str:
    """Name of the run that `spec` determines: a readable prefix and 12 hex digits of the spec's SHA-256."""
    digest = hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:12]
    words = [spec["kind"], spec.get("method"), f"s{spec['seed']}"]
    return "-".join(str(w) for w in [*words, digest] if w is not None)


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

    @property
    def new(self) -> Path:
        """Where `work` puts an output that replaces one in git; it moves beside the manifest in the end."""
        return self.folder / "new"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, None if there is none. Earlier versions wrote one for an unfinished run too.

        Raises:
            AttnPOError: it is not JSON, lacks what the harness reads, or was written for another spec.
        """
        return self._read("manifest.json", f"delete {self.folder} and run again")

    def attempt(self) -> dict[str, Any] | None:
        """What a manifest holds, of an attempt that goes on or was stopped; None if there is none.

        Raises:
            AttnPOError: as `manifest`.
        """
        found = self._read("attempt.json", "delete it and run again")
        if found is None and (manifest := self.manifest()) is not None and manifest.get("finished") is None:
            return manifest
        return found

    def _read(self, name: str, remedy: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["spec"] != self.spec:
                raise AttnPOError(f"{path}: written for another run; {remedy}")
            check_manifest(manifest, path, remedy)
            return manifest
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
            raise AttnPOError(f"{path}: not a manifest ({error}); {remedy}") from error

    def state(self) -> State:
        """How far it is.

        `finished`: done, and all outputs are there. `recorded`: done, and those outputs are there that tables and
        figures need, as in a fresh clone; an attempt to make the others may be under way. `unfinished`: begun.
        `absent`: none of these.
        """
        manifest = self.manifest()
        begun = (self.folder / "attempt.json").exists()
        if manifest is None or manifest.get("finished") is None:
            return "unfinished" if begun or manifest is not None else "absent"
        outputs = manifest["outputs"]
        if not begun:
            self._move_new(outputs)
        # What is large is hashed when it is read, see `check`.
        there = {name for name in outputs if not self._changed(name, outputs[name], hashed=name in _TAKEN)}
        kind = self.spec.get("kind")
        if (kind in RECORDS and RECORD_FILE not in there) or (kind == "probe" and "heads.json" not in there):
            return "unfinished" if begun else "absent"
        return "finished" if len(there) == len(outputs) and not begun else "recorded"

    def check(self, *names: str) -> None:
        """Check that what another run reads is what this run has made: outputs, or all outputs in a folder.

        Raises:
            AttnPOError: a file is missing, or its bytes are not those of which the manifest has the hash.
        """
        if changed := self._first_changed(names):
            raise AttnPOError(f"{changed}; restore it, or delete {self.folder} and run again")

    def damage(self) -> str | None:
        """What has happened to the outputs that tables need, if the run was finished; None: nothing."""
        manifest = self.manifest()
        if manifest is None or manifest["finished"] is None or self.done():
            return None
        return self._first_changed(_TAKEN) or f"{self.folder / 'manifest.json'}: outputs: no record; run it again"

    def _first_changed(self, names: Iterable[str]) -> str | None:
        """The first of the outputs, or of those in folders of these names, that has changed, and how."""
        wanted = set(names)
        for name, output in (self.manifest() or {"outputs": {}})["outputs"].items():
            if wanted & {name, name.partition("/")[0]} and (how := self._changed(name, output)):
                return f"{self.folder / name} {how}"
        return None

    def _changed(self, name: str, output: Mapping[str, Any], hashed: bool = True) -> str | None:
        """How an output differs from what the manifest says of it; None: it does not."""
        path = self.folder / name
        if not path.is_file():
            return "is missing"
        if path.stat().st_size != output["bytes"]:
            return f"has {path.stat().st_size} bytes, but its manifest says {output['bytes']}"
        changed = hashed and sha256_file(path) != output["sha256"]
        return "has other bytes than those whose hash its manifest holds" if changed else None

    def _move_new(self, outputs: Mapping[str, Mapping[str, Any]]) -> None:
        """Move the outputs under `new` to their places; also by a later reader, if the process died before that."""
        for name in outputs if self.new.is_dir() else ():
            with suppress(FileNotFoundError):  # another reader was faster
                if (self.new / name).is_file() and sha256_file(self.new / name) == outputs[name]["sha256"]:
                    replace_durably(self.new / name, self.folder / name)

    def done(self) -> bool:
        """Whether tables and figures can be made of it."""
        return self.state() in ("recorded", "finished")

    def record(self) -> pd.DataFrame:
        """Its rows of the derived table of its kind; of a run that is done.

        Raises:
            AttnPOError: the record is not the one that the run has made.
        """
        import pandas as pd

        self.check(RECORD_FILE)

        return pd.read_csv(self.folder / RECORD_FILE, dtype={"problem_id": str, "chain": str})

    def lock(self) -> AbstractContextManager[BinaryIO]:
        """Hold the run's lock file; the system lets go of it when the process dies, however it dies.

        Raises:
            AttnPOError: another live process holds it.
        """
        message = f"{self.folder}: another process computes this run; wait or stop it"
        return locked(self.folder / ".lock", _LOCK_SECONDS, message)

    def compute(self, command: str, work: Callable[[Path], Iterable[Path]], context: Mapping[str, Any]) -> bool:
        """Do the run unless it is finished; False if there was nothing to do.

        Args:
            command: how to do it again, for the manifest.
            work: given the folder, does it (or goes on with it) and returns its output files, inside it. It deletes
                nothing that it could resume from.
            context: more for the manifest, e.g. the profile's name.

        Raises:
            AttnPOError: another live process computes it.
        """
        with self.lock():
            if self.state() == "finished":
                self._clean()
                return False
            attempt = self._begun(command, context)
            shutil.rmtree(self.new, ignore_errors=True)
            atomic_write_json(self.folder / "attempt.json", attempt)
            begin = time.monotonic()
            outputs = list(work(self.folder))
            if read := RECORDS.get(str(self.spec.get("kind"))):
                outputs.append(self.new / RECORD_FILE)
                atomic_write_csv(outputs[-1], read(self.folder, self.spec))
            attempt["device"] = device()  # torch is loaded by now: an accelerator shows
            for path in outputs:
                to_disk(path)
            attempt["outputs"] = {
                name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for name, path in sorted((self._name(path), path) for path in outputs)
            }
            attempt["finished"] = _now()
            attempt["wall_seconds"] = round(attempt["wall_seconds"] + time.monotonic() - begin, 2)
            atomic_write_json(self.folder / "attempt.json", attempt)
            replace_durably(self.folder / "attempt.json", self.folder / "manifest.json")
            self._move_new(attempt["outputs"])
            self._clean()
            return True

    def clean(self) -> None:
        """Delete what a finished run has left to resume from, if its process died before it could."""
        if any(path.exists() for path in self._rests()) and self.state() == "finished":
            with self.lock():
                self._clean()

    def _name(self, output: Path) -> str:
        """An output's name in the manifest: its path in the folder once the run is finished."""
        return output.relative_to(self.new if output.is_relative_to(self.new) else self.folder).as_posix()

    def _rests(self) -> list[Path]:
        kind = str(self.spec.get("kind"))
        return [self.new, *([self.folder / _RESTS[kind]] if kind in _RESTS else [])]

    def _clean(self) -> None:
        for path in self._rests():
            shutil.rmtree(path, ignore_errors=True)

    def _begun(self, command: str, context: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a run that begins, or that goes on where an earlier attempt was stopped."""
        now = _now()
        manifest: dict[str, Any] = {
            "run_id": self.id,
            **context,
            **{key: self.spec.get(key) for key in ("kind", "method", "seed")},
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
        if (before := self.attempt()) is not None:
            manifest["started"] = before["started"]
            manifest["resumed"] = [*before["resumed"], now]
            seconds = 0.0 if before["finished"] else self._seconds_of_last_attempt(before)
            manifest["wall_seconds"] = before["wall_seconds"] + seconds
        return manifest

    def _seconds_of_last_attempt(self, manifest: dict[str, Any]) -> float:
        """Seconds a killed attempt is known to have worked: to the last file it wrote."""
        begun = datetime.fromisoformat([manifest["started"], *manifest["resumed"]][-1]).timestamp()
        skip = {".lock", "job.log"}  # touched by the new attempt
        last = max(p.stat().st_mtime for p in self.folder.rglob("*") if p.is_file() and p.name not in skip)
        return round(max(0.0, last - begun), 2)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
