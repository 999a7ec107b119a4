"""How soon each method is as short as another one is at the end, in training steps and in seconds.

    .venv/bin/python reproduce/convergence.py tiny [reference method: tlmre]

Reads derived/curves.csv. The level of a measure is the reference's mean over its last ten steps and its seeds; a
method and seed has reached it at the first step whose running mean (of five steps) is not above it. Writes
`convergence.csv` into the results folder, a row a method, seed and measure, empty where the level is not reached, and
prints means.
"""

from __future__ import annotations

import sys

import pandas as pd

from attnpo.profile import checkout_root, load_profile
from attnpo.report.artefacts import WINDOW
from attnpo.results import atomic_write_csv

MEASURES = {"tokens": "completions/mean_length", "redundant_steps": "steps/redundant"}
LAST = 10


def reached(curve: pd.DataFrame, column: str, level: float) -> dict[str, float | None]:
    """The step and the seconds since the start at which one seed's curve is down to `level`, and its accuracy there."""
    curve = curve.sort_values("step")
    below = curve[column].rolling(WINDOW).mean() <= level
    if not below.any():
        return {"step": None, "seconds": None, "accuracy": None}
    at = below.idxmax()
    accuracy = curve["attnpo/group_accuracy"].rolling(WINDOW).mean()
    return {
        "step": curve.loc[at, "step"],
        "seconds": curve.loc[:at, "step_time"].sum(),
        "accuracy": accuracy[at],
    }


def main(name: str, reference: str) -> None:
    """Measure every method of Table 1 against the reference."""
    profile = load_profile(name).narrowed("table1")
    results = checkout_root() / "results" / profile.results_name
    path = results / "derived" / "curves.csv"
    if not path.is_file():
        sys.exit(f"{path}: missing; first: .venv/bin/attnpo table --profile {name}")
    curves = pd.read_csv(path)
    curves = curves[curves["method"].isin(list(profile.methods))]
    theirs = curves[curves["method"] == reference]
    if theirs.empty:
        sys.exit(f"{path}: no training run of {reference!r}; it has {', '.join(curves['method'].unique())}")
    ends = theirs[theirs["step"] > theirs["step"].max() - LAST]
    rows = []
    for measure, column in MEASURES.items():
        level = ends[column].mean()
        for (method, seed), curve in curves.groupby(["method", "seed"], sort=False):
            about = {"method": method, "seed": seed, "measure": measure, "level": level}
            rows.append(about | reached(curve, column, level))
    table = pd.DataFrame(rows)
    atomic_write_csv(results / "convergence.csv", table)
    shown = table.groupby(["measure", "level", "method"], sort=False)[["step", "seconds", "accuracy"]].mean()
    shown["reached"] = table.groupby(["measure", "level", "method"], sort=False)["step"].agg(
        lambda steps: f"{steps.notna().sum()} of {len(steps)}"
    )
    print(shown.round(3).to_string())


if __name__ == "__main__":
    main(*(sys.argv[1:] + ["tiny", "tlmre"][len(sys.argv) - 1 :]))
