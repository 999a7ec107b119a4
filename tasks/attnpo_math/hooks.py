"""The functions that the YAML files of the six math tasks, their boxed variants and data files name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import datasets

from attnpo.errors import AttnPOError
from attnpo.evaluation.responses import check_thinking, judge, summarise
from attnpo.grading.math import Grader
from attnpo.grading.necessary import valid_share
from attnpo.method.steps import thinking_part
from attnpo.problems import benchmarks, training_sets
from attnpo.problems.problem import Problem

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
"""The instruction that the model cards of R1 and of Qwen's math models recommend."""

_grader = Grader()


def load(
    benchmark: str,
    data_dir: str | None = None,
    source: str | None = None,
    data_revision: str | None = None,
    thinking: bool = True,
    boxed: bool = False,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """The problems of a set. The arguments are the YAML's metadata, updated by `--metadata`.

    `data_revision` is not called `revision`, because the metadata have the model's revision under that name.
    """
    suffix = f"\n\n{BOXED}" if boxed else ""
    return _documents(benchmarks.load(benchmark, data_dir, source, data_revision), thinking, suffix)


load_boxed = partial(load, boxed=True)


def load_file(file: str | None = None, thinking: bool = True, **_: Any) -> dict[str, datasets.Dataset]:
    """The problems of a data file, whose path `--metadata` names."""
    if not isinstance(file, str) or not training_sets.is_local(file):
        remedy = """name it by --metadata '{"file": "mine.jsonl"}'"""
        raise AttnPOError(f"attnpo_file asks the problems of a data file, not of {file!r}; {remedy}")
    return _documents(training_sets.load(file, "test"), thinking)


def _documents(problems: Iterable[Problem], thinking: bool, suffix: str = "") -> dict[str, datasets.Dataset]:
    thinks = check_thinking(thinking)
    rows = [{"id": p.id, "text": p.text + suffix, "answer": p.answer, "thinking": thinks} for p in problems]
    return {"test": datasets.Dataset.from_list(rows)}


def process_results(doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]) -> dict[str, Any]:
    """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
    (responses,) = results
    records = judge(responses, doc["answer"], _grader, tokenizer, doc["thinking"])
    return summarise([r | {"valid_share": valid_share(thinking_part(r["text"]), doc["answer"])} for r in records])
