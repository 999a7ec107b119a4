"""One response to one problem as a plain record, and the metrics of a problem's k responses.

Where the thinking of a response ends and its answer begins:

- If the model's template ends the prompt with `<think>` (R1), the response starts inside the thinking.
- If the model writes `<think>` itself, the tag counts as thinking.
- In both cases a response without `</think>` is all thinking and has no answer, as in the paper.
- A model that does not think must be declared (`thinking=False`). A response with neither tag is then all answer. A
  response with a tag is split as above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from attnpo.errors import AttnPOError
from attnpo.evaluation.lengths import TokenCounts, count_response
from attnpo.grading.grade import Grade
from attnpo.method.steps import THINK_END, THINK_START
from attnpo.statistics.tables import sample_counts


class Grades(Protocol):
    """A grader: `attnpo.grading.math.Grader` or `attnpo.grading.choice.ChoiceGrader`."""

    def grade(self, responses: Sequence[str], golds: Sequence[str]) -> list[Grade]:
        """Grade N responses against the N gold answers beside them."""


def check_thinking(value: Any) -> bool:
    """Check the switch `thinking` of `--metadata`.

    Raises:
        AttnPOError: it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise AttnPOError(f"thinking is {value!r} in the metadata; give true, or false for a model that does not think")
    return value


def is_all_answer(text: str, thinking: bool) -> bool:
    """Whether a response has no thinking: its model does not think, and the response has neither tag."""
    return not thinking and THINK_END not in text and not text.lstrip().startswith(THINK_START)


def for_grading(responses: Sequence[str], thinking: bool) -> list[str]:
    """The responses as graders read them: before a response without thinking goes an empty thinking part."""
    return [f"{THINK_END}{text}" if is_all_answer(text, thinking) else text for text in responses]


def describe(text: str, grade: Grade, tokenizer: Callable[[], Any], thinking: bool = True) -> dict[str, Any]:
    """A JSON-serialisable record of one response.

    Args:
        text: the response; a `Generation` has its counts and finish reason with it.
        grade: its grade.
        tokenizer: returns the tokenizer to count with; called only for a response without counts.
        thinking: False for a model that does not think.

    Returns:
        text, correct, parse_failed, reason, thinking (the switch), think_tags (how many `</think>`), tokens {total,
        thinking, answer}, finish (None if not known), counted ("generated", "usage" or "retokenized", see
        `attnpo.evaluation.lengths.count_response`), seed (None if not known).
    """
    counts, counted = count_response(text, tokenizer)
    if is_all_answer(text, thinking):
        counts = TokenCounts(counts.total, 0, counts.total)
    return {
        "text": str(text),
        "correct": grade.correct,
        "parse_failed": grade.parse_failed,
        "reason": grade.reason,
        "thinking": thinking,
        "think_tags": text.count(THINK_END),
        "tokens": counts._asdict(),
        "finish": getattr(text, "finish", None),
        "counted": counted,
        "seed": getattr(text, "seed", None),
    }


def judge(
    responses: Sequence[str], gold: str, grader: Grades, tokenizer: Callable[[], Any], thinking: bool = True
) -> list[dict[str, Any]]:
    """Grade and describe the k responses to one problem.

    Args:
        responses: k texts or `Generation`s.
        gold: the gold answer.
        grader: grades them.
        tokenizer: returns the tokenizer to count with; called only if a response has no counts.
        thinking: False for a model that does not think.

    Returns:
        k records of `describe`, in order.
    """
    grades = grader.grade(for_grading(responses, thinking), [gold] * len(responses))
    return [describe(text, grade, tokenizer, thinking) for text, grade in zip(responses, grades, strict=True)]


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one problem's k records, by the names of the task's `metric_list`.

    All are means over the k responses, but `pass@k` (any of the k correct), `correct_tokens` and
    `wrong_tokens` ([sum, number] over those) and `responses` (the records themselves). `missing_think_end` is NaN
    for a model that does not think. Steps are counted where the records have them.
    """
    counts = [sample_counts(record) for record in records]

    def total(name: str) -> float:
        return sum(of_record[name] for of_record in counts)

    def mean(name: str) -> float:
        return total(name) / len(records)

    figures: dict[str, Any] = {
        "avg@k": mean("correct"),
        "pass@k": float(total("correct") > 0),
        "correct_tokens": [total("correct_tokens"), total("correct")],
        "wrong_tokens": [total("tokens") - total("correct_tokens"), len(records) - total("correct")],
        "responses": list(records),
    }
    shared = (
        "tokens",
        "thinking_tokens",
        "answer_tokens",
        "truncated",
        "missing_think_end",
        "parse_failed",
        "retokenized",
    )
    figures |= {name: mean(name) for name in shared}
    if all("steps" in record for record in records):
        figures["essential_steps"] = mean("steps_essential")
        figures["redundant_steps"] = mean("steps_redundant")
    return figures


def mean_of_pairs(pairs: Sequence[Sequence[float]]) -> float:
    """Mean over all responses, from the [sum, number] of each problem; NaN if there is no response."""
    number = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / number if number else math.nan


def number_of_responses(records: Sequence[Sequence[dict[str, Any]]]) -> int:
    """How many responses all problems have together, from the records of each problem."""
    return sum(map(len, records))


def sample_lines(
    task: str, problem_id: Any, document: Mapping[str, Any], responses: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The lines of a samples.jsonl for one problem, from its document and its k records (see `describe`)."""
    meta = {key: document[key] for key in ("chain", "subject") if key in document}
    for k, response in enumerate(responses):
        yield {"task": task, "problem_id": problem_id, "k": k, **response, "meta": meta}
