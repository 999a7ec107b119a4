"""Problems with answers from the user's own JSON-lines file or from a data set on the hub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnpo.errors import AttnPOError, first_line
from attnpo.files import json_lines
from attnpo.problems.problem import Problem

logger = logging.getLogger(__name__)
FILES = (".jsonl", ".json")
"""How the names of files end; any other source is a hub data set."""


def load(source: str, split: str, revision: str | None = None) -> list[Problem]:
    """The problems of one split.

    Args:
        source: the path of a JSON-lines file (`.jsonl` or `.json`), each line an object with `problem`, `answer` and,
            if there is one, `id`; or the name of a hub data set with the columns `problem` and `answer`.
        split: a split of the hub data set; a file has no splits and ignores it.
        revision: the hub data set's commit, branch or tag; a file has none. None takes what the hub has now, with a
            warning.

    Raises:
        AttnPOError: no such file or data set, a line that is not JSON, or one without problem or answer.
    """
    if source.endswith(FILES):
        return _from_file(Path(source))
    return _from_hub(source, split, revision)


def _from_file(path: Path) -> list[Problem]:
    if not path.is_file():
        raise AttnPOError(f"{path}: no such data file; check `data` in the profile")
    lines = json_lines(path, "each line is one JSON object")
    problems = [_problem(line.value, line.place, str(line.number)) for line in lines]
    if not problems:
        raise AttnPOError(f"{path}: the data file is empty; give one JSON object a line")
    return problems


def _from_hub(source: str, split: str, revision: str | None) -> list[Problem]:
    import datasets

    if revision is None:
        logger.warning(
            "data set %s has no revision: later runs may see other problems; set `data_revision` in the profile to the "
            "hub's commit",
            source,
        )
    try:
        rows = datasets.load_dataset(source, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise AttnPOError(
            f"data set {source!r}, split {split!r}, revision {revision!r} could not be loaded ({first_line(error)}); "
            "check name, revision and network, or give a JSON-lines file"
        ) from error
    return [_problem(row, f"{source}[{split}] row {i}", str(i)) for i, row in enumerate(rows)]


def _problem(row: Any, place: str, number: str) -> Problem:
    """The problem of one row; `number` becomes the id of a row that has none."""
    row = row if isinstance(row, Mapping) else {}
    missing = [key for key in ("problem", "answer") if row.get(key) in (None, "")]
    if missing:
        raise AttnPOError(f"{place}: no {missing[0]!r}; each problem needs 'problem' and 'answer'")
    return Problem(str(row.get("id", number)), str(row["problem"]), str(row["answer"]))
