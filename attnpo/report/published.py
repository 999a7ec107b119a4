"""Published values (`results/paper/*.csv`) beside ours, without mixing what cannot be compared.

Each value belongs to a comparison, the column `base`: the evaluation of one base model that its paper measured it
against, at one budget and temperature. Values of two comparisons never stand in one grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from attnpo.errors import AttnPOError

PAPER_COLUMNS = ["model", "size", "method", "benchmark", "metric", "value", "unit"]
PAPER_COLUMNS += ["budget_tokens", "temperature", "base", "tag", "source", "note"]
BASELINE_COLUMNS = ["method", "rule", "parameter", "default", "unit", "tag", "source", "note"]
BASELINES_FILE = "baselines.csv"
TAGS = {
    "C": "read in the authors' published code or figures",
    "P": "a paper's own text or table",
    "S": "a third-party summary",
    "D": "derived by arithmetic from the others",
}
"""Source tags of a published value."""

BENCHMARKS = {
    "attnpo_gsm8k": "GSM8K",
    "attnpo_math500": "MATH500",
    "attnpo_amc23": "AMC23",
    "attnpo_olympiadbench": "OlympiadBench",
    "attnpo_aime2024": "AIME24",
    "attnpo_aime2025": "AIME25",
    "attnpo_math": "mean of six",
}
"""Our task or group, and its name in the published values."""

_METRICS = ["accuracy", "tokens", "aes"]
_SHOWN = [*BENCHMARKS.values(), "mean of seven"]
"""Benchmarks that have a column."""


class PaperValue(NamedTuple):
    """A value, how it is written, and its source tag."""

    value: float
    text: str
    tag: str
    """One of `TAGS`, or "measured" for one of ours that stands beside."""

    def __str__(self) -> str:
        return f"{self.text} [{self.tag}]" if self.tag in TAGS else self.text


@dataclass(frozen=True)
class PaperRow:
    """Published values of one method: (benchmark, metric) to value."""

    method: str
    label: str
    cells: Mapping[tuple[str, str], PaperValue]


@dataclass(frozen=True)
class Published:
    """The values of one comparison."""

    name: str
    title: str
    remark: str
    rows: list[PaperRow]

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Headings and texts: a column a benchmark and metric that has a value."""
        order = [(b, m) for b in _SHOWN for m in _METRICS]
        columns = [c for c in order if any(c in row.cells for row in self.rows)]
        headings = [{"accuracy": b, "tokens": f"{b}, tokens", "aes": f"{b}, AES"}[m] for b, m in columns]
        rows = [[row.label, *(str(row.cells.get(column, "")) for column in columns)] for row in self.rows]
        return ["method", *headings], rows


def load_paper(folder: Path) -> pd.DataFrame:
    """All reference values: the rows of `folder`/*.csv but `baselines.csv`, with their file and the value as text.

    Raises:
        AttnPOError: no such files, other columns than `PAPER_COLUMNS`, a row without value, source or known tag, or a
            comparison (`base`) of more than one model, size, budget or temperature.
    """
    files = [path for path in sorted(folder.glob("*.csv")) if path.name != BASELINES_FILE]
    if not files:
        raise AttnPOError(f"{folder}: no reference values (*.csv); they are part of the repository")
    tables = []
    for path in files:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if list(table.columns) != PAPER_COLUMNS:
            raise AttnPOError(f"{path}: its columns must be {', '.join(PAPER_COLUMNS)}")
        table["text"] = table["value"]
        for column in ("value", "budget_tokens", "temperature"):
            table[column] = pd.to_numeric(table[column], errors="coerce")  # empty: not stated
        bad = table[(table["source"] == "") | ~table["tag"].isin(list(TAGS)) | table["value"].isna()]
        if len(bad):
            line = f"{path}:{bad.index[0] + 2}"
            raise AttnPOError(f"{line}: no value, no source or unknown tag; tags are {', '.join(TAGS)}")
        tables.append(table.assign(file=path.name))
    paper = pd.concat(tables, ignore_index=True)
    for name, rows in paper.groupby("base"):
        for column in ("model", "size", "budget_tokens", "temperature"):
            if rows[column].nunique(dropna=False) > 1:
                found = ", ".join(map(str, rows[column].unique()))
                raise AttnPOError(f"{folder}: comparison {name!r} mixes {column} {found}; give each a base of its own")
    return paper


def published(
    paper: pd.DataFrame,
    size: str,
    tasks: Sequence[str],
    budget: int | None,
    temperature: float | None,
    labels: Mapping[str, str] | None = None,
) -> list[Published]:
    """The comparisons that may stand beside a run, each apart.

    Args:
        paper: from `load_paper`.
        size: of the model, as in the column `size`.
        tasks: what was evaluated. If a benchmark with published values is among them, only comparisons of the run's
            budget, and of its temperature where that is stated, are given, and only those benchmarks; if none is, all
            comparisons are, with the remark that nothing can be compared.
        budget: of the run, in tokens.
        temperature: of the run.
        labels: name -> label of the methods to show, in order, and `name_…` with them; None: all, in order of the
            file. A comparison that has none of them but the base is left out.

    Raises:
        AttnPOError: there are no values for this size.
    """
    of_size = paper[(paper["size"] == size) & paper["metric"].isin(_METRICS) & paper["benchmark"].isin(_SHOWN)]
    if of_size.empty:
        sizes = ", ".join(sorted(set(paper["size"]) - {""}))
        raise AttnPOError(f"there are no published values for a model of size {size!r}; sizes are {sizes}")
    shared = [BENCHMARKS[task] for task in tasks if task in BENCHMARKS]
    found, left_out = [], []
    for name, rows in of_size.groupby("base", sort=False):
        first = rows.iloc[0]
        budgeted = pd.notna(first["budget_tokens"])
        where = f"{first['model']}, budget {f'{first.budget_tokens:.0f} tokens' if budgeted else 'not stated'}, "
        known = pd.notna(first["temperature"])
        where += f"temperature {first['temperature']:g}" if known else "temperature not stated"
        if shared:
            if first["budget_tokens"] != budget or (known and first["temperature"] != temperature):
                left_out.append(f"{name} ({where.partition(', ')[2]})")
                continue
            rows = rows[rows["benchmark"].isin(shared)]
        lines = _rows(rows, labels)
        if not any(row.method != "base" for row in lines):
            continue
        remark = (
            "Same budget as above: compare each value with the base of its own grid."
            if shared
            else "Not comparable number by number with the above: other problems, another model."
        )
        warnings = dict.fromkeys(note for note in rows["note"] if note.startswith("warning: "))
        remark = " ".join([remark, *(f"{w[9].upper()}{w[10:]}." for w in warnings)])
        found.append(Published(str(name), f"Published values, {name}: {where}", remark, lines))
    if left_out and found:
        found[-1] = replace(found[-1], remark=f"{found[-1].remark} Left out: {'; '.join(left_out)}.")
    return found


def _rows(rows: pd.DataFrame, labels: Mapping[str, str] | None) -> list[PaperRow]:
    names = list(dict.fromkeys(rows["method"]))
    if labels is None:
        shown = {name: name for name in sorted(names, key=lambda name: name != "base")}
    else:
        shown = {}
        for key, label in labels.items():
            shown |= {n: label + n[len(key) :].replace("_", " ") for n in names if n == key or n.startswith(f"{key}_")}
    lines = []
    for name, label in shown.items():
        cells = {
            (r.benchmark, r.metric): PaperValue(
                float(r.value), f"{'≈ ' if r.note.startswith('about') else ''}{r.text}", r.tag
            )
            for r in rows[rows["method"] == name].itertuples()
        }
        if cells:
            lines.append(PaperRow(name, label, cells))
    return lines
