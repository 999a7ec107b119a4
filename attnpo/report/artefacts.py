"""The files of each table and figure, from `derived/`: the same functions for every profile; nothing is run here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

import attnpo.report.figures as figures
import attnpo.report.tables as tables
from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_text
from attnpo.method.phrases import PHRASE_KINDS
from attnpo.report.figures import Bar, Curve
from attnpo.report.tables import NotRunError
from attnpo.runs.profile import Profile
from attnpo.statistics.bootstrap import bootstrap_tasks, mean_estimate
from attnpo.statistics.estimates import Sample, on_shared_seeds, samples_by_method
from attnpo.statistics.metrics import Array, Line, accuracy_at_equal_length, first_at_most, fit_line

T = TypeVar("T", bound=Sized)
WINDOW = 5  # training steps: a step has few rollouts


class Made(NamedTuple):
    """What one artefact is made of."""

    tables: list[tables.Table]
    figures: list[tuple[Path, str]]
    """PNG files, an SVG of the same name beside each, and what they show."""
    n: str
    """How much is behind it, in words."""


class Artefact(NamedTuple):
    """A table or figure."""

    title: str
    write: Callable[[Profile, Path], Made]
    """From the profile, narrowed to the artefact, and results/<profile>."""


def artefact_of(name: str) -> Artefact:
    """The artefact of a name; names that are not in `ARTEFACTS` are tables of the methods that the profile lists."""
    return ARTEFACTS.get(name) or Artefact(f"Table: {name}", lambda profile, folder: _table(profile, folder, name))


def _table(profile: Profile, results_dir: Path, name: str) -> Made:
    table = _build(profile, results_dir, artefact_of(name).title, published=name == "table1")
    _write_table(table, results_dir, name)
    return Made([table], [], _responses(table))


def _write_table(table: tables.Table, results_dir: Path, name: str) -> None:
    for ending, text in (
        ("md", tables.to_markdown(table)),
        ("csv", tables.to_csv(table)),
        ("tex", tables.to_latex(table)),
    ):
        atomic_write_text(results_dir / f"{name}.{ending}", text)


def _responses(table: tables.Table) -> str:
    return f"n = {sum(row.responses for block in table.measured for row in block.rows):,} responses"


def _build(profile: Profile, results_dir: Path, title: str, published: bool = False) -> tables.Table:
    problems, runs = tables.read_derived(results_dir, profile.artefact)
    return tables.build_table1(profile, problems, runs, title=title, compare=published)


def _pareto(profile: Profile, results_dir: Path) -> Made:
    made = []
    table = _build(profile, results_dir, "")
    for i, block in enumerate(table.measured):
        if any(row.cells for row in block.rows):
            path = results_dir / "figures" / ("pareto" if i == 0 else f"pareto_{block.task}")
            line, words = trade_off(profile, block)
            caption = f"Accuracy against tokens: {block.title}.{words}"
            made.append((figures.pareto(block, path, profile.quick, line)[0], caption))
    return Made([], _some(made, "no evaluation is finished"), _responses(table))


def trade_off(profile: Profile, block: tables.Block) -> tuple[Line | None, str]:
    """Whether a method is more accurate than its length explains.

    Returns:
        the line of accuracy (per cent) against tokens through the methods without AttnPO and without a length in the
        prompt; in words, how close they are to it and how far the others. None and nothing if they are less than four.
    """
    places = {
        row.method: (row.cells["tokens"].value, 100 * row.cells["correct"].value)
        for row in block.rows
        if row.cells is not None and row.method != "base"
    }
    plain = [m for m in places if not profile.method(m).attnpo and profile.method(m).target_length is None]
    if len(plain) < 4:  # a line through three says little of them
        return None, ""
    line = fit_line(*zip(*(places[m] for m in plain), strict=True))
    far = {row.label: float(line.above(*places[row.method])) for row in block.rows if row.method in places}
    own = {profile.method(m).label for m in plain}
    others, (least, *_, most) = (sorted(names, key=far.__getitem__) for names in (set(far) - own, own))
    words = (
        f" The line: the {len(plain)} methods without AttnPO or a length in the prompt, "
        f"{_signed(10 * line.slope)} points for 10 tokens more, r = {line.r:.2f}, spread {line.spread:.1f} points "
        f"({least} {_signed(far[least])} to {most} {_signed(far[most])})."
    )
    words += f" From it: {', '.join(f'{label} {_signed(far[label])}' for label in others)}." if others else ""
    return line, words


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def _strengths(profile: Profile, results_dir: Path) -> Made:
    """Methods at several strengths, on the seeds that all of them have; how far the first line is above the others."""
    section = profile.artefacts.get("fig_strength")
    if section is None or len(section.groups) < 2:
        raise AttnPOError(
            f"profile {profile.name}: artefacts.fig_strength.groups: name two methods or more, each with its strengths"
        )
    problems, _ = tables.read_derived(results_dir, profile.artefact)
    by_method = samples_by_method(tables.chosen(profile, problems))
    options = tables.options(profile.report)
    made: list[tuple[Path, str]] = []
    n = 0
    for task, title in _blocks(profile, problems).items():
        found = {g: [m for m in ms if task in by_method.get(m, {})] for g, ms in section.groups.items()}
        if any(len(methods) < 2 for methods in found.values()):
            continue
        places = [(group, method) for group, methods in found.items() for method in methods]
        samples = on_shared_seeds(*(by_method[method][task] for _, method in places))
        seeds = samples[0].seeds
        if any(sample.seeds != seeds for sample in samples):  # they share none
            continue
        means: dict[str, list[Array]] = {group: [] for group in found}
        lines: dict[str, list[figures.Strength]] = {group: [] for group in found}
        for (group, method), sample in zip(places, samples, strict=True):
            run = sample.means("correct", "tokens")
            accuracy, tokens = (mean_estimate(run[..., i], **options) for i in (0, 1))
            means[group].append(run)
            lines[group].append(figures.Strength(tokens, accuracy, _strength(profile, method)))
            n += sample.responses
        labels = {group: profile.method(group).label for group in found}
        first, *others = found
        words = [_at_equal_length(labels[first], labels[o], means[first], means[o], **options) for o in others]
        name = "strength" if not made else f"strength_{task}"
        named = {(group, labels[group]): line for group, line in lines.items()}
        drawn = figures.strengths(named, results_dir / "figures" / name, _quick(profile, title))
        made.append((drawn[0], f"{title}, seeds {' '.join(map(str, seeds))}. {' '.join(words)}"))
    _some(made, "no two strengths of each method are finished with the same seed")
    return Made([], made, f"n = {n:,} responses")


def _at_equal_length(label: str, other_label: str, points: list[Array], curve: list[Array], **options: Any) -> str:
    """In words: accuracy of some runs, (S, P, 2) each, less that of the line through others at the same tokens."""

    def above(*means: Array) -> Array:
        places = np.stack([mean[0] for mean in means], axis=-2)
        return accuracy_at_equal_length(places[..., : len(points), :], places[..., len(points) :, :])[..., None]

    (estimate,) = bootstrap_tasks(above, *([run] for run in [*points, *curve]), **options)
    if estimate is None:
        return f"No strength of {label} has a length that {other_label} has."
    return f"{label} less {other_label} at equal tokens: accuracy {tables.signed(estimate, 100)} points."


def _strength(profile: Profile, method: str) -> str:
    """The first argument of a method's length reward, 0 where it has none."""
    value = next(iter(profile.method(method).reward_args.values()), 0)
    return f"{value:g}".removeprefix("0") or "0"


_CURVES = {
    "accuracy": "attnpo/group_accuracy",
    "tokens": "completions/mean_length",
    "essential": "steps/essential",
    "redundant": "steps/redundant",
}
"""Panel of the training figure -> column of derived/curves.csv."""
_PHRASES = {kind: f"phrases/{kind}" for kind in PHRASE_KINDS}


def _training(profile: Profile, results_dir: Path, panels: dict[str, str]) -> tuple[dict[str, list[Curve]], str]:
    """Panel -> curves, of the columns that the training logs have; and n."""
    table = tables.chosen(profile, _read(results_dir, "curves"))
    labels = {name: method.label for name, method in profile.methods.items()}
    found = {
        panel: figures.training_curves(table, column, labels, WINDOW)
        for panel, column in panels.items()
        if column in table
    }
    runs = len(table[["method", "seed"]].drop_duplicates())
    return {panel: drawn for panel, drawn in found.items() if drawn}, f"n = {runs} training runs"


def _training_curves(profile: Profile, results_dir: Path) -> Made:
    panels, n = _training(profile, results_dir, _CURVES)
    _some(panels, "no training run is finished")
    title = f"Rollouts in training, running mean of {WINDOW} steps"
    table = convergence(profile, tables.chosen(profile, _read(results_dir, "curves")))
    if table is not None:
        _write_table(table, results_dir, "fig_curves")
    drawn = _in_groups(profile, "fig_curves", panels, results_dir / "figures" / "curves", title)
    return Made([] if table is None else [table], drawn, n)


def convergence(profile: Profile, curves: pd.DataFrame) -> tables.Table | None:
    """How soon each method is as short as the report's reference without AttnPO is at the end.

    Args:
        profile: its `report.reference` is a method with AttnPO.
        curves: derived/curves.csv, a row per (method, seed, step).

    Returns:
        a block for tokens and one for redundant steps, where they are known; None if there is nothing to compare with.
    """
    reference = profile.report.reference
    plain = profile.without_attnpo(reference) if reference in profile.methods else []
    theirs = curves[curves["method"].isin(plain[:1])]
    if theirs.empty or "step_time" not in curves:
        return None
    ends = theirs[theirs["step"] > theirs["step"].max() - 2 * WINDOW]
    label = profile.method(plain[0]).label
    blocks = []
    for what, column in (("Tokens", _CURVES["tokens"]), ("Redundant steps", _CURVES["redundant"])):
        if column not in curves or ends[column].isna().any():
            continue
        level = float(ends[column].mean())
        rows = [
            _convergence_row(profile, method, curves[curves["method"] == method], column, level)
            for method in profile.methods
            if method in set(curves["method"])
        ]
        blocks.append(tables.Block(column, f"{what} down to {level:.2f}, {label}'s at the end", _CONVERGENCE, rows, []))
    about = [
        f"The first training step at which the running mean of {WINDOW} steps is not above the level: the mean over "
        f"{label}'s last {2 * WINDOW} steps and its seeds; seconds since the start, of whole steps.",
        "n: training runs; seeds: those that get there, over which the means and intervals are. Undefined: none does.",
    ]
    return tables.Table(f"Convergence, profile {_quick(profile, profile.name)}", about, blocks, [])


_CONVERGENCE = [
    tables.Column("step", "training steps"),
    tables.Column("seconds", "seconds"),
    tables.Column("accuracy", "right and not cut there %", 100),
]


def _convergence_row(profile: Profile, method: str, curves: pd.DataFrame, column: str, level: float) -> tables.Row:
    found: dict[int, tuple[float, ...]] = {}
    for seed, curve in curves.sort_values("step").groupby("seed"):
        at = first_at_most(curve[column], level, WINDOW)
        if at is not None:
            accuracy = curve[_CURVES["accuracy"]].iloc[at + 1 - WINDOW : at + 1].mean()
            found[int(str(seed))] = curve["step"].iloc[at], curve["step_time"].iloc[: at + 1].sum(), accuracy
    runs = curves["seed"].nunique()
    cells = {"runs": tables.Cell(runs, np.nan, np.nan, runs, np.nan)}
    for column_of, values in zip(_CONVERGENCE, zip(*found.values(), strict=True), strict=False):  # none: no cells
        estimate = mean_estimate(np.array(values, dtype=float)[:, None], **tables.options(profile.report))
        ends = estimate[1:] if len(found) > 1 else (np.nan, np.nan)
        cells[column_of.key] = tables.Cell(estimate.value, *ends, runs, np.nan)
    return tables.Row(method, profile.method(method).label, list(found), cells, [])


def _training_phrases(profile: Profile, results_dir: Path) -> Made:
    missing = "no training log with counts of phrases; train again with this version"
    panels, n = _training(profile, results_dir, _PHRASES)
    _some(panels, missing)
    title = f"Phrases in training, mean of {WINDOW} steps"
    return Made([], _in_groups(profile, "fig_phrases", panels, results_dir / "figures" / "phrases", title), n)


def _in_groups(
    profile: Profile, artefact: str, panels: dict[str, list[Curve]], path: Path, title: str
) -> list[tuple[Path, str]]:
    """A figure of all methods, or one for each of the groups to show, see `_groups`."""
    draw = figures.curves if artefact == "fig_curves" else figures.phrases
    made = []
    run = {curve.method for of in panels.values() for curve in of}
    for group, methods in _groups(profile, artefact, run).items():
        drawn = {panel: [curve for curve in of if curve.method in methods] for panel, of in panels.items()}
        drawn = {panel: of for panel, of in drawn.items() if of}
        if drawn:
            shown = f"{title}: {group}" if group else title
            made.append((draw(drawn, _named(path, group), _quick(profile, shown))[0], shown))
    return made


def _groups(profile: Profile, artefact: str, run: set[str]) -> dict[str, list[str]]:
    """Title -> methods of each figure of an artefact: the groups of which two methods have been run, or all there are;
    if there is none such, the first of which one has. A single one without a title where it names no groups."""
    section = profile.artefacts.get(artefact)
    if section is None or not section.groups:
        return {"": list(profile.methods)}
    some = {group: methods for group, methods in section.groups.items() if run.intersection(methods)}
    enough = {
        group: methods for group, methods in some.items() if len(run.intersection(methods)) >= min(2, len(methods))
    }
    return enough or dict(list(some.items())[:1])


def _named(path: Path, group: str) -> Path:
    return path.with_name("_".join([path.name, *group.lower().split()]))


def _budget(profile: Profile, results_dir: Path) -> Made:
    def xs(sample: Sample) -> dict[int, str]:
        found = [(int(c.removeprefix("correct_at_")), c) for c in sample.columns if c.startswith("correct_at_")]
        return dict(sorted(found))

    return _along(profile, results_dir, "fig_budget", "Accuracy at token budgets", figures.budget, xs)


def _pass_at_k(profile: Profile, results_dir: Path) -> Made:
    def xs(sample: Sample) -> dict[int, str]:
        most = int(sample.rows["n"].min())
        return {k: f"pass@{k}" for k in sorted({2**i for i in range(most.bit_length())} | {most})}

    return _along(profile, results_dir, "fig_passk", "pass@k", figures.pass_at_k, xs)


def _along(
    profile: Profile,
    results_dir: Path,
    artefact: str,
    title: str,
    draw: Callable[..., list[Path]],
    xs: Callable[[Sample], dict[int, str]],
) -> Made:
    """A figure a task, group and range of chains, the base in each: means of the columns that `xs` names for each place
    on the axis."""
    problems, _ = tables.read_derived(results_dir, profile.artefact)
    by_method = samples_by_method(tables.chosen(profile, problems))
    labels = {"base": profile.report.base_label, **{name: m.label for name, m in profile.methods.items()}}
    section = profile.artefacts.get(artefact)
    ranges = (section.chains if section else {}) or {"": []}
    options = tables.options(profile.report)
    made, n = [], 0
    for i, (task, heading) in enumerate(_blocks(profile, problems).items()):
        path = results_dir / "figures" / (draw.__name__ if i == 0 else f"{draw.__name__}_{task}")
        of_task = {method: by_method[method][task] for method in labels if task in by_method.get(method, {})}
        for range_title, chains in ranges.items():
            samples = _with_chains(of_task, chains)
            places = {method: found for method, sample in samples.items() if (found := xs(sample))}
            n += sum(samples[method].responses for method in places)
            curves = []
            for method, columns in places.items():
                means = [mean_estimate(samples[method].means(c), **options) for c in columns.values()]
                curves.append(Curve(method, labels[method], list(columns), *map(list, zip(*means, strict=True))))
            for group, methods in _groups(profile, artefact, {curve.method for curve in curves}).items():
                drawn = [curve for curve in curves if curve.method in ["base", *methods]]
                if drawn:
                    shown = f"{title}{f' of {group}' if group else ''}: {range_title or heading}"
                    place = _named(path, f"{group} {range_title}")
                    made.append((draw(drawn, place, _quick(profile, shown))[0], shown))
    return Made([], _some(made, "no evaluation is finished"), f"n = {n:,} responses")


def _with_chains(samples: dict[str, Sample], chains: list[int]) -> dict[str, Sample]:
    """Samples of the problems with chains of these lengths, of the methods that have some; all where none is given."""
    if not chains:
        return samples
    kept = {method: sample.rows["chain"].isin(chains) for method, sample in samples.items()}
    return {method: sample.where(kept[method]) for method, sample in samples.items() if kept[method].any()}


def _blocks(profile: Profile, problems: pd.DataFrame) -> dict[str, str]:
    """Task -> title of each block of the report; all tasks where the profile names none."""
    return profile.report.blocks or {str(task): str(task) for task in problems["task"].unique()}


def _heads(profile: Profile, results_dir: Path) -> Made:
    folder = results_dir / "figures"
    made, n = [], []
    heat = folder / "heads.png"
    for probe in _read(results_dir, "runs").query("kind == 'probe'")["run_id"]:
        for figure in (results_dir / "raw" / probe / "figures").glob("heads.*"):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(figure, folder / figure.name)
    if heat.is_file():
        made.append((heat, "Step Ranking Accuracy of every head"))
    ensemble = _read(results_dir, "ensemble", missing=True)
    if not ensemble.empty:
        looks = {"best": ("attnpo", "best first"), "random": ("base", "random order")}
        curves = [
            Curve(*looks[str(order)], *(list(rows[c]) for c in ("n", "sra", "low", "high")))
            for order, rows in ensemble.groupby("order", sort=False)
        ]
        title = f"Mean score of n heads, {ensemble['n_responses'].iloc[0]} responses to problems the probe did not see"
        n.append(f"{ensemble['n_pairs'].iloc[0]:,} pairs of steps")
        made.append((figures.ensemble(curves, folder / "ensemble", _quick(profile, title))[0], title))
    answers = _read(results_dir, "intervention", missing=True)
    bars = intervention_bars(answers, profile)
    if bars:
        n.append(f"{answers['n'].sum():,} answers")
        title = "Steps dropped from the thinking"
        made.append((figures.intervention(bars, folder / "intervention", _quick(profile, title))[0], title))
    return Made([], _some(made, "no study of the heads is finished"), f"n = {', '.join(n)}" if n else "")


def intervention_bars(table: pd.DataFrame, profile: Profile) -> list[Bar]:
    """A bar a condition of derived/intervention.csv: accuracy, mean over problems, with its interval."""
    if table.empty:
        return []
    share = f"{profile.study.dropped:.0%}" if profile.study else "some"
    labels = {
        "whole": ("nothing dropped", "base"),
        "lowest": (f"lowest {share}", "attnpo"),
        "random": (f"random {share}", "other"),
        "highest": (f"highest {share}", "tlmre"),
    }
    bars = []
    for condition, (label, method) in labels.items():
        rows = table[table["condition"].eq(condition)].sort_values("problem_id")
        estimate = mean_estimate((rows["correct"] / rows["n"]).to_numpy(), **tables.options(profile.report))
        bars.append(Bar(label, *estimate, method))
    return bars


def _stability(profile: Profile, results_dir: Path) -> Made:
    table = _some(
        tables.chosen(profile, _read(results_dir, "stability", missing=True)), "no training run has been studied"
    )
    made: list[tuple[Path, str]] = []
    for method, rows in table.groupby("method", sort=False):
        ends = {"r": ("r", "mean"), "low": ("low", "min"), "high": ("high", "max")}  # over seeds
        means = rows.groupby(["layer", "head", "step"]).agg(**ends).reset_index()
        curves = [
            Curve(str(method), f"{layer}.{head}", [0, *part["step"]], *([1.0, *part[end]] for end in ends))
            for (layer, head), part in means.groupby(["layer", "head"])
        ]
        focus = {f"{layer}.{head}" for layer, head in rows.loc[rows["key_focus"], ["layer", "head"]].to_numpy()}
        title = f"Step scores of the heads, {profile.method(str(method)).label}"
        name = "stability" if not made else f"stability_{method}"
        made.append(
            (figures.stability(curves, focus, results_dir / "figures" / name, _quick(profile, title))[0], title)
        )
    first = table.iloc[0]
    return Made([], made, f"n = {first['steps']:,} steps of {first['responses']:,} responses")


def _read(results_dir: Path, name: str, missing: bool = False) -> pd.DataFrame:
    path = results_dir / "derived" / f"{name}.csv"
    if not path.is_file():
        if missing:
            return pd.DataFrame(columns=["method", "seed"])
        raise NotRunError(f"{path}: missing; nothing has been run")
    return pd.read_csv(path, dtype={"problem_id": str})


def _some(found: T, otherwise: str) -> T:
    if len(found) == 0:
        raise NotRunError(otherwise)
    return found


def _quick(profile: Profile, title: str) -> str:
    return f"{title}{' — QUICK RUN' if profile.quick else ''}"


ARTEFACTS = {
    "table1": Artefact("Table 1: main results", lambda p, d: _table(p, d, "table1")),
    "table2": Artefact("Table 2: out of domain", lambda p, d: _table(p, d, "table2")),
    "table3": Artefact("Table 3: ablations", lambda p, d: _table(p, d, "table3")),
    "fig_pareto": Artefact("Accuracy against tokens", _pareto),
    "fig_strength": Artefact("Accuracy against tokens as the penalty grows", _strengths),
    "fig_curves": Artefact("What training does", _training_curves),
    "fig_budget": Artefact("Accuracy at token budgets", _budget),
    "fig_passk": Artefact("pass@k", _pass_at_k),
    "fig_heads": Artefact("Key-Focus Heads: ranking, ensemble, intervention", _heads),
    "fig_stability": Artefact("Stability of the heads under training", _stability),
    "fig_phrases": Artefact("Phrases over training", _training_phrases),
}
"""Name, that of the script under reproduce/ too -> artefact, in the order of the page."""
