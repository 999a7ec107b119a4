"""Lets lm-eval find AttnPO's tasks by name, from any folder.

lm-eval has no plugin point for tasks yet (its pull request 4015 would add one). So a `.pth` file, which is installed
with the package, imports this module whenever Python starts. `install` then waits for the import of lm-eval's task
manager and adds our folder to the manager's `include_path`. Without lm-eval nothing happens, and
`ATTNPO_NO_LM_EVAL_HOOK=1` turns it off.

Every start of Python imports this module, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

TARGET = "lm_eval.tasks.manager"
SWITCH = "ATTNPO_NO_LM_EVAL_HOOK"


class Finder:
    """Finds lm-eval's task manager for the import system, once. The module's loader then also calls `extend`."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of lm-eval's task manager; None for every other module."""
        if name != TARGET:
            return None
        if cls in sys.meta_path:
            sys.meta_path.remove(cls)
        from importlib.util import find_spec

        spec = find_spec(name)
        try:
            if spec is not None and spec.loader is not None:
                _extend_when_executed(spec.loader)
        except Exception as error:
            _warn(error)
        return spec


def _extend_when_executed(loader: Any) -> None:
    execute = loader.exec_module

    def execute_and_extend(module: ModuleType) -> None:
        execute(module)
        try:
            extend(module.TaskManager)
        except Exception as error:
            _warn(error)

    loader.exec_module = execute_and_extend


def _warn(error: Exception) -> None:
    # A warning and no error, because evaluations on other tasks must still run.
    import warnings

    message = f"lm-eval cannot see AttnPO's tasks: {type(error).__name__}: {error}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def extend(manager: Any) -> None:
    """Wrap the class's `__init__` so that our folder comes before those that the caller includes.

    If it fails with our folder, it is called again without it, with a warning.
    """
    import functools
    import inspect

    original = manager.__init__
    signature = inspect.signature(original)
    if "include_path" not in signature.parameters:
        raise AttributeError("its TaskManager takes no include_path; install lm-eval==0.4.13")

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            call = signature.bind(self, *args, **kwargs)
            given = call.arguments.get("include_path")
            theirs = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
            ours = tasks_folder()
            if ours is not None and os.path.realpath(ours) not in map(os.path.realpath, theirs):
                call.arguments["include_path"] = [ours, *theirs]
            original(*call.args, **call.kwargs)
        except Exception as error:
            original(self, *args, **kwargs)  # raises if the caller's own arguments are wrong
            _warn(error)

    manager.__init__ = __init__


def tasks_folder() -> str | None:
    """The folder of our task files: the checkout's, or else the installed package's; None if neither exists."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (os.path.join(os.path.dirname(package), "tasks"), os.path.join(package, "tasks")):
        if os.path.isfile(os.path.join(folder, "attnpo_testbed", "attnpo_testbed.yaml")):
            return folder
    return None


def install() -> None:
    """Wait for the import of lm-eval's task manager, unless that is switched off or lm-eval is imported already."""
    if os.environ.get(SWITCH, "") in ("", "0") and TARGET not in sys.modules and Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
