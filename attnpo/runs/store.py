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

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from attnpo.environment import device, git_state, package_versions
from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_csv, atomic_write_json, canonical_json, locked, sha256_file
from attnpo.runs.records import RECORD_FILE, RECORDS

if TYPE_CHECKING:
    import pandas as pd

State = Literal["absent", "unfinished", "recorded", "finished"]
_LOCK_SECONDS = 10.0  # for a job whose runner was killed to die


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

        `finished`: done, and all outputs are there. `recorded`: done, and those outputs are there that tables and
        figures need, as in a fresh clone. `unfinished`: begun. `absent`: none of these.
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
        if (kind in RECORDS and RECORD_FILE not in there) or (kind == "probe" and "heads.json" not in there):
            return "absent"
        return "finished" if len(there) == len(outputs) else "recorded"

    def done(self) -> bool:
        """Whether tables and figures can be made of it."""
        return self.state() in ("recorded", "finished")

    def record(self) -> pd.DataFrame:
        """Its rows of the derived table of its kind; of a run that is done."""
        import pandas as pd

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
            work: given the folder, does it (or goes on with it) and returns its output files, inside it.
            context: more for the manifest, e.g. the profile's name.

        Raises:
            AttnPOError: another live process computes it.
        """
        with self.lock():
            if self.state() == "finished":
                return False
            manifest = self._begun(command, context)
            atomic_write_json(self.folder / "manifest.json", manifest)
            begin = time.monotonic()
            outputs = list(work(self.folder))
            if read := RECORDS.get(str(self.spec.get("kind"))):
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
        before = self.manifest()
        if before is not None and self.state() == "unfinished":
            manifest["started"] = before["started"]
            manifest["resumed"] = [*before["resumed"], now]
            manifest["wall_seconds"] = before["wall_seconds"] + self._seconds_of_last_attempt(before)
        return manifest

    def _seconds_of_last_attempt(self, manifest: dict[str, Any]) -> float:
        """Seconds a killed attempt is known to have worked: to the last file it wrote."""
        begun = datetime.fromisoformat([manifest["started"], *manifest["resumed"]][-1]).timestamp()
        skip = {".lock", "job.log"}  # touched by the new attempt
        last = max(p.stat().st_mtime for p in self.folder.rglob("*") if p.is_file() and p.name not in skip)
        return round(max(0.0, last - begun), 2)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
