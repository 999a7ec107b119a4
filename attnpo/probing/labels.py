"""Labels of steps: essential or redundant.

The testbed's oracle is exact. Labels from elsewhere, by step ablation or by LLM judges, take the same form: a function
from a problem and the texts of a response's steps to one bool per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attnpo.errors import AttnPOError
from attnpo.problems.problem import Problem
from attnpo.testbed import oracle
from attnpo.testbed.problems import SCALES, ChainProblem

Labeler = Callable[[Problem, Sequence[str]], list[bool]]


def oracle_labels(problem: Problem, step_texts: Sequence[str]) -> list[bool]:
    """True for each essential step, by `attnpo.testbed.oracle.label_steps`.

    Raises:
        AttnPOError: the problem is not one of the testbed.
    """
    if not isinstance(problem, ChainProblem):
        raise AttnPOError(
            f"problem {problem.id!r} is not of the testbed, whose oracle alone is exact; "
            f"set data: {' or '.join(SCALES)}"
        )
    return [label in oracle.ESSENTIAL for label in oracle.label_steps(problem, step_texts)]


LABELERS: dict[str, Labeler] = dict.fromkeys(SCALES, oracle_labels)
"""A profile's `data` to the labels of its steps."""


def labeler_for(data: str) -> Labeler:
    """The labels of a profile's `data`.

    Raises:
        AttnPOError: none are known.
    """
    if data not in LABELERS:
        raise AttnPOError(f"no step labels for data {data!r}; labels are known for {', '.join(LABELERS)}")
    return LABELERS[data]
