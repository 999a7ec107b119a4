"""The figures made of the probe and of the studies of the heads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

import attnpo.report.figures as figures
from attnpo.probing.heads import HeadRanking
from attnpo.report.figures import Bar
from attnpo.report.rendered import Rendered, quick, some
from attnpo.report.selection import read_derived
from attnpo.report.style import Curve
from attnpo.runs.derive import INTERVENTION, chosen
from attnpo.runs.profile import Profile
from attnpo.runs.settings import BASE
from attnpo.statistics.training import ranges_over_seeds


def draw_heads(profile: Profile, results_dir: Path) -> Rendered:
    """Ranking of the heads, ensemble curve, intervention: those that have been run."""
    folder = results_dir / "figures"
    made, n = [], []
    for probe in read_derived(results_dir, "runs").query("kind == 'probe'")["run_id"]:
        ranking = HeadRanking.load(results_dir / "raw" / probe / "heads.json")
        made.append((figures.heads_heatmap(ranking, folder / "heads")[0], "Step Ranking Accuracy of every head"))
    ensemble = read_derived(results_dir, "ensemble", optional=True)
    if not ensemble.empty:
        looks = {"best": ("attnpo", "by rank"), "greedy": ("oracle", "greedy"), "random": (BASE, "at random")}
        curves = [
            Curve(*looks[str(order)], *(list(rows[c]) for c in ("n", "sra", "low", "high")))
            for order, rows in ensemble.groupby("order", sort=False)
        ]
        title = f"Mean score of n heads, {ensemble['n_responses'].iloc[0]} responses to problems the probe did not see"
        n.append(f"{ensemble['n_pairs'].iloc[0]:,} pairs of steps")
        made.append((figures.ensemble(curves, folder / "ensemble", quick(profile, title))[0], title))
    answers = _intervention(read_derived(results_dir, "estimates", optional=True))
    if not answers.empty:
        n.append(f"{answers['n'].sum():,} answers")
        title = "Steps dropped from the thinking"
        bars = intervention_bars(answers, profile)
        made.append((figures.intervention(bars, folder / "intervention", quick(profile, title))[0], title))
    return Rendered([], some(made, "no study of the heads is finished"), f"n = {', '.join(n)}" if n else "")


def _intervention(estimates: pd.DataFrame) -> pd.DataFrame:
    return estimates if estimates.empty else estimates[estimates["task"] == INTERVENTION]


def intervention_bars(estimates: pd.DataFrame, profile: Profile) -> list[Bar]:
    """A bar a condition of the intervention: accuracy with its interval."""
    share = f"{profile.study.dropped:.0%}" if profile.study else "some"
    labels = {
        "whole": ("nothing dropped", BASE),
        "lowest": (f"lowest {share}", "attnpo"),
        "random": (f"random {share}", "other"),
        "highest": (f"highest {share}", "tlmre"),
    }
    numbers = {str(condition): ends for condition, *ends in estimates[["slice", "value", "low", "high"]].to_numpy()}
    return [
        Bar(label, value, low, high, method)
        for (label, method), (value, low, high) in ((look, numbers[name]) for name, look in labels.items())
    ]


def draw_stability(profile: Profile, results_dir: Path) -> Rendered:
    """Correlation of the heads' step scores between the untrained model and checkpoints."""
    table = chosen(profile, read_derived(results_dir, "stability", optional=True))
    some(table, "no training run has been studied")
    made: list[tuple[Path, str]] = []
    for method, rows in table.groupby("method", sort=False):
        means = ranges_over_seeds(rows, ["layer", "head", "step"])
        curves = [
            Curve(
                str(method), f"({layer}, {head})", [0, *part["step"]], *([1.0, *part[c]] for c in ("r", "low", "high"))
            )
            for (layer, head), part in means.groupby(["layer", "head"])
        ]
        focus = {f"({layer}, {head})" for layer, head in rows.loc[rows["key_focus"], ["layer", "head"]].to_numpy()}
        title = f"Step scores of the heads, {profile.method(str(method)).label}"
        name = "stability" if not made else f"stability_{method}"
        drawn = figures.stability(curves, focus, results_dir / "figures" / name, quick(profile, title))
        made.append((drawn[0], title))
    first = table.iloc[0]
    return Rendered([], made, f"n = {first['steps']:,} steps of {first['responses']:,} responses")
