"""Problems with answers from a file of the user's own or from a data set on the hub."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError, first_line
from attnpo.files import json_lines, parse_json
from attnpo.problems.problem import Problem
from attnpo.schema import STRICT

logger = logging.getLogger(__name__)
FILES = (".jsonl", ".json", ".csv", ".parquet")
"""How the names of files that can be read end."""
_OTHER_FILES = (".tsv", ".txt", ".xlsx", ".arrow", ".gz", ".bz2", ".zst", ".zip")
_REMEDY = "give a file (.jsonl, .json, .csv, .parquet) or the name of a hub data set"
_NAMED = "if its columns have other names: attnpo split --columns problem=NAME answer=NAME"
_OBJECTS = "each line is one JSON object"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Columns:
    """The names that a data set has for what a problem needs."""

    problem: str = "problem"
    answer: str = "answer"
    id: str = "id"
    """Rows need not have it: their numbers are their ids then."""


STANDARD = Columns()
"""The names that all files have which this package writes."""

Row = tuple[int, str, Any]
"""The row's number, where it is, for messages, and what it holds."""


def is_local(source: str) -> bool:
    """Whether a source is a file or a folder, there or not, and no hub data set, which has the form `owner/name`."""
    path = Path(source).expanduser()
    form = source.startswith((".", "~")) or path.is_absolute() or source.count("/") > 1
    return form or source.lower().endswith((*FILES, *_OTHER_FILES)) or path.exists()


def load(source: str, split: str, revision: str | None = None, columns: Columns = STANDARD) -> list[Problem]:
    """The problems of one split.

    Args:
        source: the path of a file, from the current folder: JSON lines (`.jsonl`), a JSON list (`.json`), CSV with a
            header, or Parquet; or the name of a hub data set. Each row has what `columns` names; other columns are left
            alone.
        split: a split of the hub data set; a file has no splits and ignores it.
        revision: the hub data set's commit, branch or tag; a file has none. None takes what the hub has now, with a
            warning.
        columns: the names of the columns.

    Raises:
        AttnPOError: no such file or data set, a file that cannot be read, a row without problem or answer, or two with
            one id. The line names file and row.
    """
    rows = _of_file(Path(source).expanduser()) if is_local(source) else _of_hub(source, split, revision)
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for number, place, row in rows:
        problem = _problem(row, place, str(number), columns)
        if problem.id in places:
            raise AttnPOError(f"{place}: its id {problem.id!r} is that of {places[problem.id]} too; give each its own")
        places[problem.id] = place
        problems.append(problem)
    if not problems:
        raise AttnPOError(f"{source}: there are no problems in it; {_REMEDY} that has some")
    return problems


def _of_file(path: Path) -> Iterator[Row]:
    """The rows, numbered from 1; those of JSON lines have the number of their line."""
    if path.is_dir():
        raise AttnPOError(f"{path}: a folder, no data file; {_REMEDY}")
    if not path.is_file():
        raise AttnPOError(f"{path}: no such data file; check its path, which is from the current folder")
    kind = path.suffix.lower()
    if kind not in FILES:
        raise AttnPOError(f"{path}: files that end in {kind or 'nothing'} are not read; {_REMEDY}")
    if kind == ".parquet":
        return _numbered(path, _parquet(path))
    text = _text(path)
    if kind == ".csv":
        return _numbered(path, _csv(path, text))
    if kind == ".json" and text.lstrip().startswith("["):
        return _numbered(path, parse_json(text, str(path), "give a list of objects, or name it .jsonl"))
    return ((line.number, line.place, line.value) for line in json_lines(path, _OBJECTS))


def _numbered(path: Path, rows: Iterable[Any]) -> Iterator[Row]:
    return ((number, f"{path} row {number}", row) for number, row in enumerate(rows, 1))


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")  # spreadsheets put a mark before the text
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise AttnPOError(f"{path}:{line}: not UTF-8 (byte {content[error.start]:#x}); save it as UTF-8") from error


def _csv(path: Path, text: str) -> Iterator[Any]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            if None in row:
                raise AttnPOError(f"{path}:{rows.line_num}: more fields than the header; quote those with a comma")
            yield row
    except csv.Error as error:
        raise AttnPOError(f"{path}:{rows.reader.line_num}: not CSV ({error}); correct the line") from error


def _parquet(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        table: pyarrow.Table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise AttnPOError(f"{path}: not Parquet ({first_line(error)}); write it again") from error
    return list(table.to_pylist())


def _of_hub(source: str, split: str, revision: str | None) -> Iterator[Row]:
    import datasets

    if revision is None:
        logger.warning(
            "data set %s has no revision: later runs may see other problems; name the hub's commit (`data_revision` in "
            "the profile, --revision of attnpo split)",
            source,
        )
    try:
        rows = datasets.load_dataset(source, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise AttnPOError(
            f"data set {source!r}, split {split!r}, revision {revision!r} could not be loaded ({first_line(error)}); "
            "check name, revision and network, or give a file (.jsonl, .json, .csv, .parquet)"
        ) from error
    return ((i, f"{source}[{split}] row {i}", row) for i, row in enumerate(rows))


def _problem(row: Any, place: str, number: str, columns: Columns) -> Problem:
    """The problem of one row; `number` becomes the id of a row that has none."""
    if not isinstance(row, Mapping):
        wanted = f"{columns.problem!r} and {columns.answer!r}"
        raise AttnPOError(f"{place}: {row!r:.60} is no object; each problem is one with {wanted}")
    for key in (columns.problem, columns.answer):
        value = row.get(key)
        if value in (None, ""):
            has = ", ".join(map(repr, row)) or "nothing"
            wanted = f"{columns.problem!r} and {columns.answer!r}"
            named = "" if key in row else f"; {_NAMED}"
            raise AttnPOError(f"{place}: no {key!r}; each problem needs {wanted}, this one has {has}{named}")
        if isinstance(value, bool | list | Mapping) or (key == columns.problem and not isinstance(value, str)):
            what = "text" if key == columns.problem else "text or a number"
            raise AttnPOError(f"{place}: {key!r} is {value!r:.60}; it must be {what}")
    name = row.get(columns.id)
    return Problem(number if name in (None, "") else str(name), str(row[columns.problem]), str(row[columns.answer]))
