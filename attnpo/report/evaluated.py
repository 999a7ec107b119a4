"""The figures made of evaluations: selections of the table of estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import attnpo.report.figures as figures
from attnpo.errors import AttnPOError
from attnpo.report.rendered import Rendered, groups_to_draw, named, quick, some
from attnpo.report.selection import read_derived
from attnpo.report.style import Curve
from attnpo.report.table import FROM_RECORDS, Block, Cell, Table, signed
from attnpo.report.tables import build_table, labels_of, select, strength_of, titles_of, without_strength
from attnpo.runs.plan import eval_spec
from attnpo.runs.profile import Profile
from attnpo.runs.settings import BASE
from attnpo.runs.store import Run
from attnpo.statistics.estimates import AT_EQUAL_TOKENS
from attnpo.statistics.measures import MEASURES
from attnpo.statistics.metrics import Line, trade_off
from attnpo.statistics.samples import compared_lines

C = TypeVar("C")


def table_of(profile: Profile, results_dir: Path, title: str, published: bool = False) -> Table:
    """The table of the profile's methods, from `derived/`."""
    estimates, runs = (read_derived(results_dir, name, profile.artefact) for name in ("estimates", "runs"))
    return mark_records(build_table(profile, estimates, runs, title=title, compare=published), profile, results_dir)


def mark_records(table: Table, profile: Profile, results_dir: Path) -> Table:
    """The table with the seeds marked that are shown from records, if other runs of it were made here."""
    states = {
        (row.method, seed): Run.at(results_dir, eval_spec(profile, row.method, seed)).state()
        for block in table.blocks
        for row in block.rows
        for seed in row.seeds
    }
    if not {"finished", "recorded"} <= set(states.values()):
        return table
    blocks = []
    for block in table.blocks:
        rows = [
            replace(row, recorded=[s for s in row.seeds if states[row.method, s] == "recorded"]) for row in block.rows
        ]
        blocks.append(replace(block, rows=rows))
    what = f"{FROM_RECORDS}: shown from the records of earlier runs, not run here; such a row, or such a seed of a row."
    return replace(table, blocks=blocks, conditions=[*table.conditions, what])


def responses_behind(table: Table) -> str:
    """How many responses a table rests on, in words."""
    return f"n = {sum(row.responses for block in table.measured for row in block.rows):,} responses"


def draw_pareto(profile: Profile, results_dir: Path) -> Rendered:
    """Accuracy against tokens, a figure a block of the table."""
    made = []
    table = table_of(profile, results_dir, "")
    for i, block in enumerate(table.measured):
        if any(row.cells for row in block.rows):
            path = results_dir / "figures" / ("pareto" if i == 0 else f"pareto_{block.task}")
            line, words = describe_trade_off(profile, block)
            caption = f"Accuracy against tokens: {block.title}.{words}"
            made.append((figures.pareto(replace(block, title=quick(profile, block.title)), path, line)[0], caption))
    return Rendered([], some(made, "no evaluation is finished"), responses_behind(table))


def describe_trade_off(profile: Profile, block: Block) -> tuple[Line | None, str]:
    """Whether a method is more accurate than its length explains.

    Returns:
        the line of accuracy (per cent) against tokens through the methods without AttnPO and without a length in the
        prompt; in words, how close they are to it and how far the others. None and nothing if they are less than four.
    """
    places = {
        row.method: (row.cells["tokens"].value, 100 * row.cells["accuracy"].value)
        for row in block.rows
        if row.cells is not None and row.method != BASE
    }
    plain = [m for m in places if not profile.method(m).attnpo and profile.method(m).target_length is None]
    found = trade_off(places, plain)
    if found is None:
        return None, ""
    labels = {row.method: row.label for row in block.rows}
    line, above = found.line, {labels[method]: far for method, far in found.above.items()}
    own = {labels[method] for method in plain}
    others, (least, *_, most) = (sorted(names, key=above.__getitem__) for names in (set(above) - own, own))
    words = (
        f" The line: the {len(plain)} methods without AttnPO or a length in the prompt, "
        f"{_points(10 * line.slope)} points for 10 tokens more, r = {line.r:.2f}, spread {line.spread:.1f} points "
        f"({least} {_points(above[least])} to {most} {_points(above[most])})."
    )
    words += f" From it: {', '.join(f'{label} {_points(above[label])}' for label in others)}." if others else ""
    return line, words


def _points(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def draw_strengths(profile: Profile, results_dir: Path) -> Rendered:
    """Methods at several strengths of their length penalty, and how far each line is above the last one."""
    section = profile.artefacts.get("fig_strength")
    if section is None or len(section.groups) < 2:
        raise AttnPOError(
            f"profile {profile.name}: artefacts.fig_strength.groups: name two methods or more, each with its strengths"
        )
    estimates = select(profile, read_derived(results_dir, "estimates", profile.artefact))
    made: list[tuple[Path, str]] = []
    n = 0
    for task, title in titles_of(profile, estimates).items():
        seeds = {method: estimates.seeds(task, method) for method in estimates.methods(task)}
        compared = compared_lines(section.groups, seeds)
        if not compared:
            continue
        reference = compared[0][1]
        drawn_on = {name: both for name, _, both in compared} | {reference: compared[0][2]}
        lines = {}
        for group, both in drawn_on.items():
            points = []
            for method in [m for m in section.groups[group] if m in seeds]:
                cells = estimates.values(task, method, seeds=both)
                points.append(figures.Strength(cells["tokens"], cells["accuracy"], strength_of(profile, method)))
                n += cells["accuracy"].n
            lines[group, without_strength(profile, group)] = points
        words = []
        for group, _, both in compared:
            cells = estimates.line(task, group, both, reference, both)
            names = without_strength(profile, group), without_strength(profile, reference)
            said = _at_equal_tokens(*names, cells, profile.report.margins_at_equal_tokens)
            words.append(f"{said[:-1]} (seeds {' '.join(map(str, both))}).")
        name = "strength" if not made else f"strength_{task}"
        shown = [m for group in drawn_on for m in section.groups[group]]
        penalties = {next(iter(profile.method(m).reward_args), "") for m in shown}
        what = " or ".join(sorted(penalties - {""}))
        drawn = figures.strengths(lines, results_dir / "figures" / name, quick(profile, title), what)
        made.append((drawn[0], f"{title}. {' '.join(words)}"))
    some(made, "no two strengths of each method are finished with the same seed")
    return Rendered([], made, f"n = {n:,} responses")


def _at_equal_tokens(label: str, other_label: str, cells: Mapping[str, Cell], margins: Mapping[Any, float]) -> str:
    found = {name: cells[key] for name, key in AT_EQUAL_TOKENS.items() if key in cells}
    if not found:
        return f"No strength of {label} has a length that {other_label} has."
    words = {
        "accuracy": "accuracy {} points",
        "redundant_steps": "redundant steps {}",
        "worked_links": "hard links worked out {} points",
    }
    said = []
    for name, cell in found.items():
        measure = MEASURES[name]
        text = words[name].format(signed(cell, measure.scale, digits=measure.digits))
        if name in margins:
            text += f" ({verdict(cell, margins[name])}, margin {margins[name] * measure.scale:g})"
        said.append(text)
    return f"{label} less {other_label} at equal tokens: {', '.join(said)}."


def verdict(cell: Cell, margin: float) -> str:
    """Whether a difference counts against a margin that was declared before: shown, smaller than it, or not decided."""
    if (cell.low > 0 or cell.high < 0) and abs(cell.value) >= margin:
        return "shown"
    return "smaller than the margin" if -margin < cell.low and cell.high < margin else "not decided"


def draw_budget(profile: Profile, results_dir: Path) -> Rendered:
    """Accuracy at token budgets."""
    return _along(profile, results_dir, "fig_budget", "Accuracy at token budgets", figures.budget, at_budgets)


def draw_pass_at_k(profile: Profile, results_dir: Path) -> Rendered:
    """pass@k at doublings of k, and at the largest k."""
    return _along(profile, results_dir, "fig_passk", "pass@k", figures.pass_at_k, at_doublings)


def at_budgets(cells: Mapping[str, Cell]) -> dict[int, Cell]:
    """Token budget -> accuracy within it."""
    return numbered(cells, "accuracy@")


def at_doublings(cells: Mapping[str, C]) -> dict[int, C]:
    """k -> pass@k, for doublings of k and the largest k."""
    found = numbered(cells, "pass@")
    return {k: cell for k, cell in found.items() if k & (k - 1) == 0 or k == max(found)}


def numbered(cells: Mapping[str, C], prefix: str) -> dict[int, C]:
    """Number -> cell, of the measures whose names are the prefix and a number."""
    found = {int(name.removeprefix(prefix)): cell for name, cell in cells.items() if name.startswith(prefix)}
    return dict(sorted(found.items()))


def curve_of(method: str, label: str, places: Mapping[int, Cell]) -> Curve:
    """The curve through some estimates, from their place on the axis."""
    return Curve(method, label, list(places), *([cell[i] for cell in places.values()] for i in range(3)))


def _along(
    profile: Profile,
    results_dir: Path,
    artefact: str,
    title: str,
    draw: Callable[..., list[Path]],
    places_of: Callable[[Mapping[str, Cell]], dict[int, Cell]],
) -> Rendered:
    """A figure a task, range of chains and group of methods, the untrained model in each."""
    estimates = select(profile, read_derived(results_dir, "estimates", profile.artefact))
    labels, section = labels_of(profile), profile.artefacts.get(artefact)
    ranges = (section.chains if section else {}) or {"": []}
    made, n = [], 0
    for i, (task, heading) in enumerate(titles_of(profile, estimates).items()):
        path = results_dir / "figures" / (draw.__name__ if i == 0 else f"{draw.__name__}_{task}")
        for range_title, chains in ranges.items():
            curves = []
            for method, label in labels.items():
                places = places_of(estimates.values(task, method, chains))
                if places:
                    curves.append(curve_of(method, label, places))
                    n += next(iter(places.values())).n
            for group, methods in groups_to_draw(profile, artefact, {curve.method for curve in curves}).items():
                drawn = [curve for curve in curves if curve.method in [BASE, *methods]]
                if drawn:
                    shown = f"{title}{f' of {group}' if group else ''}: {range_title or heading}"
                    place = named(path, f"{group} {range_title}")
                    made.append((draw(drawn, place, quick(profile, shown))[0], shown))
    return Rendered([], some(made, "no evaluation is finished"), f"n = {n:,} responses")
