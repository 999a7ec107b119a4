"""Table 1: what was measured, with intervals, beside the paper's values, and what follows in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import rich.box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import task_groups
from attnpo.report.published import BENCHMARKS, TAGS, PaperRow, PaperValue, Published, load_paper, published
from attnpo.runs.profile import BASES, Profile
from attnpo.runs.settings import ReportSection
from attnpo.statistics.bootstrap import Estimate, aes_estimate, bootstrap, mean_estimate, paired_difference
from attnpo.statistics.estimates import Sample, differences, estimates, on_shared_seeds, samples_by_method

NOT_RUN = "not run"
UNDEFINED = "undefined"  # AES where the base was not run or never right; truncation where no finish reason is known

_MOSTLY = 0.9  # share of the cut steps that must be redundant to call the cut redundant


class NotRunError(AttnPOError):
    """What a table or figure is made of has not been run."""


class Column(NamedTuple):
    """A column of measured values: key, heading, factor to its unit, digits."""

    key: str
    heading: str
    scale: float = 1.0
    digits: int = 1
    detail: bool = False
    """Written to the CSV alone."""


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

    @property
    def responses(self) -> int:
        """Responses behind the row, in all."""
        return max((cell.n for cell in (self.cells or {}).values()), default=0)


@dataclass(frozen=True)
class Block:
    """One task of the table."""

    task: str
    title: str
    columns: list[Column]
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


def read_derived(results_dir: Path, artefact: str | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`derived/problems.csv` and `derived/runs.csv`; those of an artefact with an evaluation of its own if it is named.

    Raises:
        NotRunError: one of them is missing.
    """
    tables = []
    for name in ("problems", "runs"):
        path = results_dir / "derived" / (artefact or "") / f"{name}.csv"
        if not path.is_file():
            raise NotRunError(f"{path}: missing; make it with `attnpo table` once something has been evaluated")
        tables.append(pd.read_csv(path, dtype={"problem_id": str}))
    return tables[0], tables[1]


def chosen(profile: Profile, table: pd.DataFrame) -> pd.DataFrame:
    """The rows (with `method` and `seed`) of the profile's methods and `base`, of each the seeds that it runs with."""
    wanted = {(name, seed) for name in ["base", *profile.methods] for seed in profile.seeds_of(name)}
    kept = [pair in wanted for pair in zip(table["method"], table["seed"], strict=True)]
    return table[pd.Series(kept, index=table.index, dtype=bool)]


def build_table1(
    profile: Profile, problems: pd.DataFrame, runs: pd.DataFrame, title: str = "Table 1", compare: bool = True
) -> Table:
    """The table from derived data.

    Args:
        profile: methods and their order, seeds, intervals, the margin of equal accuracy.
        problems: a row per (method, seed, task, problem), see `attnpo.statistics.tables.problem_table`.
        runs: a row per finished run.
        title: without the profile.
        compare: put published values beside.
    """
    problems, runs = chosen(profile, problems), chosen(profile, runs)
    report, train, evaluation = profile.report, profile.train, profile.evaluate
    tasks = list(report.blocks) or list(problems["task"].unique())
    groups = task_groups()
    if not report.blocks:
        tasks += [name for name, members in groups.items() if len(members) > 1 and set(members) <= set(tasks)]
    blocks = []
    for task in tasks:
        if task in groups:
            blocks.append(_group_block(profile, task, groups[task], problems, runs))
        else:
            blocks.append(_block(profile, task, problems[problems["task"] == task], runs))
        blocks += _difference_blocks(profile, blocks[-1], groups.get(task, [task]), problems)
    interval = "seeds and problems" if len(profile.seeds) > 1 else "problems only: there is one seed"
    model = "the embedded testbed model" if profile.model == "testbed" else profile.model
    conditions = [
        f"Model: {model}; {train.steps} training steps of {train.prompts_per_step} × {train.group_size} "
        "rollouts; seeds in the last column.",
        f"Evaluation: {evaluation.samples or '4 to 16'} responses a problem, temperature {evaluation.temperature}, "
        f"top_p {evaluation.top_p}, budget {evaluation.max_completion_tokens} tokens.",
        f"±: half of the {report.confidence:.0%} bootstrap interval over {interval} ({report.bootstrap} draws).",
        "Tokens and steps: a response. Repairs are essential. Chain n: accuracy on problems of n operations.",
        f"In words under a block: differences paired over the same problems, with {report.confidence:.0%} intervals. "
        f"Accuracy is equal where the interval stays above −{100 * report.accuracy_margin:g} points, a margin declared "
        "in the profile before the runs.",
    ]
    labels = {"base": report.base_label, **{name: m.label for name, m in profile.methods.items()}}
    title = f"{title}, profile {profile.name}"
    shown = (
        []
        if not compare
        else published(
            load_paper(checkout_root() / "results" / "paper"),
            size=report.paper_model,
            tasks=tasks,
            budget=evaluation.max_completion_tokens,
            temperature=evaluation.temperature,
            labels=labels,
        )
    )
    return Table(
        title=f"{title}: QUICK RUN, fewer seeds and steps, not the reproduction" if profile.quick else title,
        conditions=conditions,
        blocks=blocks,
        published=[beside(part, blocks) for part in shown],
    )


def options(report: ReportSection) -> dict[str, Any]:
    """How intervals are made, as `attnpo.statistics.bootstrap.bootstrap` takes it."""
    return {"draws": report.bootstrap, "level": report.confidence, "seed": report.bootstrap_seed}


def _cell(sample: Sample, estimate: Estimate) -> Cell:
    """An estimate made of these responses, with what a table cell knows beside it."""
    return Cell(*estimate, sample.responses, sample.truncated)


def _block(profile: Profile, task: str, problems: pd.DataFrame, runs: pd.DataFrame) -> Block:
    report = profile.report
    samples = {str(name): Sample(part, str(name)) for name, part in problems.groupby("method")}
    chains = sorted({int(c) for c in problems["chain"].dropna()})
    columns = [Column("correct", "accuracy %", 100)]
    columns += [c for c in MEASURED if c.key == "aes" or c.key in problems.columns]
    columns += [Column(f"chain {c}", f"chain {c} %", 100) for c in chains]
    labels = {"base": report.base_label, **{name: m.label for name, m in profile.methods.items()}}
    rows = []
    for name, label in labels.items():
        sample = samples.get(name)
        if sample is None:
            rows.append(Row(name, label, [], None, []))
            continue
        cells = {
            f"chain {c}": _cell(part, mean_estimate(part.means("correct"), **options(report)))
            for c in chains
            for part in [sample.where(sample.rows["chain"] == c)]
        }
        for column in columns:
            if column.key == "aes" and name == "base":
                cells["aes"] = _cell(sample, Estimate(0.0, 0.0, 0.0))  # against itself, by definition
            elif column.key == "aes" and "base" in samples and samples["base"].rows["correct"].any():
                runs_of_both = (s.means("correct", "tokens") for s in (sample, samples["base"]))
                cells["aes"] = _cell(sample, aes_estimate(*runs_of_both, **options(report)))
            elif column.key in sample.columns and sample.rows[column.key].notna().all() and column.key not in cells:
                cells[column.key] = _cell(sample, mean_estimate(sample.means(column.key), **options(report)))
        ids = runs.loc[(runs["kind"] == "eval") & (runs["method"] == name), "run_id"]
        rows.append(Row(name, label, sample.seeds, cells, list(ids)))
    return Block(task, report.blocks.get(task, task), columns, rows, findings(profile, samples, labels))


_MEASURE = {"correct": "accuracy", "steps_redundant": "redundant_steps", "steps_essential": "essential_steps"}
"""Column of Table 1 -> its name in `attnpo.statistics.estimates.MEASURES`, where they differ."""


def _group_block(
    profile: Profile, group: str, members: Sequence[str], problems: pd.DataFrame, runs: pd.DataFrame
) -> Block:
    """The macro means of a group of tasks; methods that lack one of them were not run."""
    report = profile.report
    by_method = samples_by_method(problems)
    complete = {m: [own[t] for t in members] for m, own in by_method.items() if set(members) <= set(own)}
    columns = [Column("correct", "accuracy %", 100), *MEASURED]
    rows = []
    for name, label in {"base": report.base_label, **{n: m.label for n, m in profile.methods.items()}}.items():
        if name not in complete:
            rows.append(Row(name, label, [], None, []))
            continue
        samples = complete[name]
        found = estimates(samples, **options(report))
        if name == "base":
            found["aes"] = Estimate(0.0, 0.0, 0.0)  # against itself, by definition
        elif "base" in complete:
            found["aes"], _ = differences(samples, complete["base"], **options(report))["aes"]
        about = (sum(s.responses for s in samples), float(np.mean([s.truncated for s in samples])))
        values = {c.key: found.get(_MEASURE.get(c.key, c.key)) for c in columns}
        cells = {key: Cell(*estimate, *about) for key, estimate in values.items() if estimate is not None}
        ids = runs.loc[(runs["kind"] == "eval") & (runs["method"] == name), "run_id"]
        rows.append(Row(name, label, samples[0].seeds, cells, list(ids)))
    columns = [c for c in columns if any(c.key in (row.cells or {}) for row in rows)]
    title = report.blocks.get(group, f"{group}: macro mean of {len(members)}")
    return Block(group, title, columns, rows, [])


_DIFFERENCES = [
    Column("accuracy", "accuracy, points", 100),
    Column("tokens", "tokens"),
    Column("tokens %", "tokens, %", 100),
    Column("redundant_steps", "redundant steps", digits=2),
    Column("essential_steps", "essential steps", digits=2),
]
"""Of `attnpo.statistics.estimates.differences`; `tokens %` is the relative one."""


def _difference_blocks(profile: Profile, block: Block, members: Sequence[str], problems: pd.DataFrame) -> list[Block]:
    """What each row of a block has more than the profile's reference; of many methods with AttnPO, what each has more
    than without."""
    report, found = profile.report, samples_by_method(problems[problems["task"].isin(members)])
    samples = {method: [own[t] for t in members] for method, own in found.items() if set(members) <= set(own)}
    by_method = {row.method: row for row in block.rows if row.method in samples}
    kinds: dict[str, tuple[str, list[tuple[Row, str]]]] = {}
    if report.reference in by_method:
        pairs = [(row, report.reference) for name, row in by_method.items() if name != report.reference]
        kinds["difference"] = f"difference from {by_method[report.reference].label}", pairs
    if _many_with_attnpo(profile):
        pairs = []
        for name, other in (
            (n, o) for n, m in profile.methods.items() if m.attnpo for o in profile.without_attnpo(n)[:1]
        ):
            if name in by_method and other in by_method:
                row = by_method[name]
                pairs.append((replace(row, label=f"{row.label} less {by_method[other].label}"), other))
        kinds["with less without"] = "with AttnPO less the same reward without it", pairs
    blocks = []
    for kind, (words, pairs) in kinds.items():
        rows = []
        for row, reference in pairs:
            of_both = [_comparable(*pair) for pair in zip(samples[row.method], samples[reference], strict=True)]
            own, others = zip(*of_both, strict=True)
            against = differences(own, others, **options(report))
            values = {name: difference for name, (difference, _) in against.items()} | {
                "tokens %": against["tokens"][1]
            }
            about = (sum(s.responses for s in own), float(np.mean([s.truncated for s in own])))
            cells = {c.key: Cell(*e, *about) for c in _DIFFERENCES if (e := values.get(c.key)) is not None}
            rows.append(replace(row, cells=cells, seeds=own[0].seeds))
        columns = [c for c in _DIFFERENCES if any(c.key in (row.cells or {}) for row in rows)]
        if rows:
            title = f"{block.title}, {words}, paired over the problems"
            blocks.append(Block(block.task, title, columns, rows, [], differences=kind))
    return blocks


def _many_with_attnpo(profile: Profile) -> bool:
    """Whether sentences on each of them would be too long to read."""
    return sum(method.attnpo for method in profile.methods.values()) > 2


def _comparable(one: Sample, other: Sample) -> tuple[Sample, Sample]:
    """Two methods on the seeds that both were trained with; the base, which was not, keeps all of its."""
    if not {one.method, other.method} & {*BASES}:
        one, other = on_shared_seeds(one, other)
    return one, other


def beside(part: Published, blocks: Sequence[Block]) -> Published:
    """A comparison of published values with the measured ones of these blocks in the same grid, where both have a
    benchmark; `part` must have their budget and temperature, see `published`."""
    rows: dict[str, dict[tuple[str, str], PaperValue]] = {}
    for block in (b for b in blocks if not b.differences):
        columns = {c.key: c for c in block.columns}
        for row in block.rows:
            for metric in ("accuracy", "tokens", "aes"):
                key = "correct" if metric == "accuracy" and "correct" in columns else metric
                if block.task in BENCHMARKS and row.cells is not None and key in row.cells:
                    cell, column = row.cells[key], columns[key]
                    text = _value_and_half(cell, column)
                    value = PaperValue(column.scale * cell.value, text, "measured")
                    rows.setdefault(row.label, {})[BENCHMARKS[block.task], metric] = value
    ours = [PaperRow(label, f"{label}, measured", cells) for label, cells in rows.items()]
    return replace(part, rows=[*part.rows, *ours])


def _value_and_half(cell: Cell, column: Column, sign: str = "-") -> str:
    """`sign`: `+` to write it before positive values too."""
    value, half = column.scale * cell.value, column.scale * (cell.high - cell.low) / 2
    text = f"{value:{sign}.{column.digits}f}"
    text += "" if np.isnan(half) else f" ± {half:.{column.digits}f}"  # one value has no interval
    return text.replace("-", "−")


# what follows from the numbers


def findings(profile: Profile, samples: Mapping[str, Sample], labels: Mapping[str, str]) -> list[str]:
    """Sentences on each AttnPO method against the first of the same reward without it, from the numbers; on the
    report's reference against each of them. Of many AttnPO methods, on the reference alone."""
    sentences = []
    many = _many_with_attnpo(profile)
    for name, method in profile.methods.items():
        if not method.attnpo or (many and name != profile.report.reference):
            continue
        plain = profile.without_attnpo(name)
        for other in plain if name == profile.report.reference else plain[:1]:
            missing = [labels[m] for m in (name, other) if m not in samples]
            if missing:
                if len(missing) == 1:
                    sentences.append(
                        f"{labels[name]} against {labels[other]}: {missing[0]} not run, nothing can be said."
                    )
                continue
            first, second = _comparable(samples[name], samples[other])
            sentences.append(_length_and_accuracy(first, second, labels[name], labels[other], profile.report))
            pairs = [(name, other), (name, "base"), (other, "base")]
            for one, against in pairs[:1] if many else pairs:
                if against in samples and {"steps_redundant", "steps_essential"} <= set(first.rows.columns):
                    pair = _comparable(samples[one], samples[against])
                    sentences.append(_what_was_cut(*pair, labels[one], labels[against], profile.report))
    return sentences


def _length_and_accuracy(first: Sample, second: Sample, name: str, other: str, report: ReportSection) -> str:
    tokens = paired_difference(first.means("tokens"), second.means("tokens"), **options(report))
    accuracy = paired_difference(first.means("correct"), second.means("correct"), **options(report))
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
    return f"{verdict} Tokens {signed(tokens)}, that is {share}; accuracy {signed(accuracy, 100)} points."


def _what_was_cut(first: Sample, second: Sample, name: str, other: str, report: ReportSection) -> str:
    columns = ("steps_redundant", "steps_essential")
    redundant, essential = (paired_difference(first.means(c), second.means(c), **options(report)) for c in columns)
    against = (
        f"{name} against {other}, steps a response: redundant {signed(redundant, digits=2)}, "
        f"essential {signed(essential, digits=2)}."
    )
    if redundant.high >= 0:
        return f"{against} That it cut redundant steps is not shown."
    if essential.low > 0:
        return f"{against} It cut redundant steps, while essential steps rose."
    if essential.high >= 0:
        lost = f"{max(0.0, -essential.low):.2f}"
        verdict = f"It cut redundant steps; that essential steps changed is not shown (at most {lost} of them lost)."
        return f"{against} {verdict}"
    share = bootstrap(_redundant_share, first.means(*columns), second.means(*columns), **options(report))
    if share.low > _MOSTLY:
        verdict = "What it cut was redundant"
    elif share.low > 0.5:
        verdict = "What it cut was mostly redundant"
    elif share.high < 0.5:
        verdict = "What it cut was mostly essential"
    else:
        verdict = "That what it cut was mostly redundant is not shown"
    interval = f"{share.low:.0%} to {share.high:.0%}"
    return f"{against} Both fell. {verdict}: {share.value:.0%} ({interval}) of the steps cut were redundant ones."


def _redundant_share(mean: np.ndarray, other_mean: np.ndarray) -> np.ndarray:
    """cut redundant / (cut redundant + cut essential) of (..., 2) means, where both fell; in draws where essential
    steps rose, 1."""
    cut = np.maximum(0.0, other_mean - mean)
    return cut[..., 0] / cut.sum(axis=-1)


def signed(estimate: Estimate, scale: float = 1.0, digits: int = 1) -> str:
    """An estimate of a difference in words: `−0.3 (−4.7 to +4.5)`."""
    value, low, high = (f"{scale * x:+.{digits}f}" for x in estimate[:3])
    return f"{value} ({low} to {high})".replace("-", "−")


# formats


def _grid(block: Block) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of a block's cells."""
    columns = [c for c in block.columns if not c.detail]
    headings = ["method", *(c.heading for c in columns), "n", "seeds"]
    return headings, [_texts(columns, row, "+" if block.differences else "-") for row in block.rows]


def _texts(columns: list[Column], row: Row, sign: str) -> list[str]:
    if row.cells is None:
        return [row.label, *(NOT_RUN for _ in columns), "0", "none"]
    texts = []
    for column in columns:
        cell = row.cells.get(column.key)
        texts.append(UNDEFINED if cell is None else _value_and_half(cell, column, sign))
    return [row.label, *texts, str(row.responses), " ".join(map(str, row.seeds))]


def lines_of(block: Block) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of texts, or their transpose for a block that is written by column."""
    headings, rows = _grid(block)
    if not block.by_column:
        return headings, rows
    first, *rest = (list(line) for line in zip(headings, *rows, strict=True))
    return first, rest


def to_markdown(table: Table) -> str:
    """The table as GitHub markdown, findings under each block."""
    lines = [f"# {table.title}", "", *(f"- {c}" for c in table.conditions), ""]
    for block in table.blocks:
        lines += [f"## {block.title}", "", *_markdown_grid(*lines_of(block)), ""]
        lines += [*(f"- {finding}" for finding in block.findings), ""] if block.findings else []
    for part in table.published:
        lines += [f"## {part.title}", "", part.remark, "", *_markdown_grid(*part.grid()), ""]
    lines += [f"Sources: {table.sources}."] if table.published else []
    return "\n".join(lines).rstrip("\n") + "\n"


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
                task = f"{block.task} {block.differences}".rstrip()
                where = [table.title, task, row.method, row.label, column.key]
                seeds, ids = " ".join(map(str, row.seeds)), " ".join(row.run_ids)
                writer.writerow([*where, *numbers, seeds, ids, "measured"])
    for part in table.published:
        for published_row in part.rows:
            of_paper = {key: n for key, n in published_row.cells.items() if n.tag in TAGS}  # ours stand above
            for (benchmark, metric), number in of_paper.items():
                where = [table.title, part.name, published_row.method, published_row.label, f"{benchmark} {metric}"]
                writer.writerow([*where, f"{number.value:g}", *[""] * 6, number.tag])
    return buffer.getvalue()


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
    return text.replace("±", "$\\pm$").replace("≈", "$\\approx$").replace("−", "$-$")


@dataclass(frozen=True)
class _Whole:
    """Renders a table at the width it needs: a terminal that is too narrow wraps the lines, but no cell is cut."""

    table: RichTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = Measurement.get(console, options.update(max_width=10_000), self.table).maximum
        yield from console.render(self.table, options.update(width=max(width, options.max_width)))


def print_table(table: Table, console: Console) -> None:
    """The table for the terminal: a column a method, or a row a method where that is narrower; methods that were not
    run are named below."""
    grids = []
    for block in table.blocks:
        run = replace(block, rows=[row for row in block.rows if row.cells is not None])
        absent = [row.label for row in block.rows if row.cells is None]
        notes = [*block.findings, *([f"Not run: {', '.join(absent)}."] if absent else [])]
        grids.append((f"{table.title}: {block.title}", *_grid(run), notes))
    grids += [(part.title, *part.grid(), [part.remark]) for part in table.published]
    for title, headings, rows, notes in grids:
        shown = RichTable(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        lines: list[Sequence[str]] = [headings, *rows]
        if len(rows) < len(headings):
            lines = list(zip(*lines, strict=True))
        for i, heading in enumerate(lines[0]):
            shown.add_column(escape(heading), justify="right" if i else "left", no_wrap=True)
        for line in lines[1:]:
            shown.add_row(*(escape(cell) for cell in line))
        console.print(_Whole(shown), crop=False)
        for note in notes:
            console.print(note, markup=False, highlight=False)
        console.print()
    for condition in [*table.conditions, *([f"Sources: {table.sources}."] if table.published else [])]:
        console.print(condition, markup=False, highlight=False)
