"""Tokens are taken out of the middle of responses, and what belongs to the others stays with them."""

from __future__ import annotations

from typing import Any

import torch

from attnpo.training.cropping import cropped


def rollouts() -> dict[str, Any]:
    """Responses of 6, 4 and 2 tokens, padded to 6; each value says where it was."""
    places = torch.arange(1, 19).view(3, 6)
    mask = (torch.arange(6) < torch.tensor([[6], [4], [2]])).long()
    return {
        "prompt_ids": torch.ones(3, 9),
        "completion_ids": places,
        "completion_mask": mask,
        "advantages": places.double(),
        "old_per_token_logps": -places.float(),
        "importance_sampling_ratio": places.float(),
        "num_items_in_batch": mask.sum(),
    }


def test_what_stays_moves_together() -> None:
    found, lost = cropped(rollouts(), torch.tensor([[1, 4], [0, 0], [2, 2]]))
    assert found["completion_ids"].tolist() == [[1, 5, 6, 0], [7, 8, 9, 10], [13, 14, 15, 16]]
    assert found["completion_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert found["advantages"].tolist() == found["completion_ids"].tolist()
    assert found["old_per_token_logps"][0, :3].tolist() == [-1, -5, -6]
    assert found["importance_sampling_ratio"].tolist() == [[1, 1, 1, 1], [7, 8, 9, 10], [13, 14, 15, 16]]
    assert found["prompt_ids"].shape == (3, 9)
    assert lost.tolist() == [True, False, False]


def test_nothing_to_crop_changes_nothing() -> None:
    before = rollouts()
    found, lost = cropped(before, torch.tensor([[3, 3], [0, 0], [5, 5]]))
    assert not lost.any()
    assert all(torch.equal(found[name], before[name]) for name in before)


def test_a_ratio_of_whole_responses_is_one_where_tokens_went() -> None:
    before = rollouts() | {"importance_sampling_ratio": torch.tensor([[3.0], [4.0], [5.0]])}
    found, _ = cropped(before, torch.tensor([[0, 6], [1, 2], [0, 0]]))
    assert found["importance_sampling_ratio"].tolist() == [[1], [1], [5]]
    assert found["completion_mask"].tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 0]]
