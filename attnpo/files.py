"""Files that are whole or not there: atomic writes, locks, JSON lines, hashes."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from attnpo.errors import AttnPOError

if TYPE_CHECKING:
    import pandas as pd


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_files(paths: Iterable[Path]) -> str:
    """One SHA-256 over names and contents of the files, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0")
        digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file. It is computed once a process, and again if the file's size or time of change is another."""
    found = path.stat()
    return _digest(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` of a text in UTF-8."""
    atomic_write_bytes(path, text.encode())


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename: a reader sees the old content or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # a full disk: give the room back; Ctrl-C: leave nothing behind
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system name the file: Python names it where a file is opened, not where it is written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def to_disk(path: Path) -> None:
    """Wait until the file, or the names in the folder, are on the disk: they survive a loss of power then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, target: Path) -> None:
    """Rename a file that is on the disk over another of the same file system, and wait until that is on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    to_disk(target.parent)


def atomic_write_csv(path: Path, table: pd.DataFrame) -> None:
    """`atomic_write_text` of a table, six digits a number."""
    atomic_write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def atomic_write_json(path: Path, value: Any) -> None:
    """`atomic_write_text` of indented JSON."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def atomic_write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """`atomic_write_text` of one JSON value a line."""
    atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class JsonLine(NamedTuple):
    """One line of a JSON-lines file."""

    path: Path
    number: int
    """Counted from 1, blank lines included."""
    start: int
    """Where the line begins in the file, in bytes."""
    end: int
    """Where the next line begins."""
    value: Any

    @property
    def place(self) -> str:
        """File and line number, such as `data.jsonl:3`, for messages."""
        return f"{self.path}:{self.number}"


def json_lines(path: Path, remedy: str, *, skip_torn: bool = False) -> Iterator[JsonLine]:
    """The lines of a JSON-lines file, read one at a time; blank lines are skipped.

    Args:
        path: the file, in UTF-8.
        remedy: what to do about a line that is not JSON; the end of the error message.
        skip_torn: leave out a last line without a line break, which a killed process has not finished.

    Raises:
        OSError: the file cannot be read.
        AttnPOError: as `parse_json`.
    """
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if not line.strip() or (skip_torn and not line.endswith(b"\n")):
                continue
            yield JsonLine(path, number, start, end, parse_json(line, f"{path}:{number}", remedy))


def parse_json(text: str | bytes, place: str, remedy: str) -> Any:
    """The value of a JSON text.

    Raises:
        AttnPOError: it is not JSON; the message is `place`, the reason and `remedy`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AttnPOError(f"{place}: not JSON ({getattr(error, 'msg', error)}); {remedy}") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a JSON-lines file that a run wrote.

    Raises:
        OSError, AttnPOError: as `json_lines`.
    """
    for line in json_lines(path, f"delete {path.parent} and run again"):
        yield line.value


@contextmanager
def locked(path: Path, wait_seconds: float = 0.0, message: str = "another process holds it") -> Iterator[BinaryIO]:
    """Hold a file, made if need be, against other processes and other openings; it is open to append bytes.

    The system lets go of the lock when the process ends, however it ends.

    Args:
        path: of the file.
        wait_seconds: how long to wait for another holder.
        message: what to say then.

    Raises:
        AttnPOError: `message`, another process holds the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise AttnPOError(message) from None
                time.sleep(0.1)
        yield file
