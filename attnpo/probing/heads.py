"""The ranking that names the Key-Focus Heads: the content of heads.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_text
from attnpo.schema import STRICT, Index, Share, build

if TYPE_CHECKING:
    from attnpo.method.attention import Head
    from attnpo.method.ranking import StepRankingAccuracy

FEW_RESPONSES = 30
"""Below so many responses with steps of both kinds, an interval over responses means little."""
WIDE = 0.2
"""An interval of Step Ranking Accuracy that is wider tells good heads from middling ones no more."""
_REMEDY = "write it again with `attnpo probe`"


@dataclass(frozen=True, order=True, config=STRICT)
class RankedHead:
    """A head with its SRA and bootstrap interval."""

    layer: Index
    head: Index
    sra: Share
    low: Share
    high: Share


@dataclass(frozen=True, config=STRICT)
class HeadRanking:
    """What a probe found: the content of heads.json."""

    model: str
    """Model name or path."""
    revision: str | None
    """Commit or hash of the weights, null if unknown."""
    phrase_set: str
    """Phrases that the steps were cut with."""
    min_chars: Index
    """Minimum step length in characters."""
    label_source: str
    """Who said which steps are essential."""
    n_responses: Index
    n_pairs: Index
    heads: Annotated[tuple[RankedHead, ...], Field(min_length=1)]
    """One entry per head, in order of (layer, head)."""
    greedy: tuple[tuple[Index, Index], ...] = ()
    """(layer, head) in the order in which `attnpo.method.ranking.greedy_rows` takes them, on the same responses."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: set[Head] = set()
        for entry in self.heads:
            if (entry.layer, entry.head) in seen:
                raise ValueError(f"head ({entry.layer}, {entry.head}) is listed twice")
            seen.add((entry.layer, entry.head))
        if unknown := set(self.greedy) - seen:
            raise ValueError(f"greedy names {sorted(unknown)[0]}, which is not among the heads")
        return self

    @classmethod
    def of(cls, result: StepRankingAccuracy, heads: Sequence[Head], **about: Any) -> HeadRanking:
        """From SRA (H,) and its H heads; `about`: the other fields."""
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

    def doubts(self, n: int) -> list[str]:
        """Why the best n heads are not to be relied on, a sentence each; empty: nothing speaks against them."""
        best = self.best(min(n, len(self.heads)))
        found = []
        if self.n_responses < FEW_RESPONSES:
            found.append(f"only {self.n_responses} responses have steps of both kinds, {FEW_RESPONSES} are wanted")
        wide = max(head.high - head.low for head in best)
        if wide > WIDE:
            found.append(f"an interval of Step Ranking Accuracy is {wide:.2f} wide, at most {WIDE} is wanted")
        if chance := [head for head in best if head.low <= 0.5]:
            names = ", ".join(f"({head.layer}, {head.head}) at {head.sra:.3f}" for head in chance)
            found.append(f"not clearly above chance, .5: {names}")
        return found

    def matrix(self) -> np.ndarray:
        """(layers, heads) float64 SRA for a heat map; NaN where nothing was measured."""
        table = np.full((max(e.layer for e in self.heads) + 1, max(e.head for e in self.heads) + 1), np.nan)
        for entry in self.heads:
            table[entry.layer, entry.head] = entry.sra
        return table

    def to_json(self) -> str:
        """Readable JSON, one head a line."""
        about = asdict(self) | {"heads": None}
        lines = ",\n".join("    " + json.dumps(asdict(entry), allow_nan=False) for entry in self.heads)
        return json.dumps(about, indent=2).replace('"heads": null', f'"heads": [\n{lines}\n  ]') + "\n"

    def save(self, path: str | Path) -> None:
        """Write `to_json`, whole or not at all."""
        atomic_write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> HeadRanking:
        """Read a file that `save` wrote.

        Raises:
            AttnPOError: no such file, or anything else than a head ranking. The line names file and key.
        """
        try:
            return build(cls, json.loads(Path(path).read_text(encoding="utf-8")), str(path))
        except OSError as error:
            raise AttnPOError(f"{path}: {error.strerror}; write it with `attnpo probe`") from error
        except AttnPOError as error:
            raise AttnPOError(f"{error}; {_REMEDY}") from error
        except ValueError as error:  # not JSON, or not UTF-8
            raise AttnPOError(f"{path}: not a head ranking ({error}); {_REMEDY}") from error
