"""What the YAML files of our lm-eval tasks say: the groups, and which tasks run programs that a model wrote.

Wherever a task is named, the path of a data file may stand too: a task of its problems, asked and graded as the math
tasks are. The task's name is the file's without its ending.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attnpo.errors import AttnPOError
from attnpo.evaluation.lm_eval_hook import tasks_folder
from attnpo.files import canonical_json, sha256_file
from attnpo.problems import training_sets
from attnpo.problems.benchmarks import DATA_VARIABLE
from attnpo.problems.problem import problems_digest

FILE_TASK = "attnpo_file"
"""The task whose YAML file says how the problems of data files are asked. Its own name is for lm-eval alone."""


def _task_configs() -> Iterator[dict[str, Any]]:
    """The contents of our lm-eval YAML files."""
    folder = tasks_folder()
    for path in sorted(Path(folder).rglob("*.yaml")) if folder else []:
        content = _read(path)
        if isinstance(content, dict):
            yield {"path": path, **content}


def _read(path: Path) -> Any:
    """A YAML file of lm-eval, with `!function` read as text. It is parsed again only if the file has changed."""
    found = path.stat()
    return _parsed(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _parsed(path: Path, size: int, changed: int) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def as_text(loader: yaml.SafeLoader, node: Any) -> Any:
        return loader.construct_scalar(node)

    Loader.add_constructor("!function", as_text)
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


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


def check_tasks(names: Iterable[str], confirmed: bool) -> None:
    """Check that tasks and groups are ours, and that the user agreed if one of them runs programs that a model wrote.

    Raises:
        AttnPOError: one is neither ours nor a data file, or runs such programs while `confirmed` is false; or as
            `data_files`.
    """
    groups, names = task_groups(), list(names)
    known, files = _known() - {FILE_TASK}, data_files(names).values()
    if unknown := [name for name in names if name not in known and name not in files]:
        raise AttnPOError(
            f"there is no task {unknown[0]!r}; ours are {', '.join(sorted(known))}; problems of your own are named by "
            f"their file ({', '.join(training_sets.FILES)}), and attnpo split makes files of a hub data set"
        )
    wanted = {task for name in names for task in groups.get(name, [name])}
    unsafe = {str(content["task"]) for content in _task_configs() if content.get("unsafe_code")} & wanted
    if unsafe and not confirmed:
        raise AttnPOError(
            f"{', '.join(sorted(unsafe))} runs programs that the model writes, in a sandbox; "
            "agree with --confirm-run-unsafe-code, or take it out of the tasks"
        )


def _known() -> set[str]:
    """The names of our tasks and groups."""
    return {str(content.get("group") or content["task"]) for content in _task_configs()}


def data_files(names: Iterable[str]) -> dict[str, str]:
    """The data files among the names of tasks: the file's own name without its ending -> its path, as given.

    What is neither a name of ours nor a path is left out.

    Raises:
        AttnPOError: two files have one name, or one has that of a task or group of ours.
    """
    paths, files = [name for name in names if training_sets.is_local(name)], dict[str, str]()
    known = _known() if paths else set()
    for file in (path for path in paths if path not in known):
        name = Path(file).stem
        if name in known or files.setdefault(name, file) != file:
            other = "a task of ours" if name in known else files[name]
            raise AttnPOError(
                f"{file}: in tables its name would be {name!r}, which is that of {other}; rename the file, or leave "
                "one of the two out"
            )
    return files


def task_names(names: Iterable[str]) -> list[str]:
    """The names with those of data files in place of their paths; raises as `data_files`."""
    names = list(names)
    of_files = {file: name for name, file in data_files(names).items()}
    return [of_files.get(name, name) for name in names]


def tasks_identity(names: Iterable[str]) -> dict[str, str]:
    """What tells an evaluation of these tasks, groups or data files from another: task -> SHA-256.

    It covers all that the task's YAML file and those it includes say (prompt, samples a problem, sampling, pinned
    sources), and the problems where they are read from the folder in `ATTNPO_DATA` or from a data file.

    Raises:
        AttnPOError: a data file that cannot be read, see `attnpo.problems.training_sets.load`; or as `data_files`.
    """
    names = list(names)
    files, found = data_files(names), {}
    for task, said in _said(names).items():
        benchmark = next((c["metadata"].get("benchmark") for c in said if c.get("metadata")), None)
        data = [sha256_file(path) for path in _local_files(str(benchmark))]
        if task in files:
            data = [_digest_of(files[task])]
        content = [{key: value for key, value in c.items() if key != "path"} for c in said]
        about = [content, data[0] if len(data) == 1 else data or None]
        found[task] = hashlib.sha256(canonical_json(about).encode()).hexdigest()
    return found


def generation_arguments(
    names: Iterable[str], temperature: float | None = None, top_p: float | None = None, max_tokens: int | None = None
) -> dict[str, dict[str, Any]]:
    """How the tasks, or those of the groups, are decoded, by lm-eval's arguments; None leaves what the YAML says."""
    given = {"temperature": temperature, "top_p": top_p, "max_gen_toks": max_tokens}
    changes = {name: value for name, value in given.items() if value is not None}
    return {
        task: {**next(c["generation_kwargs"] for c in said if "generation_kwargs" in c), **changes}
        for task, said in _said(names).items()
    }


def _digest_of(file: str) -> str:
    """`problems_digest` of a data file. It is read again only if it has changed."""
    path = Path(file).expanduser()
    return _read_digest(file, sha256_file(path) if path.is_file() else "")


@functools.cache
def _read_digest(file: str, content: str) -> str:
    return problems_digest(training_sets.load(file, ""))


def _said(names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Task -> the contents of its YAML file and of those it includes, in this order; groups are resolved."""
    groups, names = task_groups(), list(names)
    configs = {str(content["task"]): content for content in _task_configs() if "group" not in content}
    found = {}
    wanted = {task: task for name in names for task in groups.get(name, [name]) if task in configs}
    wanted |= dict.fromkeys(data_files(names), FILE_TASK)
    for task, config in sorted(wanted.items()):
        said = found[task] = [configs[config]]
        while include := said[-1].get("include"):
            path = (said[-1]["path"].parent / include).resolve()
            said.append({"path": path, **_read(path)})
    return found


def _local_files(benchmark: str) -> list[Path]:
    """The files in the user's folder of data that a benchmark is read from: one, or those of LiveCodeBench."""
    if not os.environ.get(DATA_VARIABLE):
        return []
    folder = Path(os.environ[DATA_VARIABLE]).expanduser()
    return [path for path in (folder / f"{benchmark}.jsonl",) if path.is_file()] or sorted(
        (folder / benchmark).glob("*.jsonl")
    )
