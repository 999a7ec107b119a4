"""Python side of the lm-eval task `attnpo_testbed`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import datasets

from attnpo.evaluation.responses import judge, summarise
from attnpo.grading.math import Grader
from attnpo.method.steps import split_steps, thinking_part
from attnpo.testbed import oracle, problems

_grader = Grader()


def load_test(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the test split; lm-eval passes its metadata along, which is not used."""
    return {"test": _dataset("test")}


def load_shifted(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the shifted test: longer chains, another wording."""
    return {"test": _dataset("shifted")}


def load_validation(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the validation split, under the name that lm-eval evaluates."""
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
    """Steps of a trace by the oracle: how many essential and redundant ones, and of each label."""
    texts = [thinking[step.start : step.end] for step in split_steps(thinking, "corrected", min_chars=1)]
    return oracle.count_steps(problem, texts)


def process_results(doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]) -> dict[str, Any]:
    """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
    (responses,) = results
    problem = _by_id(doc["split"])[doc["id"]]
    records = judge(responses, doc["answer"], _grader, tokenizer)
    return summarise([r | {"steps": count_steps(problem, thinking_part(r["text"]))} for r in records])
