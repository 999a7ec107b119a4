"""Batches of the scoring pass; the scores themselves: test_attention.py."""

from __future__ import annotations

import pytest

from attnpo.method.scores import in_batches


@pytest.mark.parametrize(
    ("lengths", "tokens", "batches"),
    [
        ([], 100, []),
        ([10, 30, 20, 40], 60, [[0, 2], [1], [3]]),
        ([10, 10, 10, 10], 20, [[0, 1], [2, 3]]),
        ([500, 10], 100, [[1], [0]]),
        ([10, 30, 20], 90, [[0, 2, 1]]),
    ],
)
def test_batches_count_tokens_with_their_padding(lengths: list[int], tokens: int, batches: list[list[int]]) -> None:
    assert in_batches(lengths, tokens) == batches
