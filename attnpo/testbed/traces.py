"""R1-like reasoning traces for the testbed's problems: essential steps among re-checks, detours, recaps and doubts.

Each step is on a line of its own and begins with a phrase of `attnpo.method.steps.PHRASE_SETS`. A hard link is either
recalled, `Then 37 * 24 = 88.`, or worked out: `Then 37 * 24: 37 * 4 = 48.`, `Next, 37 * 20 = 40.`, `Now 48 + 40 = 88.`
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from attnpo.method.steps import THINK_END
from attnpo.testbed.problems import ChainProblem, is_hard, is_taught

EARLY = "Time is limited, stop thinking and start answering.\n"
"""What S-GRPO puts before `</think>` to force an answer (2505.07686)."""
ELLIPSIS = "...\n"
"""What AutoThink puts behind `<think>` to leave it open whether the model thinks (2505.10832)."""


@dataclass(frozen=True)
class Habits:
    """What is written for each link of the chain, as probabilities."""

    work: float | None = None
    """A hard link is worked out; None: a number that each trace draws from U(0, 1)."""
    slip: float = 0.15
    """The result of a recalled hard link is wrong. Such a result is read by the model, but not learnt."""
    doubt: float = 0.25
    """A recalled hard link is worked out after all, which confirms or repairs it."""
    recheck: float = 0.60
    """The last equation is said again with its operands turned round, and agreed with, right or wrong. Not of a link
    that was doubted."""
    detour: float = 0.25
    """The same result is reached another way."""
    recap: float = 0.30
    """The value so far is repeated."""


DEFAULT_HABITS = Habits()


class Trace(NamedTuple):
    """A response, and what of it the model reads but does not learn to write."""

    text: str
    """It begins right after the chat template's `<think>` and newline."""
    given: tuple[tuple[int, int], ...] = ()
    """Characters `start:end` of wrong and untaught results, and of forced beginnings and ends of thinking."""


class _Link(NamedTuple):
    """What is written for one link: lines of thinking, what of them is given, equations, result."""

    lines: list[str]
    given: str
    """The result in `lines[0]` that the model reads but does not learn: wrong, or untaught; empty if it learns it."""
    equations: list[str]
    """What the answer restates."""
    result: int


def write_trace(problem: ChainProblem, rng: random.Random, habits: Habits = DEFAULT_HABITS) -> Trace:
    """Thinking, `</think>`, an answer that restates the essential lines, and `\\boxed{}`.

    A recalled result that is wrong and not doubted leads to a wrong answer.
    """
    links = list(_links(problem, rng, habits))
    lines = [(line, link.given if i == 0 else "") for link in links for i, line in enumerate(link.lines)]
    return _joined(lines, links, Trace(f"\\boxed{{{links[-1].result}}}"))


def answer_at_once(problem: ChainProblem, forced: bool) -> Trace:
    """An answer without thinking, which recalls every hard link; behind `ELLIPSIS` if it is not forced.

    A forced `</think>` is given. With the ellipsis the model learns to write it.
    """
    recalled = _recalled(problem, problem.start, 0)
    before = f"{THINK_END}\n" if forced else f"{ELLIPSIS}{THINK_END}\n"
    start = (0, len(THINK_END) if forced else len(ELLIPSIS))
    return Trace(before + recalled.text, (start, *_shifted(recalled.given, len(before))))


def think_by_choice(trace: Trace) -> Trace:
    """The trace behind `ELLIPSIS`: the model chose to think."""
    return Trace(ELLIPSIS + trace.text, ((0, len(ELLIPSIS)), *_shifted(trace.given, len(ELLIPSIS))))


def write_cut_trace(problem: ChainProblem, rng: random.Random, habits: Habits = DEFAULT_HABITS) -> Trace:
    """A trace whose thinking is cut off behind a random line, with `EARLY` or without a word, and still answered.

    The answer restates the links that were done and recalls the others.
    """
    links = list(_links(problem, rng, habits))
    lines = [
        (line, link.given if i == 0 else "", done if i == len(link.lines) - 1 else done - 1)
        for done, link in enumerate(links, start=1)
        for i, line in enumerate(link.lines)
    ]
    kept = lines[: rng.randint(1, len(lines))]
    done = kept[-1][2]
    value = links[done - 1].result if done else problem.start
    whole = _joined([line[:2] for line in kept], links[:done], _recalled(problem, value, done))
    early = EARLY if rng.random() < 0.5 else ""
    end = whole.text.index(THINK_END)
    text = whole.text[:end] + early + whole.text[end:]
    before = tuple(one for one in whole.given if one[1] <= end)
    after = _shifted(whole.given[len(before) :], len(early))
    return Trace(text, (*before, (end, end + len(early) + len(THINK_END)), *after))


def _links(problem: ChainProblem, rng: random.Random, habits: Habits) -> Iterator[_Link]:
    work = rng.random() if habits.work is None else habits.work
    value = problem.start
    for position, (op, n) in enumerate(problem.ops):
        opening = "First," if position == 0 else _onward(rng)
        right = problem.apply(value, op, n)
        claim, result, given = f"{value} {op} {n}", right, ""
        if is_hard(op, n) and rng.random() < work:
            lines, equations = _worked_out(problem, value, n, opening, rng)
            (_, one), (_, ten) = problem.parts(value, n)
            turned, doubted = f"{ten} + {one}", False
        else:
            slips = is_hard(op, n) and rng.random() < habits.slip
            if slips:
                result = _slipped(problem, right, rng)
            if slips or not _taught(value, op, n):
                given = str(result)
            lines, equations = [f"{opening} {claim} = {result}."], [f"{claim} = {result}"]
            turned = f"-{n} + {value}" if op == "-" else f"{n} {op} {value}"
            doubted = is_hard(op, n) and rng.random() < habits.doubt
        if doubted:
            again, worked = _worked_out(problem, value, n, rng.choice(DOUBT_OPENINGS), rng)
            again[-1] = f"{again[-1][:-1]}, {'yes' if result == right else f'not {result}'}."
            equations = equations if result == right else worked
            lines, result = lines + again, right
        elif rng.random() < habits.recheck:
            lines.append(f"{rng.choice(RECHECK_OPENINGS)} {turned} = {result}, yes.")
        if rng.random() < habits.detour:
            lines.append(_detour(value, op, n, result, rng))
        if rng.random() < habits.recap:
            lines.append(
                rng.choice(["So we have {} so far.", "Okay, so it is {} now.", "Thus we are at {}."]).format(result)
            )
        yield _Link(lines, given, equations, result)
        value = result


RECHECK_OPENINGS = ("Wait,", "Hold on,", "Let me check:", "Let me verify:")
DOUBT_OPENINGS = ("Hmm, wait,", "Hmm, let me make sure:")
"""Others than those of re-checks: a re-check turns the operands round and a doubt does not, so that behind one and the
same opening the operands would be mixed up."""


def _onward(rng: random.Random) -> str:
    return rng.choice(["Then", "Next,", "Now"])


def _worked_out(
    problem: ChainProblem, value: int, n: int, opening: str, rng: random.Random
) -> tuple[list[str], list[str]]:
    """The three lines of `value * n`, and their equations. The first line names the link, so that the parts, and the
    link that comes next, can be found from there."""
    (units, one), (tens, ten) = problem.parts(value, n)
    whole = problem.apply(one, "+", ten)
    equations = [f"{value} * {units} = {one}", f"{value} * {tens} = {ten}", f"{one} + {ten} = {whole}"]
    openings = [f"{opening} {value} * {n}:", _onward(rng), _onward(rng)]
    return [f"{word} {equation}." for word, equation in zip(openings, equations, strict=True)], equations


def _taught(value: int, op: str, n: int) -> bool:
    """Whether a model is to learn the result of a link in one line."""
    return not is_hard(op, n) or is_taught(value, n)


def _shifted(given: tuple[tuple[int, int], ...], by: int) -> tuple[tuple[int, int], ...]:
    return tuple((start + by, end + by) for start, end in given)


def _recalled(problem: ChainProblem, value: int, done: int) -> Trace:
    """The answer's equations from link `done` on, each link in one, and the box; untaught results are given."""
    text, given = "", []
    for op, n in problem.ops[done:]:
        result = problem.apply(value, op, n)
        text += f"{value} {op} {n} = {result}.\n"
        if not _taught(value, op, n):
            given.append((len(text) - 2 - len(str(result)), len(text) - 2))
        value = result
    return Trace(f"{text}\\boxed{{{value}}}", tuple(given))


def _joined(lines: list[tuple[str, str]], links: list[_Link], rest: Trace) -> Trace:
    """Thinking of (line, given result at its end) pairs, and an answer: the equations of the links, then `rest`."""
    given, at = [], 0
    for line, result in lines:
        if result:
            given.append((at + len(line) - 1 - len(result), at + len(line) - 1))
        at += len(line) + 1
    answer = [f"{equation}." for link in links for equation in link.equations]
    before = "\n".join([*(line for line, _ in lines), THINK_END, *answer, ""])
    return Trace(before + rest.text, (*given, *_shifted(rest.given, len(before))))


def _slipped(problem: ChainProblem, right: int, rng: random.Random) -> int:
    return problem.apply(right, "+", rng.choice([-20, -10, -4, -2, 2, 4, 10, 20]))


def _detour(value: int, op: str, n: int, result: int, rng: random.Random) -> str:
    opening = rng.choice(["Alternatively,", "Another way:"])
    if op == "-":
        return f"{opening} {result} + {n} = {value}."
    return f"{opening} {n} {op} {value} = {result}."
