"""Names at points and at the ends of curves, placed so that they can be read."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from attnpo.report.style import LABEL_SIZE, Curve, Style, ink, settle
from attnpo.report.table import Cell
from attnpo.statistics.metrics import Array

_LEADER: Any = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5), "patchA": None}


class Ends(NamedTuple):
    """The curves of one axes, to be named beside their ends."""

    axes: Axes
    curves: Sequence[Curve]
    scale: float
    """Factor to the unit of the axis."""
    looks: Sequence[Style]


def label_ends(figure: Figure, panels: Sequence[Ends]) -> None:
    """Name each curve beside its end, without overlap, with a thin line to the end where the name had to move."""
    placed: list[tuple[Axes, list[Annotation], list[tuple[float, float]]]] = []
    for axes, curves, scale, looks in panels:
        # Curves that end at one place are named in the order in which they came there.
        order = sorted(range(len(curves)), key=lambda i: fmean(curves[i].y))
        ends = [(float(curves[i].x[-1]), scale * float(curves[i].y[-1])) for i in order]
        labels = [
            axes.annotate(
                curves[i].label,
                end,
                xytext=(1.04, 0.5),
                textcoords="axes fraction",
                va="center",
                color=ink(looks[i].color),
                fontsize=LABEL_SIZE,
                annotation_clip=False,
                arrowprops={**_LEADER, "color": looks[i].color},
            )
            for i, end in zip(order, ends, strict=True)
        ]
        placed.append((axes, labels, ends))
    settle(figure)
    for axes, labels, ends in placed:
        height = axes.get_window_extent().height
        at = [round(float(axes.transAxes.inverted().transform(axes.transData.transform(end))[1]), 6) for end in ends]
        gap = 1.2 * LABEL_SIZE / 72 * figure.dpi / height
        for label, place in zip(labels, spread(at, gap), strict=True):
            label.set_position((1.04, place))


def spread(places: Sequence[float], gap: float) -> list[float]:
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
_DISTANCES = (5, 12, 20, 30)
_DIRECTIONS = [(1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)]


class Point(NamedTuple):
    """A point to be named, with its intervals; accuracy from 0 to 1, drawn in per cent."""

    tokens: Cell
    accuracy: Cell
    label: str
    color: str


def label_points(figure: Figure, axes: Axes, points: Sequence[Point], size: float) -> None:
    """Name each point where its name covers least of the other names, points and intervals."""
    renderer: Any = settle(figure).get_renderer()
    marks = []  # of each point its mark and its two intervals: left, bottom, right, top
    for t, a, *_ in points:
        low, middle, high = axes.transData.transform([(c(t), 100 * c(a)) for c in (_low, _value, _high)])
        marks.append([*(middle - 9), *(middle + 9)])  # no name so near another's mark
        marks.append([low[0], middle[1] - 1, high[0], middle[1] + 1])
        marks.append([middle[0] - 1, low[1], middle[0] + 1, high[1]])
    inside = np.array(axes.get_window_extent().extents)
    taken: list[Array] = []
    pixels = figure.dpi / 72  # a point
    for i, (t, a, text, color) in enumerate(points):
        place = t.value, 100 * a.value
        font: dict[str, Any] = {"fontsize": size, "fontweight": "bold"}
        obstacles = np.array([mark for j, mark in enumerate(marks) if j != 3 * i])
        found: list[tuple[float, int, tuple[int, int], Array]] = []
        for direction in _DIRECTIONS:
            trial = axes.annotate(text, place, **font, **_offset(0, direction))
            trial.update_positions(renderer)
            at_point = np.array(Text.get_window_extent(trial, renderer).extents)
            trial.remove()
            for distance in _DISTANCES:
                box = at_point + distance * pixels * np.array(2 * direction)
                cost = _overlap(box, obstacles) + 3 * _overlap(box, np.array(taken).reshape(-1, 4))
                cost += _overlap(box, box[None]) - _overlap(box, inside[None]) + 4 * distance
                found.append((cost, distance, direction, box))
        _, distance, direction, box = min(found, key=lambda f: (f[0], f[1], _DIRECTIONS.index(f[2])))
        label = axes.annotate(
            text,
            place,
            color=ink(color),
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5} if distance > _DISTANCES[0] else None,
            **font,
            **_offset(distance, direction),
        )
        label.set_in_layout(False)
        taken.append(box)


def _offset(distance: int, direction: tuple[int, int]) -> dict[str, Any]:
    """Where a name stands, as options of `annotate`; `distance` in typographic points."""
    right, up = direction
    return {
        "xytext": (distance * right, distance * up),
        "textcoords": "offset points",
        "ha": {1: "left", 0: "center", -1: "right"}[right],
        "va": {1: "bottom", 0: "center", -1: "top"}[up],
    }


def _overlap(box: Array, others: Array) -> float:
    """Area that a box (left, bottom, right, top) shares with others, (N, 4), summed."""
    width, height = (np.minimum(box[i + 2], others[:, i + 2]) - np.maximum(box[i], others[:, i]) for i in (0, 1))
    return float((np.clip(width, 0, None) * np.clip(height, 0, None)).sum())
