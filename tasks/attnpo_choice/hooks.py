"""The functions that the YAML files of the multiple-choice tasks name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets

from attnpo.evaluation.responses import check_thinking, judge, summarise
from attnpo.grading.choice import ChoiceGrader
from attnpo.problems import benchmarks
from attnpo.problems.choice import prompt, shuffled


def load(
    benchmark: str,
    data_dir: str | None = None,
    source: str | None = None,
    data_revision: str | None = None,
    thinking: bool = True,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """The problems of a set, with shuffled options. The arguments are the YAML's metadata, updated by `--metadata`."""
    documents = []
    for problem in benchmarks.load(benchmark, data_dir, source, data_revision):
        choices, answer = shuffled(problem.id, problem.choices, problem.answer)
        document = {"id": problem.id, "text": prompt(problem.text, choices), "answer": answer, "choices": choices}
        documents.append({**document, "subject": problem.subject, "thinking": check_thinking(thinking)})
    return {"test": datasets.Dataset.from_list(documents)}


def process_results(doc: dict[str, Any], results: list[list[str]], tokenizer: Callable[[], Any]) -> dict[str, Any]:
    """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
    (responses,) = results
    return summarise(judge(responses, doc["answer"], ChoiceGrader(doc["choices"]), tokenizer, doc["thinking"]))
