"""Labels by what the model answers behind a part of its thinking: `prefix_gain` and `sampled_ablation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from transformers import PreTrainedTokenizerBase

from attnpo.grading.math import Grader
from attnpo.method.scores import Response
from attnpo.probing.removal import Question, Removal, greedy_removal, kept_ids, labels_by_removal, prefix_gain
from attnpo.probing.settings import AnswerSource, ProbeSection, Source
from attnpo.problems.problem import Problem
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.sampler import Sampler, text_of
from attnpo.sampling.store import Key, SampleFile

SUFFICIENT = 0.8
"""Share of right answers from which on a thinking leads to the gold answer (2604.18307)."""
MARGIN = 0.2
"""The largest change of the share of right answers that a redundant step makes: one answer of five."""


class Way(NamedTuple):
    """How the steps of a response are asked about."""

    removal: Callable[[Sequence[int]], Removal]
    questions: Callable[[int], int]
    """At most so many about a response of K steps."""


WAYS: dict[AnswerSource, Way] = {
    "sampled_ablation": Way(
        lambda steps: greedy_removal(steps, SUFFICIENT, lambda _: SUFFICIENT), lambda k: max(1, 2 * k)
    ),
    "prefix_gain": Way(lambda steps: prefix_gain(steps, SUFFICIENT, MARGIN), lambda k: k + 1),
}


def answer_labels(
    rows: Sequence[tuple[Problem, Response]],
    way: AnswerSource,
    source: Source,
    settings: ProbeSection,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    seed: int = 0,
) -> list[list[bool | None]]:
    """Label the steps of responses by the share of right answers behind what is left of the thinking.

    Args:
        rows: each problem and a correct response to it, with its steps.
        way: `sampled_ablation`, greedy removal, or `prefix_gain`; see `attnpo.probing.removal`.
        source: the model that gave the responses.
        settings: `answers` are sampled to each question, each of at most `answer_tokens` tokens behind
            `forced_answer`.
        tokenizer: the model's.
        path: of the answers; those that are there are not sampled again.
        seed: of the sampling.

    Returns:
        for each response a label for each step; of a response whose whole thinking does not lead to the gold answer in
        `SUFFICIENT` of the cases, no step has one.
    """
    with Answers(rows, source, settings, tokenizer, path, seed) as answers:
        return labels_by_removal(
            [response for _, response in rows], WAYS[way].removal, answers.right, WAYS[way].questions
        )


class Answers:
    """The answers of a model behind shortened thinkings. A context manager.

    The model is loaded at the first answer that is missing in the file.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Problem, Response]],
        source: Source,
        settings: ProbeSection,
        tokenizer: PreTrainedTokenizerBase,
        path: Path,
        seed: int,
    ) -> None:
        self.rows, self.source, self.settings, self.tokenizer = rows, source, settings, tokenizer
        self.forced = list(tokenizer(settings.forced_answer, add_special_tokens=False)["input_ids"])
        self._sampler: Sampler | None = None
        self._held = ExitStack()
        self._file = self._held.enter_context(SampleFile(path, ("response", "removed", "k")))
        self._grader = self._held.enter_context(Grader())
        self._turns = seed * 1_000_003

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._held.close()

    def right(self, asked: Sequence[Question]) -> list[float]:
        """The share of right answers to each question. Questions in the same order get the same answers."""
        n = self.settings.answers
        keys: list[Key] = [
            (number, ",".join(map(str, sorted(removed))), k) for number, removed in asked for k in range(n)
        ]
        seeds = [self._turns + turn for turn in range(len(keys))]
        self._turns += len(keys)
        kept = [kept_ids(self.rows[number][1], removed) for number, removed in asked]
        if not all(key in self._file for key in keys):
            prompts = [
                [*self.rows[number][1].prompt_ids, *ids, *self.forced]
                for (number, _), ids in zip(asked, kept, strict=True)
                for _ in range(n)
            ]
            self._file.fill(
                self._loaded(),
                keys,
                prompts,
                seeds,
                temperature=self.settings.temperature,
                max_new_tokens=self.settings.answer_tokens,
                description=None,
            )
        answers = [row["response_ids"] for row in self._file.rows(keys)]
        texts = [text_of([*kept[turn // n], *self.forced, *ids], self.tokenizer) for turn, ids in enumerate(answers)]
        grades = self._grader.grade(texts, [self.rows[number][0].answer for number, _ in asked for _ in range(n)])
        return [sum(grade.correct for grade in grades[i : i + n]) / n for i in range(0, len(grades), n)]

    def _loaded(self) -> Sampler:
        if self._sampler is None:
            longest = max(
                len(response.prompt_ids) + response.steps.answer[0] for _, response in self.rows if response.steps
            )
            self._sampler = self._held.enter_context(
                make_sampler(
                    self.settings.backend,
                    self.source.model,
                    self.source.revision,
                    batch_size=self.settings.batch_size,
                    max_model_len=longest + len(self.forced) + self.settings.answer_tokens,
                )
            )
        return self._sampler
