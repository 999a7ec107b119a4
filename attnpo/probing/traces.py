"""A response as one can look at it: its steps, what they are, where the answer first stands, what the heads look at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from attnpo.grading.necessary import first_sentence, stated_at
from attnpo.method.steps import (
    THINK_END,
    Step,
    StepKind,
    align_steps,
    split_at_think_end,
    split_steps,
    step_texts,
    thinking_part,
    token_bytes_table,
)
from attnpo.probing.labels import first_answer_labels
from attnpo.probing.settings import StepsSection
from attnpo.problems.problem import Problem
from attnpo.sampling.sampler import text_of
from attnpo.testbed import oracle
from attnpo.testbed.problems import ChainProblem

if TYPE_CHECKING:
    from torch import nn

    from attnpo.method.attention import Head

KINDS = {
    StepKind.DOUBT: "doubt or branch",
    StepKind.FORWARD: "forward",
    StepKind.BACKWARD: "backward",
    StepKind.FINAL: "final",
}
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Trace:
    """One response with K steps."""

    texts: list[str]
    """Of the steps; together they are the thinking."""
    kinds: list[str]
    """One of `KINDS` each."""
    triggers: list[str | None]
    """The phrase that opens each step."""
    tokens: list[int] | None
    """How many tokens each step has; None where no tokenizer is known."""
    labels: list[str | None]
    """What the testbed's oracle calls each step; elsewhere `essential` or `redundant`, or None: not labelled."""
    essential: list[bool | None]
    """The same as essential or redundant."""
    first_step: int | None
    """The step in which the right answer is found first; None: in none, or it is not known."""
    first_tokens: int | None
    """Tokens up to there."""
    answer: str
    """The text behind `</think>`."""
    ids: list[int] | None
    """The response's token ids, end of sequence included; None where no tokenizer is known."""

    def shares(self, tokens: Mapping[str, int]) -> dict[str, float]:
        """Shares of a response: essential, redundant and unlabelled thinking, the answer, and the rest (the tag).

        Args:
            tokens: how many the response has by its record: `total`, `thinking` and `answer`. Within the thinking the
                steps' own tokens count, or characters where no tokenizer is known.
        """
        weights = self.tokens or [len(text) for text in self.texts]
        total, whole = max(tokens["total"], 1), max(sum(weights), 1)
        of_kind = {True: 0, False: 0, None: 0}
        for label, weight in zip(self.essential, weights, strict=True):
            of_kind[label] += weight
        thinking = tokens["thinking"] / total / whole
        named = {"essential": of_kind[True], "redundant": of_kind[False], "unlabelled": of_kind[None]}
        found = {name: thinking * weight for name, weight in named.items()}
        found["answer"] = tokens["answer"] / total
        return {**found, "tag": max(0.0, 1 - sum(found.values()))}


class Tracer:
    """Cuts responses into steps.

    Args:
        settings: how they are cut.
        tokenizer: that of the model that wrote them; None: nothing is counted in tokens.
    """

    def __init__(self, settings: StepsSection, tokenizer: Any = None) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.table = [] if tokenizer is None else token_bytes_table(tokenizer)

    def trace(self, record: Mapping[str, Any], problem: Problem | None) -> Trace:
        """The trace of one response.

        Args:
            record: a line of samples.jsonl, with `text`, `finish`, `correct` and `thinking`; or with `response_ids` in
                place of the text. A text is tokenized again.
            problem: what was asked; None: not known, so that there are no labels.
        """
        ids = self._ids(record)
        text = record["text"] if "text" in record or ids is None else text_of(ids, self.tokenizer)
        thinks = record.get("thinking", True) or THINK_END in text
        thinking, steps, tokens = self._steps(text, ids) if thinks else ("", [], None if ids is None else [])
        texts = step_texts(thinking, steps)
        labels = _labels(texts, problem, bool(record.get("correct")))
        first_step, first_tokens = self._first(thinking, steps, ids, tokens, problem)
        return Trace(
            texts,
            [KINDS[StepKind(step.kind)] for step in steps],
            [step.trigger for step in steps],
            tokens,
            [label for label, _ in labels],
            [essential for _, essential in labels],
            first_step,
            first_tokens,
            text if not thinks else text.partition(THINK_END)[2],
            ids,
        )

    def _ids(self, record: Mapping[str, Any]) -> list[int] | None:
        if self.tokenizer is None:
            return None
        if "response_ids" in record:
            return list(record["response_ids"])
        # Half of a surrogate pair has no UTF-8, so no tokens either.
        text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", record["text"])
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.tokenizer.eos_token_id] if record.get("finish") == "stop" else ids

    def _steps(self, text: str, ids: list[int] | None) -> tuple[str, list[Step], list[int] | None]:
        """The thinking, its steps, and how many tokens each has."""
        cut = (self.settings.phrases, self.settings.min_chars, self.settings.lone_trigger_chars)
        if ids is None:
            return thinking_part(text), split_steps(thinking_part(text), *cut), None
        # Cut as if it were closed and answered, by two ids that no tokenizer has: it may be truncated.
        parts, size = split_at_think_end(ids, self.table), len(self.table)
        shared = parts.raw[parts.ends[parts.thinking - 1] : parts.tag_start] if parts.thinking else b""
        closed = [*self.table, shared + THINK_END.encode(), b"."]
        aligned = align_steps([*ids[: parts.thinking], size, size + 1], closed, *cut)
        if aligned is None:  # no thinking at all
            return "", [], []
        counts = [0] * len(aligned.steps)
        for step in aligned.step_of_token[: aligned.thinking[1]]:
            counts[step] += 1
        return aligned.text, aligned.steps, counts

    def _first(
        self,
        thinking: str,
        steps: Sequence[Step],
        ids: list[int] | None,
        tokens: list[int] | None,
        problem: Problem | None,
    ) -> tuple[int | None, int | None]:
        """The step where the answer is found first, and the tokens up to there: on the testbed the step that solves
        the last link, elsewhere the sentence that states the gold answer."""
        if problem is None or not steps:
            return None, None
        if isinstance(problem, ChainProblem):
            solved = oracle.solved_in(problem, step_texts(thinking, steps))
            if len(solved) < problem.chain:
                return None, None
            return solved[-1], None if tokens is None else sum(tokens[: solved[-1] + 1])
        end = stated_at(thinking, problem.answer)
        if end is None:
            return None, None
        step = next(k for k, step in enumerate(steps) if end <= step.end)
        found = first_sentence(ids, self.table, problem.answer).tokens if ids is not None else 0
        return step, found or None


def _labels(texts: list[str], problem: Problem | None, correct: bool) -> list[tuple[str | None, bool | None]]:
    """Label and essential of each step: the oracle's where it knows the problem, else by the first answer."""
    if isinstance(problem, ChainProblem):
        return [(label, label in oracle.ESSENTIAL) for label in oracle.label_steps(problem, texts)]
    if problem is None or not problem.answer or not correct:
        return [(None, None)] * len(texts)
    words = {True: "essential", False: "redundant", None: None}
    return [(words[label], label) for label in first_answer_labels(problem, texts)]


class Looks(NamedTuple):
    """What H heads look at from the F answer tokens of a trace with K steps."""

    scores: list[list[float | None]]
    """(H, K) step scores; None for a step without tokens."""
    rows: Any
    """(H, R, K) float32 numpy: attention of each of the last R answer tokens to each step."""
    token_texts: list[str]
    """Of these R tokens."""
    before: str
    """The text of the answer tokens before these."""
    answer_tokens: int
    """F, end of sequence included."""
    total_tokens: int
    """Of prompt and response."""


def look(
    model: nn.Module, heads: Sequence[Head], tracer: Tracer, trace: Trace, prompt: Sequence[int], kept: int
) -> Looks | None:
    """Score a trace in one forward pass; None without exactly one `</think>`, or without thinking or answer.

    Args:
        model: that scores.
        heads: (layer, head), both from 0.
        tracer: that made the trace, with a tokenizer.
        trace: of the response.
        prompt: the prompt's token ids.
        kept: R at most, the number of answer tokens, from the last on, whose attention is kept one by one.
    """
    from attnpo.method.scores import Response, answer_attention

    assert trace.ids is not None
    settings = tracer.settings
    steps = align_steps(trace.ids, tracer.table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
    if steps is None:
        return None
    assert len(steps.steps) == len(trace.texts)
    found = answer_attention(model, heads, Response(prompt, trace.ids, steps))
    start = max(steps.answer[0], steps.answer[1] - kept)
    pieces = [tracer.table[i] if i < len(tracer.table) else b"" for i in trace.ids]
    before = b"".join(pieces[steps.answer[0] : start])
    return Looks(
        [[None if score != score else score for score in of_head] for of_head in found.scores.tolist()],
        found.of_tokens[:, start - steps.answer[0] :].numpy(),
        [piece.decode("utf-8", "replace") for piece in pieces[start : steps.answer[1]]],
        before.decode("utf-8", "replace"),
        steps.answer[1] - steps.answer[0],
        len(prompt) + len(trace.ids),
    )
