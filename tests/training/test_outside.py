"""The trainer in a user's own program: the README's example, heads that a model lacks, the card of what it trains."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from fakes import correctness
from huggingface_hub import ModelCard
from places import ROOT
from small_training import TWO_STEPS

import attnpo
from attnpo.errors import AttnPOError
from attnpo.testbed import MODEL_DIR
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

ROWS = [{"prompt": [{"role": "user", "content": "Compute 6 * 7."}], "answer": "42"}]


def trainer(folder: Path, **changes: Any) -> AttnPOTrainer:
    arguments = {**TWO_STEPS, "per_device_train_batch_size": 4, "max_completion_length": 16, "heads": [[1, 2]]}
    return AttnPOTrainer(
        str(MODEL_DIR),
        correctness,
        AttnPOConfig(str(folder), **{**arguments, **changes}),
        train_dataset=datasets.Dataset.from_list(ROWS),
    )


def test_the_readme_s_example_runs_without_a_gpu(tmp_path: Path) -> None:
    """As it stands, but for the model, its heads, and a budget of tokens and steps that suits a test."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    for old, new in (
        ('"deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"', repr(str(MODEL_DIR))),
        ("[(16, 2), (20, 9), (23, 2)]", "[(1, 2), (3, 0)]"),
        ('AttnPOConfig("out", ', 'AttnPOConfig("out", max_steps=1, max_completion_length=16, save_steps=1, '),
    ):
        assert example.count(old) == 1
        example = example.replace(old, new)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "checkpoint-1" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([[1, 2], [4, 0]], r"no \(layer, head\) \(4, 0\): give layers 0 to 3 and heads 0 to 7"),
        ([[1, 8]], r"no \(layer, head\) \(1, 8\)"),
        ([1, 2], r"heads\[0\]: 1 is not a list"),
        ([[1, 2, 3]], r"heads\[0\]: \[1, 2, 3\] must have a length of at most 2"),
        ([[1, "2"]], r"heads\[0\]\[1\]: '2' is not a whole number"),
    ],
)
def test_heads_that_cannot_be_are_refused_before_a_step(tmp_path: Path, heads: Any, message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        trainer(tmp_path, heads=heads)


def test_the_model_card_names_base_heads_settings_and_paper(tmp_path: Path) -> None:
    ours = trainer(tmp_path / "mine", length_reward_args={"alpha": 0.3})
    ours.create_model_card(model_name="my-model", tags="more")
    card: Any = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.model_name, card.data.library_name) == ("my-model", "transformers")
    assert (card.data.base_model, card.data.datasets, card.data.license) == (None, None, None)
    assert {"trl", "attnpo", "more"} <= set(card.data.tags)
    text = card.text
    assert "- base model: model\n" in text and "- data: a data set without a name\n" in text
    assert "- heads as (layer, head), both from 0: (1, 2)\n" in text
    assert '- length reward: `tlmre` with `{"alpha": 0.3}`\n' in text
    assert "- rollouts: 4 for each of 1 problems, sampled anew every step\n" in text
    assert "- optimizer steps: 0\n" in text and f"attnpo {attnpo.__version__}" in text
    assert "https://huggingface.co/papers/2602.09953" in text
    assert "@inproceedings{nie-etal-2026-attnpo," in text and "@software{vonwerra2020trl," in text
    for wrong in (str(MODEL_DIR.parent), str(tmp_path), str(Path.home()), "None\n"):
        assert wrong not in str(card), wrong
    ours.model.config._name_or_path = "owner/Base"
    ours.model.config._commit_hash = "abc"
    ours.create_model_card(dataset_name="owner/data")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert (card.data.base_model, card.data.datasets, card.data.model_name) == ("owner/Base", "owner/data", "mine")
    assert "- base model: [owner/Base](https://huggingface.co/owner/Base) at revision abc\n" in card.text
    assert "- data: [owner/data](https://huggingface.co/datasets/owner/data)\n" in card.text


def test_the_card_of_a_length_reward_alone_does_not_speak_of_attnpo_s_method(tmp_path: Path) -> None:
    trainer(tmp_path, attnpo=False, max_steps=1, save_strategy="steps", save_steps=1).train()
    card: Any = ModelCard.load(tmp_path / "README.md")
    assert (
        "trained further by reinforcement learning with the length reward tlmre, by the package attnpo on [TRL]"
        in card.text
    )
    assert "- optimizer steps: 1\n" in card.text
    assert "attnpo" not in card.data.tags
    for wrong in ("AttnPO", "heads", "2602.09953", "DeepSeekMath", "None\n"):
        assert wrong not in card.text, wrong
