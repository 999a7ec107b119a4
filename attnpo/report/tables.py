"""The tables of a profile: pivots of the table of estimates, beside the papers' values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from attnpo.environment import shipped
from attnpo.evaluation.tasks import task_groups
from attnpo.report.findings import findings, many_with_attnpo
from attnpo.report.published import BENCHMARKS, PaperRow, PaperValue, Published, load_paper, published
from attnpo.report.selection import Selection
from attnpo.report.table import Block, Cell, Row, Table, value_and_half
from attnpo.runs.derive import chosen
from attnpo.runs.profile import Profile
from attnpo.runs.settings import BASE
from attnpo.statistics.measures import AES, MEASURES, TOKENS_RELATIVE, Measure
from attnpo.testbed import MODELS

_ALWAYS = ("accuracy", "tokens", "aes", "truncated", "missing_think_end")
_VALUES = [MEASURES["accuracy"], MEASURES["tokens"], AES]
_VALUES += [MEASURES[f"{label}_steps"]._replace(detail=False) for label in ("redundant", "essential", "slip")]
_VALUES += [
    MEASURES[name] for name in ("worked_links", "direct_right", "worked_right", "repairs", "valid_thinking_rate")
]
_VALUES += [MEASURES["truncated"], MEASURES["missing_think_end"]]
"""Columns of a block of values: those in `_ALWAYS`, and the others where a row has them."""

_DIFFERENCES = [MEASURES["accuracy"]._replace(heading="accuracy, points"), MEASURES["tokens"], TOKENS_RELATIVE]
_DIFFERENCES += [MEASURES["redundant_steps"], MEASURES["essential_steps"]]
_DIFFERENCES += [MEASURES["worked_links"]._replace(heading="hard links worked out, points")]
"""Columns of a block of differences, where a row has them."""


def labels_of(profile: Profile) -> dict[str, str]:
    """Label of the untrained model and of each method, in the order of the rows."""
    return {BASE: profile.report.base_label, **{name: m.label for name, m in profile.methods.items()}}


def strength_of(profile: Profile, method: str) -> str:
    """The first argument of a method's length reward as a label has it, such as `.4`; 0 where it has none."""
    value = next(iter(profile.method(method).reward_args.values()), 0)
    return str(value).removeprefix("0").removesuffix(".0") or "0"


def without_strength(profile: Profile, method: str) -> str:
    """The label of a method for all of its strengths: without its own strength at the end."""
    return profile.method(method).label.removesuffix(f" {strength_of(profile, method)}")


def select(profile: Profile, estimates: pd.DataFrame) -> Selection:
    """The estimates of the profile's methods and the untrained model, on the profile's seeds."""
    return Selection(estimates, {name: profile.seeds_of(name) for name in labels_of(profile)}, [BASE])


def titles_of(profile: Profile, estimates: Selection) -> dict[str, str]:
    """Task or group -> title of each block: those of the report; all, without groups of one task, if it names none."""
    if profile.report.blocks:
        return profile.report.blocks
    groups = task_groups()
    known = [task for task in estimates.tasks if len(groups.get(task, [""] * 2)) > 1]
    return {t: f"{t}: macro mean of {len(groups[t])}" if t in groups else t for t in known}


def build_table(
    profile: Profile, estimates: pd.DataFrame, runs: pd.DataFrame, title: str = "Table 1", compare: bool = True
) -> Table:
    """The table of a profile's methods.

    Args:
        profile: methods and their order, seeds, the margin of equal accuracy.
        estimates: see `attnpo.statistics.estimates`.
        runs: a row per finished run.
        title: without the profile.
        compare: put published values beside.
    """
    report, train, evaluation = profile.report, profile.trained(), profile.evaluated()
    selection = select(profile, estimates)
    blocks, run_ids = [], _run_ids(profile, runs)
    for task, heading in titles_of(profile, selection).items():
        blocks.append(_block(profile, task, heading, selection, run_ids))
        blocks += _difference_blocks(profile, blocks[-1], selection)
    if profile.quick and blocks:
        blocks[0] = replace(blocks[0], findings=[*blocks[0].findings, _of_quick(profile)])
    interval = "seeds and problems" if len(profile.seeds) > 1 else "problems only: there is one seed"
    model = MODELS[profile.model].label if profile.model in MODELS else profile.model
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
    title = f"{title}, profile {profile.name}"
    shown = (
        []
        if not compare
        else published(
            load_paper(shipped("results/paper")),
            size=report.paper_model,
            tasks=[block.task for block in blocks],
            budget=evaluation.max_completion_tokens,
            temperature=evaluation.temperature,
            labels=labels_of(profile) | {name: without_strength(profile, name) for name in profile.methods},
        )
    )
    return Table(
        title=f"{title}: QUICK RUN, fewer seeds and steps, not the reproduction" if profile.quick else title,
        conditions=conditions,
        blocks=blocks,
        published=[beside(part, blocks) for part in shown],
    )


def _of_quick(profile: Profile) -> str:
    n, train = len(profile.seeds), profile.trained()
    return (
        f"A quick run shows that everything works, not what a method does: after {train.steps} training steps, "
        f"with {n} {'seed' if n == 1 else 'seeds'}, AttnPO is about where its length penalty is without it. "
        "The same command without --quick shows what it does."
    )


def _run_ids(profile: Profile, runs: pd.DataFrame) -> dict[str, list[str]]:
    """Method -> its evaluations."""
    evals = chosen(profile, runs[runs["kind"] == "eval"])
    found: dict[str, list[str]] = {}
    for method, run_id in evals[["method", "run_id"]].itertuples(index=False):
        found.setdefault(method, []).append(run_id)
    return found


def _block(profile: Profile, task: str, title: str, estimates: Selection, run_ids: Mapping[str, list[str]]) -> Block:
    chains = sorted(int(of) for of in estimates.slices(task) if of.isdecimal())
    labels = labels_of(profile)
    rows = []
    for name, label in labels.items():
        seeds = estimates.seeds(task, name)
        if not seeds:
            rows.append(Row(name, label, [], None, []))
            continue
        cells = estimates.values(task, name) | _only(estimates.differences(task, name, BASE), ["aes"])
        for chain in chains:
            if "accuracy" in (of_chain := estimates.values(task, name, [chain])):
                cells[f"chain {chain}"] = of_chain["accuracy"]
        rows.append(Row(name, label, seeds, cells, run_ids.get(name, [])))
    shown = {name for row in rows for name in row.cells or {}}
    columns = [measure for measure in _VALUES if measure.name in shown or measure.name in _ALWAYS]
    for name in (f"chain {chain}" for chain in chains if f"chain {chain}" in shown):
        columns.append(MEASURES["accuracy"]._replace(name=name, heading=f"{name} %"))
    said = [] if task in task_groups() else findings(profile, estimates, task, labels)
    return Block(task, title, columns, rows, said)


def _only(cells: Mapping[str, Cell], names: Collection[str]) -> dict[str, Cell]:
    return {name: cell for name, cell in cells.items() if name in names}


def _difference_blocks(profile: Profile, block: Block, estimates: Selection) -> list[Block]:
    """The differences of each row from the profile's reference.

    And, where there are more than two methods with AttnPO, of each of these from the same reward without it.
    """
    reference = profile.report.reference
    rows = {row.method: row for row in block.rows if row.cells is not None}
    kinds: dict[str, tuple[str, list[tuple[Row, str]]]] = {}
    if reference in rows:
        pairs = [(row, str(reference)) for method, row in rows.items() if method != reference]
        kinds["difference"] = f"difference from {rows[reference].label}", pairs
    if many_with_attnpo(profile):
        pairs = []
        for name in (name for name, method in profile.methods.items() if method.attnpo and name in rows):
            for other in (other for other in profile.without_attnpo(name)[:1] if other in rows):
                label = f"{rows[name].label} less {rows[other].label}"
                pairs.append((replace(rows[name], label=label), other))
        kinds["with less without"] = "with AttnPO less the same reward without it", pairs
    blocks = []
    for kind, (words, pairs) in kinds.items():
        lines = []
        for row, other in pairs:
            cells = _only(estimates.differences(block.task, row.method, other), [m.name for m in _DIFFERENCES])
            lines.append(replace(row, cells=cells, seeds=estimates.compared(block.task, row.method, other)))
        columns = [measure for measure in _DIFFERENCES if any(measure.name in (line.cells or {}) for line in lines)]
        if lines:
            title = f"{block.title}, {words}, paired over the problems"
            blocks.append(Block(block.task, title, columns, lines, [], differences=kind))
    return blocks


def beside(part: Published, blocks: Sequence[Block]) -> Published:
    """A comparison of published values with the measured ones of these blocks in the same grid, where both have a
    benchmark; `part` must have their budget and temperature, see `published`."""
    rows: dict[str, dict[tuple[str, str], PaperValue]] = {}
    for block in (b for b in blocks if not b.differences):
        columns: dict[str, Measure] = {c.name: c for c in block.columns}
        for row in block.rows:
            for metric in ("accuracy", "tokens", "aes"):
                if block.task in BENCHMARKS and row.cells is not None and metric in row.cells:
                    cell, column = row.cells[metric], columns[metric]
                    value = PaperValue(column.scale * cell.value, value_and_half(cell, column), "measured")
                    rows.setdefault(row.label, {})[BENCHMARKS[block.task], metric] = value
    ours = [PaperRow(label, f"{label}, measured", cells) for label, cells in rows.items()]
    return replace(part, rows=[*part.rows, *ours])
