"""The tables and figures by name, each written from `derived/`; nothing is run or computed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from attnpo.report.evaluated import (
    draw_budget,
    draw_pareto,
    draw_pass_at_k,
    draw_strengths,
    responses_behind,
    table_of,
)
from attnpo.report.formats import write_table
from attnpo.report.rendered import Rendered
from attnpo.report.studied import draw_heads, draw_stability
from attnpo.report.trained import draw_curves, draw_phrases
from attnpo.runs.profile import Profile


class Artefact(NamedTuple):
    """A table or figure."""

    title: str
    write: Callable[[Profile, Path], Rendered]
    """From the profile, narrowed to the artefact, and results/<profile>."""


def artefact_of(name: str) -> Artefact:
    """The artefact of a name; names that are not in `ARTEFACTS` are tables of the methods that the profile lists."""
    return ARTEFACTS.get(name) or _table(name, f"Table: {name}")


def write_artefact(profile: Profile, name: str, results_dir: Path) -> Rendered:
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


def _table(name: str, title: str) -> Artefact:
    def write(profile: Profile, results_dir: Path) -> Rendered:
        table = table_of(profile, results_dir, title, published=name == "table1")
        write_table(table, results_dir, name)
        return Rendered([table], [], responses_behind(table))

    return Artefact(title, write)


ARTEFACTS = {
    "table1": _table("table1", "Table 1: main results"),
    "table2": _table("table2", "Table 2: out of domain"),
    "table3": _table("table3", "Table 3: ablations"),
    "fig_pareto": Artefact("Accuracy against tokens", draw_pareto),
    "fig_strength": Artefact("Accuracy against tokens as the penalty grows", draw_strengths),
    "fig_curves": Artefact("What training does", draw_curves),
    "fig_budget": Artefact("Accuracy at token budgets", draw_budget),
    "fig_passk": Artefact("pass@k", draw_pass_at_k),
    "fig_heads": Artefact("Key-Focus Heads: ranking, ensemble, intervention", draw_heads),
    "fig_stability": Artefact("Stability of the heads under training", draw_stability),
    "fig_phrases": Artefact("Phrases over training", draw_phrases),
}
"""Name, that of the script under reproduce/ too -> artefact, in the order of the page."""
