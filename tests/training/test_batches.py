"""Micro-batches of like length: the same rows, less padding, the same gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from test_methods import ROWS, SETTINGS, every_other
from transformers import AutoModelForCausalLM, AutoTokenizer

from attnpo.testbed import MODEL_DIR
from attnpo.training.batches import of_like_length, span
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer


def batch(lengths: list[int], width: int = 9) -> dict[str, Any]:
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {"completion_mask": mask, "row": torch.tensor(lengths) * 10, "num_items_in_batch": torch.tensor(7)}


def test_rows_are_dealt_by_length_within_a_step_alone() -> None:
    batches = [batch([1, 9]), batch([5, 2]), batch([3, 3]), batch([8, 4])]
    dealt = of_like_length(batches, 2)
    assert [b["row"].tolist() for b in dealt] == [[90, 50], [20, 10], [80, 40], [30, 30]]
    assert [b["completion_mask"].sum(1).tolist() for b in dealt] == [[9, 5], [2, 1], [8, 4], [3, 3]]
    assert all(b["num_items_in_batch"] == 7 for b in dealt)


def test_what_is_not_a_tensor_leaves_the_batches_alone() -> None:
    batches = [batch([1, 9]) | {"num_images": [1, 2]}, batch([5, 2]) | {"num_images": [0, 1]}]
    assert of_like_length(batches, 2) is batches


def test_span() -> None:
    assert span(torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])) == (1, 4)
    assert span(torch.zeros(2, 3)) == (0, 1)


def trained(tmp_path: Path, **changes: Any) -> tuple[AttnPOTrainer, list[int]]:
    """A trainer after two steps of four micro-batches, and the columns of each forward pass of the loss."""
    more = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "attnpo": True} | changes
    trainer = AttnPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        reward_funcs=every_other,
        args=AttnPOConfig(output_dir=str(tmp_path), **SETTINGS | more),
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )
    widths: list[int] = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]) if torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    trainer.train()
    return trainer, widths


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_the_order_of_micro_batches_changes_the_gradient_by_rounding_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss_type: str
) -> None:
    settings = {"loss_type": loss_type, "max_steps": 1, "max_completion_length": 160}
    dealt, narrow = trained(tmp_path / "dealt", **settings)
    monkeypatch.setattr("attnpo.training.trainer.of_like_length", lambda batches, window: batches)
    plain, wide = trained(tmp_path / "plain", **settings)
    assert sum(narrow) < sum(wide)
    for (name, one), (_, other) in zip(dealt.model.named_parameters(), plain.model.named_parameters(), strict=True):
        # Adam's first step is the sign of the gradient times the learning rate where the gradient is not noise.
        assert one.grad is None and other.grad is None
        close = (one - other).abs() <= 1e-5
        assert close.double().mean() > 0.99, name


def test_losses_that_divide_by_a_micro_batch_are_left_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("dealt")

    monkeypatch.setattr("attnpo.training.trainer.of_like_length", refuse)
    trained(tmp_path, loss_type="bnpo", max_steps=1)
