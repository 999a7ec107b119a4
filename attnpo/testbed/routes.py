"""By which route a trace took each hard link, and how the routes fared on the trace's own values.

The oracle asks what helps to the true answer. Here a slip is followed: what comes after it is judged by the value that
the trace went on with, so that the reliability of a route is not mixed with that of the links before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from attnpo.testbed.oracle import Computation, Equation, commuted, equations, stages
from attnpo.testbed.problems import ChainProblem, is_hard


@dataclass
class Routes:
    """The links of a trace."""

    easy: int = 0
    """Easy links."""
    easy_right: int = 0
    """Of those, with the right result."""
    direct: int = 0
    """Hard links recalled in one line."""
    direct_right: int = 0
    """Of those, with the right result at once."""
    worked: int = 0
    """Hard links worked out without being recalled first."""
    worked_right: int = 0
    """Of those, with the right result."""
    doubted: int = 0
    """Links recalled, then worked out after all, or given up for another result of a re-check."""
    repaired: int = 0
    """Of those, wrong before and right after."""
    strays: int = 0
    """Equations that are no link, part or check of the chain as the trace has it: operands were miscopied."""


class Begun(NamedTuple):
    """Where the route of a hard link begins."""

    link: int
    """Which link of the chain it is, from 0."""
    step: int
    """The step of the trace, from 0."""
    worked: bool
    """Whether it is worked out."""


@dataclass
class _Working:
    """A hard link in work: its value and operand, and the parts so far with the results that the trace gave them."""

    problem: ChainProblem
    value: int
    n: int
    results: dict[Computation, int] = field(default_factory=dict)
    step: int = 0
    """Where its first part stands."""

    def goes_on(self, equation: Equation) -> bool:
        """Whether the equation is the next part of what has begun; a part of the next link may look alike."""
        return bool(self.results) and equation.computation in self._expected()

    def _expected(self) -> list[Computation]:
        if len(self.results) == 2:
            return [commuted(self.added[0], "+", self.added[1])]
        return list(stages(self.problem, self.value, self.n, self.results))

    def take(self, equation: Equation) -> bool:
        """Note the equation if it is what can come next. The sum is that of the results as the trace has them."""
        if equation.computation not in self._expected():
            return False
        self.results[equation.computation] = equation.result
        return True

    @property
    def added(self) -> tuple[int, int]:
        """The two results that the sum adds."""
        one, ten, *_ = self.results.values()
        return one, ten

    @property
    def complete(self) -> bool:
        return len(self.results) == 3


def routes(problem: ChainProblem, step_texts: Sequence[str]) -> Routes:
    """The links of a trace, from the texts of its steps in order."""
    return _follow(problem, step_texts)[0]


def begun(problem: ChainProblem, step_texts: Sequence[str]) -> list[Begun]:
    """Where the trace decided on the route of each hard link that it did, in order."""
    return _follow(problem, step_texts)[1]


def _follow(problem: ChainProblem, step_texts: Sequence[str]) -> tuple[Routes, list[Begun]]:
    found, starts = Routes(), list[Begun]()
    value, before = problem.start, problem.start
    position = 0
    working: _Working | None = None  # the next link, if it is hard
    doubt: _Working | None = None  # the link before, if it was recalled
    other: int | None = None  # what a re-check found in place of the value
    known: set[Computation] = set()  # what checks may repeat
    for k, equation in ((k, e) for k, text in enumerate(step_texts) for e in equations(text)):
        op, n = problem.ops[position] if position < problem.chain else ("", 0)
        if other is not None and _begins(problem, other, op, n, equation) > _begins(problem, value, op, n, equation):
            right = problem.apply(before, *problem.ops[position - 1])
            found.doubted += 1
            found.repaired += value != right == other
            value, other, working = other, None, None
        if is_hard(op, n) and working is None:
            working = _Working(problem, value, n)
        computation, result = equation.computation, equation.result
        if computation == commuted(value, op, n):
            if is_hard(op, n):
                found.direct += 1
                found.direct_right += equation.holds(problem)
                starts.append(Begun(position, k, worked=False))
                doubt = _Working(problem, value, n)
            else:
                found.easy += 1
                found.easy_right += equation.holds(problem)
                doubt = None
        elif working is not None and not (doubt is not None and doubt.goes_on(equation)) and working.take(equation):
            known.add(computation)
            if len(working.results) == 1:
                working.step = k
            if not working.complete:
                continue
            found.worked += 1
            starts.append(Begun(position, working.step, worked=True))
            found.worked_right += result == problem.apply(value, op, n)
            doubt = None
        elif doubt is not None and doubt.take(equation):
            known.add(computation)
            if doubt.complete:
                other = None
                right = problem.apply(doubt.value, "*", doubt.n)
                found.doubted += 1
                found.repaired += value != right == result
                value, doubt, working = result, None, None
            continue
        elif position and computation == commuted(before, *problem.ops[position - 1]):
            other = result if result != value else None
            continue
        else:
            found.strays += computation not in known and not _backwards(equation, problem, position, before, value)
            continue
        known |= {computation, commuted(value, op, n)}
        before, value, working, other = value, result, None, None
        position += 1
    return found, starts


def _begins(problem: ChainProblem, value: int, op: str, n: int, equation: Equation) -> bool:
    """Whether an equation computes `value op n`, or a part of it."""
    whole = equation.computation == commuted(value, op, n)
    return whole or (is_hard(op, n) and equation.computation in stages(problem, value, n, []))


def _backwards(equation: Equation, problem: ChainProblem, position: int, before: int, value: int) -> bool:
    """Whether an equation checks the last link backwards, from its result to the value before."""
    if not position:
        return False
    op, n = problem.ops[position - 1]
    if op == "-":
        return equation.computation == commuted(value, "+", n) and equation.result == before
    return op == "+" and equation.computation == (value, "-", n) and equation.result == before
