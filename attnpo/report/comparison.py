"""`attnpo report`: any evaluations of our tasks in one table, with intervals and differences from a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_csv, atomic_write_text
from attnpo.report import figures, tables
from attnpo.report.evaluations import Evaluation, check_comparable, labelled_samples, read_evaluations
from attnpo.report.published import BENCHMARKS, Published, load_paper, published
from attnpo.report.tables import Block, Cell, Column, Row, Table, signed
from attnpo.statistics.bootstrap import Estimate
from attnpo.statistics.estimates import Sample, differences, estimates, measures_of, samples_by_method
from attnpo.statistics.metrics import budgets_below
from attnpo.statistics.tables import problem_table


def write_comparison(
    samples: Sequence[str],
    out: Path,
    console: Console,
    *,
    base: str | None = None,
    budgets: Sequence[int] | None = None,
    paper: str | None = None,
    **options: Any,
) -> None:
    """Read evaluations, print their table and write `report.{md,csv,tex}`, `problems.csv` and figures into `out`.

    Args:
        samples: `PATH` or `LABEL=PATH` each, see `attnpo.report.evaluations.read_evaluations`.
        out: folder.
        console: where the table is printed.
        base: label of one of them, or another `PATH` or `LABEL=PATH`: differences and AES are against it.
        budgets: token budgets at which accuracy is reported; None: the runs' own and its halves.
        paper: size of a model, such as 1.5B, whose published values stand beside.
        options: of the bootstrap, see `attnpo.statistics.bootstrap.bootstrap`.

    Raises:
        AttnPOError: samples that cannot be read or compared, or a budget above the runs' own.
    """
    if not samples:
        raise AttnPOError("no samples are named; give lm-eval's output folder, or a run folder, at least one")
    evaluations = read_evaluations(samples)
    if base is not None and base not in {e.label for e in evaluations}:
        before = read_evaluations([base])
        if len({e.label for e in before}) > 1:
            raise AttnPOError(f"--base {base}: holds several methods; give the label of one")
        base = before[0].label
        evaluations = before + [e for e in evaluations if e.origin not in {b.origin for b in before}]
    limit = _limit(evaluations)
    budgets = sorted(budgets or budgets_below(limit))
    if budgets[-1] > limit or budgets[0] < 1:
        raise AttnPOError(f"--budgets {budgets[-1]}: the responses had {limit} tokens; give budgets from 1 to {limit}")
    problems = problem_table(labelled_samples(evaluations), budgets)
    check_comparable(evaluations)
    table = build_comparison(problems, evaluations, base=base, paper=paper, **options)
    for name, write in (("md", tables.to_markdown), ("csv", tables.to_csv), ("tex", tables.to_latex)):
        atomic_write_text(out / f"report.{name}", write(table))
    atomic_write_csv(out / "problems.csv", problems)
    for block in table.measured:
        figures.pareto(block, out / "figures" / f"pareto_{block.task}")
        for figure in (figures.pass_at_k, figures.budget):
            curves = figures.curves_of(block, figure.__name__)
            if any(len(curve.x) > 1 for curve in curves):
                figure(curves, out / "figures" / f"{figure.__name__}_{block.task}", title=block.title)
    tables.print_table(table, console)
    console.print(f"written to {out}: report.md, .csv, .tex, problems.csv and figures/", markup=False, soft_wrap=True)


def _limit(evaluations: Sequence[Evaluation]) -> int:
    """The smallest budget of them, from the first sample of each task."""
    for evaluation in evaluations:
        for file in evaluation.files:
            only = Evaluation(evaluation.label, 0, "", {file: evaluation.files[file]}, manifest=evaluation.manifest)
            next(only.samples(), None)
            evaluation.conditions |= only.conditions
    found = [conditions.budget for e in evaluations for conditions in e.conditions.values()]
    if not found:
        raise AttnPOError(f"{evaluations[0].origin}: its sample files are empty; evaluate again")
    return min(found)


def build_comparison(
    problems: pd.DataFrame,
    evaluations: Sequence[Evaluation],
    *,
    base: str | None = None,
    paper: str | None = None,
    **options: Any,
) -> Table:
    """The table of some evaluations: a block a task and group, and one of differences after each if there is a base.

    Args:
        problems: see `attnpo.statistics.tables.problem_table`, the labels as methods.
        evaluations: that it was made from.
        base, paper, options: as in `write_comparison`.
    """
    methods = samples_by_method(problems)
    tasks = list(dict.fromkeys(problems["task"]))
    groups = {
        name: members
        for name, members in task_groups().items()
        if len(members) > 1 and any(set(members) <= set(of_tasks) for of_tasks in methods.values())
    }
    ids = {label: [e.origin for e in evaluations if e.label == label] for label in methods}
    conditions: dict[str, Any] = {}
    for evaluation in evaluations:
        conditions |= evaluation.conditions
    blocks = []
    for name, members in [*((task, [task]) for task in tasks), *groups.items()]:
        title = name if name in tasks else f"{name}: macro mean of {len(members)}"
        picked = {m: [own[t] for t in members] for m, own in methods.items() if set(members) <= set(own)}
        blocks += _blocks(name, title, picked, ids, base if base in picked else None, options)
    shown = []
    if paper is not None:
        shown = _beside(paper, blocks, conditions)
    level, draws = options.get("level", 0.95), options.get("draws", 2000)
    several = any(len(ids_of) > 1 for ids_of in ids.values())
    about = [f"{task}: {c}." for task, c in conditions.items()]
    about.append(f"±: half of the {level:.0%} bootstrap interval over {'seeds and ' if several else ''}problems.")
    about[-1] = f"{about[-1][:-1]} ({draws} draws)."
    if paper is not None and not shown:
        about.append(f"No published values for {paper} at this budget and temperature.")
    return Table("Report", about, blocks, shown)


def _columns(picked: Mapping[str, Sequence[Sample]]) -> list[Column]:
    names = dict.fromkeys(c for samples in picked.values() for s in samples for c in s.columns)
    measures = measures_of(list(names))
    passes = [int(name[5:]) for name in measures if name.startswith("pass@")]
    columns = []
    for name, m in measures.items():
        k = int(name[5:]) if name.startswith("pass@") else 0
        columns.append(Column(name, m.heading, m.scale, m.digits, k > 0 and (k == 1 or not _shown(k, max(passes)))))
    return columns


def _shown(k: int, largest: int) -> bool:
    return k == largest or k & (k - 1) == 0


def _cells(samples: Sequence[Sample], found: Mapping[str, Estimate | None]) -> dict[str, Cell]:
    responses = sum(s.responses for s in samples)
    truncated = sum(s.truncated for s in samples) / len(samples)
    return {name: Cell(*estimate, responses, truncated) for name, estimate in found.items() if estimate is not None}


def _blocks(
    name: str,
    title: str,
    picked: Mapping[str, Sequence[Sample]],
    ids: Mapping[str, list[str]],
    base: str | None,
    options: Mapping[str, Any],
) -> list[Block]:
    """The block of a task or group, and that of the differences from `base`, if it is there beside others."""
    rows, difference_rows, findings = [], [], []
    columns = _columns(picked)
    for method, samples in picked.items():
        found = estimates(samples, **options)
        if method == base:
            found["aes"] = Estimate(0.0, 0.0, 0.0)  # against itself, by definition
        elif base is not None:
            against = differences(samples, picked[base], **options)
            found["aes"], _ = against.pop("aes")
            cells = _cells(samples, {measure: difference for measure, (difference, _) in against.items()})
            difference_rows.append(Row(method, method, samples[0].seeds, cells, ids[method]))
            findings.append(_sentence(method, base, against))
        rows.append(Row(method, method, samples[0].seeds, _cells(samples, found), ids[method]))
    both = [*columns, Column("aes", "AES", digits=2)] if base is not None else columns
    blocks = [Block(name, title, both, rows, findings, by_column=True)]
    if difference_rows:
        title = f"{title}, difference from {base}, paired over the problems"
        blocks.append(Block(name, title, columns, difference_rows, [], by_column=True, differences="difference"))
    return blocks


def _sentence(method: str, base: str, against: Mapping[str, tuple[Estimate | None, Estimate | None]]) -> str:
    tokens, share = against["tokens"]
    accuracy, _ = against["accuracy"]
    assert tokens is not None and accuracy is not None  # means are always defined
    relative = f", that is {signed(share, 100)} %" if share is not None else ""
    clear = [
        what for what, estimate in (("tokens", tokens), ("accuracy", accuracy)) if estimate.low > 0 or estimate.high < 0
    ]
    verdict = f"clear of 0: {' and '.join(clear)}" if clear else "neither is clear of 0"
    points = f"accuracy {signed(accuracy, 100)} points"
    return f"{method} against {base}: tokens {signed(tokens)}{relative}; {points} ({verdict})."


def _beside(size: str, blocks: Sequence[Block], conditions: Mapping[str, Any]) -> list[Published]:
    """Published values that may stand beside these blocks, with the measured ones in the same grid."""
    found: list[Published] = []
    settings = dict.fromkeys((c.budget, c.temperature) for c in conditions.values())
    for budget, temperature in settings:
        tasks = [t for t, c in conditions.items() if (c.budget, c.temperature) == (budget, temperature)]
        here = [
            b for b in blocks if not b.differences and b.task in BENCHMARKS and (b.task in tasks or len(settings) == 1)
        ]
        paper = load_paper(checkout_root() / "results" / "paper")
        for part in published(paper, size, [*tasks, *(b.task for b in here)], budget, temperature):
            found.append(tables.beside(part, here))
    return found
