"""How good labels are: how many steps have one, and how they compare with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from attnpo.probing.labels import Labels

NAN = float("nan")


class LabelQuality(NamedTuple):
    """Labels against exact ones, over all steps of all responses; NaN where a share has nothing below its line."""

    coverage: float
    """Share of the steps that have a label."""
    precision_essential: float
    """Of the steps labelled essential, the share that is."""
    recall_essential: float
    """Of the essential steps, the share that is labelled so; unlabelled ones count against it."""
    precision_redundant: float
    recall_redundant: float
    kappa: float
    """Cohen's kappa over the labelled steps."""


def label_quality(labels: Sequence[Labels], exact: Sequence[Sequence[bool]]) -> LabelQuality:
    """Compare the labels of N responses with exact ones.

    Args:
        labels: for each response a label for each of its K steps.
        exact: the same, by the oracle.
    """
    pairs = [pair for one, other in zip(labels, exact, strict=True) for pair in zip(one, other, strict=True)]

    def share(kind: bool, of: int) -> float:
        right = sum(label is kind and truth is kind for label, truth in pairs)
        return right / of if of else NAN

    labelled = sum(label is not None for label, _ in pairs)
    _, kappa = agreement([label for label, _ in pairs], [truth for _, truth in pairs])
    return LabelQuality(
        labelled / len(pairs) if pairs else NAN,
        share(True, sum(label is True for label, _ in pairs)),
        share(True, sum(truth for _, truth in pairs)),
        share(False, sum(label is False for label, _ in pairs)),
        share(False, sum(not truth for _, truth in pairs)),
        kappa,
    )


def agreement(one: Sequence[bool | None], other: Sequence[bool | None]) -> tuple[float, float]:
    """Share of the steps labelled by both that are labelled alike, and Cohen's kappa; NaN where nothing is shared."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not pairs:
        return NAN, NAN
    alike = sum(a == b for a, b in pairs) / len(pairs)
    p, q = sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)
    chance = p * q + (1 - p) * (1 - q)
    return alike, (alike - chance) / (1 - chance) if chance < 1 else NAN
