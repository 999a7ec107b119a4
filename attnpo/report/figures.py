"""Figures, the same to the byte for the same numbers. Functions from data to files; nothing is measured here.

House style: half a column wide, labels at the curves instead of a legend, intervals drawn, axes named with units. A
method looks the same everywhere, see `style`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnpo.report.labels import Ends, Point, label_ends, label_points
from attnpo.report.style import GREY, HUES, LABEL_SIZE, MEMBERS, RC, WIDTH, Curve, Style, finish, save, style
from attnpo.report.table import Block, Cell
from attnpo.runs.settings import BASE
from attnpo.statistics.metrics import Line

if TYPE_CHECKING:
    from attnpo.probing.heads import HeadRanking

_CROWD = 6  # more curves than this: fainter bands
_MANY = 8  # more points than this: fainter intervals and smaller names


@dataclass(frozen=True)
class Bar:
    """One bar: a value with its interval."""

    label: str
    value: float
    low: float
    high: float
    method: str = BASE


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


def phrases(curves: Mapping[str, Sequence[Curve]], path: Path, title: str = "", band: str = "") -> list[Path]:
    """Doubt, branch and summary phrases over training, a panel a kind.

    Args:
        curves: kind -> curves; x: training step; y, low, high: phrases a response.
        path, title: as in `pass_at_k`.
        band: what the bands are, for the label of the axis.
    """
    parts = [(f"{kind} phrases\nper response", of_kind, 1.0) for kind, of_kind in curves.items()]
    return _panels(parts, path, title, band)


def curves(
    panels: Mapping[str, Sequence[Curve]],
    path: Path,
    title: str = "",
    band: str = "",
    along: str = "training step",
) -> list[Path]:
    """What training does, a panel a figure, with bands over the seeds.

    Args:
        panels: `accuracy` (0 to 1; a response that was cut is wrong), `tokens`, `essential`, `redundant` (steps a
            response) or any other name -> curves.
        path, title, band: as in `phrases`.
        along: what the curves are over.
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
    return _panels(parts, path, title, band, along)


def stability(heads: Sequence[Curve], key_focus: Collection[str], path: Path, title: str = "") -> list[Path]:
    """Correlation of each head's step scores between base and checkpoints; Key-Focus Heads in colour.

    Args:
        heads: a curve a head, its label `(layer, head)`; x: training step; y, low, high: Pearson's r.
        key_focus: labels of the Key-Focus Heads.
        path, title: as in `pass_at_k`.
    """
    hues = [HUES[family] for family in ("attnpo", "relative to the group", "limit or target", "cut and normalised")]
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
        axes = figure.add_subplot()
        others = [curve for curve in heads if curve.label not in key_focus]
        for curve in others:
            axes.plot(curve.x, curve.y, color="#BBBBBB", linewidth=0.6, zorder=1)
        shown = [curve for curve in heads if curve.label in key_focus]
        looks = [Style(hues[i % len(hues)], *MEMBERS[i % len(MEMBERS)]) for i in range(len(shown))]
        _draw(axes, shown, 1.0, looks)
        if others:
            middle = Curve("", "other heads", others[0].x, np.median([curve.y for curve in others], axis=0).tolist())
            axes.plot(middle.x, middle.y, color=GREY, linestyle=(0, (4, 2)), zorder=2)
            shown, looks = [*shown, middle], [*looks, Style(GREY, "", "-")]
        axes.set_xlabel("training step")
        axes.set_ylabel("Pearson's r with the base,\nstep scores of a head")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        finish(axes, title)
        label_ends(figure, [Ends(axes, shown, 1.0, looks)])
    return save(figure, path)


def ensemble(curves: Sequence[Curve], path: Path, title: str = "") -> list[Path]:
    """Step Ranking Accuracy of the mean score of n heads, against n.

    Args:
        curves: x: number of heads; y, low, high: SRA, 0 to 1.
        path, title: as in `pass_at_k`.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        axes = figure.add_subplot()
        looks = [style(curve.method) for curve in curves]
        _draw(axes, curves, 1.0, looks)
        axes.set_xlabel("heads in the mean")
        axes.set_ylabel("Step Ranking Accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        finish(axes, title)
        label_ends(figure, [Ends(axes, curves, 1.0, looks)])
    return save(figure, path)


def intervention(bars: Sequence[Bar], path: Path, title: str = "") -> list[Path]:
    """Accuracy after steps were removed from the thinking: a bar each, with its interval.

    Args:
        bars: value, low, high: accuracy, 0 to 1; a bar of method `base` is the one that the others are read against,
            and a line marks its value.
        path, title: as in `pass_at_k`.
    """
    with mpl.rc_context(RC):
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
                fontsize=LABEL_SIZE,
            )
            if bar.method == BASE:
                axes.axvline(100 * bar.value, color=color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.05 * 100 * max(bar.high for bar in bars))
        axes.set_xlabel("accuracy (%)")
        axes.tick_params(axis="y", length=0)
        axes.set_title(textwrap.fill(title, 34), fontsize=8, loc="left")  # the labels leave little width
    return save(figure, path)


def label_sources(points: Sequence[Bar], path: Path, title: str = "") -> list[Path]:
    """How good the heads are that each source of labels chooses: a point each, with its interval.

    Args:
        points: value, low, high: Step Ranking Accuracy by exact labels, of the mean of the chosen heads; a line marks
            that of method `base`, which is chosen by these labels themselves, and another one chance.
        path, title: as in `pass_at_k`.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.24 * len(points)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
        for place, point in enumerate(points):
            color = GREY if point.method == BASE else HUES["attnpo"]
            axes.plot([point.low, point.high], [place, place], color=color, solid_capstyle="butt")
            axes.plot(point.value, place, marker="o", color=color)
            axes.annotate(
                f"{point.value:.3f}".removeprefix("0"),
                (1, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=LABEL_SIZE,
            )
            if point.method == BASE:
                axes.axvline(point.value, color=color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0)
        axes.set_yticks(range(len(points)), [textwrap.fill(point.label, 26) for point in points])
        axes.invert_yaxis()
        axes.set_xlim(min(0.45, *(point.low for point in points)), 1)
        axes.set_xlabel("Step Ranking Accuracy (dotted: chance)")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25, linewidth=0.5)
        axes.set_title(textwrap.fill(title, 34), fontsize=8, loc="left")  # the labels leave little width
    return save(figure, path)


def pareto(block: Block, path: Path, line: Line | None = None) -> list[Path]:
    """Accuracy (percent) against tokens a response, with both intervals; readable at half a column.

    Args:
        block: a task's rows; those that were not run are left out.
        path: of the figure, without ending; .png and .svg are written.
        line: accuracy (percent) against tokens of the methods without AttnPO, drawn behind the points.
    """
    with mpl.rc_context(RC):
        shown = [(row.method, row.label, row.cells) for row in block.rows if row.cells is not None]
        many = len(shown) > _MANY
        height = 2.6 if not many else max(3.6, 0.25 * len(shown))
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        points = []
        for method, label, cells in shown:
            look = style(method)
            tokens, accuracy = cells["tokens"], cells["accuracy"]
            points.append(Point(tokens, accuracy, label, look.color))
            _draw_point(axes, points[-1], look, faint=many)
        if line is not None:
            ends = [min(p.tokens.value for p in points), max(p.tokens.value for p in points)]
            axes.plot(ends, [line.start + line.slope * x for x in ends], color="#BBBBBB", linewidth=1, zorder=0)
        note = "" if line is None else "\ngrey line: fitted to the methods without AttnPO"
        _finish_trade_off(figure, axes, points, block.title, LABEL_SIZE - many, note)
    return save(figure, path)


class Strength(NamedTuple):
    """One method at one strength of its length penalty."""

    tokens: Cell
    accuracy: Cell
    text: str
    """The strength."""


def strengths(
    lines: Mapping[tuple[str, str], Sequence[Strength]], path: Path, title: str = "", what: str = "alpha"
) -> list[Path]:
    """Accuracy against tokens as a length penalty grows, a line a method, the strength at each point.

    Args:
        lines: (method, label) -> its points, from the weakest to the strongest; tokens a response, accuracy 0 to 1.
        path, title: as in `pass_at_k`.
        what: the argument of the length rewards that the strengths are.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        points = []
        for (method, label), line in lines.items():
            look = style(method)
            xs, ys = [p.tokens.value for p in line], [100 * p.accuracy.value for p in line]
            axes.plot(xs, ys, color=look.color, linestyle=look.line, linewidth=1)
            for i, point in enumerate(line):
                text = point.text if i + 1 < len(line) else f"{label} {point.text}"
                points.append(Point(point.tokens, point.accuracy, text, look.color))
                _draw_point(axes, points[-1], look, faint=True)
        note = f"\nnumbers: {what}, the strength of the length penalty"
        _finish_trade_off(figure, axes, points, title, LABEL_SIZE, note)
    return save(figure, path)


def _draw_point(axes: Axes, point: Point, look: Style, faint: bool) -> None:
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
    figure: Figure, axes: Axes, points: Sequence[Point], title: str, size: float, note: str = ""
) -> None:
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel(f"tokens per response (fewer is better){note}")
    axes.set_ylabel("accuracy (%)")
    finish(axes, title)
    label_points(figure, axes, points, size)


def heads_heatmap(ranking: HeadRanking, path: Path) -> list[Path]:
    """Step Ranking Accuracy of every head, layers down, heads across.

    Args:
        ranking: from the probe.
        path: of the figure, without ending; .png and .svg are written.
    """
    grid = ranking.matrix()
    layers, width = grid.shape
    with mpl.rc_context(RC):
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
    return save(figure, path)


# parts


def _doublings(curves: Sequence[Curve], path: Path, title: str, xlabel: str, ylabel: str) -> list[Path]:
    with mpl.rc_context(RC):
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
        finish(axes, title)
        label_ends(figure, [Ends(axes, curves, 100.0, looks)])
    return save(figure, path)


def _panels(
    parts: Sequence[tuple[str, Sequence[Curve], float]],
    path: Path,
    title: str,
    band: str,
    along: str = "training step",
) -> list[Path]:
    with mpl.rc_context(RC):
        most = max(len(curves) for _, curves, _ in parts)
        height = max(1.25, 0.14 * most)
        figure = Figure(figsize=(WIDTH, 0.4 + height * len(parts)), layout="constrained")
        rows = figure.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (heading, curves, scale) in zip(rows, parts, strict=True):
            _draw(axes, curves, scale, [style(curve.method) for curve in curves])
            axes.set_ylabel(heading)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            finish(axes, title if axes is rows[0] else "")
        rows[-1].set_xlabel(f"{along} (band: {band})" if band else along)
        rows[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels = [
            Ends(axes, curves, scale, [style(curve.method) for curve in curves])
            for axes, (_, curves, scale) in zip(rows, parts, strict=True)
        ]
        label_ends(figure, panels)
    return save(figure, path)


def _draw(axes: Axes, curves: Sequence[Curve], scale: float, looks: Sequence[Style]) -> None:
    for curve, look in zip(curves, looks, strict=True):
        x, y = np.asarray(curve.x, dtype=float), scale * np.asarray(curve.y, dtype=float)
        every = max(1, len(x) // 8)
        axes.plot(x, y, color=look.color, linestyle=look.line, markevery=every, zorder=3, **look.mark())
        if curve.low is not None and curve.high is not None:
            low, high = (scale * np.asarray(end, dtype=float) for end in (curve.low, curve.high))
            alpha = 0.13 if len(curves) <= _CROWD else 0.06
            axes.fill_between(x, low, high, color=look.color, alpha=alpha, linewidth=0, zorder=2)
