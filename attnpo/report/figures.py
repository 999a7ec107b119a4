"""Figures, the same to the byte for the same numbers. Functions from data to files; nothing is measured here.

House style: half a column wide, labels at the curves instead of a legend, intervals drawn, axes named with units. A
method looks the same everywhere, see `style`.
"""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from attnpo.report.tables import Block, Cell
from attnpo.statistics.bootstrap import Estimate
from attnpo.statistics.metrics import Line

if TYPE_CHECKING:
    import pandas as pd

    from attnpo.probing.heads import HeadRanking

WIDTH = 3.4
"""Inches: half a column of a two-column page."""

_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.hashsalt": "attnpo",
    "svg.fonttype": "none",
    "figure.dpi": 100,
    "savefig.dpi": 300,
}
_LABEL_SIZE = 7
_GREY = "#555555"
_LEADER: Any = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5), "patchA": None}
_CROWD = 6  # more curves than this: fainter bands
_MANY = 8  # more points than this: fainter intervals, smaller names, and the base in words


class Style(NamedTuple):
    """How a method is drawn: the hue says its family, marker and line which member it is."""

    color: str
    marker: str
    line: Any
    fill: str | None = None
    """Colour inside the marker; None: that of the line."""

    def mark(self) -> dict[str, Any]:
        """The marker, as keywords of matplotlib."""
        return {"marker": self.marker, "markerfacecolor": self.fill or self.color, "markeredgecolor": self.color}


_HUES = {
    "base": _GREY,
    "correctness only": "#E69F00",
    "relative to the group": "#0072B2",
    "limit or target": "#009E73",
    "target by difficulty": "#56B4E9",
    "cut and normalised": "#AA4499",
    "attnpo": "#D55E00",
    "other": "#000000",
}
"""Hues of Okabe and Ito's palette (the purple: Tol's), which colour-blind readers tell apart."""
_MEMBERS = [("o", "-"), ("s", (0, (4, 1.5))), ("^", (0, (1, 1))), ("v", (0, (5, 1, 1, 1))), ("P", (0, (2, 2)))]
_FAMILIES = {
    "correctness only": ["rloo", "grpo"],
    "relative to the group": ["tlmre", "kimi", "shorter", "diet"],
    "limit or target": ["thinkprune", "l1_exact", "l1_max", "overlong"],
    "target by difficulty": ["laser", "laser_d", "laser_de"],
    "cut and normalised": ["dler", "dot"],
    "other": ["oracle", "random_heads"],
}
STYLES = {
    "base": Style(_GREY, "s", (0, (4, 2))),
    "attnpo": Style(_HUES["attnpo"], "D", "-"),
    "pa_only": Style(_HUES["attnpo"], "^", (0, (4, 1.5))),
    "na_only": Style(_HUES["attnpo"], "v", (0, (1, 1))),
    **{
        method: Style(_HUES[family], *_MEMBERS[i])
        for family, members in _FAMILIES.items()
        for i, method in enumerate(members)
    },
}


def style(method: str) -> Style:
    """The look of a method, the same in every figure.

    AttnPO on top of another method (`dler+attnpo`, `attnpo_dler`) has AttnPO's hue with the other's marker, filled with
    the other's hue, and line; its ablations have the hue with a marker and line that follow from their name, and so has
    a method whose name begins with another's (`tlmre_as_short`) that one's. A name that is not known has a look that
    follows from it.
    """
    if method in STYLES:
        return STYLES[method]
    words = method.replace("+", "_").split("_")
    other = "_".join(word for word in words if word != "attnpo")
    if "attnpo" in words and other in STYLES:
        return STYLES[other]._replace(color=_HUES["attnpo"], fill=STYLES[other].color)
    number, member = divmod(zlib.crc32(method.encode()), len(_MEMBERS))
    known = "attnpo" if "attnpo" in words else words[0]
    hues = [STYLES[known].color] if known in STYLES else [_HUES[family] for family in _FAMILIES]
    return Style(hues[number % len(hues)], *_MEMBERS[member])


@dataclass(frozen=True)
class Curve:
    """Values of one method along x, with intervals of the same length or none."""

    method: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Bar:
    """One bar: a value with its interval."""

    label: str
    value: float
    low: float
    high: float
    method: str = "base"


def curves_of(block: Block, kind: str) -> list[Curve]:
    """The curves of a measured block: `pass_at_k` (its pass@k) or `budget` (its accuracy@B)."""
    prefix = {"pass_at_k": "pass@", "budget": "accuracy@"}[kind]
    curves = []
    for row in block.rows:
        found = [(int(k[len(prefix) :]), c) for k, c in (row.cells or {}).items() if k.startswith(prefix)]
        if found:
            xs, cells = zip(*sorted(found), strict=True)
            curves.append(Curve(row.method, row.label, xs, *([c[i] for c in cells] for i in range(3))))
    return curves


def training_curves(table: pd.DataFrame, column: str, labels: Mapping[str, str], window: int = 1) -> list[Curve]:
    """Mean over the seeds along training, with the range from the lowest seed to the highest as its band.

    Args:
        table: derived/curves.csv, a row per (method, seed, step).
        column: what is drawn, such as `steps/redundant`.
        labels: method -> label, in order; those that are not in the table are left out.
        window: training steps of a running mean over each seed's own steps, the current and earlier ones.
    """
    found = []
    for method, label in labels.items():
        rows = table[(table["method"] == method) & table[column].notna()].sort_values("step")
        if rows.empty:
            continue
        by_seed = rows.pivot_table(index="step", columns="seed", values=column)
        seeds = by_seed.rolling(window, min_periods=1).mean()
        ends = (list(seeds.mean(axis=1)), list(seeds.min(axis=1)), list(seeds.max(axis=1)))
        found.append(Curve(method, label, list(seeds.index), *ends))
    return found


def pass_at_k(curves: Sequence[Curve], path: Path, title: str = "") -> list[Path]:
    """Unbiased pass@k against k, on a scale of doublings.

    Args:
        curves: x: k; y, low, high: shares of the problems, 0 to 1.
        path: of the figure, without ending; .png and .svg are written.
        title: says what was evaluated.
    """
    return _doublings(curves, path, title, "responses drawn, k", "pass@k (%)")


def budget(curves: Sequence[Curve], path: Path, title: str = "") -> list[Path]:
    """Accuracy at token budgets, on a scale of doublings.

    Args:
        curves: x: budget in tokens; y, low, high: shares of the responses, 0 to 1.
        path, title: as in `pass_at_k`.
    """
    return _doublings(curves, path, title, "token budget (thinking and answer)", "correct within budget (%)")


def phrases(curves: Mapping[str, Sequence[Curve]], path: Path, title: str = "") -> list[Path]:
    """Doubt, branch and summary phrases over training, a panel a kind.

    Args:
        curves: kind -> curves; x: training step; y, low, high: phrases a response.
        path, title: as in `pass_at_k`.
    """
    parts = [(f"{kind} phrases\nper response", of_kind, 1.0) for kind, of_kind in curves.items()]
    return _panels(parts, path, title, "training step")


def curves(
    panels: Mapping[str, Sequence[Curve]], path: Path, title: str = "", band: str = "range of the seeds"
) -> list[Path]:
    """What training does, a panel a figure, with bands over the seeds.

    Args:
        panels: `accuracy` (0 to 1; a response that was cut is wrong), `tokens`, `essential`, `redundant` (steps a
            response) or any other name -> curves over training steps.
        path, title: as in `pass_at_k`.
        band: what the bands are, for the label of the axis.
    """
    names = {
        "accuracy": ("right and\nnot cut (%)", 100.0),
        "tokens": ("tokens\nper response", 1.0),
        "essential": ("essential steps\nper response", 1.0),
        "redundant": ("redundant steps\nper response", 1.0),
    }
    parts = []
    for name, of_panel in panels.items():
        heading, scale = names.get(name, (name, 1.0))
        parts.append((heading, of_panel, scale))
    return _panels(parts, path, title, f"training step (band: {band})")


def stability(heads: Sequence[Curve], key_focus: Collection[str], path: Path, title: str = "") -> list[Path]:
    """Correlation of each head's step scores between base and checkpoints; Key-Focus Heads in colour.

    Args:
        heads: a curve a head, its label `layer.head`; x: training step; y, low, high: Pearson's r.
        key_focus: labels of the Key-Focus Heads.
        path, title: as in `pass_at_k`.
    """
    hues = [_HUES[family] for family in ("attnpo", "relative to the group", "limit or target", "cut and normalised")]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        axes = figure.add_subplot()
        others = [curve for curve in heads if curve.label not in key_focus]
        for curve in others:
            axes.plot(curve.x, curve.y, color="#BBBBBB", linewidth=0.6, zorder=1)
        shown = [curve for curve in heads if curve.label in key_focus]
        looks = [Style(hues[i % len(hues)], *_MEMBERS[i % len(_MEMBERS)]) for i in range(len(shown))]
        _draw(axes, shown, 1.0, looks)
        if others:
            middle = Curve("", "other heads", others[0].x, np.median([curve.y for curve in others], axis=0).tolist())
            axes.plot(middle.x, middle.y, color=_GREY, linestyle=(0, (4, 2)), zorder=2)
            shown, looks = [*shown, middle], [*looks, Style(_GREY, "", "-")]
        axes.set_xlabel("training step")
        axes.set_ylabel("Pearson's r with the base,\nstep scores of a head")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _finish(axes, title)
        _label_ends(figure, axes, shown, 1.0, looks)
    return _save(figure, path)


def ensemble(curves: Sequence[Curve], path: Path, title: str = "") -> list[Path]:
    """Step Ranking Accuracy of the mean score of the best n heads, against n.

    Args:
        curves: x: number of heads; y, low, high: SRA, 0 to 1.
        path, title: as in `pass_at_k`.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        axes = figure.add_subplot()
        looks = [style(curve.method) for curve in curves]
        _draw(axes, curves, 1.0, looks)
        axes.set_xlabel("heads in the mean, best first")
        axes.set_ylabel("Step Ranking Accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        _finish(axes, title)
        _label_ends(figure, axes, curves, 1.0, looks)
    return _save(figure, path)


def intervention(bars: Sequence[Bar], path: Path, title: str = "") -> list[Path]:
    """Accuracy after steps were removed from the thinking: a bar each, with its interval.

    Args:
        bars: value, low, high: accuracy, 0 to 1; a bar of method `base` is the one that the others are read against,
            and a line marks its value.
        path, title: as in `pass_at_k`.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        for place, bar in enumerate(bars):
            color = style(bar.method).color
            axes.barh(place, 100 * bar.value, height=0.6, color=color, alpha=0.45)
            ends = 100 * np.array([[bar.value - bar.low], [bar.high - bar.value]])
            axes.errorbar(100 * bar.value, place, xerr=ends, fmt="none", ecolor=color, elinewidth=1.2, capsize=3)
            axes.annotate(
                f"{100 * bar.value:.1f}",
                (0, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=_LABEL_SIZE,
            )
            if bar.method == "base":
                axes.axvline(100 * bar.value, color=color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.05 * 100 * max(bar.high for bar in bars))
        axes.set_xlabel("accuracy (%)")
        axes.tick_params(axis="y", length=0)
        axes.set_title(textwrap.fill(title, 34), fontsize=8, loc="left")  # the labels leave little width
    return _save(figure, path)


def pareto(block: Block, path: Path, quick: bool = False, line: Line | None = None) -> list[Path]:
    """Accuracy (percent) against tokens a response, with both intervals; readable at half a column.

    Args:
        block: a task's rows; those that were not run are left out.
        path: of the figure, without ending; .png and .svg are written.
        quick: mark the figure as made by a quick run.
        line: accuracy (percent) against tokens, drawn behind the points.

    Of many rows the base, far from all others, is left out and named in the title.
    """
    with mpl.rc_context(_STYLE):
        shown = [(row.method, row.label, row.cells) for row in block.rows if row.cells is not None]
        title, many = f"{block.title}{' — QUICK RUN' if quick else ''}", len(shown) > _MANY
        for _, label, cells in [row for row in shown if many and row[0] == "base"]:
            accuracy = cells.get("accuracy") or cells["correct"]
            title += f"\n({label}, not drawn: {100 * accuracy.value:.1f} %, {cells['tokens'].value:.1f} tokens)"
        shown = [row for row in shown if not many or row[0] != "base"]
        height = 2.6 if not many else max(3.6, 0.25 * len(shown))
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        points = []
        for method, label, cells in shown:
            look = style(method)
            tokens, accuracy = cells["tokens"], cells.get("accuracy") or cells["correct"]
            points.append(_Point(tokens, accuracy, label, look.color))
            _draw_point(axes, points[-1], look, faint=many)
        if line is not None:
            ends = [min(p.tokens.value for p in points), max(p.tokens.value for p in points)]
            axes.plot(ends, [line.start + line.slope * x for x in ends], color="#DDDDDD", linewidth=1, zorder=0)
        _finish_trade_off(figure, axes, points, title, _LABEL_SIZE - many)
    return _save(figure, path)


class Strength(NamedTuple):
    """One method at one strength of its length penalty."""

    tokens: Estimate
    accuracy: Estimate
    text: str
    """The strength."""


def strengths(lines: Mapping[tuple[str, str], Sequence[Strength]], path: Path, title: str = "") -> list[Path]:
    """Accuracy against tokens as a length penalty grows, a line a method, the strength at each point.

    Args:
        lines: (method, label) -> its points, from the weakest to the strongest; tokens a response, accuracy 0 to 1.
        path, title: as in `pass_at_k`.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        points = []
        for (method, label), line in lines.items():
            look = style(method)
            xs, ys = [p.tokens.value for p in line], [100 * p.accuracy.value for p in line]
            axes.plot(xs, ys, color=look.color, linestyle=look.line, linewidth=1)
            for i, point in enumerate(line):
                text = point.text if i + 1 < len(line) else f"{label} {point.text}"
                points.append(_Point(point.tokens, point.accuracy, text, look.color))
                _draw_point(axes, points[-1], look, faint=True)
        _finish_trade_off(figure, axes, points, title, _LABEL_SIZE, "\nnumbers: strength of the length penalty")
    return _save(figure, path)


def _draw_point(axes: Axes, point: _Point, look: Style, faint: bool) -> None:
    tokens, accuracy = point.tokens, point.accuracy
    axes.errorbar(
        tokens.value,
        100 * accuracy.value,
        xerr=np.array([[tokens.value - tokens.low], [tokens.high - tokens.value]]),
        yerr=100 * np.array([[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]),
        linestyle="",
        color=look.color,
        markersize=5,
        **look.mark(),
        elinewidth=0.5 if faint else 0.8,
        ecolor=(*to_rgb(look.color), 0.3 if faint else 1.0),
        capsize=0 if faint else 2,
    )


def _finish_trade_off(
    figure: Figure, axes: Axes, points: Sequence[_Point], title: str, size: float, note: str = ""
) -> None:
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel(f"tokens per response (fewer is better){note}")
    axes.set_ylabel("accuracy (%)")
    _finish(axes, title)
    _label_points(figure, axes, points, size)


def heads_heatmap(ranking: HeadRanking, path: Path) -> list[Path]:
    """Step Ranking Accuracy of every head, layers down, heads across.

    Args:
        ranking: from the probe.
        path: of the figure, without ending; .png and .svg are written.
    """
    grid = np.full((1 + max(h.layer for h in ranking.heads), 1 + max(h.head for h in ranking.heads)), np.nan)
    for h in ranking.heads:
        grid[h.layer, h.head] = h.sra
    layers, width = grid.shape
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(2.6, 0.9 + 0.36 * width), max(1.6, 0.8 + 0.3 * layers)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        if grid.size <= 256:
            for (layer, head), sra in np.ndenumerate(grid):
                if np.isfinite(sra):
                    color = "black" if sra > 0.6 else "white"
                    axes.text(
                        head,
                        layer,
                        f"{sra:.2f}"[1:] if sra < 1 else "1",
                        ha="center",
                        va="center",
                        color=color,
                    )
        axes.set_xticks(range(width))
        axes.set_yticks(range(layers))
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        figure.colorbar(image, ax=axes, label="Step Ranking Accuracy")
    return _save(figure, path)


# parts


def _doublings(curves: Sequence[Curve], path: Path, title: str, xlabel: str, ylabel: str) -> list[Path]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, max(2.5, 0.9 + 0.14 * len(curves))), layout="constrained")
        axes = figure.add_subplot()
        looks = [style(curve.method) for curve in curves]
        _draw(axes, curves, 100.0, looks)
        axes.set_xscale("log", base=2)
        ends = [x for curve in curves for x in curve.x]
        first, last = int(np.ceil(np.log2(min(ends)))), int(np.floor(np.log2(max(ends))))
        step = max(1, round((last - first) / 7))
        ticks = [2**e for e in range(last, first - 1, -step)]
        axes.set_xticks(ticks, [f"{t // 1024}k" if t >= 1024 else str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _finish(axes, title)
        _label_ends(figure, axes, curves, 100.0, looks)
    return _save(figure, path)


def _panels(parts: Sequence[tuple[str, Sequence[Curve], float]], path: Path, title: str, xlabel: str) -> list[Path]:
    with mpl.rc_context(_STYLE):
        most = max(len(curves) for _, curves, _ in parts)
        height = max(1.25, 0.14 * most)
        figure = Figure(figsize=(WIDTH, 0.4 + height * len(parts)), layout="constrained")
        rows = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (heading, curves, scale) in zip(rows, parts, strict=True):
            _draw(axes, curves, scale, [style(curve.method) for curve in curves])
            axes.set_ylabel(heading)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            _finish(axes, title if axes is rows[0] else "")
        rows[-1].set_xlabel(xlabel)
        rows[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for axes, (_, curves, scale) in zip(rows, parts, strict=True):
            _label_ends(figure, axes, curves, scale, [style(curve.method) for curve in curves])
    return _save(figure, path)


def _draw(axes: Axes, curves: Sequence[Curve], scale: float, looks: Sequence[Style]) -> None:
    for curve, look in zip(curves, looks, strict=True):
        x, y = np.asarray(curve.x, dtype=float), scale * np.asarray(curve.y, dtype=float)
        every = max(1, len(x) // 8)
        axes.plot(x, y, color=look.color, linestyle=look.line, markevery=every, zorder=3, **look.mark())
        if curve.low is not None and curve.high is not None:
            low, high = (scale * np.asarray(end, dtype=float) for end in (curve.low, curve.high))
            alpha = 0.13 if len(curves) <= _CROWD else 0.06
            axes.fill_between(x, low, high, color=look.color, alpha=alpha, linewidth=0, zorder=2)


def _ink(color: str) -> tuple[float, ...]:
    """The colour, dark enough to read as text on white."""
    return tuple(0.78 * part for part in to_rgb(color))


def _finish(axes: Axes, title: str) -> None:
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_title(textwrap.fill(title, 50), fontsize=8, loc="left")


def _label_ends(figure: Figure, axes: Axes, curves: Sequence[Curve], scale: float, looks: Sequence[Style]) -> None:
    """Name each curve beside its end, without overlap, with a thin line to the end where the name had to move."""
    # Curves that end at one place are named in the order in which they came there.
    order = sorted(range(len(curves)), key=lambda i: fmean(curves[i].y))
    curves, looks = [curves[i] for i in order], [looks[i] for i in order]
    ends = [(float(curve.x[-1]), scale * float(curve.y[-1])) for curve in curves]
    labels = [
        axes.annotate(
            curve.label,
            end,
            xytext=(1.04, 0.5),
            textcoords="axes fraction",
            va="center",
            color=_ink(look.color),
            fontsize=_LABEL_SIZE,
            annotation_clip=False,
            arrowprops={**_LEADER, "color": look.color},
        )
        for curve, end, look in zip(curves, ends, looks, strict=True)
    ]
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # the layout is settled: the axes have their size
    height = axes.get_window_extent().height
    at = [round(float(axes.transAxes.inverted().transform(axes.transData.transform(end))[1]), 6) for end in ends]
    gap = 1.2 * _LABEL_SIZE / 72 * figure.dpi / height
    for label, place in zip(labels, _spread(at, gap), strict=True):
        label.set_position((1.04, place))


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """The places moved as little as needed to be at least `gap` apart, in the same order, ties too; and from 0 to 1,
    where there is room for that."""
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    groups: list[list[float]] = []  # [sum of (place - offset), number]
    for i in order:
        groups.append([places[i], 1])
        # A group of n labels around c ends at c + (n - 1) gap / 2; merge while it runs into the one below.
        while len(groups) > 1:
            (low_sum, low_n), (high_sum, high_n) = groups[-2:]
            low_top = low_sum / low_n + (low_n - 1) * gap / 2
            if high_sum / high_n - (high_n - 1) * gap / 2 - low_top >= gap - 1e-9:
                break
            groups[-2:] = [[low_sum + high_sum, low_n + high_n]]
    apart = [total / n + (j - (n - 1) / 2) * gap for total, n in groups for j in range(int(n))]
    room = max(1.0, (len(apart) - 1) * gap)
    top, bottom = 0.5 + room / 2, 0.5 - room / 2
    above = [min(place, top - gap * (len(apart) - 1 - i)) for i, place in enumerate(apart)]
    inside = [max(place, bottom + gap * i) for i, place in enumerate(above)]
    return [place for _, place in sorted(zip(order, inside, strict=True))]


_low, _value, _high = attrgetter("low"), attrgetter("value"), attrgetter("high")
_DIRECTIONS = [(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)]


class _Point(NamedTuple):
    tokens: Cell | Estimate
    accuracy: Cell | Estimate
    label: str
    color: str


def _label_points(figure: Figure, axes: Axes, points: Sequence[_Point], size: float) -> None:
    """Name each point where its name covers least of the other names, points and intervals."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer: Any = canvas.get_renderer()
    marks: list[Bbox] = []  # of each point its mark and its two intervals
    for t, a, *_ in points:
        low, middle, high = axes.transData.transform([(c(t), 100 * c(a)) for c in (_low, _value, _high)])
        marks.append(Bbox.from_extents(*(middle - 9), *(middle + 9)))  # no name so near another's mark
        marks.append(Bbox.from_extents(low[0], middle[1] - 1, high[0], middle[1] + 1))
        marks.append(Bbox.from_extents(middle[0] - 1, low[1], middle[0] + 1, high[1]))
    taken: list[Bbox] = []
    inside = axes.get_window_extent()
    for i, (t, a, text, color) in enumerate(points):
        best: tuple[float, Annotation, Bbox] | None = None
        for distance in (5, 12, 20, 30):
            for right, up in _DIRECTIONS:
                label = axes.annotate(
                    text,
                    (t.value, 100 * a.value),
                    xytext=(distance * right, distance * up),
                    textcoords="offset points",
                    ha={1: "left", 0: "center", -1: "right"}[right],
                    va={1: "bottom", 0: "center", -1: "top"}[up],
                    color=_ink(color),
                    fontsize=size,
                    fontweight="bold",
                    bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
                    arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5} if distance > 5 else None,
                )
                label.set_in_layout(False)
                label.update_positions(renderer)
                box = Text.get_window_extent(label, renderer)  # without the line
                others = [mark for j, mark in enumerate(marks) if j != 3 * i]
                cost = sum(_overlap(box, other) for other in others) + 3 * sum(_overlap(box, other) for other in taken)
                cost += box.width * box.height - _overlap(box, inside) + 4 * distance
                if best is None or cost < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = (cost, label, box)
                else:
                    label.remove()
        assert best is not None
        taken.append(best[2])


def _overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return float(shared.width * shared.height) if shared is not None else 0.0


def _save(figure: Figure, path: Path) -> list[Path]:
    """Write .png and .svg without dates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    with mpl.rc_context(_STYLE):
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]
