"""`results/<profile>/index.html`: every table and figure on one static page, and how each was made."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attnpo.files import atomic_write_text
from attnpo.report.artefacts import Made
from attnpo.report.tables import lines_of
from attnpo.runs.profile import Profile

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 0 1rem 4rem; color: #222 }
p, ul { max-width: 60rem }
h1 { line-height: 1.2 } h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem }
.about { color: #555; font-size: .875rem } .missing { color: #a33 }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere }
.wide { overflow-x: auto }
figure { display: inline-block; vertical-align: top; margin: 1rem .5rem 1rem 0; max-width: 100% }
img { max-width: 100%; height: auto; width: 34rem } figcaption { max-width: 34rem }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
"""


class Section(NamedTuple):
    """One artefact on the page."""

    name: str
    title: str
    command: str
    made: Made | None
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
    heading = f"Results, profile {profile.name}{' — QUICK RUN, not the reproduction' if profile.quick else ''}"
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(heading)}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{_text(heading)}</h1>",
        "<ul>",
    ]
    for section in sections:
        state = "" if section.made else " — not run" if not section.about else " — nothing to show"
        lines.append(f'<li><a href="#{_text(section.name)}">{_text(section.title)}</a>{state}</li>')
    lines.append("</ul>")
    for section in sections:
        lines += _section(section, results_dir)
    path = results_dir / "index.html"
    atomic_write_text(path, "\n".join([*lines, "</html>"]) + "\n")
    return path


def _section(section: Section, results_dir: Path) -> list[str]:
    lines = [f'<section id="{_text(section.name)}">', f"<h2>{_text(section.title)}</h2>"]
    lines.append(f'<p class="about"><code>{_text(section.command)}</code><br>{_text(section.about)}</p>')
    if section.missing:
        lines.append(f'<p class="missing">{_text(section.missing)}</p>')
    made = section.made or Made([], [], "")
    for table in made.tables:
        lines += ['<ul class="about">', *(f"<li>{_text(line)}</li>" for line in table.conditions), "</ul>"]
        for block in table.blocks:
            lines += [f"<h3>{_text(block.title)}</h3>", *_grid(*lines_of(block))]
            if block.findings:
                lines += ["<ul>", *(f"<li>{_text(finding)}</li>" for finding in block.findings), "</ul>"]
        for part in table.published:
            lines += [f"<h3>{_text(part.title)}</h3>", f'<p class="about">{_text(part.remark)}</p>']
            lines += _grid(*part.grid())
        if table.published:
            lines.append(f'<p class="about">Sources: {_text(table.sources)}.</p>')
        files = ", ".join(f'<a href="{section.name}.{end}">{section.name}.{end}</a>' for end in ("md", "csv", "tex"))
        lines.append(f'<p class="about">{files}</p>')
    for png, caption in made.figures:
        source = _text(png.relative_to(results_dir).as_posix())
        lines += [
            f'<figure><a href="{source[:-4]}.svg"><img src="{source}" alt="{_text(caption)}" loading="lazy"></a>',
            f'<figcaption class="about">{_text(caption)}</figcaption></figure>',
        ]
    return [*lines, "</section>"]


def _grid(headings: list[str], rows: list[list[str]]) -> list[str]:
    first = "".join(f"<th>{_text(cell)}</th>" for cell in headings)
    lines = [f'<div class="wide"><table><thead><tr>{first}</tr></thead><tbody>']
    lines += [f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return [*lines, "</tbody></table></div>"]


def _text(text: str) -> str:
    return html.escape(text, quote=True)
