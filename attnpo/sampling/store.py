"""Samples on disk: one JSON-lines file, to which each response is appended under its key as it comes."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from rich.progress import track

from attnpo.files import json_lines, locked
from attnpo.sampling.sampler import Sampler

Key = tuple[Hashable, ...]
"""The values of a row's key fields, such as (problem id, number of the response)."""


class SampleFile:
    """The responses of a file `samples.jsonl`. In memory are their keys and places alone.

    A row holds the fields of its key, then `response_ids` and `finish`. The rows lie in the order in which they came;
    `rows` gives them in any order. A last line that a killed process has not finished is cut off. A context manager.

    Args:
        path: made if missing.
        fields: names of the key's values.

    Raises:
        AttnPOError: another process writes to the file, or a line is broken.
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path, self.fields = path, tuple(fields)
        self._place: dict[Key, int] = {}
        self._held = ExitStack()
        message = f"{path}: another process writes there; wait for it"
        self._file: Any = self._held.enter_context(locked(path, message=message))
        self._end = 0
        for line in json_lines(path, f"delete {path} and run again", skip_torn=True):
            self._place[tuple(line.value[field] for field in self.fields)] = line.start
            self._end = line.end
        if path.stat().st_size > self._end:
            self._file.truncate(self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._held.close()

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: Key) -> bool:
        return key in self._place

    def append(self, key: Key, ids: Sequence[int], finish: str) -> None:
        """Write a response whose key is new; it is with the operating system when this returns."""
        assert key not in self
        row = {**dict(zip(self.fields, key, strict=True)), "response_ids": list(ids), "finish": finish}
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self._place[key] = self._end
        self._end += len(line)

    def rows(self, keys: Iterable[Key]) -> Iterator[dict[str, Any]]:
        """The rows of these keys, in this order, read one at a time.

        Raises:
            KeyError: there is no such row.
        """
        with self.path.open("rb") as file:
            for key in keys:
                file.seek(self._place[key])
                yield json.loads(file.readline())

    def fill(
        self,
        sampler: Sampler,
        keys: Sequence[Key],
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        top_p: float = 1.0,
        description: str = "sampling",
    ) -> None:
        """Sample the responses that are not there yet; the file then holds what a run in one go gives.

        Of responses that share a stream of random numbers (`Sampler.unit`), all are sampled again if one is missing.

        Args:
            keys, prompts, seeds: of N responses, always the same ones in the same order.
            temperature, max_new_tokens, top_p: see `Sampler.sample`.
            description: of the progress bar.
        """
        units = [range(start, min(start + sampler.unit, len(keys))) for start in range(0, len(keys), sampler.unit)]
        turns = [turn for unit in units if any(keys[turn] not in self for turn in unit) for turn in unit]
        samples = sampler.sample(
            [prompts[turn] for turn in turns],
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seeds=[seeds[turn] for turn in turns],
        )
        for place, _, one in track(samples, description, total=len(turns)):
            key = keys[turns[place]]
            if key not in self:
                self.append(key, one.ids, one.finish)
