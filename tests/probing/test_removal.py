"""Leaving steps out of the thinking: the order of the removals, and what the steps are called after them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from attnpo.probing.removal import Removal, greedy_removal, prefix_gain

ALLOWED = math.log(1 / 0.8)
"""In nats."""


def removed_by(steps: list[int], value: Callable[[Collection[int]], float]) -> tuple[dict[int, bool | None], int]:
    """The labels that greedy removal gives under a log-probability of what is removed, and the number of questions."""
    return answered(greedy_removal(steps, math.log(0.5), lambda whole: whole - ALLOWED), value)


def answered(going: Removal, value: Callable[[Collection[int]], float]) -> tuple[dict[int, bool | None], int]:
    """What a removal returns, and the number of its questions."""
    asked, questions = next(going), 0
    while True:
        questions += len(asked)
        try:
            asked = going.send([value(removed) for removed in asked])
        except StopIteration as stop:
            return stop.value, questions


def test_what_the_answer_needs_is_essential_and_what_it_does_not_is_redundant() -> None:
    needed = {1, 4}
    labels, questions = removed_by([0, 1, 2, 4], lambda removed: -9.0 * len(needed & set(removed)) - 0.01)
    assert labels == {0: False, 1: True, 2: False, 4: True}
    assert questions == 2 * 4


def test_of_two_steps_that_say_the_same_one_must_stay() -> None:
    def value(removed: Collection[int]) -> float:
        return -5.0 if {0, 2} <= set(removed) else -0.1

    assert removed_by([0, 1, 2], value)[0] == {0: False, 1: False, 2: True}


def test_a_step_that_goes_after_a_refusal_is_unlabelled() -> None:
    def value(removed: Collection[int]) -> float:
        return -5.0 if {0, 1} <= set(removed) else -0.05 * (1 in removed) - 0.1 * (2 in removed)

    assert removed_by([0, 1, 2], value)[0] == {0: False, 1: True, 2: None}


def test_where_the_whole_thinking_does_not_lead_to_the_answer_nothing_is_labelled() -> None:
    assert removed_by([0, 1], lambda removed: -0.8) == ({0: None, 1: None}, 1)


def test_a_response_without_steps_has_no_labels() -> None:
    assert removed_by([], lambda removed: -1.0) == ({}, 1)


def test_a_step_that_raises_the_value_is_essential() -> None:
    right = {(): 0.0, (0,): 0.2, (0, 1): 0.2, (0, 1, 2): 0.6, (0, 1, 2, 3): 1.0}
    steps = [0, 1, 2, 3]

    def value(removed: Collection[int]) -> float:
        return right[tuple(step for step in steps if step not in removed)]

    # .6 - .2 is .39999999999999997: a change of exactly the margin must not depend on how floats are rounded
    assert answered(prefix_gain(steps, 0.8, 0.2), value) == ({0: False, 1: False, 2: True, 3: True}, 5)
    assert answered(prefix_gain(steps, 0.8, 0.4), value)[0] == dict.fromkeys(steps, False)


def test_a_step_that_lowers_the_value_is_unlabelled() -> None:
    def value(removed: Collection[int]) -> float:
        return {3: 0.6, 2: 0.0, 1: 1.0, 0: 1.0}[len(removed)]

    assert answered(prefix_gain([4, 5, 7], 0.8, 0.2), value)[0] == {4: None, 5: True, 7: False}


def test_prefixes_of_a_thinking_that_misleads_tell_nothing() -> None:
    assert answered(prefix_gain([0, 1], 0.8, 0.2), lambda removed: 0.6)[0] == {0: None, 1: None}
    assert answered(prefix_gain([], 0.8, 0.2), lambda removed: 1.0) == ({}, 1)
