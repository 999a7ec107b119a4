"""`results/<profile>/index.html`: every table and figure on one static page, and how each was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attnpo.files import atomic_write_text
from attnpo.report.formats import lines_of
from attnpo.report.rendered import Rendered
from attnpo.report.templates import template
from attnpo.runs.profile import Profile


class Section(NamedTuple):
    """One artefact on the page."""

    name: str
    title: str
    command: str
    rendered: Rendered | None
    """None: there is nothing to show."""
    about: str
    """n, seeds, runs and date."""
    missing: str
    """What was not run, or why there is nothing to show; empty: it is complete."""


def write_page(profile: Profile, results_dir: Path, sections: Sequence[Section]) -> Path:
    """Write the page. Links are relative; no script, no font and no style from elsewhere.

    Args:
        profile: whose results they are.
        results_dir: results/<profile>.
        sections: in order.
    """

    def images_of(section: Section) -> list[tuple[str, str]]:
        figures = section.rendered.figures if section.rendered else []
        return [(png.relative_to(results_dir).with_suffix("").as_posix(), caption) for png, caption in figures]

    heading = f"Results, profile {profile.name}{' — QUICK RUN, not the reproduction' if profile.quick else ''}"
    page = template("page.html.j2").render(heading=heading, sections=sections, lines_of=lines_of, images_of=images_of)
    path = results_dir / "index.html"
    atomic_write_text(path, page)
    return path
