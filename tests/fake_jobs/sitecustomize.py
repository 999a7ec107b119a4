"""Put on PYTHONPATH by test_runner.py: `attnpo probe | train | eval` without torch, a model or waiting.

FAKE_JOURNAL gets a line a computation, FAKE_FAIL is a pattern of the jobs that fail, FAKE_STEP_SECONDS slows training.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HEADS = {
    "model": "fake",
    "revision": None,
    "phrase_set": "corrected",
    "min_chars": 1,
    "label_source": "made up",
    "n_responses": 1,
    "n_pairs": 1,
    "heads": [{"layer": 0, "head": 0, "sra": 0.9, "low": 0.8, "high": 1.0}],
}


def begin(title: str) -> None:
    with Path(os.environ["FAKE_JOURNAL"]).open("a") as file:
        file.write(f"{title} pid {os.getpid()}\n")
    if fnmatch(title, os.environ.get("FAKE_FAIL", "")):
        raise RuntimeError("made to fail, with a reason that is longer than a terminal's line: " + "it goes on, " * 9)


def run_of(values: tuple[Any, ...]) -> tuple[Path, dict[str, Any]]:
    """The run's folder among the arguments, and what determines the run."""
    folder = next(v for v in values if isinstance(v, Path) and (v / "attempt.json").is_file())
    return folder, json.loads((folder / "attempt.json").read_text())["spec"]


def run_probe(*_: Any, heads_file: Path) -> Path:
    begin("probe")
    heads_file.parent.mkdir()
    heads_file.write_text(json.dumps(HEADS))
    return heads_file


def run_training(*values: Any) -> Path:
    out_dir, run = run_of(values)
    log = out_dir / "log.jsonl"
    done = len(log.read_text().splitlines()) if log.is_file() else 0
    begin(f"train {run['method']} {run['seed']} from {done}")
    has_heads = any(isinstance(v, Path) and v.name == "heads.json" for v in values)
    assert has_heads == (run["probe"] is not None)
    for step in range(done + 1, run["train"]["steps"] + 1):
        time.sleep(float(os.environ.get("FAKE_STEP_SECONDS", "0")))
        with log.open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
    (out_dir / "model").mkdir()
    (out_dir / "model" / "config.json").write_text("{}")
    return out_dir / "model"


def run_eval(model_path: str, tasks: list[str], out_dir: Path, *, seed: int, **_: Any) -> Path:
    from fakes import fake_samples

    run = json.loads((out_dir / "attempt.json").read_text())["spec"]
    begin(f"eval {run['method']} {seed}")
    assert Path(model_path, "config.json").is_file()
    lines = [json.dumps(sample) + "\n" for sample in fake_samples(run["method"], seed, problems=8)]
    (out_dir / "samples.jsonl").write_text("".join(lines))
    return out_dir / "samples.jsonl"


@dataclass(frozen=True)
class CreditConfig:
    warmup_steps: float = 1000


def pretend(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


pretend("attnpo.probing.probe", run_probe=run_probe)
pretend("attnpo.training.run", run_training=run_training)
pretend("attnpo.evaluation.evaluate", run_eval=run_eval)
pretend("attnpo.method.credit", CreditConfig=CreditConfig)
pretend("attnpo.rewards", REWARDS={"rloo": None, "tlmre": None}, check_reward=lambda *_: None)
