"""Some rollouts of each step, kept to be looked at with `attnpo trace`. They determine nothing of the training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnpo.files import atomic_write_bytes
from attnpo.grading.grade import Grade
from attnpo.method.steps import THINK_END, split_at_think_end

ROLLOUTS_FILE = "rollouts.jsonl"
"""In the folder of a training run."""


class RolloutFile:
    """Keeps the first `count` rollouts of each step as lines like those of a samples.jsonl, and where they belong.

    A resumed run takes steps again: their lines go when it writes the first of them.

    Args:
        path: of the file.
        count: rollouts a step, from the first group on.
        table: `attnpo.method.steps.token_bytes_table` of the tokenizer.
        end: the id of the end of sequence.
        about: more for every line, such as the name of the data.
    """

    def __init__(self, path: Path, count: int, table: Sequence[bytes], end: int, about: Mapping[str, Any]) -> None:
        self.path, self.count, self.table, self.end, self.about = path, count, table, end, about
        self._begun = False

    def keep(
        self,
        step: int,
        rows: Sequence[Mapping[str, Any]],
        ids: Sequence[Sequence[int]],
        texts: Sequence[str],
        grades: Sequence[Grade],
    ) -> None:
        """Append rollouts of a step and wait until they are on the disk.

        Args:
            step: the optimizer step that they are for, from 1.
            rows: of the data set, with `id`, `asked` and `answer`, for each rollout.
            ids, texts, grades: of each rollout.
        """
        if not self._begun:
            self._cut(step)
        numbers: dict[Any, int] = {}
        lines = []
        for row, of_ids, text, grade in list(zip(rows, ids, texts, grades, strict=True))[: self.count]:
            k = numbers[row["id"]] = numbers.get(row["id"], -1) + 1
            group = [other.correct for there, other in zip(rows, grades, strict=True) if there["id"] == row["id"]]
            parts = split_at_think_end(of_ids, self.table)
            lines.append(
                {
                    "step": step,
                    "problem_id": row["id"],
                    "k": k,
                    "text": text,
                    "response_ids": list(of_ids),
                    "correct": grade.correct,
                    "parse_failed": grade.parse_failed,
                    "reason": grade.reason,
                    "group_accuracy": sum(group) / len(group),
                    "think_tags": text.count(THINK_END),
                    "tokens": {"total": len(of_ids), "thinking": parts.thinking, "answer": parts.answer},
                    "finish": "stop" if of_ids and of_ids[-1] == self.end else "length",
                    "asked": row["asked"],
                    "answer": row["answer"],
                    **self.about,
                }
            )
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def _cut(self, step: int) -> None:
        """Drop lines of this step and later ones, and one that a killed process has not finished."""
        self._begun = True
        if self.path.is_file():
            lines = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            atomic_write_bytes(self.path, b"".join(line for line in lines if json.loads(line)["step"] < step))
