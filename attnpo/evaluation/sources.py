"""Compare two sources of a benchmark: the same problems and answers? Used by `reproduce/check_data.py`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from attnpo.errors import AttnPOError
from attnpo.grading.math import Grader
from attnpo.method.steps import THINK_END
from attnpo.problems.benchmarks import benchmark_named, load
from attnpo.problems.problem import Problem


class Comparison(NamedTuple):
    """The result of a comparison of the hub's data with the reference."""

    same: int
    """Number of problems with the same text, apart from white space, and the same answer."""
    differences: list[str]
    """One line for each other problem."""


def compare(name: str, data_dir: str | Path | None = None, revision: str | None = None) -> Comparison:
    """Compare the hub's file of a math set with the reference.

    Texts are compared without white space, and answers by the grader, to which 27.0 equals 27.

    Args:
        name: a set with both sources.
        data_dir: folder with the reference as `<name>.jsonl`; without it, what `load` takes.
        revision: of the hub's data set, if not the pinned one.

    Raises:
        AttnPOError: as `load`; or the set has only one source.
    """
    benchmark = benchmark_named(name)
    if benchmark.published is None or benchmark.hub is None:
        raise AttnPOError(f"{name} has one source only, so there is nothing to compare")

    def texts(problems: list[Problem]) -> dict[str, Problem]:
        return {" ".join(problem.text.split()): problem for problem in problems}

    reference, other = texts(load(name, data_dir)), texts(load(name, source="hub", revision=revision))
    common = [text for text in reference if text in other]
    with Grader(time_limit=60) as grader:
        boxes = [f"{THINK_END}\\boxed{{{other[text].answer}}}" for text in common]
        grades = grader.grade(boxes, [reference[text].answer for text in common])
    differences = [
        f"{reference[text].id}: the answer is {reference[text].answer}, on the hub {other[text].answer}"
        for text, grade in zip(common, grades, strict=True)
        if not grade.correct
    ]
    same = len(common) - len(differences)
    for mine, theirs, place in ((reference, other, "in the reference"), (other, reference, "on the hub")):
        differences += [f"{mine[text].id}: only {place}: {text[:80]}" for text in mine if text not in theirs]
    return Comparison(same, differences)
