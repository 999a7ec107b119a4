"""R1-like reasoning traces for the testbed's problems: essential steps among re-checks, detours, recaps and slips.

Each step stands on a line of its own and opens with a phrase of the real phrase sets (`attnpo.steps.PHRASE_SETS`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from attnpo.testbed.problems import MODULUS, Problem, apply


@dataclass(frozen=True)
class Habits:
    """How the trace writer behaves, as probabilities for each operation of the chain."""

    slip: float = 0.15
    """A wrong result is written."""
    recheck: float = 0.45
    """A right result is re-checked all the same."""
    recheck_slip: float = 0.70
    """A slip is re-checked."""
    repair: float = 0.86
    """The re-check of a slip finds it (so 60 % of the slips are repaired); else it confirms the slip."""
    detour: float = 0.25
    """The same result is reached another way."""
    recap: float = 0.30
    """The value so far is said again."""


DEFAULT_HABITS = Habits()


def write_trace(problem: Problem, rng: random.Random, habits: Habits = DEFAULT_HABITS) -> str:
    """A response to `problem`: thinking, `</think>`, an answer that restates the chain, and `\\boxed{}`.

    The text opens right after the chat template's `<think>` and newline. A slip that nobody repairs leads to a wrong
    answer.
    """
    lines: list[str] = []
    answer: list[str] = []
    value = problem.start
    for link, (op, n) in enumerate(problem.ops):
        right = apply(value, op, n)
        opening = "First," if link == 0 else rng.choice(["Then", "Next,", "Now"])
        claim = f"{value} {op} {n}"
        result = right
        if rng.random() < habits.slip:
            result = _slipped(right, rng)
        lines.append(f"{opening} {claim} = {result}.")
        if result == right and rng.random() < habits.recheck:
            lines.append(_idle_recheck(claim, result, rng))
        elif result != right and rng.random() < habits.recheck_slip:
            repaired = rng.random() < habits.repair
            lines.append(
                f"{_recheck_opening(rng)} {claim} = " + (f"{right}, not {result}." if repaired else f"{result}, yes.")
            )
            result = right if repaired else result
        if rng.random() < habits.detour:
            lines.append(_detour(value, op, n, result, rng))
        if rng.random() < habits.recap:
            lines.append(
                rng.choice(["So we have {} so far.", "Okay, so it is {} now.", "Thus we are at {}."]).format(result)
            )
        answer.append(f"{claim} = {result}.")
        value = result
    return "\n".join(lines) + "\n</think>\n" + "\n".join(answer) + f"\n\\boxed{{{value}}}"


def _slipped(right: int, rng: random.Random) -> int:
    return (right + rng.choice([-10, -2, -1, 1, 2, 10])) % MODULUS


def _recheck_opening(rng: random.Random) -> str:
    return rng.choice(["Wait,", "Hold on,", "Let me check:"])


def _idle_recheck(claim: str, result: int, rng: random.Random) -> str:
    if rng.random() < 0.75:
        return f"{_recheck_opening(rng)} {claim} = {result}, yes."
    return rng.choice(["But is {} right? Yes.", "Let me verify: {} looks fine."]).format(result)


def _detour(value: int, op: str, n: int, result: int, rng: random.Random) -> str:
    opening = rng.choice(["Alternatively,", "Another way:"])
    if op == "-":
        return f"{opening} {result} + {n} = {value}."
    return f"{opening} {n} {op} {value} = {result}."
