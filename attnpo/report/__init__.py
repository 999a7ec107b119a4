"""From derived tables to what people read: tables, their findings, figures, the page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from attnpo.report import tables
from attnpo.report.artefacts import Made, artefact_of
from attnpo.report.page import Section, write_page
from attnpo.report.tables import NotRunError
from attnpo.runs.profile import Profile

__all__ = ["Made", "NotRunError", "Section", "write_artefact", "write_page", "write_report"]

COMPANIONS = ("fig_pareto", "fig_curves", "fig_heads")
"""Figures that need no run of their own beside those of a table: drawn with Table 1, of what is there."""


def write_artefact(profile: Profile, name: str, results_dir: Path) -> Made:
    """Write the files of one artefact from `derived/*.csv`.

    Args:
        profile: what was asked for, not narrowed; runs that are missing stay "not run" or are left out.
        name: of the artefact.
        results_dir: results/<profile>.

    Raises:
        NotRunError: nothing that it is made of has been run.
        AttnPOError: derived tables or reference values cannot be read.
    """
    return artefact_of(name).write(profile.narrowed(name), results_dir)


def write_report(profile: Profile, results_dir: Path, console: Console, name: str = "table1") -> None:
    """Write an artefact, with Table 1 the figures that come with it, and print the tables.

    Args:
        profile, name, results_dir: as in `write_artefact`.
        console: where the tables are printed.

    Raises:
        AttnPOError: as `write_artefact`.
    """
    made = write_artefact(profile, name, results_dir)
    for companion in COMPANIONS if name == "table1" else ():
        try:
            made.figures.extend(write_artefact(profile, companion, results_dir).figures)
        except NotRunError:
            continue
    for table in made.tables:
        tables.print_table(table, console)
    files = [f"{name}.md, .csv, .tex" for _ in made.tables]
    files += [f"{path.relative_to(results_dir).with_suffix('')}.png, .svg" for path, _ in made.figures]
    console.print(f"written to {results_dir}: {'; '.join(files)}", markup=False, soft_wrap=True)
