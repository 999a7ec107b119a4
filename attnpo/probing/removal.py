"""Leaving steps out of the thinking: which tokens stay, and which steps can go one after the other."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence

from attnpo.method.scores import Response

Removals = list[frozenset[int]]
"""Sets of steps; the thinking without each of them is to be judged."""


def kept_ids(response: Response, dropped: Collection[int]) -> list[int]:
    """The sampled ids before the answer, `</think>` included, without those of the dropped steps."""
    steps = response.steps
    assert steps is not None
    before_answer = zip(response.ids[: steps.answer[0]], steps.step_of_token, strict=False)
    return [token for token, step in before_answer if step not in dropped]


def greedy_removal(
    steps: Sequence[int], enough: float, allowed: float
) -> Generator[Removals, Sequence[float], dict[int, bool | None]]:
    """Remove steps as long as the answer stays as likely as it was: the extremes of 2604.18307, in a cheaper order.

    The steps are tried in the order of the harm that removing each alone does, least first. A removal is kept if the
    answer behind what is left is likely enough. Steps that went before the first refusal are redundant, refused ones
    are essential; those that went after a refusal are unlabelled, since what they said may be said by what stayed.

    A generator, so that many responses can be judged in one batch. It yields sets of removed steps and is sent, for
    each of them, the log-probability of the gold answer behind the rest: for none, then for each step alone, then for
    one set at a time, 2 K + 1 in all.

    Args:
        steps: the K steps that may go.
        enough: log-probability that the gold answer must have behind the whole thinking. Where it has less, the model
            does not answer as it is asked to, and no step is labelled.
        allowed: by how much the log-probability may fall below that behind the whole thinking, in nats.

    Returns:
        True, False or None for each of the steps.
    """
    (whole,) = yield [frozenset()]
    if whole < enough or not steps:
        return dict.fromkeys(steps)
    alone = yield [frozenset([step]) for step in steps]
    order = sorted(zip(alone, steps, strict=True), key=lambda pair: (-pair[0], pair[1]))
    removed: frozenset[int] = frozenset()
    labels: dict[int, bool | None] = {}
    refused = False
    for _, step in order:
        (value,) = yield [removed | {step}]
        if value >= whole - allowed:
            removed |= {step}
            labels[step] = None if refused else False
        else:
            labels[step] = refused = True
    return labels
