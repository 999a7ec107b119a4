"""The profile tiny through the project's own command."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from functools import partial
from typing import Any

import yaml

from attnpo.errors import AttnPOError
from attnpo.files import read_jsonl
from attnpo.runs.profile import find_profile
from gpu_pieces.inputs import Rows, Setting

HEADS = [[1, 5], [1, 4], [1, 0]]
"""The best three of results/tiny's probe, so that none has to run first."""
COLUMNS = {
    "loss": "loss",
    "gradient_norm": "grad_norm",
    "accuracy": "attnpo/group_accuracy",
    "mean_tokens": "completions/mean_length",
}
"""Names in the report, and the columns of the log that must be there and finite."""


def tiny(setting: Setting) -> Rows:
    """AttnPO's first steps."""
    train = {"steps": 2, "save_steps": 2, "prompts_per_step": 2} if setting.small else {"steps": 5, "save_steps": 5}
    yield f"AttnPO, {train['steps']} steps", partial(trained, setting, train)


def trained(setting: Setting, train: dict[str, int]) -> dict[str, Any]:
    """Run `attnpo train` on the profile with these settings of training, and read its log.

    Raises:
        AttnPOError: as `means_of`.
        subprocess.CalledProcessError: the command failed; it has said why.
    """
    folder = setting.scratch / "tiny"
    folder.mkdir()
    source = find_profile("tiny")
    shutil.copy(source, folder)  # `extends` names a file beside it
    changed = {"extends": source.name, "name": "gpu-check", "train": train, "methods": {"attnpo": {"heads": HEADS}}}
    profile = folder / "check.yaml"
    profile.write_text(yaml.safe_dump(changed), encoding="utf-8")
    command = [sys.executable, "-m", "attnpo.cli", "train", "--profile", str(profile), "--method", "attnpo"]
    start = time.perf_counter()
    subprocess.run([*command, "--results", str(folder / "results")], check=True)
    seconds = time.perf_counter() - start
    (path,) = (folder / "results").rglob("log.jsonl")
    log = list(read_jsonl(path))
    found = means_of(log, train["steps"])
    return {"command_s": round(seconds, 1), "steps_s": [round(entry["step_time"], 2) for entry in log], **found}


def means_of(log: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """The means of `COLUMNS` over a log of so many steps.

    Raises:
        AttnPOError: the log lacks a step or a column, or a value is not finite.
    """
    if len(log) != steps:
        raise AttnPOError(f"the log has {len(log)} of {steps} steps; see the output of the run")
    means = {}
    for name, column in COLUMNS.items():
        values = [entry.get(column, math.nan) for entry in log]
        if not all(map(math.isfinite, values)):
            raise AttnPOError(f"column {column} of the log is {values}; it must be there and finite in each step")
        means[name] = round(sum(values) / steps, 6)
    return means
