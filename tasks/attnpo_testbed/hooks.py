"""The functions that the YAML files of the testbed's tasks name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import datasets

from attnpo.evaluation.responses import judge, summarise
from attnpo.grading.math import Grader
from attnpo.method.steps import split_steps, step_texts, thinking_part
from attnpo.testbed import oracle, problems

_grader = Grader()


def load_test(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the test split. lm-eval passes its metadata, which are not used."""
    return {"test": _dataset("test")}


def load_shifted(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the shifted test, with longer chains in another wording."""
    return {"test": _dataset("shifted")}


def load_validation(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the validation split, under the name of the split that lm-eval evaluates."""
    return {"test": _dataset("validation")}


def _dataset(split: str) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [
            {"id": p.id, "text": p.text, "answer": p.answer, "chain": p.chain, "split": split}
            for p in problems.load(split)
        ]
    )


@lru_cache
def _by_id(split: str) -> dict[str, problems.ChainProblem]:
    return {problem.id: problem for problem in problems.load(split)}


def count_steps(problem: problems.ChainProblem, thinking: str) -> dict[str, int]:
    """The number of steps of a trace by the oracle's label, and of essential and redundant ones."""
    return oracle.count_steps(problem, step_texts(thinking, split_steps(thinking, "corrected", min_chars=1)))


def process_results(doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]) -> dict[str, Any]:
    """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
    (responses,) = results
    problem = _by_id(doc["split"])[doc["id"]]
    records = judge(responses, doc["answer"], _grader, tokenizer)
    return summarise([r | {"steps": count_steps(problem, thinking_part(r["text"]))} for r in records])
