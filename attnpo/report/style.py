"""How figures look: size, fonts, and the colour, marker and line of each method."""

from __future__ import annotations

import io
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from attnpo.files import atomic_write_bytes
from attnpo.runs.settings import BASE

WIDTH = 3.4
"""Inches: half a column of a two-column page."""

RC: Any = {
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
LABEL_SIZE = 7
GREY = "#555555"


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


HUES = {
    BASE: GREY,
    "correctness only": "#E69F00",
    "relative to the group": "#0072B2",
    "limit or target": "#009E73",
    "target by difficulty": "#56B4E9",
    "cut and normalised": "#AA4499",
    "attnpo": "#D55E00",
    "other": "#000000",
}
"""Hues of Okabe and Ito's palette (the purple: Tol's), which colour-blind readers tell apart."""
MEMBERS = [("o", "-"), ("s", (0, (4, 1.5))), ("^", (0, (1, 1))), ("v", (0, (5, 1, 1, 1))), ("P", (0, (2, 2)))]
_FAMILIES = {
    "correctness only": ["rloo", "grpo"],
    "relative to the group": ["tlmre", "kimi", "shorter", "diet", "arlcp"],
    "limit or target": ["thinkprune", "l1_exact", "l1_max", "overlong"],
    "target by difficulty": ["laser", "laser_d", "laser_de"],
    "cut and normalised": ["dler", "dot"],
    "other": ["oracle", "random_heads"],
}
STYLES = {
    BASE: Style(GREY, "s", (0, (4, 2))),
    "attnpo": Style(HUES["attnpo"], "D", "-"),
    "pa_only": Style(HUES["attnpo"], "^", (0, (4, 1.5))),
    "na_only": Style(HUES["attnpo"], "v", (0, (1, 1))),
    "redundant": Style(HUES["other"], "X", "-"),
    **{
        method: Style(HUES[family], *MEMBERS[i])
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
        return STYLES[other]._replace(color=HUES["attnpo"], fill=STYLES[other].color)
    number, member = divmod(zlib.crc32(method.encode()), len(MEMBERS))
    known = "attnpo" if "attnpo" in words else words[0]
    hues = [STYLES[known].color] if known in STYLES else [HUES[family] for family in _FAMILIES]
    return Style(hues[number % len(hues)], *MEMBERS[member])


@dataclass(frozen=True)
class Curve:
    """Values of one method along x, with intervals of the same length or none."""

    method: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def ink(color: str) -> tuple[float, ...]:
    """The colour, dark enough to read as text on white."""
    return tuple(0.78 * part for part in to_rgb(color))


def finish(axes: Axes, title: str) -> None:
    """Grid and title."""
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_title(textwrap.fill(title, 50), fontsize=8, loc="left")


def settle(figure: Figure) -> FigureCanvasAgg:
    """Lay the figure out once and for all, so that axes and texts have their places; its canvas."""
    canvas = FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine(None)  # a placeholder would make each saving draw twice
    return canvas


def save(figure: Figure, path: Path) -> list[Path]:
    """Write .png and .svg without dates."""
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    with mpl.rc_context(RC):
        for target, metadata in ((png, {"Software": None}), (svg, {"Date": None, "Creator": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=target.suffix[1:], metadata=metadata)
            atomic_write_bytes(target, drawn.getvalue())
    return [png, svg]
