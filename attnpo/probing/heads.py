"""The ranking that names the Key-Focus Heads: the content of heads.json."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.method.ranking import Head, StepRankingAccuracy


class RankedHead(NamedTuple):
    """A head with its SRA and bootstrap interval."""

    layer: int
    head: int
    sra: float
    low: float
    high: float


@dataclass(frozen=True)
class HeadRanking:
    """What a probe found: the content of heads.json. Raises AttnPOError for values that cannot be."""

    model: str
    """Model name or path."""
    revision: str | None
    """Commit or hash of the weights, None if unknown."""
    phrase_set: str
    """Phrases that the steps were cut with."""
    min_chars: int
    """Minimum step length in characters."""
    label_source: str
    """Who said which steps are essential."""
    n_responses: int
    n_pairs: int
    heads: tuple[RankedHead, ...]
    """One entry per head, in order of (layer, head)."""

    def __post_init__(self) -> None:
        seen: set[Head] = set()
        for entry in self.heads:
            if entry.layer < 0 or entry.head < 0 or (entry.layer, entry.head) in seen:
                raise AttnPOError(f"head ({entry.layer}, {entry.head}) is negative or listed twice: probe again")
            if not (0 <= entry.low <= 1 and 0 <= entry.sra <= 1 and 0 <= entry.high <= 1):
                raise AttnPOError(f"head ({entry.layer}, {entry.head}) has an SRA outside 0 to 1: probe again")
            seen.add((entry.layer, entry.head))
        if not seen:
            raise AttnPOError("the ranking lists no heads: probe again")

    @classmethod
    def of(cls, result: StepRankingAccuracy, heads: Sequence[Head], **about: Any) -> HeadRanking:
        """From SRA (H,) and its H heads; `about`: model, revision, phrase_set, min_chars, label_source."""
        columns = [column.tolist() for column in (result.sra, result.low, result.high)]
        entries = [RankedHead(*head, *values) for head, *values in zip(heads, *columns, strict=True)]
        return cls(n_responses=result.n_responses, n_pairs=result.n_pairs, heads=tuple(sorted(entries)), **about)

    def best(self, n: int) -> list[RankedHead]:
        """The n heads of highest SRA, best first; ties by layer, then head. Raises AttnPOError if too few."""
        if not 1 <= n <= len(self.heads):
            raise AttnPOError(f"top {n} heads: give 1 to {len(self.heads)}")
        return sorted(self.heads, key=lambda entry: (-entry.sra, entry.layer, entry.head))[:n]

    def top(self, n: int) -> list[Head]:
        """`best(n)` as (layer, head)."""
        return [(entry.layer, entry.head) for entry in self.best(n)]

    def matrix(self) -> Tensor:
        """(layers, heads) float64 SRA for a heat map; NaN where nothing was measured."""
        size = max(e.layer for e in self.heads) + 1, max(e.head for e in self.heads) + 1
        table = torch.full(size, torch.nan, dtype=torch.float64)
        for entry in self.heads:
            table[entry.layer, entry.head] = entry.sra
        return table

    def to_json(self) -> str:
        """Readable JSON, one head a line."""
        about = asdict(self) | {"heads": None}
        lines = ",\n".join("    " + json.dumps(entry._asdict(), allow_nan=False) for entry in self.heads)
        return json.dumps(about, indent=2).replace('"heads": null', f'"heads": [\n{lines}\n  ]') + "\n"

    @classmethod
    def from_json(cls, text: str) -> HeadRanking:
        """The inverse of `to_json`. Raises AttnPOError for anything else."""
        try:
            about = json.loads(text)
        except json.JSONDecodeError as error:
            raise AttnPOError(f"not a head ranking: {error}; write it again with `attnpo probe`") from error
        _check_keys(about, {field.name for field in fields(cls)}, "head ranking")
        if not isinstance(about["heads"], list):
            raise AttnPOError("`heads` is not a list; write the ranking again with `attnpo probe`")
        for entry in about["heads"]:
            _check_keys(entry, set(RankedHead._fields), "head")
        for owner, names, kinds in [
            (about, ("model", "phrase_set", "label_source"), (str,)),
            (about, ("revision",), (str, type(None))),
            (about, ("min_chars", "n_responses", "n_pairs"), (int,)),
            *((entry, ("layer", "head"), (int,)) for entry in about["heads"]),
            *((entry, ("sra", "low", "high"), (int, float)) for entry in about["heads"]),
        ]:
            for name in names:
                if not isinstance(owner[name], kinds) or isinstance(owner[name], bool):
                    raise AttnPOError(f"`{name}` is {owner[name]!r}; write the ranking again with `attnpo probe`")
        heads = tuple(RankedHead(**entry) for entry in about.pop("heads"))
        return cls(heads=heads, **about)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a temporary name beside `path` and rename it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.to_json(), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> HeadRanking:
        """Read a file that `save` wrote. Raises AttnPOError that names the file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise AttnPOError(f"{path}: {error.strerror}; write it with `attnpo probe`") from error
        except (AttnPOError, UnicodeDecodeError) as error:
            raise AttnPOError(f"{path}: {error}") from error


def _check_keys(record: Any, names: set[str], what: str) -> None:
    if not isinstance(record, dict):
        raise AttnPOError(f"not a {what}: {record!r:.60}; write the ranking again with `attnpo probe`")
    if record.keys() != names:
        missing, unknown = sorted(names - record.keys()), sorted(record.keys() - names)
        raise AttnPOError(f"a {what} has keys missing {missing}, unknown {unknown}: write it again with `attnpo probe`")
