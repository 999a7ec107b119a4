"""The report of the GPU check as tables."""

from __future__ import annotations

from typing import Any

from gpu_pieces import PIECES


def markdown(report: dict[str, Any]) -> str:
    """A table a piece, under where and with what it was measured."""
    there = report["environment"]
    memory = "" if there["memory_gib"] is None else f", {there['memory_gib']:g} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in there["versions"].items() if version)
    git = there["git"]
    commit = "no commit known" if git["commit"] is None else f"commit {git['commit'][:12]}"
    lines = [f"# {there['device']}{memory}", ""]
    lines += ["In miniature: these figures say only that the pieces run.", ""] if report["small"] else []
    lines += [f"Made by `{report['command']}`, {commit}{', changed' if git['dirty'] else ''}."]
    lines += [f"Driver {there['driver'] or 'none'}, CUDA {there['cuda'] or 'none'}; {there['host']['cpu']},"]
    lines += [f"{there['host']['cores']} cores; {versions}."]
    for name, piece in report["pieces"].items():
        lines += ["", f"## {name}", "", PIECES[name].what, ""]
        lines += [f"{piece['status'][0].upper()}{piece['status'][1:]}; {piece.get('seconds', 0):.0f} s in all.", ""]
        lines += table(piece["rows"])
    return "\n".join(lines).rstrip() + "\n"


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The rows with all of their columns; why one was skipped or failed stands in its last one."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row if name not in ("skipped", "error")))
    notes = [column for column in ("skipped", "error") if any(column in row for row in rows.values())]
    if not rows:
        return []
    lines = ["| | " + " | ".join([*columns, *notes]) + " |", "|---|" + "---:|" * len(columns) + "---|" * len(notes)]
    for name, row in rows.items():
        lines.append("| " + " | ".join([name, *(cell(row.get(column)) for column in [*columns, *notes])]) + " |")
    return lines


def cell(value: Any) -> str:
    """A value for a table: four digits, thousands apart, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, str):
        return value.replace("|", "/")
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:.4g}"
