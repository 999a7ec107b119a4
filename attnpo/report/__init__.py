"""From derived tables to what people read: Table 1, its findings, figures."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from attnpo.profile import Profile
from attnpo.report import figures, tables
from attnpo.results import atomic_write_text


def write_report(profile: Profile, results_dir: Path, console: Console) -> None:
    """Write `table1.{md,csv,tex}` and `figures/` from `derived/*.csv`, and print the table.

    Args:
        profile: what was asked for; runs that are missing stay "not run".
        results_dir: results/<profile>.
        console: where the table is printed.

    Raises:
        AttnPOError: derived tables or reference values are missing or cannot be read.
    """
    problems, runs = tables.read_derived(results_dir)
    table = tables.build_table1(profile, problems, runs)
    atomic_write_text(results_dir / "table1.md", tables.to_markdown(table))
    atomic_write_text(results_dir / "table1.csv", tables.to_csv(table))
    atomic_write_text(results_dir / "table1.tex", tables.to_latex(table))
    folder = results_dir / "figures"
    figures.pareto(table.blocks[0], folder / "pareto", quick=profile.quick)
    for probe in runs.loc[runs["kind"] == "probe", "run_id"]:
        for figure in (results_dir / "raw" / probe / "figures").glob("heads.*"):
            shutil.copyfile(figure, folder / figure.name)
    tables.print_table(table, console)
    console.print(f"written to {results_dir}: table1.md, .csv, .tex and figures/", markup=False, soft_wrap=True)
