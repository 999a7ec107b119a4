"""With a local model and local data nothing is asked for over the network, from whatever thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import TESTS

from attnpo.environment import no_telemetry, telemetry_wanted

REFUSE = """
import socket, sys, threading

asked, joined = [], threading.Thread.join

def refuse(*place, **_):
    asked.append((threading.current_thread().name, place))
    raise OSError("no network in this test")

def connect(self, address):
    return refuse(address) if self.family != socket.AF_UNIX else connected(self, address)

connected, socket.socket.connect = socket.socket.connect, connect
socket.getaddrinfo = refuse
"""
REPORT = """
import time
deadline = time.monotonic() + 5  # for a thread that is about to ask
while not asked and any("telemetry" in thread.name for thread in threading.enumerate()) and time.monotonic() < deadline:
    time.sleep(0.1)
print("asked:", asked)
"""
COMMANDS = """
from attnpo.cli import main
assert not {"huggingface_hub", "trl"} & set(sys.modules)  # the variables are set before they are read
for command in ("probe", "train", "eval"):
    words = [command, "--profile", sys.argv[1], "--results", sys.argv[2]]
    assert main(words + (["--method", "tlmre"] if command != "probe" else [])) == 0, command
"""
TRAINER = """
from datasets import Dataset  # Hugging Face's client is imported before any module of ours
from fakes import correctness
from small_training import TWO_STEPS
from attnpo.testbed import MODEL_DIR
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

data = Dataset.from_list([{"prompt": [{"role": "user", "content": "1 + 1"}], "answer": "2"}] * 4)
config = AttnPOConfig(
    sys.argv[2], heads=[[0, 0]], per_device_train_batch_size=4, max_completion_length=8, **TWO_STEPS
)
AttnPOTrainer(str(MODEL_DIR), correctness, config, train_dataset=data)
"""
PROFILE = """
name: p
probe: {problems: 16, samples: 2, max_completion_tokens: 192}
steps: {min_chars: 1}
train:
  {steps: 1, prompts_per_step: 2, group_size: 4, learning_rate: 1.0e-4, max_completion_tokens: 32, save_steps: 1}
methods: {tlmre: {label: TLMRE, reward: tlmre}}
evaluate: {tasks: [attnpo_testbed_test], samples: 1, limit: 4, max_completion_tokens: 32, batch_size: 8}
"""


@pytest.mark.parametrize("script", [COMMANDS, TRAINER], ids=["commands", "trainer"])
def test_nothing_is_looked_up(script: str, tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text(PROFILE)
    quiet = {"CI", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-c", REFUSE + script + REPORT, str(profile), str(tmp_path / "results")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "asked: []"


@pytest.mark.parametrize(
    ("said", "wanted", "after"),
    [
        ({}, False, "1"),
        ({"HF_HUB_DISABLE_TELEMETRY": "0"}, True, "0"),
        ({"DO_NOT_TRACK": "no"}, True, None),
        ({"HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "1"}, False, "0"),
    ],
)
def test_what_the_user_says_of_telemetry_stands(
    said: dict[str, str], wanted: bool, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")  # so that what the call sets is taken back
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert telemetry_wanted() == wanted
    no_telemetry()
    assert os.environ.get("HF_HUB_DISABLE_TELEMETRY") == after
