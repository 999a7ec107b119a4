"""benchmarks/kills.py on a small profile: real runs, killed at random moments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from places import ROOT

PROFILE = {
    "name": "kills",
    "seeds": [0],
    "steps": {"phrases": "corrected", "min_chars": 1, "lone_trigger_chars": 1},
    "probe": {"problems": 24, "samples": 2, "max_completion_tokens": 128, "batch_size": 8, "bootstrap": 20},
    "train": {
        "steps": 4,
        "prompts_per_step": 2,
        "group_size": 4,
        "learning_rate": 1.0e-3,
        "max_completion_tokens": 64,
        "save_steps": 2,
    },
    "methods": {"attnpo": {"label": "AttnPO", "reward": "tlmre", "attnpo": True, "credit": {"warmup_steps": 2}}},
    "evaluate": {
        "tasks": ["attnpo_testbed"],
        "samples": 1,
        "max_completion_tokens": 64,
        "batch_size": 4,
        "limit": 8,
    },
}


@pytest.mark.slow
def test_killed_runs_end_with_the_bytes_of_straight_ones(tmp_path: Path) -> None:
    path = tmp_path / "kills.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    command = [sys.executable, str(ROOT / "benchmarks" / "kills.py"), "--kills", "12", "--full", "--profile", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert sum(count["kills"] for count in report["counts"].values()) == 12
    assert report["differences"] == report["lost"] == []
