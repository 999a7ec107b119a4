"""Samples on disk: one JSON-lines file, to which each response is appended under its key as it comes."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import track

from attnpo.errors import AttnPOError
from attnpo.files import json_lines, locked, naming
from attnpo.sampling.sampler import Sample, Sampler

Key = tuple[Hashable, ...]
"""The values of a row's key fields, such as (problem id, number of the response)."""


class SampleFile:
    """The responses of a file `samples.jsonl`. In memory are their keys and places alone.

    A row holds the fields of its key, then `response_ids`, `finish`, `seed` if it was sampled with one, and of a server
    `text` and `usage`. The rows lie in the order in which they came; `rows` gives them in any order. A last line that a
    killed process has not finished is cut off. A context manager.

    Args:
        path: made if missing.
        fields: names of the key's values.
        beside: files of other processes, whose rows are read as they are now and never written.

    Raises:
        AttnPOError: another process writes to the file, or a line is broken.
    """

    def __init__(self, path: Path, fields: Sequence[str], beside: Iterable[Path] = ()) -> None:
        self.path, self.fields = path, tuple(fields)
        self._place: dict[Key, tuple[Path, int]] = {}
        self._held = ExitStack()
        message = f"{path}: another process writes there; wait for it, or use another folder"
        self._file: Any = self._held.enter_context(locked(path, message=message))
        for other in beside:
            self._read(other)
        self._end = self._read(path)
        if path.stat().st_size > self._end:
            self._file.truncate(self._end)

    def _read(self, path: Path) -> int:
        """Note the places of a file's rows; the end of its last whole line."""
        end, remedy = 0, "delete the line, or the file to start anew"
        for line in json_lines(path, remedy, skip_torn=True):
            try:
                key = tuple(line.value[field] for field in self.fields)
                hash(key)
            except (KeyError, TypeError) as error:
                raise AttnPOError(f"{line.place}: not a sample ({error!r}); {remedy}") from error
            self._place[key] = path, line.start
            end = line.end
        return end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._held.close()

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: Key) -> bool:
        return key in self._place

    def append(self, key: Key, sample: Sample, seed: int | None = None) -> None:
        """Write a response whose key is new; it is with the operating system when this returns."""
        assert key not in self
        row = {**dict(zip(self.fields, key, strict=True)), "response_ids": sample.ids, "finish": sample.finish}
        more = {"seed": seed, "text": sample.text, "usage": sample.usage}
        row |= {name: value for name, value in more.items() if value is not None}
        line = json.dumps(row).encode() + b"\n"  # in ASCII, since half of a surrogate pair has no UTF-8
        with naming(self.path):
            self._file.write(line)
            self._file.flush()
        self._place[key] = self.path, self._end
        self._end += len(line)

    def rows(self, keys: Iterable[Key]) -> Iterator[dict[str, Any]]:
        """The rows of these keys, in this order, read one at a time.

        Raises:
            KeyError: there is no such row.
        """
        with ExitStack() as stack:
            files: dict[Path, Any] = {}
            for key in keys:
                path, start = self._place[key]
                file = files.get(path) or files.setdefault(path, stack.enter_context(path.open("rb")))
                file.seek(start)
                yield json.loads(file.readline())

    def fill(
        self,
        sampler: Sampler,
        keys: Sequence[Key],
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int] | None,
        *,
        temperature: float,
        max_new_tokens: int,
        top_p: float = 1.0,
        options: Mapping[str, Any] | None = None,
        description: str | None = "sampling",
    ) -> None:
        """Sample the responses that are not there yet; the file then holds what a run in one go gives.

        Of responses that share a stream of random numbers (`Sampler.unit`), all are sampled again if one is missing.

        Args:
            keys, prompts, seeds: of N responses, always the same ones in the same order.
            temperature, max_new_tokens, top_p, options: see `Sampler.sample`.
            description: of the progress bar; None: no bar.
        """
        units = [range(start, min(start + sampler.unit, len(keys))) for start in range(0, len(keys), sampler.unit)]
        turns = [turn for unit in units if any(keys[turn] not in self for turn in unit) for turn in unit]
        samples = sampler.sample(
            [prompts[turn] for turn in turns],
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seeds=None if seeds is None else [seeds[turn] for turn in turns],
            options=options,
        )
        greedy = temperature == 0
        for place, _, one in track(
            samples, description or "", total=len(turns), disable=description is None, console=Console(stderr=True)
        ):
            turn = turns[place]
            if keys[turn] not in self:
                seed = None if greedy or seeds is None else seeds[turn - turn % sampler.unit]
                self.append(keys[turn], one, seed)
