"""A table as markdown, CSV, LaTeX and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import rich.box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from attnpo.files import atomic_write_text
from attnpo.report.published import TAGS
from attnpo.report.table import NOT_RUN, UNDEFINED, Block, Row, Table, value_and_half
from attnpo.statistics.measures import Measure

_CSV_COLUMNS = ["title", "block", "method", "label", "column", "value", "low", "high", "n", "truncated"]
_CSV_COLUMNS += ["seeds", "run_ids", "tag"]


def write_table(table: Table, folder: Path, name: str) -> None:
    """Write `name`.md, .csv and .tex."""
    for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
        atomic_write_text(folder / f"{name}.{ending}", text)


def lines_of(block: Block) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of texts, or their transpose for a block that is written by column."""
    headings, rows = _grid(block)
    if not block.by_column:
        return headings, rows
    first, *rest = (list(line) for line in zip(headings, *rows, strict=True))
    return first, rest


def _grid(block: Block) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of a block's cells."""
    columns = [c for c in block.columns if not c.detail]
    headings = ["method", *(c.heading for c in columns), "n", "seeds"]
    return headings, [_texts(columns, row, "+" if block.differences else "-") for row in block.rows]


def _texts(columns: list[Measure], row: Row, sign: str) -> list[str]:
    if row.cells is None:
        return [row.label, *(NOT_RUN for _ in columns), "0", "none"]
    texts = []
    for column in columns:
        cell = row.cells.get(column.name)
        texts.append(UNDEFINED if cell is None else value_and_half(cell, column, sign))
    return [row.marked_label, *texts, str(row.responses), row.marked_seeds]


def to_markdown(table: Table) -> str:
    """The table as GitHub markdown, findings under each block."""
    lines = [f"# {table.title}", "", *(f"- {c}" for c in table.conditions), ""]
    for block in table.blocks:
        lines += [f"## {block.title}", "", *markdown_grid(*lines_of(block)), ""]
        lines += [*(f"- {finding}" for finding in block.findings), ""] if block.findings else []
    for part in table.published:
        lines += [f"## {part.title}", "", part.remark, "", *markdown_grid(*part.grid()), ""]
    lines += [f"Sources: {table.sources}."] if table.published else []
    return "\n".join(lines).rstrip("\n") + "\n"


def markdown_grid(headings: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a GitHub table: the first column on the left, the others on the right."""
    escaped = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in [headings, *rows]]
    rule = ["---", *("---:" for _ in headings[1:])]
    return [f"| {' | '.join(row)} |" for row in [escaped[0], rule, *escaped[1:]]]


def to_csv(table: Table) -> str:
    """A line a cell, with interval, n, truncation rate and run ids; the published values with source tags."""
    lines = []
    for block in table.blocks:
        for row in block.rows:
            for column in block.columns:
                cell = None if row.cells is None else row.cells.get(column.name)
                numbers = [NOT_RUN if row.cells is None else UNDEFINED, "", "", "", ""]
                if cell is not None:
                    numbers = [*(f"{x:.6g}" for x in cell[:3]), str(cell.n), f"{cell.truncated:.6g}"]
                task = f"{block.task} {block.differences}".rstrip()
                where = [table.title, task, row.method, row.label, column.name]
                seeds, ids = " ".join(map(str, row.seeds)), " ".join(row.run_ids)
                lines.append([*where, *numbers, seeds, ids, "measured"])
    for part in table.published:
        for published_row in part.rows:
            of_paper = {key: n for key, n in published_row.cells.items() if n.tag in TAGS}  # ours stand above
            for (benchmark, metric), number in of_paper.items():
                where = [table.title, part.name, published_row.method, published_row.label, f"{benchmark} {metric}"]
                lines.append([*where, f"{number.value:g}", *[""] * 6, number.tag])
    return pd.DataFrame(lines, columns=_CSV_COLUMNS).to_csv(index=False, lineterminator="\n")


def to_latex(table: Table) -> str:
    """The table as LaTeX, one tabular a block; needs the package booktabs."""
    lines = [f"% {table.title}; needs \\usepackage{{booktabs}}", *(f"% {c}" for c in table.conditions)]
    grids = [(block.title, *lines_of(block)) for block in table.blocks]
    grids += [(part.title, *part.grid()) for part in table.published]
    for title, headings, rows in grids:
        lines += ["", f"% {title}", f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", "\\toprule"]
        lines += [f"{' & '.join(map(_tex, headings))} \\\\", "\\midrule"]
        lines += [f"{' & '.join(map(_tex, row))} \\\\" for row in rows]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


_TEX: dict[str, str | int | None] = {"%": "\\%", "_": "\\_", "&": "\\&", "#": "\\#", "<": "$<$", ">": "$>$"}
_TEX |= {"±": "$\\pm$", "≈": "$\\approx$", "†": "$^\\dagger$", "−": "$-$"}


def _tex(text: str) -> str:
    return text.translate(str.maketrans(_TEX))


@dataclass(frozen=True)
class _Whole:
    """Renders a table at the width it needs: no cell is cut."""

    table: RichTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(_width(self.table, console), options.max_width)
        yield from console.render(self.table, options.update(width=width))


def print_table(table: Table, console: Console, file: str) -> None:
    """The table for the terminal: a column a method, or a row a method where that is narrower.

    Methods that were not run are named below. A terminal gets the first columns that fit in it, and `file`, where the
    others are, is named; what is no terminal gets all.
    """
    grids = []
    for block in table.blocks:
        run = replace(block, rows=[row for row in block.rows if row.cells is not None])
        absent = [row.label for row in block.rows if row.cells is None]
        notes = [*block.findings, *([f"Not run: {', '.join(absent)}."] if absent else [])]
        grids.append((f"{table.title}: {block.title}", *_grid(run), notes))
    grids += [(part.title, *part.grid(), [part.remark]) for part in table.published]
    for title, headings, rows, notes in grids:
        lines: list[Sequence[str]] = [headings, *rows]
        turned = list(zip(*lines, strict=True))
        shown = _rich(title, turned if len(rows) < len(headings) else lines)
        if console.is_terminal and _width(shown, console) > console.width:
            n = len(headings)
            while n > 2 and _width(_rich(title, [line[:n] for line in lines]), console) > console.width:
                n -= 1
            shown = _rich(title, [line[:n] for line in lines])
            notes = [f"Not shown, too wide for this terminal: {', '.join(headings[n:])}. All is in {file}.", *notes]
        console.print(_Whole(shown), crop=False)
        for note in notes:
            console.print(note, markup=False, highlight=False)
        console.print()
    for condition in [*table.conditions, *([f"Sources: {table.sources}."] if table.published else [])]:
        console.print(condition, markup=False, highlight=False)


def _rich(title: str, lines: Sequence[Sequence[str]]) -> RichTable:
    """The lines as a table of rich's, the first as its header."""
    shown = RichTable(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for i, heading in enumerate(lines[0]):
        shown.add_column(escape(heading), justify="right" if i else "left", no_wrap=True)
    for line in lines[1:]:
        shown.add_row(*(escape(cell) for cell in line))
    return shown


def _width(table: RichTable, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum
