"""Labels against exact ones, with every share worked out by hand."""

from __future__ import annotations

import math

import pytest

from attnpo.probing.quality import agreement, label_quality


def test_shares_by_hand() -> None:
    labels = [[True, True, None, False], [False, None]]
    exact = [[True, False, True, False], [True, False]]
    found = label_quality(labels, exact)
    assert found.coverage == pytest.approx(4 / 6)
    assert (found.precision_essential, found.recall_essential) == (1 / 2, 1 / 3)
    assert (found.precision_redundant, found.recall_redundant) == (1 / 2, 1 / 3)
    assert found.kappa == pytest.approx(0)  # 2 of 4 are alike, and 1/2 would be by chance


def test_nothing_labelled_is_no_number() -> None:
    found = label_quality([[None, None]], [[True, False]])
    assert found.coverage == 0 == found.recall_essential == found.recall_redundant
    assert all(map(math.isnan, (found.precision_essential, found.precision_redundant, found.kappa)))
    assert math.isnan(label_quality([], []).coverage)


def test_agreement_by_hand() -> None:
    alike, kappa = agreement([True, True, False, False, None], [True, False, False, False, True])
    assert alike == 0.75 and kappa == pytest.approx(0.5)  # by chance: 1/2 * 1/4 + 1/2 * 3/4 = 1/2
    assert all(map(math.isnan, agreement([None], [True])))
    assert math.isnan(agreement([True], [True])[1])
