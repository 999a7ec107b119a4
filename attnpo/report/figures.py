"""Figures, the same to the byte for the same numbers: accuracy against tokens, and the heads' SRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from attnpo.report.tables import Block

if TYPE_CHECKING:
    from attnpo.heads import HeadRanking

COLORS = {"base": "#555555", "rloo": "#E69F00", "tlmre": "#0072B2", "attnpo": "#D55E00"}
"""A fixed colour a method, of Okabe and Ito's palette, which colour-blind readers tell apart."""
_MORE_COLORS = ["#009E73", "#CC79A7", "#56B4E9", "#000000"]
_MARKERS = {"base": "s", "rloo": "^", "tlmre": "o", "attnpo": "D"}

_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "attnpo",
    "svg.fonttype": "none",
    "figure.dpi": 100,
    "savefig.dpi": 300,
}


def pareto(block: Block, path: Path, quick: bool = False) -> list[Path]:
    """Accuracy (percent) against tokens a response, with both intervals; readable at half a column.

    Args:
        block: a task's rows; those that were not run are left out.
        path: of the figure, without ending; .png and .svg are written.
        quick: mark the figure as made by a quick run.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4, 2.6), layout="constrained")
        axes = figure.add_subplot()
        spare = iter(_MORE_COLORS)
        shown = [(row.method, row.label, row.cells) for row in block.rows if row.cells is not None]
        shown.sort(key=lambda row: row[2]["tokens"].value)
        points = np.array([(c["tokens"].value, 100 * c["correct"].value) for _, _, c in shown]).reshape(-1, 2)
        for (method, label, cells), (right, up) in zip(shown, _away_from_nearest(points), strict=True):
            color = COLORS.get(method) or next(spare, "#000000")
            tokens, accuracy = cells["tokens"], cells["correct"]
            axes.errorbar(
                tokens.value,
                100 * accuracy.value,
                xerr=np.array([[tokens.value - tokens.low], [tokens.high - tokens.value]]),
                yerr=100 * np.array([[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]]),
                fmt=_MARKERS.get(method, "v"),
                color=color,
                markersize=5,
                elinewidth=1,
                capsize=2,
            )
            axes.annotate(
                label,
                (tokens.value, 100 * accuracy.value),
                xytext=(5 if right else -5, 5 if up else -5),
                textcoords="offset points",
                ha="left" if right else "right",
                va="bottom" if up else "top",
                color=color,
                fontweight="bold",
            )
        axes.margins(x=0.25, y=0.15)
        axes.set_xlabel("tokens per response (fewer is better)")
        axes.set_ylabel("accuracy (%)")
        axes.set_title(f"{block.title}{' — QUICK RUN' if quick else ''}", fontsize=8, loc="left")
        axes.grid(alpha=0.25, linewidth=0.5)
    return _save(figure, path)


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


def _away_from_nearest(points: np.ndarray) -> list[tuple[bool, bool]]:
    """For each of (N, 2) points whether its label goes right, and up: away from the nearest other point."""
    span = np.ptp(points, axis=0) if len(points) else np.ones(2)
    scaled = points / np.where(span > 0, span, 1)
    sides = []
    for i, point in enumerate(scaled):
        others = [(float(np.hypot(*(point - other))), j) for j, other in enumerate(scaled) if j != i]
        if not others:
            sides.append((True, True))
            continue
        _, nearest = min(others)
        (dx, dy), later = point - scaled[nearest], i > nearest
        sides.append((bool(dx > 0 or (dx == 0 and later)), bool(dy > 0 or (dy == 0 and later))))
    return sides


def _save(figure: Figure, path: Path) -> list[Path]:
    """Write .png and .svg without dates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    with mpl.rc_context(_STYLE):
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]
