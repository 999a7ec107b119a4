"""What the YAML files of our lm-eval tasks say: the groups, and which tasks run programs that a model wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attnpo.errors import AttnPOError


def _task_configs() -> Iterator[dict[str, Any]]:
    """The contents of our lm-eval YAML files, with `!function` read as text."""
    import yaml

    from attnpo.evaluation.lm_eval_hook import tasks_folder

    class Loader(yaml.SafeLoader):
        pass

    def as_text(loader: yaml.SafeLoader, node: Any) -> Any:
        return loader.construct_scalar(node)

    Loader.add_constructor("!function", as_text)
    folder = tasks_folder()
    for path in sorted(Path(folder).rglob("*.yaml")) if folder else []:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
        if isinstance(content, dict):
            yield content


def task_groups() -> dict[str, list[str]]:
    """Our lm-eval groups: name -> tasks, including those of groups inside the group."""
    members: dict[str, list[str]] = {}
    for content in _task_configs():
        if "group" in content:
            entries = content.get("task") or []
            members[content["group"]] = [e if isinstance(e, str) else e.get("task") or e.get("group") for e in entries]

    def unfold(name: str) -> list[str]:
        return [task for member in members[name] for task in (unfold(member) if member in members else [member])]

    return {name: unfold(name) for name in members}


def check_consent(names: Iterable[str], confirmed: bool) -> None:
    """Check that the user agreed if a task or group runs programs that a model wrote.

    Raises:
        AttnPOError: one of them does, and `confirmed` is false.
    """
    groups = task_groups()
    wanted = {task for name in names for task in groups.get(name, [name])}
    unsafe = {str(content["task"]) for content in _task_configs() if content.get("unsafe_code")} & wanted
    if unsafe and not confirmed:
        raise AttnPOError(
            f"{', '.join(sorted(unsafe))} runs programs that the model writes, in a sandbox; "
            "agree with --confirm-run-unsafe-code, or take it out of the tasks"
        )
