"""`attnpo train` on the embedded model: outputs, and a run killed without warning that goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from attnpo.errors import AttnPOError
from attnpo.profile import load_profile
from attnpo.training import last_checkpoint, run_training, training_config

RUN = """
import sys
from pathlib import Path
from attnpo.profile import load_profile
from attnpo.training import run_training
run_training(load_profile(sys.argv[1]), "attnpo", 3, None, Path(sys.argv[2]))
"""


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    mapping = {
        "name": "mini",
        "steps": {"phrases": "corrected", "min_chars": 1, "lone_trigger_chars": 1},
        "probe": {"problems": 8, "samples": 2, "max_completion_tokens": 96},
        "train": {
            "steps": 6,
            "prompts_per_step": 2,
            "group_size": 4,
            "learning_rate": 1.0e-3,
            "max_completion_tokens": 96,
            "save_steps": 2,
        },
        "methods": {
            "tlmre": {"label": "TLMRE", "reward": "tlmre"},
            "attnpo": {
                "label": "AttnPO",
                "reward": "tlmre",
                "attnpo": True,
                "heads": [[2, 1], [3, 0]],
                "credit": {"warmup_steps": 2},
            },
            "top": {"label": "top", "reward": "tlmre", "attnpo": True},
        },
        "evaluate": {"tasks": ["attnpo_testbed"], "samples": 1, "max_completion_tokens": 96, "batch_size": 8},
    }
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


def test_a_killed_run_goes_on_and_ends_as_the_straight_one_to_the_bit(profile_file: Path, tmp_path: Path) -> None:
    straight = run_training(load_profile(str(profile_file)), "attnpo", 3, None, tmp_path / "straight")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(profile_file), str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 240
    while last_checkpoint(killed / "checkpoints") is None:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "model").exists()
    resumed = run_training(load_profile(str(profile_file)), "attnpo", 3, None, killed)

    one, other = load_file(straight / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for folder in (tmp_path / "straight", killed):
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in log if "reward" in entry] == [1, 2, 3, 4, 5, 6]
        assert {"steps/essential", "steps/redundant", "attnpo/mean_gamma"} <= log[0].keys()
        assert not (folder / "checkpoints").exists()


def test_top_heads_need_the_probe(profile_file: Path, tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="run `attnpo probe` first"):
        run_training(load_profile(str(profile_file)), "top", 0, None, tmp_path)


def test_the_profile_decides_every_argument(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(str(profile_file))
    config = training_config(profile, "attnpo", 5, [[2, 1]], tmp_path)
    assert (config.seed, config.max_steps, config.learning_rate, config.num_generations) == (5, 6, 1e-3, 4)
    assert (config.per_device_train_batch_size, config.generation_batch_size) == (8, 8)
    assert config.credit_config().warmup_steps == 2
    plain = training_config(profile, "tlmre", 5, None, tmp_path)
    assert not plain.attnpo
    profile.train.grpo.update({"gradient_accumulation_steps": 4})
    assert training_config(profile, "tlmre", 5, None, tmp_path).per_device_train_batch_size == 2
    profile.train.grpo.update({"gradient_accumulation_steps": 3})
    with pytest.raises(AttnPOError, match="8 rollouts a step do not divide by 3"):
        training_config(profile, "tlmre", 5, None, tmp_path)
    profile.train.grpo.update({"gradient_acumulation_steps": 2})
    with pytest.raises(AttnPOError, match="train.grpo.gradient_acumulation_steps: TRL's GRPOConfig has no such"):
        training_config(profile, "tlmre", 5, None, tmp_path)


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    for step, state in ((2, '{"global_step": 2}'), (10, '{"global_st'), (4, '{"global_step": 4}')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
