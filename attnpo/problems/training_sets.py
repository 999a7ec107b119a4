"""Problems with answers, from a JSON-lines file or a hub data set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attnpo.errors import AttnPOError

if TYPE_CHECKING:
    from attnpo.testbed import problems as testbed_problems


@dataclass(frozen=True)
class Item:
    """One problem to ask: `text` goes to the model as the user's turn, `answer` is what its last box must equal."""

    id: str
    text: str
    answer: str
    testbed: testbed_problems.Problem | None = None
    """The testbed's problem, whose oracle can label steps; None elsewhere."""


def load_items(source: str, split: str) -> list[Item]:
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


def _from_file(path: Path) -> list[Item]:
    if not path.is_file():
        raise AttnPOError(f"{path}: no such data file; check `data` in the profile")
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise AttnPOError(f"{path}, line {number}: not JSON ({error.msg}); each line is one object") from error
        items.append(_item(row, f"{path}, line {number}", str(number)))
    if not items:
        raise AttnPOError(f"{path}: the data file is empty; give one JSON object a line")
    return items


def _from_hub(source: str, split: str) -> list[Item]:
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise AttnPOError(
            f"data set {source!r}, split {split!r} could not be loaded ({reason}); check name and network, or give "
            "a JSON-lines file"
        ) from error
    return [_item(row, f"{source}[{split}] row {i}", str(i)) for i, row in enumerate(rows)]


def _item(row: dict[str, object], where: str, number: str) -> Item:
    missing = [key for key in ("problem", "answer") if row.get(key) in (None, "")]
    if missing:
        raise AttnPOError(f"{where}: no {missing[0]!r}; each problem needs 'problem' and 'answer'")
    return Item(str(row.get("id", number)), str(row["problem"]), str(row["answer"]))
