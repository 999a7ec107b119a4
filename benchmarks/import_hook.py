"""What the import hook costs: starting Python and importing lm-eval with the hook, with it switched off, without it.

python benchmarks/import_hook.py --repeats 40

Each run is a process of its own; the three kinds alternate, so that a busy machine slows all alike. Python starts
without its site module, and the hook's line of `tasks/attnpo_lm_eval.pth` is run or not: so nothing but the hook
differs. Times are of the processor, user and system (wall time is given too; it holds the other programs' work).
Ratios are medians of the ratios within a round, with 95 % bootstrap intervals over rounds. On a busy machine those
are wide, so `inside` clocks the hook's own code as a share of the import: its import, its answer to the import
system (the search for lm-eval's file included, which takes place without it too) and the wrapping. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
HOOK = (ROOT / "tasks" / "attnpo_lm_eval.pth").read_text(encoding="utf-8")
KINDS = {"without": ("", ""), "off": (HOOK, "1"), "on": (HOOK, "")}
TARGETS = {"python": "", "lm_eval": "import lm_eval.tasks", "lm_eval.evaluator": "import lm_eval.evaluator"}


# An installed package is compiled once; so is the hook here, in the round that warms up.
ENVIRONMENT = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
INSIDE = """
import functools, json, time
spent = []
def clocked(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)
    return call
begin = time.perf_counter()
exec(HOOK)
spent.append(time.perf_counter() - begin)
from attnpo.evaluation import lm_eval_hook
lm_eval_hook.Finder.find_spec = clocked(lm_eval_hook.Finder.find_spec)
lm_eval_hook.extend = clocked(lm_eval_hook.extend)
import lm_eval.tasks
print(json.dumps([sum(spent), time.perf_counter() - begin]))
"""


def inside() -> float:
    """The hook's share of the wall time of importing lm-eval's tasks."""
    code = f"import os, sys; sys.path += {PATHS!r}\nHOOK = {HOOK!r}\n{INSIDE}"
    environment = {**ENVIRONMENT, "ATTNPO_NO_LM_EVAL_HOOK": ""}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=environment, check=True, capture_output=True)
    spent, total = json.loads(done.stdout)
    return spent / total


def measure(kind: str, target: str) -> tuple[float, float]:
    """Processor and wall seconds of one process."""
    hook, switch = KINDS[kind]
    code = f"import os, sys; sys.path += {PATHS!r}\n{hook}\n{TARGETS[target]}"  # site imports os
    environment = {**ENVIRONMENT, "ATTNPO_NO_LM_EVAL_HOOK": switch}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-S", "-c", code], env=environment, check=True, capture_output=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Median of the ratios of paired times, with its interval."""
    ratios = np.array(over) / np.array(under)
    draws = np.random.default_rng(0).choice(ratios, size=(4000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {"median": round(float(np.median(ratios)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="rounds, after one that warms up")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=["python", "lm_eval"])
    args = parser.parse_args()
    report: dict[str, object] = {}
    for target in args.targets:
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for repeat in range(args.repeats + 1):
            order = list(KINDS)[repeat % 3 :] + list(KINDS)[: repeat % 3]
            for kind in order:
                taken = measure(kind, target)
                if repeat:
                    times[kind].append(taken)
        cpu = {kind: [used for used, _ in pairs] for kind, pairs in times.items()}
        wall = {kind: [seconds for _, seconds in pairs] for kind, pairs in times.items()}
        report[target] = {
            "cpu_s": {kind: round(statistics.median(values), 4) for kind, values in cpu.items()},
            "cpu_on/without": ratio(cpu["on"], cpu["without"]),
            "cpu_off/without": ratio(cpu["off"], cpu["without"]),
            "wall_on/without": ratio(wall["on"], wall["without"]),
        }
    shares = np.array([inside() for _ in range(args.repeats)])
    low, high = np.quantile(shares, [0.25, 0.75])
    report["inside"] = {"median": round(float(np.median(shares)), 5), "quartiles": [round(low, 5), round(high, 5)]}
    print(json.dumps({**report, "repeats": args.repeats, "version": sys.version.split()[0]}, indent=2))


if __name__ == "__main__":
    main()
