"""Labels of steps: essential, redundant or unlabelled, from one of several sources.

The testbed's oracle is exact, and is there for its problems alone. `first_answer` needs nothing but the gold answer.
`ablation`, `prefix_gain` and `sampled_ablation` ask the model (`attnpo.probing.ablation`, `attnpo.probing.answers`),
`judge` asks others (`attnpo.probing.judge`). A source labels the steps of correct responses; of several, a step has the
label on which all agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from attnpo.errors import AttnPOError
from attnpo.grading.stated import states_answer
from attnpo.probing.settings import LabelSource, Vote
from attnpo.problems.problem import Problem
from attnpo.testbed import oracle
from attnpo.testbed.problems import SCALES, ChainProblem

Labels = Sequence[bool | None]
"""Of K steps: True is essential, False redundant, None unlabelled."""
TextLabeler = Callable[[Problem, Sequence[str]], Labels]
"""From a problem and the texts of the K steps of a response."""


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


def first_answer_labels(problem: Problem, step_texts: Sequence[str]) -> list[bool | None]:
    """Steps behind the first one that states the gold answer are redundant, it and those before it essential.

    So redundant steps before the first answer are taken for essential ones. A response that never states the gold
    answer in its thinking, or states it in its last step only, tells nothing: all of its steps are unlabelled. The rule
    is that of DECS (2509.25827) and LC-R1 (2506.14755), with `attnpo.grading.stated` in place of their models.
    """
    first = next((k for k, text in enumerate(step_texts) if states_answer(text, problem.answer)), len(step_texts) - 1)
    if first >= len(step_texts) - 1:
        return [None] * len(step_texts)
    return [k <= first for k in range(len(step_texts))]


BY_TEXT: dict[LabelSource, TextLabeler] = {"oracle": oracle_labels, "first_answer": first_answer_labels}
"""The sources that need no model, by the name in a profile's `probe.labels`."""
EXACT = tuple(SCALES)
"""Names in a profile's `data` of problems that the oracle knows."""


def has_oracle(data: str) -> bool:
    """Whether the oracle labels the steps of responses to a profile's `data`."""
    return data in EXACT


def voted(labels: Sequence[Labels], vote: Vote) -> list[bool | None]:
    """One label for each of K steps from those of several judges or sources.

    Args:
        labels: of each, K labels.
        vote: `unanimous`: all label the step, and all alike; `majority`: more than half of all do.
    """
    needed = len(labels) if vote == "unanimous" else len(labels) // 2 + 1
    result: list[bool | None] = []
    for of_step in zip(*labels, strict=True):
        essential, redundant = of_step.count(True), of_step.count(False)
        result.append(True if essential >= needed else False if redundant >= needed else None)
    return result


def check_labels(sources: Sequence[LabelSource], data: str) -> None:
    """Check that each source labels the steps of responses to a profile's `data`.

    Raises:
        AttnPOError: the oracle, for other data than the testbed's.
    """
    if "oracle" in sources and not has_oracle(data):
        others = " or ".join(name for name in get_args(LabelSource) if name != "oracle")
        raise AttnPOError(
            f"labels 'oracle' are known for {', '.join(EXACT)} alone, not for data {data!r}; choose {others}"
        )
