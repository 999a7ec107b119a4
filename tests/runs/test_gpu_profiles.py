"""Profiles that need GPUs, as far as a CPU can check them: every flag is known to its library, batches add up, and the
same command trains a random model of the same architecture for two steps on two processes."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from places import ROOT
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from attnpo.evaluation.lm_eval_hook import tasks_folder
from attnpo.runs.plan import check_methods
from attnpo.runs.profile import Profile, load_profile
from attnpo.testbed import MODEL_DIR
from attnpo.training.trainer import AttnPOConfig

LAUNCHED = ["paper-1.5b", "paper-7b", "paper-7b-2nodes"]
HEADS = {"paper-1.5b": (28, 12), "paper-7b": (28, 28), "paper-7b-2nodes": (28, 28)}  # config.json: layers, heads


def cluster(profile: Profile) -> Any:
    words = profile.launch.train
    return load_config_from_file(str(ROOT / words[words.index("--config_file") + 1]))


@pytest.mark.parametrize("name", [*LAUNCHED, "small"])
def test_every_setting_is_known(name: str) -> None:
    profile = load_profile(name)
    check_methods(profile)
    for grpo in (profile.train.grpo, *(method.grpo for method in profile.methods.values())):
        assert set(grpo) <= set(AttnPOConfig.__dataclass_fields__)
    known = {path.stem for path in Path(str(tasks_folder())).rglob("*.yaml")}
    for artefact in profile.makes():
        narrowed = profile.narrowed(artefact)
        assert set(narrowed.evaluate.tasks) <= known
        assert set(narrowed.report.blocks) <= known
    heads = [m.heads for m in profile.methods.values() if isinstance(m.heads, list)]
    heads += [profile.study.heads] if profile.study and isinstance(profile.study.heads, list) else []
    assert bool(heads) == (name in LAUNCHED)
    for layer, head in (pair for listed in heads for pair in listed):
        assert layer < HEADS[name][0]
        assert head < HEADS[name][1]


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_knows_every_word_and_batches_add_up(name: str) -> None:
    profile = load_profile(name)
    words = [*profile.launch.train, "-m", "attnpo.cli", "train", "--profile", name]
    assert words[:2] == ["accelerate", "launch"]
    parsed = launch_command_parser().parse_args(words[2:])
    assert parsed.module
    assert parsed.training_script == "attnpo.cli"
    config = cluster(profile)  # refuses keys it does not know
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.deepspeed_config) <= options
    grpo, train = profile.train.grpo, profile.train
    a_step = config.num_processes * grpo["per_device_train_batch_size"] * grpo["gradient_accumulation_steps"]
    assert a_step == train.prompts_per_step * train.group_size
    assert grpo["vllm_max_model_length"] >= 1024 + train.max_completion_tokens
    assert config.num_processes % grpo.get("vllm_tensor_parallel_size", 1) == 0


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_authors_published_settings_are_set(name: str) -> None:
    """Facts of the paper: lr, batch, group, budgets, temperatures, phrases, alpha."""
    profile = load_profile(name)
    train, evaluate = profile.train, profile.evaluate
    assert (train.learning_rate, train.prompts_per_step, train.group_size) == (2e-6, 128, 8)
    assert (train.max_completion_tokens, train.temperature) == (16384, 1.0)
    assert (evaluate.max_completion_tokens, evaluate.temperature, evaluate.top_p) == (16384, 0.6, 0.95)
    assert profile.steps.phrases == "published"
    assert profile.method("attnpo").reward_args == {"alpha": 0.2}
    assert (train.grpo["epsilon"], train.grpo["beta"]) == (0.2, 0.0)


def test_the_server_script_uses_flags_that_trl_knows() -> None:
    from trl.scripts.vllm_serve import ScriptArguments

    text = (ROOT / "reproduce" / "vllm_server.sh").read_text(encoding="utf-8")
    flags = re.findall(r"--(\w+) ", text)
    assert flags == ["model", "max_model_len", "data_parallel_size"]
    assert set(flags) <= set(ScriptArguments.__dataclass_fields__)


def test_each_profile_states_cost_and_expectation() -> None:
    for path in sorted((ROOT / "reproduce" / "profiles").glob("*.yaml")):
        head = path.read_text(encoding="utf-8").split("name:")[0]
        if not path.stem.startswith("tiny") and "2nodes" not in path.stem:
            assert "ESTIMATE" in head, path.name
            assert "xpect" in head, path.name


def smoke_profile(folder: Path) -> Path:
    """Profile paper-1.5b with a random Qwen2 of its layers and heads, our problems, two steps, two processes."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=48, intermediate_size=32, num_hidden_layers=28,
            num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=1024,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )
    )  # fmt: skip
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = [json.dumps({"problem": f"Compute {i} + 1.", "answer": str(i + 1)}) for i in range(8)]
    (folder / "problems.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "paper-1.5b.yaml").write_text((ROOT / "reproduce" / "profiles" / "paper-1.5b.yaml").read_text())
    changes = {
        "extends": "paper-1.5b.yaml",
        "name": "smoke",
        "model": str(folder / "model"),
        "data": str(folder / "problems.jsonl"),
        "data_revision": None,
        "train": {
            "steps": 2, "prompts_per_step": 2, "group_size": 4, "max_completion_tokens": 24, "save_steps": 1,
            "grpo": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "use_vllm": False},
        },
        "methods": {"attnpo": {"snapshots": 1}},
        "artefacts": {"fig_curves": {"methods": ["attnpo"]}},
        "launch": {"train": ["torchrun", "--standalone", "--nproc_per_node", "2"]},
    }  # fmt: skip
    path = folder / "smoke.yaml"
    path.write_text(yaml.safe_dump(changes))
    return path


@pytest.mark.slow
def test_two_steps_on_two_processes_by_the_same_command(tmp_path: Path) -> None:
    path = smoke_profile(tmp_path)
    command = [sys.executable, "-m", "attnpo.cli", "run", "fig_curves", "--profile", str(path)]
    command += ["--results", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    log = "\n".join(p.read_text() for p in (tmp_path / "results").rglob("job.log"))
    assert done.returncode == 0, done.stderr[-2000:] + log[-3000:]
    assert "torchrun --standalone --nproc_per_node 2 -m attnpo.cli train" in log
    run = next((tmp_path / "results" / "smoke" / "raw").glob("train-attnpo-*"))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["finished"]
    assert "snapshots/1/model.safetensors" in manifest["outputs"]
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "reward" in row] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in steps if "reward" in row)
    assert all("phrases/doubt" in row for row in steps if "reward" in row)
    assert (tmp_path / "results" / "smoke" / "figures" / "curves.png").is_file()
