"""The functions that the YAML files of the testbed's tasks name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import datasets

from attnpo.evaluation.responses import judge, summarise
from attnpo.grading.math import Grader
from attnpo.method.steps import thinking_part
from attnpo.testbed import problems
from attnpo.testbed.counts import describe_thinking

_grader = Grader()


def load_test(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the test split. lm-eval passes its metadata, which are not used."""
    return _dataset("test", problems.TINY)


def load_shifted(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the shifted test, with longer chains in another wording."""
    return _dataset("shifted", problems.TINY)


def load_validation(**_: Any) -> dict[str, datasets.Dataset]:
    """The problems of the validation split."""
    return _dataset("validation", problems.TINY)


def load_large_test(**_: Any) -> dict[str, datasets.Dataset]:
    """As `load_test`, of the large testbed."""
    return _dataset("test", problems.LARGE)


def load_large_shifted(**_: Any) -> dict[str, datasets.Dataset]:
    """As `load_shifted`, of the large testbed."""
    return _dataset("shifted", problems.LARGE)


def load_large_validation(**_: Any) -> dict[str, datasets.Dataset]:
    """As `load_validation`, of the large testbed."""
    return _dataset("validation", problems.LARGE)


def _dataset(split: str, scale: problems.Scale) -> dict[str, datasets.Dataset]:
    """The problems of a split, under the name of the split that lm-eval evaluates."""
    rows = [
        {"id": p.id, "text": p.text, "answer": p.answer, "chain": p.chain, "split": split}
        for p in problems.load(split, scale)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


@lru_cache
def _by_id(split: str, scale: problems.Scale) -> dict[str, problems.ChainProblem]:
    return {problem.id: problem for problem in problems.load(split, scale)}


def process_results(doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]) -> dict[str, Any]:
    """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
    return _metrics(problems.TINY, doc, results, tokenizer)


def process_large_results(
    doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]
) -> dict[str, Any]:
    """As `process_results`, of the large testbed."""
    return _metrics(problems.LARGE, doc, results, tokenizer)


def _metrics(
    scale: problems.Scale, doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]
) -> dict[str, Any]:
    (responses,) = results
    problem = _by_id(doc["split"], scale)[doc["id"]]
    records = judge(responses, doc["answer"], _grader, tokenizer)
    return summarise([r | describe_thinking(problem, thinking_part(r["text"])) for r in records])
