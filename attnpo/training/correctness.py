"""The reward function of every run: is the response correct?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from attnpo.grading.math import Grader
from attnpo.method.phrases import PHRASE_KINDS, phrase_counts
from attnpo.method.steps import split_steps, step_texts, thinking_part
from attnpo.probing.settings import StepsSection
from attnpo.problems.problem import Problem
from attnpo.sampling.sampler import text_of
from attnpo.testbed.counts import count_links, count_steps
from attnpo.testbed.oracle import label_steps
from attnpo.testbed.problems import ChainProblem
from attnpo.training.rollouts import RolloutFile


class Correctness:
    """TRL reward function: 1 for a correct response, 0 for any other.

    It logs what the texts show: phrases by kind, answers that could not be parsed and, for problems of the testbed,
    steps by the oracle's label and the share of hard links that were worked out. Some rollouts of each step go to
    `rollouts`, if it is there.
    """

    __name__ = "correctness"

    def __init__(
        self,
        grader: Grader,
        tokenizer: PreTrainedTokenizerBase,
        problems: Sequence[Problem],
        steps: StepsSection,
        rollouts: RolloutFile | None = None,
    ) -> None:
        self.grader = grader
        self.tokenizer = tokenizer
        self.steps = steps
        self.rollouts = rollouts
        self.chains = {problem.id: problem for problem in problems if isinstance(problem, ChainProblem)}

    def __call__(
        self,
        completion_ids: list[list[int]],
        answer: list[str],
        id: list[str],
        log_metric: Any,
        rollouts: bool = True,
        **more: Any,
    ) -> list[float]:
        """One reward a completion, from its sampled ids. TRL passes the data set's columns by name.

        Answers behind parts of a thinking come with `rollouts` False (`attnpo.training.answers`).
        """
        texts = [text_of(ids, self.tokenizer) for ids in completion_ids]
        grades = self.grader.grade(texts, answer)
        counts = [phrase_counts(thinking_part(text)) for text in texts]
        for kind in PHRASE_KINDS:
            log_metric(f"phrases/{kind}", sum(count[kind] for count in counts) / len(counts))
        log_metric("grader/parse_failed", sum(grade.parse_failed for grade in grades) / len(grades))
        if self.chains:
            self._log_steps(texts, id, log_metric)
        if self.rollouts is not None and rollouts:
            asked = [prompt[-1]["content"] for prompt in more["prompts"]]
            rows = [
                {"id": one, "asked": text, "answer": gold} for one, text, gold in zip(id, asked, answer, strict=True)
            ]
            self.rollouts.keep(more["trainer_state"].global_step + 1, rows, completion_ids, texts, grades)
        return [float(grade.correct) for grade in grades]

    def _log_steps(self, texts: list[str], ids: list[str], log_metric: Any) -> None:
        """Mean number of steps of each label in a response, and the share of hard links that were worked out."""
        counts: Counter[str] = Counter()
        links: Counter[str] = Counter()
        for text, problem_id in zip(texts, ids, strict=True):
            thinking = thinking_part(text)
            chain, section = self.chains[problem_id], self.steps
            steps = split_steps(thinking, section.phrases, section.min_chars, section.lone_trigger_chars)
            pieces = step_texts(thinking, steps)
            counts.update(count_steps(label_steps(chain, pieces)))
            links.update(count_links(chain, pieces))
        for label, count in counts.items():
            log_metric(f"steps/{label}", count / len(texts))
        if links["hard"]:
            log_metric("links/worked", links["worked"] / links["hard"])
