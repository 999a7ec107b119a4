"""What a trainer is given from Python is checked before its first step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from fakes import correctness
from small_training import TWO_STEPS

from attnpo.errors import AttnPOError
from attnpo.sampling.models import load_model
from attnpo.testbed import EMBEDDED
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

ROW = {"prompt": [{"role": "user", "content": "1 + 1"}], "answer": "2"}
SMALL: dict[str, Any] = {**TWO_STEPS, "per_device_train_batch_size": 8, "max_completion_length": 4, "heads": [[3, 7]]}


def trainer(tmp_path: Path, reward: Any = correctness, rows: int = 2, **changes: Any) -> AttnPOTrainer:
    model, tokenizer = load_model(EMBEDDED)
    return AttnPOTrainer(
        model=model,
        reward_funcs=reward,
        args=AttnPOConfig(output_dir=str(tmp_path), **{**SMALL, **changes}),
        train_dataset=datasets.Dataset.from_list([ROW] * 2).select(range(rows)),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_a_data_set_without_a_step_is_refused(tmp_path: Path, rows: int) -> None:
    with pytest.raises(AttnPOError, match=f"the data set has {rows} prompts, but rollouts are generated for 2 at once"):
        trainer(tmp_path, rows=rows)


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda n: None, "'reward' returned None for 8 completions; return a list with a number for each"),
        (lambda n: "x" * n, "'reward' returned 'xxxxxxxx' for 8 completions"),
        (lambda n: 1.0, "'reward' returned 1.0 for 8 completions"),
        (lambda n: [1.0] * (n - 1), "'reward' returned 7 values for 8 completions"),
        (lambda n: torch.ones(n + 1), "'reward' returned 9 values for 8 completions"),
        (lambda n: ["1"] * n, "'reward' returned '1' for a completion; return a number"),
        (lambda n: [[1.0]] * n, r"'reward' returned \[1.0\] for a completion"),
        (lambda n: [None] * n, "must return correctness, 0 or 1, but returned nan"),
        (lambda n: [0.5] * n, "must return correctness, 0 or 1, but returned 0.5"),
    ],
)
def test_what_a_reward_function_returns_is_checked(tmp_path: Path, returns: Callable[[int], Any], message: str) -> None:
    def reward(completions: list[Any], **_: Any) -> Any:
        return returns(len(completions))

    with pytest.raises(AttnPOError, match=message):
        trainer(tmp_path, reward).train()


def test_a_training_that_rescales_nothing_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def alternating(completions: list[Any], **_: Any) -> torch.Tensor:
        return torch.arange(len(completions)) % 2

    for changes, warned in (({}, 1), ({"attnpo": False}, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "attnpo"):
            trainer(tmp_path, alternating, **changes).train()
        assert caplog.text.count("NO RESPONSE WAS RESCALED") == warned
