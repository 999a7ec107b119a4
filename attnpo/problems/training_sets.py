"""Problems with answers, from a JSON-lines file or a hub data set."""

from __future__ import annotations

import json
from pathlib import Path

from attnpo.errors import AttnPOError
from attnpo.problems.problem import Problem


def load(source: str, split: str) -> list[Problem]:
    """Problems of one split.

    Args:
        source: the path of a JSON-lines file with `problem`, `answer` and maybe `id` on each line, or the id of a hub
            data set with the columns `problem` and `answer`.
        split: a split of the hub data set; a file has no splits and ignores it.

    Raises:
        AttnPOError: no such file or data set, a line that is not JSON, or one without problem and answer.
    """
    if source.endswith((".jsonl", ".json")):
        return _from_file(Path(source))
    return _from_hub(source, split)


def _from_file(path: Path) -> list[Problem]:
    if not path.is_file():
        raise AttnPOError(f"{path}: no such data file; check `data` in the profile")
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise AttnPOError(f"{path}, line {number}: not JSON ({error.msg}); each line is one object") from error
        problems.append(_problem(row, f"{path}, line {number}", str(number)))
    if not problems:
        raise AttnPOError(f"{path}: the data file is empty; give one JSON object a line")
    return problems


def _from_hub(source: str, split: str) -> list[Problem]:
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise AttnPOError(
            f"data set {source!r}, split {split!r} could not be loaded ({reason}); check name and network, or give "
            "a JSON-lines file"
        ) from error
    return [_problem(row, f"{source}[{split}] row {i}", str(i)) for i, row in enumerate(rows)]


def _problem(row: dict[str, object], where: str, number: str) -> Problem:
    missing = [key for key in ("problem", "answer") if row.get(key) in (None, "")]
    if missing:
        raise AttnPOError(f"{where}: no {missing[0]!r}; each problem needs 'problem' and 'answer'")
    return Problem(str(row.get("id", number)), str(row["problem"]), str(row["answer"]))
