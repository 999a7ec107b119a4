"""Responses on disk, so that an evaluation that was killed loses nothing that it had finished."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.evaluation.lengths import Generation, TokenCounts
from attnpo.files import json_lines, locked


class Seeded(str):
    """A response that came as plain text, with its seed."""

    seed: int | None


def with_seed(text: str, seed: int | None) -> str:
    """The response with the attribute `seed`; None for greedy decoding and for a backend that is not seeded."""
    seeded = text if isinstance(text, (Generation, Seeded)) else Seeded(text)
    vars(seeded)["seed"] = seed
    return seeded


class Stored(NamedTuple):
    """One response as it is stored."""

    key: str
    """Hash of all that determines the response."""
    task: str
    doc: Any
    """Number of the problem in its task."""
    k: int
    """Number of the response to its problem."""
    text: str
    """A `Generation` or `Seeded`, whose attributes are stored with it."""
    prompt: str | None
    """The prompt as it was sent, if that is not the prompt that lm-eval built."""


class Store:
    """Responses in the files `responses-<rank>.jsonl` of a folder, one a line.

    Responses are written in chunks, and each line holds its place in its chunk. What a killed process has left of an
    unfinished chunk is cut off when the file is opened again.

    Args:
        folder: created if missing.
        rank: of this process. Each process writes its own file and reads all of them.
        writes: whether this process stores what it generates.

    Raises:
        AttnPOError: another process writes to the file, or a line is broken.
    """

    def __init__(self, folder: Path, rank: int = 0, writes: bool = True) -> None:
        self.folder = folder
        self.file: Any = None
        self._held = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        if not writes:
            return
        path = folder / f"responses-{rank}.jsonl"
        message = f"{path}: another process writes there; wait for it, or resume in another folder"
        self.file = self._held.enter_context(locked(path, message=message))
        _, end = _read(path)
        self.file.truncate(end)

    def load(self) -> dict[str, Stored]:
        """The stored responses by key.

        Raises:
            AttnPOError: a line is broken, and it is not the last one of a process that was killed while it wrote.
        """
        found: dict[str, Stored] = {}
        for path in sorted(self.folder.glob("responses-*.jsonl")):
            found |= _read(path)[0]
        return found

    def append(self, chunk: Sequence[Stored]) -> None:
        """Write the responses of a chunk and wait until they are on the disk."""
        if self.file is None or not chunk:
            return
        lines = []
        for i, stored in enumerate(chunk):
            line = {
                "key": stored.key,
                "chunk": [i, len(chunk)],
                "task": stored.task,
                "doc": stored.doc,
                "k": stored.k,
                **({} if stored.prompt is None else {"prompt": stored.prompt}),
                "text": str(stored.text),
                **_attributes(stored.text),
            }
            lines.append(json.dumps(line, ensure_ascii=True) + "\n")
        self.file.write("".join(lines).encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Let other processes write to the file."""
        self._held.close()


_FIELDS = {*Stored._fields, "chunk"}
"""Of a line; all others are attributes of the response."""


def _attributes(text: str) -> dict[str, Any]:
    """What a response has beside its text: the seed, and for a `Generation` its ids, finish reason and counts."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(text).items()}


def _response(line: dict[str, Any]) -> str:
    attributes = {name: value for name, value in line.items() if name not in _FIELDS}
    text: str = Seeded(line["text"])
    if set(attributes) - {"seed"}:  # a backend's missing attributes are missing in the line, too
        text = Generation(line["text"])
        if "ids" in attributes:
            attributes["ids"] = np.asarray(attributes["ids"], dtype=np.int32)
        if "counts" in attributes:
            attributes["counts"] = TokenCounts(*attributes["counts"])
    vars(text).update(attributes)
    return text


def _read(path: Path) -> tuple[dict[str, Stored], int]:
    """The responses of the complete chunks by key, and the position after the last complete chunk in bytes."""
    found: dict[str, Stored] = {}
    begun: dict[str, Stored] = {}
    end = 0
    remedy = "delete the line, or the file to start anew"
    for line in json_lines(path, remedy, skip_torn=True):
        content = line.value
        try:
            index, size = content["chunk"]
            text, prompt = _response(content), content.get("prompt")
            stored = Stored(content["key"], content["task"], content["doc"], content["k"], text, prompt)
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise AttnPOError(f"{line.place}: not a stored response ({error}); {remedy}") from error
        if index == 0:
            begun = {}
        begun[stored.key] = stored
        if index == size - 1:
            if len(begun) == size:
                found |= begun
            begun, end = {}, line.end
    return found, end
