"""What an artefact comes to once it is written, and how its figures are titled, grouped and named."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import NamedTuple, TypeVar

from attnpo.report.table import NotRunError, Table
from attnpo.runs.profile import Profile

T = TypeVar("T", bound=Sized)


class Rendered(NamedTuple):
    """The tables and figures of one artefact, written."""

    tables: list[Table]
    figures: list[tuple[Path, str]]
    """PNG files, an SVG of the same name beside each, and what they show."""
    n: str
    """How much is behind it, in words."""


def quick(profile: Profile, title: str) -> str:
    """The title, marked if the profile is a quick run."""
    return f"{title}{' — QUICK RUN' if profile.quick else ''}"


def some(found: T, otherwise: str) -> T:
    """What was found.

    Raises:
        NotRunError: it is empty; `otherwise` says why.
    """
    if len(found) == 0:
        raise NotRunError(otherwise)
    return found


def groups_to_draw(profile: Profile, artefact: str, run: set[str]) -> dict[str, list[str]]:
    """Title -> methods of each figure of an artefact.

    Groups with at least two finished methods (or one, where the group has just one); if none, the first group with a
    finished method. All methods in one figure without a title where the artefact names no groups.

    Args:
        profile: narrowed to the artefact.
        artefact: its name.
        run: the finished methods.
    """
    section = profile.artefacts.get(artefact)
    if section is None or not section.groups:
        return {"": list(profile.methods)}
    some_run = {group: methods for group, methods in section.groups.items() if run.intersection(methods)}
    enough = {
        group: methods for group, methods in some_run.items() if len(run.intersection(methods)) >= min(2, len(methods))
    }
    return enough or dict(list(some_run.items())[:1])


def named(path: Path, group: str) -> Path:
    """The path of a group's figure."""
    return path.with_name("_".join([path.name, *group.lower().split()]))
