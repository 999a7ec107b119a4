"""Exact labels for each step of any trace of a testbed problem, written or sampled.

A step is essential if it is the first correct computation of a link of the chain ("solve"), or if it corrects a slip
("repair"). All other steps are redundant, as the answer follows without them: re-checks, detours, recaps, slips.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from attnpo.method.steps import THINK_END
from attnpo.testbed.problems import ChainProblem, apply

ESSENTIAL = ("solve", "repair")
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


def label_steps(problem: ChainProblem, step_texts: Sequence[str]) -> list[str]:
    """One of `LABELS` for each step, in order.

    Args:
        problem: the problem the trace answers.
        step_texts: the texts of the steps, in the order of the trace.

    A computation solves a link only if it has the link's true operands (in either order) and all links before it are
    solved. A result that is false, or that builds on a false value, is a slip.
    """
    values = problem.values
    solved = 0
    slipped = False  # the next unsolved link has been computed wrongly
    labels: list[str] = []
    for text in step_texts:
        label = ""
        said: set[tuple[int, str, int]] = set()  # a computation repeated within a step does not solve two equal links
        for a, op, b, result in _computations(text):
            computation = (a, op, b) if op == "-" else (min(a, b), op, max(a, b))
            is_next_link = (
                solved < problem.chain
                and computation not in said
                and _is_link(a, op, b, problem.ops[solved], values[solved])
            )
            said.add(computation)
            if is_next_link and result == values[solved + 1]:
                label = "repair" if slipped else "solve"
                solved, slipped = solved + 1, False
            elif is_next_link:
                slipped = True
                label = label or "slip"
            elif apply(a, op, b) != result or not _on_the_chain(a, op, b, problem, solved):
                label = label or "slip"
        if not label:
            if _DETOUR.match(text):
                label = "detour"
            elif _RECAP.match(text):
                label = "recap"
            else:
                label = "recheck"
        labels.append(label)
    return labels


def next_move(problem: ChainProblem, solved: int, text: str) -> str:
    """The first of `MOVES` in what a model writes after thinking that has solved links without a slip.

    Args:
        problem: the problem.
        solved: how many of its links are solved; at least one is not.
        text: what the model writes next. Checks of solved links are no move, and results may be false.
    """
    thinking, end, _ = text.partition(THINK_END)
    for a, op, b, _ in _computations(thinking):
        if _is_link(a, op, b, problem.ops[solved], problem.values[solved]):
            return "link"
        if not _on_the_chain(a, op, b, problem, solved):
            return "elsewhere"
    return "end" if end else "none"


def count_steps(problem: ChainProblem, step_texts: Sequence[str]) -> dict[str, int]:
    """The number of steps of a trace by label, and the sums `essential` and `redundant`."""
    labels = Counter(label_steps(problem, step_texts))
    sums = {
        "essential": sum(labels[label] for label in ESSENTIAL),
        "redundant": sum(labels[label] for label in REDUNDANT),
    }
    return sums | {label: labels[label] for label in LABELS}


def error_cause(counts: Mapping[str, int], chain: int) -> str:
    """The first of `CAUSES` that applies to a wrong response, given its `count_steps` and the number of links."""
    if counts["essential"] >= chain:
        return "answer"
    return "slip" if counts["slip"] else "left_out"


def _computations(text: str) -> Iterator[tuple[int, str, int, int]]:
    """(a, operation, b, claimed result) of each equation in a text."""
    for sign, left, op, right, claimed in _EQUATION.findall(text):
        a, b, result = int(left), int(right), int(claimed)
        if sign and op == "+":  # -6 + 84 is 84 - 6
            a, op, b = b, "-", a
        yield a, op, b, result


def _is_link(a: int, op: str, b: int, link: tuple[str, int], value: int) -> bool:
    if op != link[0]:
        return False
    return (a, b) == (value, link[1]) or (op in "+*" and (b, a) == (value, link[1]))


def _on_the_chain(a: int, op: str, b: int, problem: ChainProblem, solved: int) -> bool:
    """Whether `a op b` repeats one of the links solved so far, or checks it backwards."""
    values = problem.values
    for k in range(solved):
        link_op, n = problem.ops[k]
        if _is_link(a, op, b, problem.ops[k], values[k]):
            return True
        if link_op == "-" and op == "+" and n in (a, b) and values[k + 1] in (a, b):
            return True
        if link_op == "+" and op == "-" and (a, b) == (values[k + 1], n):
            return True
    return False
