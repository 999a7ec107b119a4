"""Micro-batches of like length, so that little of a forward pass is padding.

TRL shuffles the rollouts of a process, cuts them into micro-batches and leaves each as wide as the longest response of
all. Within an optimizer step the gradient is a sum over the responses, so which micro-batch holds a response changes
nothing, as long as the loss does not divide by what a micro-batch holds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ORDERLESS_LOSSES = ("grpo", "dapo", "dr_grpo")
"""Loss types of TRL that divide by numbers which do not depend on how an optimizer step is cut into micro-batches."""


def of_like_length(batches: list[dict[str, Any]], window: int) -> list[dict[str, Any]]:
    """Deal the rows of each `window` micro-batches out again, the longest responses first.

    Args:
        batches: micro-batches of one size, tensors (B, ...) and scalars by name, with `completion_mask` (B, T).
        window: micro-batches of an optimizer step.

    Returns:
        As many micro-batches of the same size; `batches` itself where a value is no tensor.
    """
    if any(not isinstance(value, Tensor) for batch in batches for value in batch.values()):
        return batches  # images are counted in lists
    dealt = []
    for start in range(0, len(batches), window):
        of_step = batches[start : start + window]
        lengths = torch.cat([batch["completion_mask"].sum(1) for batch in of_step])
        order = lengths.argsort(descending=True, stable=True)
        size = len(of_step[0]["completion_mask"])
        joined = {
            name: value if value.ndim == 0 else torch.cat([batch[name] for batch in of_step])[order]
            for name, value in of_step[0].items()
        }
        dealt += [
            {name: value if value.ndim == 0 else value[i : i + size] for name, value in joined.items()}
            for i in range(0, len(order), size)
        ]
    return dealt


def span(mask: Tensor) -> tuple[int, int]:
    """The first and one past the last column of a mask (B, T) in which any row has a 1; (0, 1) if there is none."""
    columns = mask.any(0).nonzero()[:, 0]
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
