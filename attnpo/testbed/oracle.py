"""Exact labels for each step of any trace of a testbed problem, written or sampled.

A step is essential if it is the first correct computation of an easy link ("solve"), recalls a hard link ("direct"),
works on one ("work"), or does any of these where the link had got a wrong result before ("repair"). All other steps are
redundant, as the answer follows without them: re-checks, detours, recaps, slips.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from attnpo.method.steps import THINK_END
from attnpo.testbed.problems import ChainProblem, is_hard

ESSENTIAL = ("solve", "direct", "work", "repair")
REDUNDANT = ("recheck", "detour", "recap", "slip")
LABELS = ESSENTIAL + REDUNDANT
CAUSES = ("answer", "slip", "left_out")
"""Why a response is wrong: every link was found but the answer is wrong; or else there is a slip; or else a link is
missing."""

MOVES = ("link", "elsewhere", "end", "none")
"""What a model does after the solved links: it computes the next link, computes something else, ends the thinking, or
does none of these in the text that was sampled."""

_EQUATION = re.compile(r"(-?)(\d+) ([+*-]) (\d+) = (\d+)")
_DETOUR = re.compile(r"\s*(Alternatively|Another)\b")
_RECAP = re.compile(r"\s*(So|Okay, so|Thus|Therefore|Hence)\b")


Computation = tuple[int, str, int]
"""An equation without its result, the same for `3 + 4` and `4 + 3`."""


class Equation(NamedTuple):
    """One equation of a text: `a op b = result`."""

    a: int
    op: str
    b: int
    result: int

    @property
    def computation(self) -> Computation:
        """What is computed, without the result."""
        return commuted(self.a, self.op, self.b)

    def holds(self, problem: ChainProblem) -> bool:
        """Whether it is true, modulo the problem's modulus."""
        return problem.apply(self.a, self.op, self.b) == self.result


def label_steps(problem: ChainProblem, step_texts: Sequence[str]) -> list[str]:
    """One of `LABELS` for each step, in order.

    Args:
        problem: the problem the trace answers.
        step_texts: the texts of the steps, in the order of the trace.

    A computation solves a link only if it has the link's true operands (in either order) and all links before it are
    solved. A hard link is also solved by the sum of its two parts, once both are there; parts that were begun and then
    overtaken by the link's own equation are re-checks. A result that is false, or that builds on a false value, is a
    slip.
    """
    return _walk(problem, step_texts)[0]


def solved_in(problem: ChainProblem, step_texts: Sequence[str]) -> list[int]:
    """For each link that is solved, from the first on, the number of the step that solves it."""
    return _walk(problem, step_texts)[1]


def _walk(problem: ChainProblem, step_texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The labels, and for each solved link the number of the step that solved it."""
    values, solving = problem.values, list[int]()
    slipped = False  # the next unsolved link has been computed wrongly
    done: list[Computation] = []  # the parts of the next unsolved link, if it is hard
    begun: list[int] = []  # steps that are essential for these parts alone
    labels: list[str] = []
    for number, text in enumerate(step_texts):
        label = ""
        said: set[Computation] = set()  # a computation repeated within a step does not solve two equal links
        for equation in equations(text):
            solved, computation = len(solving), equation.computation
            repeated = computation in said
            said.add(computation)
            op, n = problem.ops[solved] if solved < problem.chain else ("", 0)
            hard = is_hard(op, n)
            whole = not repeated and computation == commuted(values[solved], op, n)
            part = not repeated and hard and computation in stages(problem, values[solved], n, done)
            if not whole and not part:
                if not equation.holds(problem) or not _on_the_chain(computation, problem, solved, done):
                    label = label or "slip"
            elif not equation.holds(problem):
                slipped, label = True, label or "slip"
            else:
                if part and label not in ESSENTIAL:
                    begun.append(number)
                label = "repair" if slipped else "work" if part else "direct" if hard else "solve"
                done.append(computation)
                if whole:
                    for step in begun:
                        if step < number:
                            labels[step] = "recheck"
                if whole or len(done) == 3:
                    solving.append(number)
                    slipped, done, begun = False, [], []
        if not label:
            if _DETOUR.match(text):
                label = "detour"
            elif _RECAP.match(text):
                label = "recap"
            else:
                label = "recheck"
        labels.append(label)
    return labels, solving


def next_move(problem: ChainProblem, solved: int, text: str) -> str:
    """The first of `MOVES` in what a model writes after thinking that has solved links without a slip.

    Args:
        problem: the problem.
        solved: how many of its links are solved; at least one is not.
        text: what the model writes next. Checks of solved links are no move, and results may be false.
    """
    thinking, end, _ = text.partition(THINK_END)
    value, (op, n) = problem.values[solved], problem.ops[solved]
    for equation in equations(thinking):
        computation = equation.computation
        if computation == commuted(value, op, n) or (is_hard(op, n) and computation in stages(problem, value, n, [])):
            return "link"
        if not _on_the_chain(computation, problem, solved, []):
            return "elsewhere"
    return "end" if end else "none"


def error_cause(counts: Mapping[str, int], solved: int, chain: int) -> str:
    """The first of `CAUSES` that applies to a wrong response, given its steps by label and how many links it solved."""
    if solved >= chain:
        return "answer"
    return "slip" if counts["slip"] else "left_out"


def equations(text: str) -> Iterator[Equation]:
    """The equations of a text, in order."""
    for sign, left, op, right, claimed in _EQUATION.findall(text):
        a, b, result = int(left), int(right), int(claimed)
        if sign and op == "+":  # -6 + 84 is 84 - 6
            a, op, b = b, "-", a
        yield Equation(a, op, b, result)


def commuted(a: int, op: str, b: int) -> Computation:
    """`a op b`, the smaller operand first where the order does not matter."""
    return (a, op, b) if op == "-" else (min(a, b), op, max(a, b))


def stages(problem: ChainProblem, value: int, n: int, done: Collection[Computation]) -> list[Computation]:
    """What can come next in working out `value * n` when `done` is done: its parts, and their sum after both."""
    (units, one), (tens, ten) = problem.parts(value, n)
    left = [c for c in (commuted(value, "*", units), commuted(value, "*", tens)) if c not in done]
    return left or [commuted(one, "+", ten)]


def _on_the_chain(computation: Computation, problem: ChainProblem, solved: int, done: Collection[Computation]) -> bool:
    """Whether something repeats a link solved so far or a part of one, or checks it backwards."""
    if computation in done:
        return True
    for k in range(solved):
        (op, n), value, result = problem.ops[k], *problem.values[k : k + 2]
        whole = commuted(value, op, n)
        if computation == whole:
            return True
        if is_hard(op, n):
            both = stages(problem, value, n, [])
            if computation in (*both, *stages(problem, value, n, both)):
                return True
        if op == "-" and computation == commuted(result, "+", n):
            return True
        if op == "+" and computation == (result, "-", n):
            return True
    return False
