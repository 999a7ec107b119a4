"""The floors of the house: a module imports from its own floor or from one below, and never in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnpo"

FLOORS = [
    "errors steps attention decoding scoring heads credit metrics estimates lengths resume data responses profile"
    " results benchmarks lm_eval_hook rewards testbed sandbox _sandbox_runner livecodebench",
    "labels generation trainer training evaluate check lm_eval_task report tasks",
    "probe",
    "studies",
    "runner cli",
]
"""The first name under attnpo of each module, from the ground up; a subpackage lives on one floor."""

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}

PURE = ["steps", "attention", "heads", "credit", "metrics", "estimates", "scoring"]
PURE += [f"rewards.{path.stem}" for path in (PACKAGE / "rewards").glob("[a-z]*.py") if path.stem != "correctness"]
ENGINES = {"trl", "lm_eval", "datasets", "accelerate", "attnpo.results", "attnpo.profile", "attnpo.data"}


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


def test_every_module_has_a_floor() -> None:
    assert {name.split(".")[0] for name in modules()} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(modules()))
def test_no_import_goes_up(name: str) -> None:
    floor = FLOOR[name.split(".")[0]]
    above = {other for other in own(imports(modules()[name])) if FLOOR[other.split(".")[0]] > floor}
    assert not above, f"{name} is on floor {floor + 1} and imports {sorted(above)} from above it"


def test_no_circles() -> None:
    graph = {name: own(imports(path)) - {name} for name, path in modules().items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which shows the circle


@pytest.mark.parametrize("name", PURE)
def test_the_pure_core_knows_no_engine_and_no_files(name: str) -> None:
    found = {i for i in imports(modules()[name]) if i in ENGINES or i.split(".")[0] in ENGINES}
    assert not found, f"{name} imports {sorted(found)}"


@pytest.mark.parametrize("name", ["errors", "profile", "results", "runner", "cli"])
def test_what_a_second_call_needs_imports_no_torch_at_the_top(name: str) -> None:
    heavy = {i.split(".")[0] for i in imports(modules()[name], everywhere=False)}
    assert not heavy & {"torch", "transformers", "trl", "lm_eval", "pandas", "matplotlib"}
