"""Bad input is one line with the value and the remedy and exit code 2, before a model is loaded."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fakes import PROFILE, fake_profile, write_profile

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.rewards import REWARDS, check_reward, context_fields
from attnpo.runs.profile import load_profile
from attnpo.training.config import AttnPOConfig
from attnpo.training.run import run_training


def profile_with(folder: Path, keys: str, value: object) -> str:
    """The fake profile as a file, the key at `a.b.c` set."""
    mapping = yaml.safe_load(yaml.safe_dump(PROFILE))
    *above, last = keys.split(".")
    section = mapping
    for key in above:
        section = section.setdefault(key, {})
    section[last] = value
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return str(path)


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that ends with exit code 2."""
    assert main(list(words)) == 2
    err = capsys.readouterr().err
    assert err.startswith("attnpo: ") and err.count("\n") == 1, err
    return err


# numbers

METHOD = PROFILE["methods"]["attnpo"]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("train.steps", -1, "train.steps: -1 must be at least 1"),
        ("train.group_size", 1, "train.group_size: 1 must be at least 2"),
        ("train.learning_rate", -1.0, "train.learning_rate: -1.0 must be above 0"),
        ("train.learning_rate", float("nan"), "train.learning_rate: nan is not a finite number"),
        ("train.learning_rate", float("inf"), "train.learning_rate: inf is not a finite number"),
        ("train.temperature", 0, "train.temperature: 0 must be above 0"),
        ("train.max_completion_tokens", -5, "train.max_completion_tokens: -5 must be at least 1"),
        ("train.save_steps", 0, "train.save_steps: 0 must be at least 1"),
        ("methods.attnpo.snapshots", -1, "methods.attnpo.snapshots: -1 must be at least 1"),
        ("probe.problems", -1, "probe.problems: -1 must be at least 1"),
        ("probe.batch_size", 0, "probe.batch_size: 0 must be at least 1"),
        ("evaluate.limit", 0, "evaluate.limit: 0 must be at least 1"),
        ("evaluate.top_p", 1.5, "evaluate.top_p: 1.5 must be at most 1"),
        ("seeds", [2**32], "seeds[0]: 4294967296 must be below 4294967296"),
        ("methods.attnpo.heads", [[0, 1], [1, 0], [0, 1]], "methods.attnpo.heads: head [0, 1] stands twice"),
        ("study", {"problems": 1, "samples": 1, "max_completion_tokens": 1, "heads": [[2, 2], [2, 2]]},
         "study.heads: head [2, 2] stands twice"),
        ("methods.rloo.grpo", {"learning_rate": -1.0}, "methods.rloo.grpo.learning_rate: -1.0 must be at least 0"),
        ("methods.rloo.grpo", {"temperature": 0}, "methods.rloo.grpo.temperature: 0 must be above 0"),
        ("methods.rloo.grpo", {"num_generations": 1}, "methods.rloo.grpo.num_generations: 1 must be at least 2"),
        ("methods.rloo.grpo", {"max_completion_length": -1}, "grpo.max_completion_length: -1 must be at least 1"),
        ("train.grpo", {"top_p": 2}, "train.grpo.top_p: 2 must be at most 1"),
        ("train.grpo", {"per_device_train_batch_size": 0}, "grpo.per_device_train_batch_size: 0 must be at least 1"),
    ],
)  # fmt: skip
def test_numbers_out_of_range(tmp_path: Path, keys: str, value: object, message: str) -> None:
    with pytest.raises(AttnPOError) as caught:
        load_profile(profile_with(tmp_path, keys, value))
    assert str(caught.value).startswith("changed.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("command", [["train", "--method", "rloo"], ["eval", "--method", "base"]])
def test_seeds_beyond_32_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], seed: int
) -> None:
    words = ["--profile", str(write_profile(tmp_path)), "--results", str(tmp_path), "--seed", str(seed)]
    assert f"seed {seed} does not fit into 32 bits" in fails(capsys, *command, *words)
    free = ["eval", "--model", "testbed", "--tasks", "attnpo_testbed_test", "--results", str(tmp_path)]
    assert "does not fit into 32 bits" in fails(capsys, *free, "--seed", str(seed))


def test_a_budget_beyond_the_context_in_training_and_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnpo.probing.probe import run_probe

    monkeypatch.setattr("attnpo.training.run.load_model", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("attnpo.sampling.backends.load_model", lambda *_, **__: pytest.fail("loaded"))
    profile = fake_profile(tmp_path)
    long = dataclasses.replace(profile.train, max_completion_tokens=1020)
    message = "a budget of 1020 exceed the model's context of 1024 tokens"
    with pytest.raises(AttnPOError, match=message):
        run_training(profile.source, profile.steps, long, profile.method("rloo"), 0, None, 3, tmp_path / "run")
    probed = dataclasses.replace(profile.probe, max_completion_tokens=1020)
    with pytest.raises(AttnPOError, match=message):
        run_probe(profile.source, profile.steps, probed, tmp_path / "probe")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--draws 0", "report: draws: 0 must be at least 1"),
        ("--confidence 1", "report: confidence: 1.0 must be below 1"),
        ("--confidence nan", "report: confidence: nan is not a finite number"),
        ("--bootstrap-seed -1", "report: bootstrap_seed: -1 must be at least 0"),
        ("--budgets 100 0", "report: budgets[1]: 0 must be at least 1"),
    ],
)
def test_numbers_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert message in fails(capsys, "report", str(tmp_path), *words.split(), "--out", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--limit 0", "eval: limit: 0 must be at least 1"),
        ("--batch-size 0", "eval: batch_size: 0 must be at least 1"),
        ("--top-p 1.5", "eval: top_p: 1.5 must be at most 1"),
        ("--temperature -1", "eval: temperature: -1.0 must be at least 0"),
        ("--max-tokens -5", "eval: max_tokens: -5 must be at least 1"),
        ("--processes 0", "0 sampling processes; take 1 or more"),
        ("--max-tokens 1020", "a budget of 1020 exceed the model's context of 1024 tokens"),
    ],
)
def test_numbers_of_an_evaluation(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    message: str,
) -> None:
    monkeypatch.setattr("attnpo.sampling.backends.load_model", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("attnpo.sampling.backends.visible_gpus", list)
    model = ["--model", "testbed", "--tasks", "attnpo_testbed_test", "--results", str(tmp_path / "results")]
    assert message in fails(capsys, "eval", *model, *words.split())


# profiles


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        *((key, name, f"{where}: {name!r} names files and folders; let it begin")
          for name in ("a/b", "..", "../x", "", "a\\b", "a\0b", "-x")
          for key, where in (("name", "name"),)),
        ("methods", {"a/b": METHOD}, "methods: 'a/b' names files and folders"),
        ("methods", {"..": METHOD}, "methods: '..' names files and folders"),
        ("artefacts", {"../x": {"methods": ["rloo"]}}, "artefacts: '../x' names files and folders"),
        ("methods", {}, "methods: {} is empty; add a method"),
        ("methods", ["rloo"], "methods: ['rloo'] is not a mapping"),
        ("evaluate.tasks", [], "evaluate.tasks: [] must have a length of at least 1"),
        ("evaluate.tasks", ["a", "a"], "evaluate.tasks: 'a' stands twice; leave it out"),
        ("artefacts", {"table1": {"methods": ["rloo", "rloo"]}}, "artefacts.table1.methods: 'rloo' stands twice"),
        *(("extends", name, f"extends: {name!r} is no other file beside it")
          for name in ("../fake.yaml", "/etc/passwd", "", "changed.yaml")),
        ("train.grpo", {"output_dir": "x"}, "train.grpo: 'output_dir' is not for grpo: the checkpoints lie in the run"),
        ("methods.rloo.grpo", {"output_dir": "x"}, "methods.rloo.grpo: 'output_dir' is not for grpo"),
        ("train.grpo", {"max_steps": 3}, "'max_steps' is not for grpo: set train.steps"),
        ("train.grpo", {"push_to_hub": True}, "'push_to_hub' is not for grpo: `attnpo push` uploads a trained model"),
        ("train.grpo", {"hub_token": "x"}, "'hub_token' is not for grpo: `attnpo push` uploads a trained model"),
        ("train.grpo", {"learning_rate": 1e-5}, "'learning_rate' is not for grpo: set train.learning_rate"),
        ("methods.rloo.grpo", {"seed": 3}, "'seed' is not for grpo: set seeds"),
        ("methods.rloo.tune", [{"grpo": {"heads": [[0, 0]]}}], "methods.rloo.tune[0].grpo: 'heads' is not for grpo"),
    ],
)  # fmt: skip
def test_profiles_that_cannot_be(tmp_path: Path, keys: str, value: object, message: str) -> None:
    with pytest.raises(AttnPOError) as caught:
        load_profile(profile_with(tmp_path, keys, value))
    assert str(caught.value).startswith("changed.yaml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_people_give_stay(tmp_path: Path) -> None:
    method = {"label": "x", "reward": "rloo"}
    names = ["a.b c-d", "ü", "tlmre (α=.2, β)", "短"]
    profile = fake_profile(tmp_path, name="Größe 1.5b_v2-x", methods=dict.fromkeys(names, method))
    assert list(profile.methods) == names


@pytest.mark.parametrize("words", [["no-such-launcher", "launch"], ["/nowhere/launch"], [""]])
def test_a_launcher_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    profile = write_profile(tmp_path, launch={"train": words})
    err = fails(capsys, "run", "table1", "--profile", str(profile), "--results", str(tmp_path / "results"))
    assert f"launch.train: no program {words[0]!r} is installed; install it" in err
    assert not (tmp_path / "results").exists()


def test_names_that_trl_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnpo.training.run.load_model", lambda *_, **__: pytest.fail("loaded"))
    profile = fake_profile(tmp_path)
    method = dataclasses.replace(profile.method("rloo"), grpo={"epsilon_hi": 0.28})
    with pytest.raises(AttnPOError, match="grpo.epsilon_hi: TRL's GRPOConfig has no such argument"):
        run_training(profile.source, profile.steps, profile.train, method, 0, None, 3, tmp_path / "run")


# from Python

PLAIN: dict[str, Any] = {"bf16": False, "use_cpu": True, "report_to": "none", "attnpo": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate: -1.0 must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is not a finite number"),
        ({"temperature": 0.0}, "temperature: 0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p: 1.5 must be at most 1"),
        ({"num_generations": 1}, "num_generations: 1 must be at least 2"),
        ({"max_completion_length": -1}, "max_completion_length: -1 must be at least 1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: 0 must be at least 1"),
        ({"seed": 2**32}, "seed: 4294967296 must be below 4294967296"),
        ({"save_strategy": "steps", "save_steps": 0}, "save_steps is 0; give a number of steps, at least 1"),
        ({"heads": [0, 1]}, "heads[0]: 0 is not a list"),
        ({"heads": [[0, 1, 2]]}, "heads[0]: [0, 1, 2] must have a length of at most 2"),
        ({"heads": [[0]]}, "heads[0][1]: missing"),
        ({"heads": "top"}, "top: No such file or directory; write it with `attnpo probe`"),
        ({"heads": 7}, "heads: 7 is not a list"),
        ({"heads": ["01"]}, "heads[0]: '01' is not a list"),
        ({"heads": [[0.7, 1]]}, "heads[0][0]: 0.7 is not a whole number"),
        ({"heads": [[0, -1]]}, "heads[0][1]: -1 must be at least 0"),
        ({"heads": [[0, 1], [0, 1]]}, "heads: head [0, 1] stands twice"),
        ({"heads": torch.tensor([[0.5, 1.0]])}, "heads[0][0]: 0.5 is not a whole number"),
        ({"scoring_batch_tokens": 0}, "scoring_batch_tokens: 0 must be at least 1"),
        ({"scoring_chunk_rows": -1}, "scoring_chunk_rows: -1 must be at least 1"),
        ({"min_step_chars": -1}, "min_step_chars: -1 must be at least 0"),
        ({"lone_trigger_chars": None}, "lone_trigger_chars: None is not a whole number"),
        ({"phrases": "mine"}, "phrases: 'mine' is not"),
        ({"credit": {"floor": "0"}}, "credit.floor: '0' is not a number"),
        ({"credit": {"warmup_steps": -1}}, "credit: warmup_steps -1.0 must be finite and not negative"),
        ({"credit": "published"}, "credit: 'published' is not a mapping"),
        ({"credit": {"warmup": 1}}, "credit has no field 'warmup'; it has attenuation_exponent, "),
        ({"length_reward_args": "alpha"}, "length_reward_args: 'alpha' is not a mapping"),
        ({"length_reward_args": {"alpha": None}}, "reward 'tlmre' cannot take {'alpha': None}"),
        ({"length_reward_args": {"alpha": "0.2"}}, "reward 'tlmre' cannot take {'alpha': '0.2'}"),
    ],
)
def test_the_configuration_checks_its_numbers(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError) as caught:
        AttnPOConfig(str(tmp_path), **{**PLAIN, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_heads_may_be_an_array_or_tuples(tmp_path: Path) -> None:
    for heads in (np.array([[0, 1]]), torch.tensor([[0, 1]]), [(np.int64(0), np.int64(1))], ((0, 1),)):
        made = AttnPOConfig(str(tmp_path), **{**PLAIN, "attnpo": True}, heads=heads)
        assert [(int(layer), int(head)) for layer, head in made.heads or []] == [(0, 1)]


@pytest.mark.parametrize("value", [None, "x", [], [1], {}, float("nan"), float("inf"), 10**30])
def test_no_argument_of_a_reward_ends_in_a_traceback(value: object) -> None:
    refused = 0
    for name, reward in REWARDS.items():
        for key in set(inspect.signature(reward.rewards).parameters) - context_fields(name):
            if key not in ("lengths", "correct", "group_size"):
                try:
                    check_reward(name, {key: value}, 4)
                except AttnPOError:
                    refused += 1
    assert refused >= 14


@pytest.mark.parametrize("arguments", [None, "alpha", [0.2], 3])
def test_the_arguments_of_a_reward_are_a_mapping(arguments: Any) -> None:
    with pytest.raises(AttnPOError, match="arguments of reward 'tlmre': .* is not a mapping"):
        check_reward("tlmre", arguments, 4)
