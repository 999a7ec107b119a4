"""The files of reproduce/accelerate, as far as a CPU can check them.

accelerate knows what they say, it fits the profiles that name them, and a run starts from them on two processes.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from fakes import write_profile
from places import ROOT

from attnpo.runs.profile import Profile, load_profile
from attnpo.training.run import training_config
from attnpo.training.settings import TrainSection

FILES = sorted((ROOT / "reproduce" / "accelerate").glob("*.yaml"))
PROFILES = sorted(path.stem for path in (ROOT / "reproduce" / "profiles").glob("*.yaml"))
PROCESSES = 2


def named_by(file: Path) -> list[Profile]:
    """The profiles whose training is launched with the file."""
    return [p for p in map(load_profile, PROFILES) if str(file.relative_to(ROOT)) in p.launch.train]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_knows_what_a_file_says(file: Path) -> None:
    config = load_config_from_file(str(file))  # refuses a key that it does not know, not one inside a section
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == DistributedType.DEEPSPEED
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.deepspeed_config) <= options
    gpus, stage = file.stem.split("-")
    assert (f"{config.num_processes}gpus", f"zero{config.deepspeed_config['zero_stage']}") == (gpus, stage)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_fits_the_profiles_that_name_it(file: Path, tmp_path: Path) -> None:
    config, profiles = load_config_from_file(str(file)), named_by(file)
    assert profiles, f"no profile launches with {file.name}"
    for profile in profiles:
        # The share of one of the processes, as here is one; an error where the rollouts of a step do not add up.
        share = profile.train.prompts_per_step // config.num_processes
        changes = {"prompts_per_step": share, "grpo": {**profile.train.grpo, "use_vllm": False}}
        train = TrainSection(**{**vars(profile.train), **changes})
        arguments = training_config(profile.steps, train, profile.method("tlmre"), 0, None, tmp_path)
        assert config.num_machines == 1  # a second node of a profile samples with a server, it does not train
        assert config.deepspeed_config["gradient_clipping"] == arguments.max_grad_norm
        sharded = config.deepspeed_config["zero_stage"] == 3
        assert config.deepspeed_config["zero3_save_16bit_model"] == sharded  # or there is no model to save


def on_cpu(file: Path) -> dict[str, Any]:
    """What a file says without what needs a GPU: DeepSpeed and bfloat16; two processes, started as those of GPUs are.

    For `MULTI_CPU` accelerate would call mpirun.
    """
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    del config["deepspeed_config"]
    return {**config, "distributed_type": "MULTI_GPU", "num_processes": PROCESSES, "mixed_precision": "no"}


def test_a_run_starts_from_a_file_on_two_processes(tmp_path: Path) -> None:
    """One launch for all files, as they say the same where a CPU can follow them."""
    copies = [on_cpu(file) for file in FILES]
    assert all(copy == copies[0] for copy in copies)
    file = tmp_path / "cpu.yaml"
    file.write_text(yaml.safe_dump(copies[0]), encoding="utf-8")
    train = {
        "steps": 1, "prompts_per_step": 2, "group_size": 4, "learning_rate": 1.0e-3, "max_completion_tokens": 64,
        "save_steps": 1,
    }  # fmt: skip
    method = {"label": "AttnPO", "reward": "tlmre", "attnpo": True, "heads": [[2, 1], [3, 0]]}
    profile = write_profile(tmp_path, train=train, methods={"attnpo": method})
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += ["--main_process_port", "0"]  # a free one, whatever else runs here
    command += [
        "-m",
        "attnpo.cli",
        "train",
        "--profile",
        str(profile),
        "--method",
        "attnpo",
        "--results",
        str(tmp_path / "results"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    )
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its processes
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"the launch did not end in 240 s\n{output[-3000:]}")
    assert process.returncode == 0, output[-3000:]
    run = next((tmp_path / "results" / "fake" / "raw").glob("train-attnpo-*"))
    assert json.loads((run / "manifest.json").read_text())["finished"]
    assert (run / "model" / "model.safetensors").is_file()
    (step,) = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    assert step["step"] == 1
    assert math.isfinite(step["loss"])
    assert "attnpo/mean_gamma" in step
