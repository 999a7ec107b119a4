"""Leaving steps out of the thinking: which tokens stay, and what the steps are for that can or cannot go."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Generator, Sequence

from rich.console import Console
from rich.progress import Progress

from attnpo.method.scores import Response

Removals = list[frozenset[int]]
"""Sets of steps; the thinking without each of them is to be judged."""
Removal = Generator[Removals, Sequence[float], dict[int, bool | None]]
"""Yields sets of removed steps and is sent, for each, how well the rest leads to the gold answer. Returns True
(essential), False (redundant) or None for each step. A generator, so that many responses are judged in one batch."""
Question = tuple[int, frozenset[int]]
"""The number of a response, and the steps that are removed from it."""

ASKED_AT_ONCE = 256
"""Questions from one move of a progress bar to the next."""


def kept_ids(response: Response, dropped: Collection[int]) -> list[int]:
    """The sampled ids before the answer, `</think>` included, without those of the dropped steps."""
    steps = response.steps
    assert steps is not None
    before_answer = zip(response.ids[: steps.answer[0]], steps.step_of_token, strict=False)
    return [token for token, step in before_answer if step not in dropped]


def greedy_removal(steps: Sequence[int], enough: float, needed: Callable[[float], float]) -> Removal:
    """Remove steps as long as the rest leads to the answer: the extremes of 2604.18307, in a cheaper order.

    The steps are tried in the order of the harm that removing each alone does, least first. A removal is kept if what
    is left leads to the answer well enough. Steps that went before the first refusal are redundant, refused ones are
    essential; those that went after a refusal are unlabelled, since what they said may be said by what stayed.

    It asks for the whole, then for each step alone, then for one set at a time: 2 K sets in all, the whole if K is 0.

    Args:
        steps: the K steps that may go.
        enough: the value that the whole thinking must have. Where it has less, the model does not answer as it is asked
            to, and no step is labelled.
        needed: from the value of the whole thinking, the value that what is left must have.
    """
    (whole,) = yield [frozenset()]
    if whole < enough or not steps:
        return dict.fromkeys(steps)
    alone = yield [frozenset([step]) for step in steps]
    order = sorted(zip(alone, steps, strict=True), key=lambda pair: (-pair[0], pair[1]))
    removed: frozenset[int] = frozenset()
    labels: dict[int, bool | None] = {}
    refused = False
    for value, step in order:
        if removed or refused:
            (value,) = yield [removed | {step}]
        if value >= needed(whole):
            removed |= {step}
            labels[step] = None if refused else False
        else:
            labels[step] = refused = True
    return labels


def prefix_gain(steps: Sequence[int], enough: float, margin: float) -> Removal:
    """What each step adds to the thinking before it (the signal of VSRM, 2508.10293).

    A step that raises the value by more than the margin is essential, one that changes it by no more is redundant, and
    one that lowers it by more is unlabelled. It asks once, for the K + 1 prefixes.

    Args:
        steps: the K steps in their order.
        enough: the value that the whole thinking must have, as in `greedy_removal`.
        margin: see above; it is the largest change that counts as none.
    """
    values = yield [frozenset(steps[k:]) for k in range(len(steps) + 1)]
    if values[-1] < enough:
        return dict.fromkeys(steps)
    gains = [after - before for before, after in itertools.pairwise(values)]
    tolerance = margin + 1e-9
    return {
        step: True if gain > tolerance else None if gain < -tolerance else False
        for step, gain in zip(steps, gains, strict=True)
    }


def labels_by_removal(
    responses: Sequence[Response],
    removal: Callable[[Sequence[int]], Removal],
    judge: Callable[[Sequence[Question]], Sequence[float]],
    most: Callable[[int], int],
) -> list[list[bool | None]]:
    """Label the steps of N responses, all responses side by side. A step without tokens is unlabelled.

    Args:
        responses: with their steps.
        removal: what is asked of the steps of a response that have tokens.
        judge: the value of each question.
        most: the number of questions about a response of K steps, for the progress bar.

    Returns:
        for each response a label for each step.
    """
    labels: list[list[bool | None]] = []
    going: dict[int, Removal] = {}
    wanted: dict[int, Removals] = {}
    total = 0
    for number, response in enumerate(responses):
        assert response.steps is not None
        labels.append([None] * len(response.steps.steps))
        with_tokens = sorted({step for step in response.steps.step_of_token if step >= 0})
        going[number] = removal(with_tokens)
        wanted[number] = next(going[number])
        total += most(len(with_tokens))
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("removing steps", total=total)
        while going:
            asked = [(number, removed) for number in going for removed in wanted[number]]
            found: dict[int, list[float]] = {number: [] for number in going}
            for start in range(0, len(asked), ASKED_AT_ONCE):
                some = asked[start : start + ASKED_AT_ONCE]
                for (number, _), value in zip(some, judge(some), strict=True):
                    found[number].append(value)
                progress.advance(task, len(some))
            for number in list(going):
                try:
                    wanted[number] = going[number].send(found[number])
                except StopIteration as stop:
                    for step, label in stop.value.items():
                        labels[number][step] = label
                    del going[number]
        progress.update(task, completed=total)  # what told nothing was left early
    return labels
