"""The layers of the house: a folder imports from itself or from a layer below, never upwards and never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "attnpo"

LAYERS = [
    "errors",
    "files schema environment",
    "method",
    "rewards problems",
    "testbed",
    "statistics grading sampling",
    "probing",
    "training evaluation",
    "tasks",
    "runs",
    "report",
    "cli",
]
"""Folders and modules under attnpo (and tasks/), from the ground up."""

LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}

ENGINES = {"trl", "lm_eval", "datasets", "accelerate"}
PURE = ("method", "rewards", "statistics")


def modules() -> dict[str, Path]:
    """Every module of the package and of tasks/, by its dotted name under attnpo."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    for path in (ROOT / "tasks").rglob("*.py"):
        found[f"tasks.{'.'.join(path.relative_to(ROOT / 'tasks').with_suffix('').parts)}"] = path
    found.pop("", None)  # attnpo/__init__.py: the version
    return found


def imports(path: Path, *, everywhere: bool = True) -> set[str]:
    """Dotted names imported by a file: with `everywhere`, also inside functions, but not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    """Those of `names` that are modules of ours, as `modules` names them."""
    known = modules()
    return {short for name in names if (short := name.removeprefix("attnpo.")) in known and short != name}


def test_every_folder_has_a_layer() -> None:
    assert {name.split(".")[0] for name in modules()} == set(LAYER)


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_import_goes_up(name: str) -> None:
    folder = name.split(".")[0]
    others = {other for other in own(imports(modules()[name])) if other.split(".")[0] != folder}
    above = {other for other in others if LAYER[other.split(".")[0]] >= LAYER[folder]}
    assert not above, f"{name} is on layer {LAYER[folder] + 1} and imports {sorted(above)}, which is not below it"


def test_no_circles() -> None:
    graph = {name: own(imports(path)) - {name} for name, path in modules().items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which shows the circle


@pytest.mark.parametrize("name", [name for name in sorted(modules()) if name.startswith("method")])
def test_the_method_can_be_read_alone(name: str) -> None:
    foreign = {other for other in own(imports(modules()[name])) if not other.startswith("method")}
    assert foreign <= {"errors"}


@pytest.mark.parametrize("name", [name for name in sorted(modules()) if name.startswith(PURE)])
def test_the_pure_core_knows_no_engine_and_no_files(name: str) -> None:
    found = {i for i in imports(modules()[name]) if i.split(".")[0] in ENGINES or i.startswith("attnpo.files")}
    assert not found, f"{name} imports {sorted(found)}"


LIGHT = ["errors", "files", "schema", "environment", "cli", "probing.settings", "training.settings", "training.shown"]
LIGHT += ["probing.heads", "sampling.settings", "sampling.sampler", "evaluation.check", "evaluation.settings"]
LIGHT += [*(name for name in sorted(modules()) if name.startswith("runs"))]


@pytest.mark.parametrize("name", LIGHT)
def test_what_a_second_call_needs_imports_no_torch_at_the_top(name: str) -> None:
    heavy = {i.split(".")[0] for i in imports(modules()[name], everywhere=False)}
    assert not heavy & {"torch", "transformers", "trl", "lm_eval", "pandas", "matplotlib"}
