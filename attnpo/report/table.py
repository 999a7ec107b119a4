"""A table before it is written in any format, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from attnpo.errors import AttnPOError
from attnpo.report.published import TAGS, Published
from attnpo.statistics.measures import Measure

NOT_RUN = "not run"
FROM_RECORDS = "†"
UNDEFINED = "undefined"  # AES where the base was not run or never right; truncation where no finish reason is known


class NotRunError(AttnPOError):
    """What a table or figure is made of has not been run."""


class Cell(NamedTuple):
    """An estimate with its interval, how many responses are behind it, and their truncation rate."""

    value: float
    low: float
    high: float
    n: int
    truncated: float


@dataclass(frozen=True)
class Row:
    """One method of a block; `cells` maps names of measures to estimates, None if nothing was run."""

    method: str
    label: str
    seeds: list[int]
    cells: Mapping[str, Cell] | None
    run_ids: list[str]
    recorded: Collection[int] = ()
    """Seeds that are shown from records, in a table of which other runs were made here."""

    @property
    def marked_label(self) -> str:
        """The label, marked if all seeds are from records."""
        whole = self.seeds and set(self.seeds) <= set(self.recorded)
        return f"{self.label} {FROM_RECORDS}" if whole else self.label

    @property
    def marked_seeds(self) -> str:
        """The seeds, those from records marked unless all are."""
        mark = "" if self.marked_label != self.label else FROM_RECORDS
        return " ".join(f"{seed}{mark if seed in self.recorded else ''}" for seed in self.seeds)

    @property
    def responses(self) -> int:
        """Responses behind the row, in all."""
        return max((cell.n for cell in (self.cells or {}).values()), default=0)


@dataclass(frozen=True)
class Block:
    """One task of the table."""

    task: str
    title: str
    columns: list[Measure]
    rows: list[Row]
    findings: list[str]
    by_column: bool = False
    """Write a line for each column instead of one for each row: for blocks with many columns."""
    differences: str = ""
    """Which differences the cells are, a word for the CSV; empty: they are values."""


@dataclass(frozen=True)
class Table:
    """A table before it is written in any format."""

    title: str
    conditions: list[str]
    blocks: list[Block]
    published: list[Published]

    @property
    def measured(self) -> list[Block]:
        """The blocks of values, without those of differences."""
        return [block for block in self.blocks if not block.differences]

    @property
    def sources(self) -> str:
        """What the tags of the published values mean."""
        tags = {cell.tag for p in self.published for row in p.rows for cell in row.cells.values()}
        return "; ".join(f"[{tag}] {meaning}" for tag, meaning in TAGS.items() if tag in tags)


def value_and_half(cell: Cell, measure: Measure, sign: str = "-") -> str:
    """A value with half of its interval, `85.2 ± 2.0`; without where it has none.

    Args:
        cell: the estimate.
        measure: gives unit and digits.
        sign: `+` to write it before positive values too.
    """
    value, half = measure.scale * cell.value, measure.scale * (cell.high - cell.low) / 2
    text = f"{value:{sign}.{measure.digits}f}"
    text += "" if math.isnan(half) else f" ± {half:.{measure.digits}f}"
    return text.replace("-", "−")


def signed(cell: Cell, scale: float = 1.0, digits: int = 1) -> str:
    """A difference in words: `−0.3 (−4.7 to +4.5)`."""
    value, low, high = (f"{scale * x:+.{digits}f}" for x in cell[:3])
    return f"{value} ({low} to {high})".replace("-", "−")
