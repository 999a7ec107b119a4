"""Labels of steps: essential or redundant.

The testbed's oracle is exact. For other models, labels by step ablation or by LLM judges take the same form: a
function from an item and the texts of a response's steps to one bool per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attnpo.errors import AttnPOError
from attnpo.problems.problem import Problem
from attnpo.testbed import oracle
from attnpo.testbed.problems import ChainProblem

Labeler = Callable[[Problem, Sequence[str]], list[bool]]


def oracle_labels(item: Problem, step_texts: Sequence[str]) -> list[bool]:
    """True for each essential step, by `attnpo.testbed.oracle.label_steps`.

    Raises:
        AttnPOError: the item is not a problem of the testbed.
    """
    if not isinstance(item, ChainProblem):
        raise AttnPOError(f"problem {item.id!r} is not of the testbed, whose oracle alone is exact; set data: testbed")
    return [label in oracle.ESSENTIAL for label in oracle.label_steps(item, step_texts)]


LABELERS: dict[str, Labeler] = {"testbed": oracle_labels}
"""Label sources by name."""
