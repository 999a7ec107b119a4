"""The class and functions that the YAML file of the LiveCodeBench task names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from attnpo.evaluation.lm_eval_task import SampledTask
from attnpo.evaluation.responses import check_thinking, describe, for_grading, summarise
from attnpo.grading.code import grade
from attnpo.grading.grade import Grade
from attnpo.grading.sandbox import Sandbox
from attnpo.problems import livecodebench

# lm-eval shows the messages of its own loggers.
logger = logging.getLogger("lm_eval.tasks.attnpo_livecodebench")

COLUMNS = ("text", "answer", "id", "platform", "difficulty", "contest_date", "file", "offset")


def files(
    release: str, data_dir: str | None = None, revision: str = livecodebench.REVISION, **_: Any
) -> dict[str, Path]:
    """The files of the release that the metadata name."""
    return livecodebench.files(release, data_dir, revision)


def load(start_date: str | None = None, end_date: str | None = None, **metadata: Any) -> dict[str, datasets.Dataset]:
    """The problems, without their tests. The arguments are the YAML's metadata, updated by `--metadata`."""
    problems = livecodebench.load(files(**metadata), start_date, end_date)
    return {"test": datasets.Dataset.from_list([{name: getattr(p, name) for name in COLUMNS} for p in problems])}


class LiveCodeBench(SampledTask):
    """Grades all responses together, several at a time, when all of them are generated.

    lm-eval refuses the task without `--confirm_run_unsafe_code`. The sandbox is made and checked together with the
    task, so that a sandbox that does not work is an error before hours of sampling.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        metadata = config.get("metadata") or {}
        options = {"image": metadata["image"]} if "image" in metadata else {}
        self._sandbox = Sandbox(metadata["isolation"], run_untrusted_code=True, **options)
        logger.info("%s", self._sandbox.description)
        self._thinking = check_thinking(metadata.get("thinking", True))
        self._grades: dict[tuple[str, tuple[str, ...]], list[Grade]] = {}
        super().__init__(config)

    def apply_filters(self) -> Any:
        """Grade all responses; lm-eval calls this when they are generated, before `process_results`."""
        filtered = super().apply_filters()
        if not self.predicts_only:
            self.prepare([(instance.doc, instance.resps) for instance in self.instances])
        return filtered

    def process_results(self, doc: dict[str, Any], results: list[list[str]]) -> dict[str, Any]:
        """Metrics of one problem from its k responses (`filter: []` keeps all of them)."""
        if self.predicts_only:
            return super().process_results(doc, results)
        (responses,) = results
        key = (doc["id"], tuple(responses))
        if key not in self._grades:
            self.prepare([(doc, responses)])
        return summarise(
            [
                describe(text, grade, lambda: self.tokenizer, self._thinking)
                for text, grade in zip(responses, self._grades[key], strict=True)
            ]
        )

    def prepare(self, answered: Sequence[tuple[dict[str, Any], Sequence[str]]]) -> None:
        """Run the programs of all responses, several at a time."""
        pairs = list(answered)
        metadata = self.config.metadata or {}
        paths = files(**metadata)
        tests = [partial(livecodebench.read_tests, paths[doc["file"]], doc["offset"]) for doc, _ in pairs]
        responses = [for_grading(texts, self._thinking) for _, texts in pairs]
        with tqdm(total=sum(map(len, responses)), desc="Running programs", disable=len(pairs) == 1) as bar:
            grades = grade(responses, tests, self._sandbox, metadata.get("workers"), bar.update)
        for (doc, texts), graded in zip(pairs, grades, strict=True):
            self._grades[doc["id"], tuple(texts)] = graded
