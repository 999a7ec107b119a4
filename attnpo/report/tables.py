"""Table 1: what was measured, with intervals, beside the paper's values, and what follows in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import rich.box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from attnpo.errors import AttnPOError
from attnpo.metrics import Estimate, aes_estimate, bootstrap, mean_estimate, paired_difference
from attnpo.profile import Profile, ReportSection, checkout_root

NOT_RUN = "not run"
UNDEFINED = "undefined"  # AES where the base was not run or never right
PAPER_COLUMNS = ["model", "base_model", "method", "benchmark", "metric", "value", "unit"]
PAPER_COLUMNS += ["budget_tokens", "source", "tag", "note"]
TAGS = {
    "C": "read in the authors' published code or figures",
    "P": "a paper's own text or table",
    "S": "a third-party summary",
    "D": "derived by arithmetic from the others",
}
"""Source tags of a published value."""

_MOSTLY = 0.9  # share of the cut steps that must be redundant to call the cut redundant


class Column(NamedTuple):
    """A column of measured values: key, heading, factor to its unit, digits."""

    key: str
    heading: str
    scale: float = 1.0
    digits: int = 1


MEASURED = [
    Column("tokens", "tokens"),
    Column("aes", "AES", digits=2),
    Column("steps_redundant", "redundant steps", digits=2),
    Column("steps_essential", "essential steps", digits=2),
    Column("steps_slip", "slips", digits=2),
    Column("truncated", "truncated %", 100),
    Column("missing_think_end", "no </think> %", 100),
]


class Cell(NamedTuple):
    """A mean over responses, its interval, how many responses are behind it, and their truncation rate."""

    value: float
    low: float
    high: float
    n: int
    truncated: float


@dataclass(frozen=True)
class Row:
    """One method of a block; `cells` maps column keys to what was measured, None if nothing was run."""

    method: str
    label: str
    seeds: list[int]
    cells: Mapping[str, Cell] | None
    run_ids: list[str]


@dataclass(frozen=True)
class Block:
    """One task of the table."""

    task: str
    title: str
    columns: list[Column]
    rows: list[Row]
    findings: list[str]


@dataclass(frozen=True)
class PaperRow:
    """Published values of one method: heading to (text, tag)."""

    label: str
    cells: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Table 1 before it is written in any format."""

    title: str
    conditions: list[str]
    blocks: list[Block]
    paper_title: str
    paper_columns: list[str]
    paper_rows: list[PaperRow]
    paper_sources: list[str]


def read_derived(results_dir: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`derived/problems.csv` and `derived/runs.csv`.

    Raises:
        AttnPOError: one of them is missing.
    """
    tables = []
    for name in ("problems", "runs"):
        path = results_dir / "derived" / f"{name}.csv"
        if not path.is_file():
            raise AttnPOError(f"{path}: missing; make it with `attnpo table` once something has been evaluated")
        tables.append(pd.read_csv(path, dtype={"problem_id": str}))
    return tables[0], tables[1]


def build_table1(profile: Profile, problems: pd.DataFrame, runs: pd.DataFrame) -> Table:
    """The table from derived data.

    Args:
        profile: methods and their order, seeds, intervals, the margin of equal accuracy.
        problems: a row per (method, seed, task, problem), see `attnpo.results.problem_table`.
        runs: a row per finished run.
    """
    report, train, evaluation = profile.report, profile.train, profile.evaluate
    tasks = list(report.blocks) or list(problems["task"].unique())
    blocks = [_block(profile, task, problems[problems["task"] == task], runs) for task in tasks]
    interval = "seeds and problems" if len(profile.seeds) > 1 else "problems only: there is one seed"
    model = "the embedded testbed model" if profile.model == "testbed" else profile.model
    conditions = [
        f"Model: {model}; {train.steps} training steps of {train.prompts_per_step} × {train.group_size} "
        f"rollouts; seeds {', '.join(map(str, profile.seeds))}.",
        f"Evaluation: {evaluation.samples} responses a problem, temperature {evaluation.temperature}, "
        f"top_p {evaluation.top_p}, budget {evaluation.max_completion_tokens} tokens.",
        f"±: half of the {report.confidence:.0%} bootstrap interval over {interval} ({report.bootstrap} draws).",
        "chain n: accuracy on problems of n operations. Tokens and steps: a response. Repairs are essential.",
    ]
    paper = load_paper(checkout_root() / "results" / "paper")
    paper = paper[(paper["model"] == report.paper_model) & paper["file"].eq("attnpo.csv")]
    columns, rows = _paper_rows(paper, ["base", *profile.methods], profile)
    title = f"Table 1, profile {profile.name}"
    return Table(
        title=f"{title}: QUICK RUN, fewer seeds and steps, not the reproduction" if profile.quick else title,
        conditions=conditions,
        blocks=blocks,
        paper_title=f"Published values, another model: {', '.join(paper['base_model'].unique())}",
        paper_columns=columns,
        paper_rows=rows,
        paper_sources=[f"[{tag}] {meaning}" for tag, meaning in TAGS.items() if tag in set(paper["tag"])],
    )


def load_paper(folder: Path) -> pd.DataFrame:
    """All reference values: the rows of `folder`/*.csv, with the column `file`.

    Raises:
        AttnPOError: no such files, other columns than `PAPER_COLUMNS`, or a row without source or known tag.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise AttnPOError(f"{folder}: no reference values (*.csv); they are part of the repository")
    tables = []
    for path in files:
        table = pd.read_csv(path, dtype={"note": str, "source": str, "tag": str}, keep_default_na=False)
        if list(table.columns) != PAPER_COLUMNS:
            raise AttnPOError(f"{path}: its columns must be {', '.join(PAPER_COLUMNS)}")
        bad = table[(table["source"] == "") | ~table["tag"].isin(list(TAGS))]
        if len(bad):
            raise AttnPOError(f"{path}:{bad.index[0] + 2}: no source or unknown tag; tags are {', '.join(TAGS)}")
        tables.append(table.assign(file=path.name))
    return pd.concat(tables, ignore_index=True)


class Sample:
    """The responses of one method to the problems of one task.

    Raises:
        AttnPOError: its seeds did not all answer the same problems.
    """

    def __init__(self, rows: pd.DataFrame, method: str) -> None:
        """`rows`: the method's and task's lines of derived/problems.csv."""
        self.rows = rows.sort_values(["seed", "problem_id"])
        self.seeds = [int(seed) for seed in sorted(rows["seed"].unique())]
        problems = [set(part["problem_id"]) for _, part in rows.groupby("seed")]
        if any(other != problems[0] for other in problems):
            raise AttnPOError(f"method {method!r}: its seeds answered different problems; evaluate them again")

    def of_chain(self, chain: int, method: str) -> Sample:
        """Only the problems of one chain length."""
        return Sample(self.rows[self.rows["chain"] == chain], method)

    def means(self, *columns: str) -> np.ndarray:
        """(S, P) for one column, (S, P, M) for several: means over the k responses of a problem."""
        values = self.rows[list(columns)].to_numpy(dtype=float) / self.rows[["n"]].to_numpy(dtype=float)
        cube = values.reshape(len(self.seeds), -1, len(columns))
        return cube[..., 0] if len(columns) == 1 else cube

    def cell(self, estimate: Estimate) -> Cell:
        """An estimate made of these responses, with what a table cell knows beside it."""
        n = int(self.rows["n"].sum())
        return Cell(*estimate, n, float(self.rows["truncated"].sum() / n))


def _options(report: ReportSection) -> dict[str, Any]:
    return {"draws": report.bootstrap, "level": report.confidence, "seed": report.bootstrap_seed}


def _block(profile: Profile, task: str, problems: pd.DataFrame, runs: pd.DataFrame) -> Block:
    report = profile.report
    samples = {
        str(name): Sample(part, str(name))
        for name, part in problems[problems["seed"].isin(profile.seeds)].groupby("method")
    }
    chains = sorted({int(c) for c in problems["chain"].dropna()})
    columns = [Column(f"chain {c}", f"chain {c} %", 100) for c in chains]
    columns += [Column("correct", "accuracy %", 100)]
    columns += [c for c in MEASURED if c.key == "aes" or c.key in problems.columns]
    labels = {"base": report.base_label, **{name: m.label for name, m in profile.methods.items()}}
    rows = []
    for name, label in labels.items():
        sample = samples.get(name)
        if sample is None:
            rows.append(Row(name, label, [], None, []))
            continue
        cells = {
            f"chain {c}": part.cell(mean_estimate(part.means("correct"), **_options(report)))
            for c in chains
            for part in [sample.of_chain(c, name)]
        }
        for column in columns:
            if column.key == "aes" and name == "base":
                cells["aes"] = sample.cell(Estimate(0.0, 0.0, 0.0))  # against itself, by definition
            elif column.key == "aes" and "base" in samples and samples["base"].rows["correct"].any():
                runs_of_both = (s.means("correct", "tokens") for s in (sample, samples["base"]))
                cells["aes"] = sample.cell(aes_estimate(*runs_of_both, **_options(report)))
            elif column.key != "aes" and column.key not in cells:
                cells[column.key] = sample.cell(mean_estimate(sample.means(column.key), **_options(report)))
        ids = runs.loc[(runs["kind"] == "eval") & (runs["method"] == name), "run_id"]
        rows.append(Row(name, label, sample.seeds, cells, list(ids)))
    return Block(task, report.blocks.get(task, task), columns, rows, findings(profile, samples, labels))


# what follows from the numbers


def findings(profile: Profile, samples: Mapping[str, Sample], labels: Mapping[str, str]) -> list[str]:
    """Sentences on each AttnPO method against the method of the same reward without it, from the numbers."""
    sentences = []
    for name, method in profile.methods.items():
        if not method.attnpo:
            continue
        for other, reference in profile.methods.items():
            same = (reference.reward, reference.reward_args) == (method.reward, method.reward_args)
            if reference.attnpo or not same:
                continue
            if missing := [labels[m] for m in (name, other) if m not in samples]:
                what = " and ".join(missing)
                sentences.append(f"{labels[name]} against {labels[other]}: {what} not run, nothing can be said.")
                continue
            first, second = samples[name], samples[other]
            sentences.append(_length_and_accuracy(first, second, labels[name], labels[other], profile.report))
            pairs = [(name, other), (name, "base"), (other, "base")]
            for one, against in pairs:
                if against in samples and {"steps_redundant", "steps_essential"} <= set(first.rows.columns):
                    pair = (samples[one], samples[against], labels[one], labels[against])
                    sentences.append(_what_was_cut(*pair, profile.report))
    return sentences


def _length_and_accuracy(first: Sample, second: Sample, name: str, other: str, report: ReportSection) -> str:
    tokens = paired_difference(first.means("tokens"), second.means("tokens"), **_options(report))
    accuracy = paired_difference(first.means("correct"), second.means("correct"), **_options(report))
    shorter, longer = tokens.high < 0, tokens.low > 0
    better = accuracy.low > 0
    equal, worse = accuracy.low > -report.accuracy_margin, accuracy.high < 0
    if shorter and better:
        verdict = f"{name} is shorter than {other} and more accurate."
    elif shorter and equal:
        verdict = f"{name} is shorter than {other} at equal accuracy."
    elif shorter and worse:
        verdict = f"{name} is shorter than {other}, but less accurate."
    elif shorter:
        verdict = f"{name} is shorter than {other}; that its accuracy is equal is not shown."
    elif longer:
        verdict = f"{name} is longer than {other}."
    else:
        verdict = f"That {name} is shorter than {other} is not shown."
    share = f"{tokens.value / second.means('tokens').mean():+.1%}".replace("-", "−")
    return (
        f"{verdict} Paired over the same problems: tokens {_signed(tokens)}, that is {share}; accuracy "
        f"{_signed(accuracy, 100)} points ({report.confidence:.0%} intervals). Equal accuracy means that the "
        f"interval of the difference stays above −{100 * report.accuracy_margin:g} points, a margin declared "
        "in the profile before the runs."
    )


def _what_was_cut(first: Sample, second: Sample, name: str, other: str, report: ReportSection) -> str:
    columns = ("steps_redundant", "steps_essential")
    redundant, essential = (paired_difference(first.means(c), second.means(c), **_options(report)) for c in columns)
    against = (
        f"{name} against {other}, steps a response: redundant {_signed(redundant, digits=2)}, "
        f"essential {_signed(essential, digits=2)}."
    )
    if redundant.high >= 0:
        return f"{against} That it cut redundant steps is not shown."
    share = bootstrap(_redundant_share, first.means(*columns), second.means(*columns), **_options(report))
    if share.low > _MOSTLY:
        verdict = "What it cut was redundant"
    elif share.low > 0.5:
        verdict = "What it cut was mostly redundant"
    else:
        verdict = "That what it cut was redundant is not shown"
    interval = f"{share.low:.0%} to {share.high:.0%}"
    return f"{against} {verdict}: {share.value:.0%} ({interval}) of the net cut were redundant steps."


def _redundant_share(mean: np.ndarray, other_mean: np.ndarray) -> np.ndarray:
    """cut redundant / (cut redundant + cut essential) of (..., 2) means; steps gained count as none cut."""
    cut = np.maximum(0.0, other_mean - mean)
    return cut[..., 0] / cut.sum(axis=-1)


def _signed(estimate: Estimate, scale: float = 1.0, digits: int = 1) -> str:
    value, low, high = (f"{scale * x:+.{digits}f}" for x in estimate[:3])
    return f"{value} ({low} to {high})".replace("-", "−")


# published values

_PAPER_HEADINGS = [
    ("GSM8K", "accuracy", "GSM8K"),
    ("MATH500", "accuracy", "MATH500"),
    ("AIME24", "accuracy", "AIME24"),
    ("AIME25", "accuracy", "AIME25"),
    ("mean of six", "accuracy", "mean of six"),
    ("mean of six", "tokens", "tokens"),
    ("mean of six", "aes", "AES"),
]


def _paper_rows(paper: pd.DataFrame, methods: Sequence[str], profile: Profile) -> tuple[list[str], list[PaperRow]]:
    rows = []
    for method in methods:
        cells = {}
        for benchmark, metric, heading in _PAPER_HEADINGS:
            found = paper[(paper["method"] == method) & (paper["benchmark"] == benchmark) & (paper["metric"] == metric)]
            if len(found):
                value, about = found.iloc[0]["value"], found.iloc[0]["note"].startswith("about")
                cells[heading] = (f"{'≈ ' if about else ''}{value:g}", found.iloc[0]["tag"])
        if cells:
            label = profile.report.base_label if method == "base" else profile.method(method).label
            rows.append(PaperRow(label, cells))
    return [heading for *_, heading in _PAPER_HEADINGS], rows


# formats


def _grid(block: Block) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of a block's cells."""
    headings = ["method", *(c.heading for c in block.columns), "n", "seeds"]
    return headings, [_texts(block, row) for row in block.rows]


def _texts(block: Block, row: Row) -> list[str]:
    if row.cells is None:
        return [row.label, *(NOT_RUN for _ in block.columns), "0", "none"]
    texts = []
    for column in block.columns:
        cell = row.cells.get(column.key)
        if cell is None:
            texts.append(UNDEFINED)
        else:
            value, half = column.scale * cell.value, column.scale * (cell.high - cell.low) / 2
            texts.append(f"{value:.{column.digits}f} ± {half:.{column.digits}f}")
    return [row.label, *texts, str(row.cells["correct"].n), " ".join(map(str, row.seeds))]


def _paper_grid(table: Table) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            row.label,
            *(f"{row.cells[c][0]} [{row.cells[c][1]}]" if c in row.cells else "" for c in table.paper_columns),
        ]
        for row in table.paper_rows
    ]
    return ["method", *table.paper_columns], rows


def to_markdown(table: Table) -> str:
    """The table as GitHub markdown, findings under each block."""
    lines = [f"# {table.title}", "", *(f"- {c}" for c in table.conditions), ""]
    for block in table.blocks:
        lines += [f"## {block.title}", "", *_markdown_grid(*_grid(block)), ""]
        lines += [*(f"- {finding}" for finding in block.findings), ""] if block.findings else []
    lines += [f"## {table.paper_title}", "", "Not comparable number by number with the above.", ""]
    lines += [*_markdown_grid(*_paper_grid(table)), "", f"Sources: {'; '.join(table.paper_sources)}."]
    return "\n".join(lines) + "\n"


def _markdown_grid(headings: list[str], rows: list[list[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in [headings, *rows]]
    rule = ["---", *("---:" for _ in headings[1:])]
    return [f"| {' | '.join(row)} |" for row in [escaped[0], rule, *escaped[1:]]]


def to_csv(table: Table) -> str:
    """A line a cell, with interval, n, truncation rate and run ids; the published values with source tags."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = "title,block,method,label,column,value,low,high,n,truncated,seeds,run_ids,tag"
    writer.writerow(header.split(","))
    for block in table.blocks:
        for row in block.rows:
            for column in block.columns:
                cell = None if row.cells is None else row.cells.get(column.key)
                numbers = [NOT_RUN if row.cells is None else UNDEFINED, "", "", "", ""]
                if cell is not None:
                    numbers = [*(f"{x:.6g}" for x in cell[:3]), str(cell.n), f"{cell.truncated:.6g}"]
                where = [table.title, block.task, row.method, row.label, column.key]
                seeds, ids = " ".join(map(str, row.seeds)), " ".join(row.run_ids)
                writer.writerow([*where, *numbers, seeds, ids, "measured"])
    for paper in table.paper_rows:
        for heading, (text, tag) in paper.cells.items():
            value = text.removeprefix("≈ ")
            writer.writerow([table.title, table.paper_title, "", paper.label, heading, value, *[""] * 6, tag])
    return buffer.getvalue()


def to_latex(table: Table) -> str:
    """The table as LaTeX, one tabular a block; needs the package booktabs."""
    lines = [f"% {table.title}; needs \\usepackage{{booktabs}}", *(f"% {c}" for c in table.conditions)]
    grids = [(block.title, *_grid(block)) for block in table.blocks]
    grids.append((table.paper_title, *_paper_grid(table)))
    for title, headings, rows in grids:
        lines += ["", f"% {title}", f"\\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}", "\\toprule"]
        lines += [f"{' & '.join(map(_tex, headings))} \\\\", "\\midrule"]
        lines += [f"{' & '.join(map(_tex, row))} \\\\" for row in rows]
        lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    for plain, escaped in (
        ("%", "\\%"),
        ("_", "\\_"),
        ("&", "\\&"),
        ("#", "\\#"),
        ("<", "$<$"),
        (">", "$>$"),
    ):
        text = text.replace(plain, escaped)
    return text.replace("±", "$\\pm$").replace("≈", "$\\approx$")


def print_table(table: Table, console: Console) -> None:
    """The table for the terminal: a column a method, which fits where a row a method would not."""
    grids = [(f"{table.title}: {block.title}", *_grid(block), block.findings) for block in table.blocks]
    grids.append((table.paper_title, *_paper_grid(table), table.paper_sources))
    for title, headings, rows, notes in grids:
        shown = RichTable(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        lines = list(zip(headings, *rows, strict=True))
        for i, heading in enumerate(lines[0]):
            shown.add_column(escape(heading), justify="right" if i else "left", no_wrap=True)
        for line in lines[1:]:
            shown.add_row(*(escape(cell) for cell in line))
        console.print(shown)
        for note in notes:
            console.print(note, markup=False, highlight=False)
        console.print()
    for condition in table.conditions:
        console.print(condition, markup=False, highlight=False)
