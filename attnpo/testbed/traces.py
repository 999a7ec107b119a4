"""R1-like reasoning traces for the testbed's problems: essential steps among re-checks, detours, recaps and slips.

Each step is on a line of its own and begins with a phrase of `attnpo.method.steps.PHRASE_SETS`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from attnpo.method.steps import THINK_END
from attnpo.testbed.problems import MODULUS, ChainProblem, apply


@dataclass(frozen=True)
class Habits:
    """What is written for each operation of the chain, as probabilities."""

    slip: float = 0.15
    """A wrong result is written."""
    recheck: float = 0.60
    """The result is computed again, in another form and always correctly. So 60 % of the slips are repaired."""
    detour: float = 0.25
    """The same result is reached another way."""
    recap: float = 0.30
    """The value so far is repeated."""


DEFAULT_HABITS = Habits()


def write_trace(problem: ChainProblem, rng: random.Random, habits: Habits = DEFAULT_HABITS) -> str:
    """A response to `problem`: thinking, `</think>`, an answer that restates the chain, and `\\boxed{}`.

    The text begins right after the chat template's `<think>` and newline. A slip without a re-check leads to a wrong
    answer.
    """
    lines: list[str] = []
    answer: list[str] = []
    value = problem.start
    for link, (op, n) in enumerate(problem.ops):
        right = apply(value, op, n)
        opening = "First," if link == 0 else rng.choice(["Then", "Next,", "Now"])
        claim = f"{value} {op} {n}"
        result = _slipped(right, rng) if rng.random() < habits.slip else right
        lines.append(f"{opening} {claim} = {result}.")
        if rng.random() < habits.recheck:
            verdict = "yes" if result == right else f"not {result}, so {claim} = {right}"
            lines.append(f"{rng.choice(RECHECK_OPENINGS)} {_turned(value, op, n)} = {right}, {verdict}.")
            result = right
        if rng.random() < habits.detour:
            lines.append(_detour(value, op, n, result, rng))
        if rng.random() < habits.recap:
            lines.append(
                rng.choice(["So we have {} so far.", "Okay, so it is {} now.", "Thus we are at {}."]).format(result)
            )
        answer.append(f"{claim} = {result}.")
        value = result
    return "\n".join([*lines, THINK_END, *answer, f"\\boxed{{{value}}}"])


RECHECK_OPENINGS = ("Wait,", "Hold on,", "Let me check:", "Let me verify:")


def _slipped(right: int, rng: random.Random) -> int:
    return (right + rng.choice([-10, -2, -1, 1, 2, 10])) % MODULUS


def _turned(value: int, op: str, n: int) -> str:
    """The operation with its operands the other way round."""
    return f"-{n} + {value}" if op == "-" else f"{n} {op} {value}"


def _detour(value: int, op: str, n: int, result: int, rng: random.Random) -> str:
    opening = rng.choice(["Alternatively,", "Another way:"])
    if op == "-":
        return f"{opening} {result} + {n} = {value}."
    return f"{opening} {n} {op} {value} = {result}."
