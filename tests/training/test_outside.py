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
from places import ROOT
from small_training import TWO_STEPS

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


def test_the_model_card_names_the_paper_and_the_base(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.create_model_card(model_name="mine")
    card = (tmp_path / "README.md").read_text()
    assert "trained with AttnPO, a method introduced in [AttnPO: Attention-Guided Process" in card
    assert "(https://huggingface.co/papers/2602.09953)" in card
    assert "Cite AttnPO as:\n\n```bibtex\n@inproceedings{nie-etal-2026-attnpo," in card
    assert "fine-tuned version of testbed/model.\n" in card
    assert str(MODEL_DIR.parent) not in card
    assert "None" not in card
    ours.model.config._name_or_path = "owner/Base"
    ours.create_model_card(model_name="mine")
    card = (tmp_path / "README.md").read_text()
    assert "base_model: owner/Base" in card
    assert "fine-tuned version of [owner/Base](https://huggingface.co/owner/Base)" in card


def test_the_card_of_a_length_reward_alone_does_not_speak_of_attnpo(tmp_path: Path) -> None:
    trainer(tmp_path, attnpo=False, max_steps=1, save_strategy="steps", save_steps=1).train()
    card = (tmp_path / "README.md").read_text()
    assert "This model was trained with tlmre.\n" in card
    for wrong in ("attnpo", "AttnPO", "DeepSeekMath", "None"):
        assert wrong not in card, wrong
