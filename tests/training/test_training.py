"""`attnpo train` on the embedded model: outputs, and a run killed without warning that goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from attnpo.errors import AttnPOError
from attnpo.method.attention import Head, all_heads
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.problems.problem import Problem
from attnpo.runs.plan import train_spec
from attnpo.runs.profile import Profile, load_profile
from attnpo.sampling.models import load_model, load_tokenizer
from attnpo.testbed import EMBEDDED
from attnpo.training.callbacks import LogFile, cut_log
from attnpo.training.heads import choose_heads
from attnpo.training.run import (
    drop_long_prompts,
    grading_workers,
    last_checkpoint,
    prefilled,
    run_training,
    training_config,
    training_rows,
)
from attnpo.training.settings import MethodSection, TargetLengthSection, TrainSection
from attnpo.training.trainer import AttnPOConfig


def train(profile: Profile, method: str | MethodSection, folder: Path, seed: int = 3, **changes: Any) -> Path:
    """Train on the profile, with some settings of its section `train` changed."""
    section = profile.method(method) if isinstance(method, str) else method
    settings = TrainSection(**{**vars(profile.train), **changes})
    return run_training(profile.source, profile.steps, settings, section, seed, None, profile.probe.heads, folder)


def config_of(profile: Profile, method: str | MethodSection, folder: Path, heads: Any = None) -> AttnPOConfig:
    """The trainer's configuration with seed 5."""
    section = profile.method(method) if isinstance(method, str) else method
    return training_config(profile.steps, profile.train, section, 5, heads, folder)


def changed(method: MethodSection, **changes: Any) -> MethodSection:
    """The method's section with some settings changed."""
    return MethodSection(**{**vars(method), **changes})


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
    straight = train(load_profile(str(profile_file)), "attnpo", tmp_path / "straight")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, __file__, str(profile_file), str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 240
    while last_checkpoint(killed / "checkpoints") is None:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()[-2000:]
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "model").exists()
    resumed = train(load_profile(str(profile_file)), "attnpo", killed)

    one, other = load_file(straight / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for folder in (tmp_path / "straight", killed):
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
        assert all("reward" in entry for entry in log)
        assert {"steps/essential", "steps/redundant", "attnpo/mean_gamma", "phrases/doubt"} <= log[0].keys()
    assert without_times(killed) == without_times(tmp_path / "straight")

    # As if it had been killed after the last checkpoint, while it wrote the model.
    shutil.rmtree(killed / "model")
    (killed / "model").mkdir()
    (killed / "model" / "model.safetensors").write_bytes(b"half")
    with (killed / "log.jsonl").open("a") as file:
        file.write('{"loss": 0.')
    again = train(load_profile(str(profile_file)), "attnpo", killed)
    assert {p.name for p in again.iterdir()} == {p.name for p in straight.iterdir()}
    for path in straight.iterdir():
        if path.name != "training_args.bin":  # it names the folder
            ended = (again / path.name).read_bytes().replace(b"killed", b"straight")  # the card's name is the folder's
            assert ended == path.read_bytes(), path.name
    assert without_times(killed) == without_times(tmp_path / "straight")


def test_the_untrained_model_is_not_asked_again_by_a_run_that_goes_on(
    profile_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = MethodSection(
        label="AdaptThink",
        reward="adaptthink",
        openings={"</think>": 0.5, "First,": 0.5},
        reference_samples=2,
        grpo={"importance_sampling_level": "sequence", "loss_type": "grpo"},
    )
    profile = load_profile(str(profile_file))
    short = {"steps": 2, "save_steps": 1, "max_completion_tokens": 64}
    model = train(profile, method, tmp_path, **short)
    known = json.loads((tmp_path / "reference.json").read_text())
    assert known["samples"] == 2 and len(known["accuracy"]) == 4  # two prompts in each of two steps
    assert set(known["accuracy"].values()) <= {0.0, 0.5, 1.0}
    straight, log = load_file(model / "model.safetensors"), (tmp_path / "log.jsonl").read_text()
    # As if it had been killed in the second step.
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-2")
    monkeypatch.setattr("attnpo.training.reference.accuracies", None)
    resumed = load_file(train(profile, method, tmp_path, **short) / "model.safetensors")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == len(log.splitlines()) == 2


def without_times(folder: Path) -> bytes:
    """The bytes of a log but for the two numbers that a clock gives."""
    pattern = rb'"(step_time|attnpo/scoring_time_share)": [^,}]+'
    log, count = re.subn(pattern, rb'"\1": 0', (folder / "log.jsonl").read_bytes())
    assert count == 2 * log.count(b"\n")
    return log


def test_a_log_is_appended_to_and_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.jsonl")
    state = TrainerState(is_world_process_zero=True)

    def lines() -> list[bytes]:
        return log.path.read_bytes().splitlines(keepends=True)

    def step(number: int) -> None:
        state.log_history.append({"step": number, "loss": math.nan, "a": 0.1})
        log.on_log(None, state, None)

    log.path.write_text("of another attempt\n")
    log.on_train_begin(None, state, None)
    inode = log.path.stat().st_ino
    for number in (1, 2, 3):
        step(number)
    straight = lines()
    assert straight[0] == b'{"step": 1, "loss": NaN, "a": 0.1}\n'
    assert log.path.stat().st_ino == inode, "the file was written anew"

    checkpoint = json.loads(json.dumps(state.log_history[:2], sort_keys=True))
    with log.path.open("ab") as file:
        file.write(b'{"step": 4, "lo')
    state.log_history = list(checkpoint)
    log.on_train_begin(None, state, None)
    assert lines() == straight[:2]
    step(3)
    state.log_history.append({"step": 3, "train_runtime": 5.0})
    log.on_log(None, state, None)
    assert lines() == straight

    log.path.unlink()  # or lost with the power
    cut_log(log.path, checkpoint)
    assert [json.loads(line)["step"] for line in lines()] == [1, 2]


@pytest.mark.parametrize(
    ("cores", "processes", "workers"), [(2, None, 2), (64, None, 4), (16, "8", 2), (4, "8", 1), (1, None, 1)]
)
def test_the_processes_of_a_node_share_its_cores_for_grading(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: str | None, workers: int
) -> None:
    monkeypatch.setattr("attnpo.training.run.usable_cores", lambda: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert grading_workers() == workers


def checkpoint(folder: Path, step: int, weights: str = "model.safetensors") -> Path:
    """The files of a checkpoint that a training needs to go on."""
    path = folder / f"checkpoint-{step}"
    (path / weights).parent.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    torch.save({}, path / "optimizer.pt")
    if weights.endswith(".safetensors"):
        save_file({"w": torch.ones(3)}, path / weights)
    else:
        torch.save({}, path / weights)
    return path


def test_a_sharded_checkpoint_of_the_end_is_passed_over(tmp_path: Path) -> None:
    for step in (4, 6):
        checkpoint(tmp_path, step, f"global_step{step}/mp_rank_00_model_states.pt")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-6"
    assert last_checkpoint(tmp_path, 8) == tmp_path / "checkpoint-6"
    assert last_checkpoint(tmp_path, 6) == tmp_path / "checkpoint-4"
    save_file({"w": torch.ones(3)}, tmp_path / "checkpoint-6" / "model.safetensors")
    assert last_checkpoint(tmp_path, 6) == tmp_path / "checkpoint-6"


def test_top_heads_need_the_probe(profile_file: Path, tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="run `attnpo probe` first"):
        train(load_profile(str(profile_file)), "top", tmp_path)


def test_the_profile_decides_every_argument(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(str(profile_file))
    config = config_of(profile, "attnpo", tmp_path, heads=[(2, 1)])
    assert (config.seed, config.max_steps, config.learning_rate, config.num_generations) == (5, 6, 1e-3, 4)
    assert (config.per_device_train_batch_size, config.generation_batch_size) == (8, 8)
    assert config.credit_config().warmup_steps == 2
    plain = config_of(profile, "tlmre", tmp_path)
    assert not plain.attnpo
    profile.train.grpo.update({"gradient_accumulation_steps": 4})
    assert config_of(profile, "tlmre", tmp_path).per_device_train_batch_size == 2
    profile.train.grpo.update({"gradient_accumulation_steps": 3})
    with pytest.raises(AttnPOError, match="8 rollouts a step do not divide by 3"):
        config_of(profile, "tlmre", tmp_path)
    profile.train.grpo.update({"gradient_acumulation_steps": 2})
    with pytest.raises(AttnPOError, match="train.grpo.gradient_acumulation_steps: TRL's GRPOConfig has no such"):
        config_of(profile, "tlmre", tmp_path)


def test_a_method_s_own_settings_go_over_the_profile_s(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(str(profile_file))
    section = changed(
        profile.method("tlmre"),
        estimator="grpo",
        phrases="published",
        grpo={"epsilon_high": 0.28, "learning_rate": 2e-6},
    )
    config = config_of(profile, section, tmp_path)
    assert (config.epsilon_high, config.learning_rate, config.phrases) == (0.28, 2e-6, "published")
    assert (config.advantage_estimator, config.scale_rewards) == ("grpo", "group")
    plain = config_of(profile, "tlmre", tmp_path)
    assert (plain.advantage_estimator, plain.scale_rewards, plain.phrases) == ("rloo", "none", "corrected")
    with pytest.raises(AttnPOError, match="method 'TLMRE': grpo.epsilon_hi: TRL's GRPOConfig has no such"):
        config_of(profile, changed(section, grpo={"epsilon_hi": 0.28}), tmp_path)


def test_heads_are_chosen_as_the_method_says(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(str(profile_file))
    model, _ = load_model(EMBEDDED)
    ranked = tuple(
        RankedHead(layer, head, 0.5 + (8 * layer + head) / 100, 0.0, 1.0) for layer, head in all_heads(model)
    )
    heads_file = tmp_path / "heads.json"
    HeadRanking("testbed", None, "corrected", 1, "made up", 1, 1, ranked).save(heads_file)

    def chosen(seed: int = 0, file: Path | None = heads_file, **changes: Any) -> list[Head] | None:
        return choose_heads(changed(profile.method("attnpo"), **changes), seed, file, profile.probe.heads, model)

    assert chosen(heads="top") == [(3, 7), (3, 6), (3, 5)]
    assert chosen(heads="top", n_heads=1) == [(3, 7)]
    assert chosen(heads="worst", n_heads=2) == [(0, 1), (0, 0)]
    assert chosen(heads="all", file=None) == [(layer, head) for layer in range(4) for head in range(8)]
    drawn = {seed: chosen(heads="random", seed=seed, file=None) for seed in range(5)}
    assert drawn[3] == chosen(heads="random", seed=3, file=None)
    assert len({str(heads) for heads in drawn.values()}) > 1
    assert all(heads is not None and len({tuple(head) for head in heads}) == 3 for heads in drawn.values())
    assert chosen(heads="oracle", file=None) is None
    assert chosen(heads=[(2, 1)], file=None) == [(2, 1)]
    with pytest.raises(AttnPOError, match="n_heads 33, but the model has 32"):
        chosen(heads="random", n_heads=33)
    with pytest.raises(AttnPOError, match="takes the probe's worst heads; run `attnpo probe` first"):
        chosen(heads="worst", file=None)


def test_target_lengths_are_in_the_prompt_and_in_the_column() -> None:
    items = [Problem(str(i), f"Problem {i}.", "1") for i in range(50)]
    assert training_rows(items, None, 0)[3] == {
        "prompt": [{"role": "user", "content": "Problem 3."}],
        "answer": "1",
        "id": "3",
    }
    target = TargetLengthSection(text="Think for {n} tokens.", low=40, high=60, evaluate=50)
    rows = training_rows(items, target, 0)
    for row in rows:
        assert row["prompt"][0]["content"] == f"Problem {row['id']}. Think for {row['target_length']} tokens."
    assert {row["target_length"] for row in rows} <= set(range(40, 61))
    assert len({row["target_length"] for row in rows}) > 10
    assert rows == training_rows(items, target, 0) != training_rows(items, target, 1)
    assert target.add_to("", target.evaluate) == " Think for 50 tokens."


def test_a_prefill_ends_the_prompts_of_the_trained_model_as_well(profile_file: Path, tmp_path: Path) -> None:
    """AutoThink from a profile; whoever asks its model later finds the prefill in the chat template."""
    profile = load_profile(str(profile_file))
    method = MethodSection(label="AutoThink", reward="autothink", prefill='..."\n')
    train(profile, method, tmp_path / "run", steps=1, save_steps=1)
    question = [{"role": "user", "content": "Start with 2. Add 3."}]
    plain = load_tokenizer("testbed").apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    tokenizer = load_tokenizer(str(tmp_path / "run" / "model"))
    assert tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False) == plain + '..."\n'
    assert '..."' not in tokenizer.apply_chat_template(question, tokenize=False)
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert math.isfinite(line["loss"])
    tokenizer.chat_template = None
    with pytest.raises(AttnPOError, match="prefill 'x' needs a tokenizer with one chat template"):
        prefilled(tokenizer, "x")
    prefilled(tokenizer, "")


def test_oracle_and_target_lengths_train_from_a_profile(profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(str(profile_file))
    target = TargetLengthSection(text="Think for {n} tokens.", low=40, high=60, evaluate=50)
    method = changed(profile.method("attnpo"), reward="l1_max", target_length=target, heads="oracle")
    model = train(profile, method, tmp_path / "run", steps=1, save_steps=1)
    assert (model / "config.json").is_file()


@pytest.mark.parametrize("heads", ["first_answer", "confidence", "prefix_gain"])
def test_other_signals_take_the_place_of_attention(heads: str, profile_file: Path, tmp_path: Path) -> None:
    profile = load_profile(str(profile_file))
    answers = {"samples": 1, "max_tokens": 48} if heads == "prefix_gain" else None
    method = changed(profile.method("attnpo"), heads=heads, credit={"schedule": False}, answers=answers)
    config = config_of(profile, method, tmp_path)
    assert (config.step_scores, config.heads) == ("labels" if heads == "first_answer" else heads, None)
    train(profile, method, tmp_path / "run", steps=1, save_steps=1, max_completion_tokens=200, prompts_per_step=8)
    (line,) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert 0 < line["attnpo/mean_gamma"] < 1


def test_prompts_over_the_limit_are_left_out(
    profile_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, tokenizer = load_model(EMBEDDED)
    rows = training_rows([Problem(str(n), "1 + " * n + "1", "1") for n in (1, 9, 3)], None, 0)
    lengths = {
        row["id"]: len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"])
        for row in rows
    }
    assert lengths["1"] < lengths["3"] < lengths["9"]
    with caplog.at_level("INFO"):
        assert drop_long_prompts(rows, tokenizer, lengths["3"]) == [rows[0], rows[2]]
    assert f"1 of 3 prompts have more than {lengths['3']} tokens" in caplog.text
    assert drop_long_prompts(rows, tokenizer, lengths["9"]) == rows
    with pytest.raises(AttnPOError, match=f"the shortest of 3 training prompts has {lengths['1']} tokens"):
        drop_long_prompts(rows, tokenizer, lengths["1"] - 1)

    # run_training applies the limit of its section, and none where there is none
    profile = load_profile(str(profile_file))
    with pytest.raises(AttnPOError, match="train.max_prompt_tokens is 2, but the shortest of 12000 training prompts"):
        train(profile, "tlmre", tmp_path / "run", max_prompt_tokens=2)


def test_no_limit_of_prompts_leaves_a_run_s_id_as_it_was(profile_file: Path) -> None:
    assert "max_prompt_tokens" not in train_spec(load_profile(str(profile_file)), "tlmre", 0)["train"]
    assert train_spec(load_profile("paper-1.5b"), "tlmre", 0)["train"]["max_prompt_tokens"] == 1024


def test_a_bfloat16_checkpoint_trains_as_its_float32_copy(
    profile_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Master weights: at a learning rate of 2e-6 a step is below the rounding of most bfloat16 weights."""
    model, tokenizer = load_model(EMBEDDED, dtype=torch.bfloat16)
    start = {name: weight.float() for name, weight in model.state_dict().items()}
    trained = {}
    for name, dtype in (("half", torch.bfloat16), ("full", torch.float32)):
        model.to(dtype).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        profile = dataclasses.replace(load_profile(str(profile_file)), model=str(tmp_path / name))
        with caplog.at_level("INFO"):
            folder = train(profile, "tlmre", tmp_path / f"run-{name}", steps=3, save_steps=3, learning_rate=2e-6)
        assert f"trained in float32 (the checkpoint's are {str(dtype)[6:]}), the passes run in float32" in caplog.text
        trained[name] = load_file(folder / "model.safetensors")
        # whoever samples with the checkpoint's own dtype gets the one that the untrained model has
        assert load_model(str(folder))[0].dtype == dtype
    half, full = trained["half"], trained["full"]
    assert half.keys() == full.keys()
    assert all(torch.equal(half[name], full[name]) for name in half)  # both start from the same numbers
    moved = [(half[name] != start[name]).float().mean().item() for name in half]
    rounded = [(half[name].bfloat16().float() != start[name]).float().mean().item() for name in half]
    assert sum(moved) / len(moved) > 0.9
    assert sum(rounded) / len(rounded) < 0.1  # what would have moved in bfloat16, at the most


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    for step in (2, 10, 4):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"


def test_folders_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    for name in ("checkpoint-", "checkpoint-best", "checkpoint-4x", "checkpoint--4", "checkpoint-2.old"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-8").write_text("a file")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("trainer_state.json", b"[]", "that of another step"),
        ("trainer_state.json", b'{"global_step": 3}', "that of another step"),
        ("trainer_state.json", b"\xff", "can't decode"),
        ("model.safetensors", None, "it has no weights"),
        ("model.safetensors", b"", "model.safetensors: "),
        ("model.safetensors", b"half", "model.safetensors: "),
        ("optimizer.pt", None, "it has no state of the optimizer"),
        ("optimizer.pt", b"PK half", "optimizer.pt is cut"),
        ("rng_state.pth", b"", "rng_state.pth is cut"),
    ],
)
def test_a_hollow_checkpoint_is_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes | None, why: str
) -> None:
    checkpoint(tmp_path, 2)
    hollow = checkpoint(tmp_path, 4)
    assert last_checkpoint(tmp_path) == hollow
    (hollow / name).unlink() if content is None else (hollow / name).write_bytes(content)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert "checkpoint-4 is not whole (" in caplog.text and why in caplog.text


if __name__ == "__main__":  # the run that is killed
    train(load_profile(sys.argv[1]), "attnpo", Path(sys.argv[2]))
