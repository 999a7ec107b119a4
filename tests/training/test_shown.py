"""What `attnpo train` shows while it trains: a line a step, a bar on a terminal, a tracker."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import TESTS
from transformers import TrainerControl, TrainerState

from attnpo.errors import AttnPOError
from attnpo.runs.plan import train_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.store import run_id
from attnpo.training.callbacks import ProgressLine
from attnpo.training.config import AttnPOConfig
from attnpo.training.run import training_config
from attnpo.training.shown import clock, shown_figures

PROFILE = """
name: p
probe: {problems: 8, samples: 2, max_completion_tokens: 96}
train:
  {steps: 2, prompts_per_step: 2, group_size: 4, learning_rate: 1.0e-4, max_completion_tokens: 32, save_steps: 2,
   grpo: {GRPO}}
methods: {tlmre: {label: TLMRE, reward: tlmre}}
evaluate: {tasks: [attnpo_testbed_test], samples: 1, limit: 4, max_completion_tokens: 32, batch_size: 8}
"""
WRITER = """
from pathlib import Path

class SummaryWriter:
    def __init__(self, log_dir):
        Path(log_dir).mkdir()
        self.file = Path(log_dir, "events").open("w")
    def add_text(self, *_):
        pass
    def add_scalar(self, tag, value, step):
        print(step, tag, value, file=self.file, flush=True)
    def flush(self):
        pass
    close = flush
"""
LOGS = {
    "attnpo/group_accuracy": 0.671875,
    "completions/mean_length": 101.31,
    "attnpo/pa_token_share": 0.019,
    "attnpo/na_token_share": 0.014,
}


def profile_with(tmp_path: Path, grpo: str) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE.replace("GRPO", grpo))
    return path


def test_a_training_shows_a_line_a_step_and_goes_to_a_tracker(tmp_path: Path) -> None:
    (tmp_path / "tensorboardX.py").write_text(WRITER)  # stands in for the package
    profile = profile_with(tmp_path, "report_to: tensorboard")
    command = [sys.executable, "-m", "attnpo.cli", "train", "--profile", str(profile), "--method", "tlmre"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(TESTS.parent)])}
    environment.pop("TENSORBOARD_LOGGING_DIR", None)
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    lines = re.findall(r"^step (\d)/2: accuracy [01]\.\d\d, \d+ tokens, (\d+:\d\d) left$", said, re.M)
    assert [step for step, _ in lines] == ["1", "2"] and lines[1][1] == "0:00"
    assert "'loss'" not in said
    (folder,) = (tmp_path / "p" / "raw").glob("train-tlmre-*")
    assert said.count(f"every figure of each step: {folder / 'log.jsonl'}\n") == 1
    shown = [line.split() for line in (folder / "tensorboard" / "events").read_text().splitlines()]
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    tag = "train/rewards/correctness/mean"
    assert [float(value) for _, name, value in shown if name == tag] == [e["rewards/correctness/mean"] for e in logged]


@pytest.mark.parametrize("attnpo", [True, False])
def test_a_terminal_gets_a_bar(tmp_path: Path, attnpo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    state = TrainerState(max_steps=60, global_step=20, is_world_process_zero=True)
    args, control = (
        AttnPOConfig(str(tmp_path), attnpo=attnpo, heads=[[0, 0]], bf16=False, use_cpu=True),
        TrainerControl(),
    )
    shown = ProgressLine(tmp_path / "log.jsonl")
    shown.on_train_begin(args, state, control)
    state.global_step = 21
    shown.on_log(args, state, control, logs=LOGS)
    shown.on_log(args, state, control, logs={"eval_loss": 1.0})
    shown.bar.refresh()
    shown.on_train_end(args, state, control)
    last = screen.getvalue().replace("\n", "").split("\r")[-1]
    assert re.search(r"training: +\d+%.*21/60 \[", last)
    assert "accuracy 0.67, 101 tokens" in last
    assert ("3.3% of tokens attenuated" in last) == attnpo


def test_figures_that_an_entry_lacks_are_left_out() -> None:
    assert shown_figures({"step": 1}, attnpo=True) == ""
    assert shown_figures({**LOGS, "attnpo/na_token_share": None}, attnpo=True) == "accuracy 0.67, 101 tokens"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (125.9, "2:05"), (3723, "1:02:03"), (360_000, "100:00:00")]
)
def test_the_time_left_has_hours_where_it_needs_them(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_where_a_training_is_shown_is_not_part_of_its_id(tmp_path: Path) -> None:
    ids = []
    for grpo in ("", "report_to: [wandb, trackio], run_name: mine", "epsilon_high: 0.28"):
        ids.append(run_id(train_spec(load_profile(str(profile_with(tmp_path, grpo))), "tlmre", 0)))
    assert ids[0] == ids[1] != ids[2]


def test_a_tracker_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    profile = load_profile(str(profile_with(tmp_path, "report_to: [trackio]")))
    message = r"report_to: trackio is not installed; pip install 'attnpo\[trackers\]'"
    with pytest.raises(AttnPOError, match=message):
        training_config(profile.steps, profile.train, profile.method("tlmre"), 0, None, tmp_path)
