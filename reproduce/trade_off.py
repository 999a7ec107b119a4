"""Whether a method is more accurate than its length explains: its distance from the line through the others.

    .venv/bin/python reproduce/trade_off.py tiny

Reads derived/problems.csv. For each task a line is fitted to accuracy (per cent) against tokens a response, through the
means of Table 1's methods without AttnPO, but for those that are told a length: their prompts are others. Each method
of the profile is measured against it. Writes `trade_off.csv` into the results folder: a row a task and method, with
`above_line` in points and `in_fit`, 1 for those that the line goes through; prints it, and what the lines are like.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from attnpo.estimates import samples_by_method
from attnpo.profile import BASES, checkout_root, load_profile
from attnpo.results import atomic_write_csv


def against_line(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """One task's methods with `above_line`, by tokens, and what the line is like, in words.

    Args:
        rows: a method a row: task, accuracy (per cent), tokens, in_fit.
    """
    task, fitted = rows["task"].iloc[0], rows[rows["in_fit"] == 1]
    if len(fitted) < 3:
        sys.exit(f"{task}: of the methods without AttnPO {len(fitted)} have been run; a line needs three")
    slope, start = np.polyfit(fitted["tokens"], fitted["accuracy"], 1)
    rows = rows.assign(above_line=rows["accuracy"] - (start + slope * rows["tokens"])).sort_values("tokens")
    spread = np.sqrt(rows.loc[rows["in_fit"] == 1, "above_line"].pow(2).sum() / (len(fitted) - 2))
    r = fitted["tokens"].corr(fitted["accuracy"])
    words = f"r = {r:.3f}, {10 * slope:+.2f} points for 10 tokens more, standard deviation {spread:.2f} points"
    return rows, f"{task}: {len(fitted)} methods, {words}"


def main(name: str) -> None:
    """Fit, write and print."""
    profile = load_profile(name)
    methods = profile.narrowed("table1").methods
    plain = [name for name, method in methods.items() if not method.attnpo and method.tell is None]
    results = checkout_root() / "results" / profile.results_name
    path = results / "derived" / "problems.csv"
    if not path.is_file():
        sys.exit(f"{path}: missing; first: .venv/bin/attnpo table --profile {name}")
    samples = samples_by_method(pd.read_csv(path, dtype={"problem_id": str}))
    found = pd.DataFrame(
        [
            {"task": task, "method": method, "seeds": len(sample.seeds), "accuracy": 100 * mean[0], "tokens": mean[1]}
            for method, of_tasks in samples.items()
            if method not in BASES
            for task, sample in of_tasks.items()
            for mean in [sample.means("correct", "tokens").mean(axis=(0, 1))]
        ]
    )
    found["in_fit"] = found["method"].isin(plain).astype(int)
    parts, words = zip(*(against_line(rows) for _, rows in found.groupby("task", sort=False)), strict=True)
    table = pd.concat(parts)
    atomic_write_csv(results / "trade_off.csv", table)
    print(table.round(2).to_string(index=False), *words, sep="\n")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["tiny"]))
