"""Kills runs at random moments and shows that nothing that was finished is lost.

python benchmarks/kills.py --kills 50                                   # probe, train and eval of tiny --quick
python benchmarks/kills.py --kills 6 --kinds eval --profile FILE.yaml --method tlmre

Each kind is run once without a stop. Then it is run again, killed (SIGKILL) up to three times in a row and left to
end; every other time over the record of the finished run, as in a fresh clone. What it ends with is compared byte for
byte: samples, model, log, record, heads, and the tables that are derived from them. Only numbers that a clock gives are
left out. Prints JSON; exit code 1 on any difference, and if a recorded run was lost for a moment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attnpo.environment import device, package_versions
from attnpo.runs.derive import derive
from attnpo.runs.plan import eval_spec, probe_spec, train_spec
from attnpo.runs.profile import Profile, load_profile
from attnpo.runs.store import Run

KINDS = ("probe", "train", "eval")
IN_GIT = ("manifest.json", "record.csv", "heads.json")
TIMES = ("step_time", "attnpo/scoring_time_share")
AT_ONCE = 3


def main() -> int:
    """Kill, resume, compare and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--full", action="store_true", help="without the profile's section `quick`")
    parser.add_argument("--method", default="attnpo")
    parser.add_argument("--work", type=Path, help="folder of the results, kept; a temporary one if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attnpo-kills-") as folder:
        report = Kills(args, args.work or Path(folder)).report()
    print(json.dumps(report, indent=2))
    return int(bool(report["differences"] or report["lost"]))


class Kills:
    """Two folders of results: that of the straight runs, and a copy of it in which runs are killed."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args = args
        self.profile = load_profile(args.profile, not args.full)
        self.straight, self.killed = work / "straight", work / "killed"
        self.draw = random.Random(args.seed)
        self.log = work / "kills.log"
        self.differences: list[str] = []
        self.lost: list[str] = []
        self.counts = {kind: {"kills": 0, "resumes_to_the_end": 0} for kind in args.kinds}

    def report(self) -> dict[str, Any]:
        """Do all of it."""
        self.straight.mkdir(parents=True)
        seconds = {kind: self.time_of(kind) for kind in KINDS}
        shutil.copytree(self.straight, self.killed)
        rounds, left, window = 0, self.args.kills, dict(seconds)
        while left > 0:
            kind = self.args.kinds[rounds % len(self.args.kinds)]
            recorded = rounds // len(self.args.kinds) % 2 == 1
            kills = min(left, self.draw.randint(1, AT_ONCE))
            done = self.round(kind, window[kind], kills, recorded)
            window[kind] *= 1.0 if done == kills else 0.8  # the straight run was slower: its files were not cached
            left -= done
            rounds += 1
        self.compare_tables()
        return {
            "profile": self.profile.results_name,
            "method": self.args.method,
            "seed": self.args.seed,
            "seconds_without_a_stop": {kind: round(value, 1) for kind, value in seconds.items()},
            "counts": self.counts,
            "differences": self.differences,
            "lost": self.lost,
            "device": device(),
            "versions": package_versions(),
        }

    def run_of(self, kind: str, results: Path) -> Run:
        """The run of a kind in a folder of results."""
        return Run.at(results / self.profile.results_name, _spec(self.profile, kind, self.args.method))

    def start(self, kind: str, results: Path) -> subprocess.Popen[bytes]:
        """`attnpo KIND` in a process group of its own."""
        command = [sys.executable, "-m", "attnpo.cli", kind, "--profile", self.args.profile, "--results", str(results)]
        command += [] if self.args.full else ["--quick"]
        command += [] if kind == "probe" else ["--method", self.args.method]
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def time_of(self, kind: str) -> float:
        """Seconds of a run without a stop."""
        begin = time.monotonic()
        if code := self.start(kind, self.straight).wait():
            raise SystemExit(f"attnpo {kind} failed with exit code {code}: {self.log.read_text()[-2000:]}")
        return time.monotonic() - begin

    def round(self, kind: str, seconds: float, kills: int, recorded: bool) -> int:
        """Kill a run so many times, unless it ends before, then let it end and compare; the number of kills."""
        run = self.run_of(kind, self.killed)
        for path in run.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not (recorded and path.name in IN_GIT):
                path.unlink()
        record = {name: (run.folder / name).read_bytes() for name in IN_GIT if (run.folder / name).is_file()}
        done = 0
        while done < kills and run.state() != "finished":
            process = self.start(kind, self.killed)
            try:
                process.wait(self.draw.uniform(0, seconds))
                break  # it was faster than the kill
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            done += 1
            replaced = run.state() == "finished"
            now = {name: (run.folder / name).read_bytes() for name in record}
            if recorded and not replaced and not (run.done() and now == record):
                self.lost.append(f"{run.id}: its record is lost after kill {done}")
        code = self.start(kind, self.killed).wait()
        self.counts[kind]["kills"] += done
        self.counts[kind]["resumes_to_the_end"] += 1
        if code or run.state() != "finished":
            self.differences.append(f"{run.id}: exit code {code} after {done} kills, it is {run.state()}")
        else:
            self.compare(kind)
        return done

    def compare(self, kind: str) -> None:
        """Note every output that is not as in the straight run, and what should not be there any more."""
        run, straight = self.run_of(kind, self.killed), self.run_of(kind, self.straight)
        names = [set((r.manifest() or {})["outputs"]) for r in (run, straight)]
        if names[0] != names[1]:
            self.differences.append(f"{run.id}: other outputs: {sorted(names[0] ^ names[1])}")
        for name in sorted(names[0] & names[1]):
            if not name.endswith("training_args.bin"):  # it names the folder
                self.compare_files(run.folder / name, straight.folder / name)
        for name in ("checkpoints", "responses", "new", "attempt.json"):
            if (run.folder / name).exists():
                self.differences.append(f"{run.id}: {name} was not removed")

    def compare_tables(self) -> None:
        """Derive the tables of both folders and compare them."""
        for results in (self.straight, self.killed):
            runs = [self.run_of(kind, results) for kind in KINDS]
            derive(results / self.profile.results_name, runs)
        for path in sorted((self.straight / self.profile.results_name / "derived").glob("*.csv")):
            if path.name != "runs.csv":  # durations
                self.compare_files(self.killed / path.relative_to(self.straight), path)

    def compare_files(self, path: Path, straight: Path) -> None:
        """Note a file that has other bytes, but for the numbers of a clock."""
        if _without_times(path) != _without_times(straight):
            self.differences.append(f"{path.parent.name}/{path.name}: other bytes")


def _spec(profile: Profile, kind: str, method: str) -> dict[str, Any]:
    if kind == "probe":
        return probe_spec(profile)
    return (train_spec if kind == "train" else eval_spec)(profile, method, 0)


def _without_times(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name == "log.jsonl":
        return re.sub(rf'"({"|".join(TIMES)})": [^,}}]+'.encode(), b"", content)
    if path.name in ("record.csv", "curves.csv"):
        import pandas as pd

        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if set(TIMES) & set(table):
            return table.drop(columns=list(TIMES), errors="ignore").to_csv(index=False).encode()
    return content


if __name__ == "__main__":
    sys.exit(main())
