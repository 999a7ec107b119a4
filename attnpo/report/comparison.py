"""`attnpo report`: any evaluations of our tasks in one table, with intervals and differences from a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from attnpo.environment import shipped
from attnpo.errors import AttnPOError, first_line
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_csv
from attnpo.report import figures, formats
from attnpo.report.evaluated import at_doublings, curve_of, numbered
from attnpo.report.evaluations import Evaluation, check_comparable, labelled_samples, read_evaluations
from attnpo.report.published import BENCHMARKS, Published, load_paper, published
from attnpo.report.selection import Selection
from attnpo.report.table import Block, Cell, Row, Table, signed
from attnpo.report.tables import beside
from attnpo.statistics.estimates import Wanted, estimate_table
from attnpo.statistics.measures import AES, TOKENS_RELATIVE, Measure, measure_named
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
    frontier: Path | None = None,
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
        frontier: file of the best accuracy known at token budgets, see `read_frontier`; None: the best of what is
            compared.
        options: of the bootstrap, see `attnpo.statistics.bootstrap.bootstrap`.

    Raises:
        AttnPOError: samples that cannot be read or compared, or a budget above the runs' own.
    """
    if not samples:
        raise AttnPOError("no samples are named; give lm-eval's output folder, or a run folder, at least one")
    known = {} if frontier is None else read_frontier(frontier)
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
    pairs = [] if base is None else [(label, base) for label in dict.fromkeys(e.label for e in evaluations)]
    # Evaluations from anywhere: their seeds say nothing of each other, so all count in every comparison.
    wanted = Wanted(comparisons=pairs, untrained=[] if base is None else [base], frontier=True, known=known)
    several = {name: members for name, members in task_groups().items() if len(members) > 1}
    estimates = estimate_table(problems, [wanted], several, **options)
    table = build_comparison(estimates, evaluations, base=base, paper=paper, **options)
    formats.write_table(table, out, "report")
    atomic_write_csv(out / "problems.csv", problems)
    for block in table.measured:
        figures.pareto(block, out / "figures" / f"pareto_{block.task}")
        for figure, prefix in ((figures.pass_at_k, "pass@"), (figures.budget, "accuracy@")):
            places = [(row, numbered(row.cells or {}, prefix)) for row in block.rows]
            curves = [curve_of(row.method, row.label, found) for row, found in places if found]
            if any(len(curve.x) > 1 for curve in curves):
                figure(curves, out / "figures" / f"{figure.__name__}_{block.task}", title=block.title)
    formats.print_table(table, console, str(out / "report.md"))
    console.print(f"written to {out}: report.md, .csv, .tex, problems.csv and figures/", markup=False, soft_wrap=True)


def read_frontier(path: Path) -> dict[str, dict[int, float]]:
    """Task or group -> tokens -> the best accuracy known within them, a share.

    The file is CSV with the columns task, budget (tokens) and accuracy (in per cent).

    Raises:
        AttnPOError: no such file, other columns, or values out of range.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise AttnPOError(f"--frontier {path}: {first_line(error)}; give a CSV file") from error
    if missing := [name for name in ("task", "budget", "accuracy") if name not in table]:
        raise AttnPOError(f"--frontier {path}: no column {missing[0]!r}; it needs task, budget and accuracy (in %)")
    found: dict[str, dict[int, float]] = {}
    for number, (task, budget, accuracy) in enumerate(
        table[["task", "budget", "accuracy"]].itertuples(index=False), start=2
    ):
        try:
            tokens, share = int(budget), float(accuracy) / 100
        except (TypeError, ValueError):
            tokens, share = 0, 0.0
        if tokens < 1 or tokens != budget or not 0 <= share <= 1:
            raise AttnPOError(
                f"--frontier {path}:{number}: budget {budget}, accuracy {accuracy}; give whole tokens and per cent"
            )
        found.setdefault(str(task), {})[tokens] = share
    return found


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
    estimates: pd.DataFrame,
    evaluations: Sequence[Evaluation],
    *,
    base: str | None = None,
    paper: str | None = None,
    **options: Any,
) -> Table:
    """The table of some evaluations: a block a task and group, and one of differences after each if there is a base.

    Args:
        estimates: see `attnpo.statistics.estimates`, the labels as methods.
        evaluations: that they were made from.
        base, paper, options: as in `write_comparison`.
    """
    selection = Selection(estimates, untrained=[] if base is None else [base])
    ids: dict[str, list[str]] = {}
    conditions: dict[str, Any] = {}
    for evaluation in evaluations:
        ids.setdefault(evaluation.label, []).append(evaluation.origin)
        conditions |= evaluation.conditions
    groups, blocks = task_groups(), []
    for task in selection.tasks:
        title = f"{task}: macro mean of {len(groups[task])}" if task in groups else task
        blocks += _blocks(task, title, selection, ids, base)
    shown = [] if paper is None else _beside(paper, blocks, conditions)
    level, draws = options.get("level", 0.95), options.get("draws", 2000)
    several = any(len(of) > 1 for of in ids.values())
    over = f"{'seeds and ' if several else ''}problems"
    about = [f"{task}: {c}." for task, c in conditions.items()]
    about.append(f"±: half of the {level:.0%} bootstrap interval over {over} ({draws} draws).")
    if paper is not None and not shown:
        about.append(f"No published values for {paper} at this budget and temperature.")
    return Table("Report", about, blocks, shown)


def _columns(rows: Sequence[Row]) -> list[Measure]:
    """The measures of these rows; of pass@k, all go to the CSV, doublings of k and the largest into the table."""
    names = dict.fromkeys(name for row in rows for name in row.cells or {} if name != AES.name)
    shown = at_doublings(dict.fromkeys(names))
    columns = []
    for name in names:
        measure = measure_named(name)
        hidden = name.startswith("pass@") and (name == "pass@1" or int(name[5:]) not in shown)
        columns.append(measure._replace(detail=measure.detail or hidden))
    return columns


def _blocks(task: str, title: str, estimates: Selection, ids: Mapping[str, list[str]], base: str | None) -> list[Block]:
    """The block of a task or group, and that of the differences from `base`, if it is there beside others."""
    rows, difference_rows, findings = [], [], []
    for method in estimates.methods(task):
        seeds, cells = estimates.seeds(task, method), estimates.values(task, method)
        against = {} if base is None else estimates.differences(task, method, base)
        if AES.name in against:
            cells = cells | {AES.name: against[AES.name]}
        rows.append(Row(method, method, seeds, cells, ids[method]))
        if against and method != base:
            difference_rows.append(Row(method, method, seeds, against, ids[method]))
            findings.append(_sentence(method, str(base), against))
    columns = _columns(rows)
    both = [*columns, AES] if base is not None and estimates.seeds(task, base) else columns
    blocks = [Block(task, title, both, rows, findings, by_column=True)]
    if difference_rows:
        title = f"{title}, difference from {base}, paired over the problems"
        blocks.append(Block(task, title, columns, difference_rows, [], by_column=True, differences="difference"))
    return blocks


def _sentence(method: str, base: str, against: Mapping[str, Cell]) -> str:
    tokens, accuracy, share = against["tokens"], against["accuracy"], against.get(TOKENS_RELATIVE.name)
    relative = f", that is {signed(share, 100)} %" if share is not None else ""
    clear = [what for what, cell in (("tokens", tokens), ("accuracy", accuracy)) if cell.low > 0 or cell.high < 0]
    verdict = f"clear of 0: {' and '.join(clear)}" if clear else "neither is clear of 0"
    points = f"accuracy {signed(accuracy, 100)} points"
    return f"{method} against {base}: tokens {signed(tokens)}{relative}; {points} ({verdict})."


def _beside(size: str, blocks: Sequence[Block], conditions: Mapping[str, Any]) -> list[Published]:
    """Published values that may stand beside these blocks, with the measured ones in the same grid."""
    found: list[Published] = []
    settings = dict.fromkeys((c.budget, c.temperature) for c in conditions.values())
    paper = load_paper(shipped("results/paper"))
    for budget, temperature in settings:
        tasks = [t for t, c in conditions.items() if (c.budget, c.temperature) == (budget, temperature)]
        here = [
            b for b in blocks if not b.differences and b.task in BENCHMARKS and (b.task in tasks or len(settings) == 1)
        ]
        for part in published(paper, size, [*tasks, *(b.task for b in here)], budget, temperature):
            found.append(beside(part, here))
    return found
