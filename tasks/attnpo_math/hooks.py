"""Python side of the six math tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets

from attnpo import benchmarks
from attnpo.responses import judge, summarise
from attnpo.rewards.correctness import Grader

_grader = Grader()


def load(benchmark: str, data_dir: str | None = None, **_: Any) -> dict[str, datasets.Dataset]:
    """The problems of a set. The arguments are the YAML's metadata, with that of `--metadata` laid over it."""
    problems = benchmarks.load(benchmark, data_dir)
    return {"test": datasets.Dataset.from_list([{"id": i, "text": text, "answer": a} for i, text, a in problems])}


def process_results(doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]) -> dict[str, Any]:
    """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
    (responses,) = results
    return summarise(judge(responses, doc["answer"], _grader, tokenizer))
