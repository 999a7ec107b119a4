"""AttnPOConfig refuses what cannot be right; what the trainer leans on in TRL: contract/test_trl.py."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from attnpo.errors import AttnPOError
from attnpo.method.credit import CreditConfig
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.training.trainer import AttnPOConfig


def config(tmp_path: Path, **changes: Any) -> AttnPOConfig:
    arguments = {"bf16": False, "use_cpu": True, "report_to": "none", "heads": [[0, 1]], **changes}
    return AttnPOConfig(output_dir=str(tmp_path), **arguments)


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert (made.learning_rate, made.num_generations, made.max_completion_length) == (2e-6, 8, 16384)
    assert (made.scale_rewards, made.beta, made.epsilon, made.temperature) == ("none", 0.0, 0.2, 1.0)
    assert made.vllm_importance_sampling_mode == "token_truncate"
    assert made.credit_config() == CreditConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": None}, "heads is empty; find heads with `attnpo probe`"),
        ({"length_reward": "tlmr"}, "length_reward is 'tlmr'; choose one of .*tlmre"),
        ({"advantage_estimator": "gae"}, "choose one of rloo, centred, grpo, batch"),
        ({"scale_rewards": "group"}, "the estimator 'rloo' does not divide"),
        (
            {"length_reward": "dler", "credit": {"length_credit": "redundant"}},
            "length_credit is 'redundant', but 'batch' whitens over the batch",
        ),
        ({"credit": {"length_credit": "no"}}, "length_credit: 'no' is not 'all' or 'redundant'"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        config(tmp_path, **changes)


def test_heads_may_be_what_the_probe_wrote(tmp_path: Path) -> None:
    ranked = tuple(RankedHead(layer, 0, (5 + layer) / 10, 0.1, 0.95) for layer in range(5))
    path = tmp_path / "heads.json"
    HeadRanking("m", None, "corrected", 80, "first_answer", 40, 99, ranked).save(path)
    for given in (str(path), path):
        assert config(tmp_path, heads=given).heads == [[4, 0], [3, 0], [2, 0]]
    with pytest.raises(AttnPOError, match="missing.json.*write it with `attnpo probe`"):
        config(tmp_path, heads=str(tmp_path / "missing.json"))


def test_an_unknown_credit_field_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="no field 'warmup'; it has .*warmup_steps"):
        config(tmp_path, credit={"warmup": 3}).credit_config()


def test_save_steps_between_two_generations_is_refused_with_the_right_value(tmp_path: Path) -> None:
    accumulated = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "steps_per_generation": 8}
    with pytest.raises(AttnPOError, match="save_steps is 6, .* every 4 steps.* set save_steps to 8"):
        config(tmp_path, save_steps=6, **accumulated)
    assert config(tmp_path, save_steps=8, **accumulated).save_steps == 8
    with pytest.raises(AttnPOError, match="save_steps is 3, .* every 2 steps"):
        config(tmp_path, save_steps=3, num_iterations=2)
    assert config(tmp_path, save_steps=3).save_steps == 3


@pytest.mark.parametrize(
    ("found", "fits"), [("0.21.9", False), ("0.22.0", True), ("0.31.0+cpu", True), ("0.32.0", False)]
)
def test_a_vllm_that_trl_does_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, fits: bool
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found if name == "vllm" else version(name))
    if fits:
        assert config(tmp_path, use_vllm=True).use_vllm
    else:
        with pytest.raises(AttnPOError, match=f"vLLM {found} is installed, but TRL 1.16 takes 0.22.0 to 0.31.0"):
            config(tmp_path, use_vllm=True)
