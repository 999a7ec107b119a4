"""The numbers of one trace that only the testbed knows: steps by label, links by route, where the answer was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from attnpo.method.steps import split_steps, step_texts
from attnpo.testbed import oracle
from attnpo.testbed.problems import ChainProblem
from attnpo.testbed.routes import routes


def count_steps(labels: Sequence[str]) -> dict[str, int]:
    """The number of steps by label, and the sums `essential` and `redundant`, from a trace's labels."""
    found = Counter(labels)
    sums = {
        "essential": sum(found[label] for label in oracle.ESSENTIAL),
        "redundant": sum(found[label] for label in oracle.REDUNDANT),
    }
    return sums | {label: found[label] for label in oracle.LABELS}


def count_links(problem: ChainProblem, texts: Sequence[str]) -> dict[str, int]:
    """The fields of `attnpo.testbed.routes.Routes`, `hard` (direct and worked) and `solved`, all in links."""
    taken = routes(problem, texts)
    return vars(taken) | {"hard": taken.direct + taken.worked, "solved": len(oracle.solved_in(problem, texts))}


def describe_thinking(problem: ChainProblem, thinking: str) -> dict[str, Any]:
    """What a response's record holds on the testbed beside what every record has.

    Args:
        problem: the problem.
        thinking: the text before `</think>`.

    Returns:
        steps (`count_steps`), links (`count_links`) and valid_share: the share of the thinking's characters up to the
        end of the step that solves the last link, None if none does.
    """
    texts = step_texts(thinking, split_steps(thinking, "corrected", min_chars=1))
    solved = oracle.solved_in(problem, texts)
    valid = None
    if len(solved) == problem.chain:
        valid = len("".join(texts[: solved[-1] + 1])) / len(thinking)
    return {
        "steps": count_steps(oracle.label_steps(problem, texts)),
        "links": count_links(problem, texts),
        "valid_share": valid,
    }
