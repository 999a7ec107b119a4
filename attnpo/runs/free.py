"""An evaluation of any model, without a profile."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import attnpo
from attnpo.evaluation.settings import FreeEvaluation
from attnpo.evaluation.tasks import check_tasks, generation_arguments, task_names, tasks_identity
from attnpo.runs.store import Run
from attnpo.schema import check_seed
from attnpo.testbed import check_model, model_identity


def free_run(options: FreeEvaluation, seed: int, folder: Path) -> Run:
    """The run under `folder`, there or not yet; what determines it are the options, the model and the tasks."""
    spec = {
        "kind": "eval",
        "method": Path(options.model).name,
        "seed": check_seed(seed),
        "model": model_identity(options.model, options.revision),
        "attnpo": attnpo.__version__,
        "evaluate": {**given(asdict(options)), "tasks": task_names(options.tasks)},
        "tasks": tasks_identity(options.tasks),
        "generation": generation_arguments(options.tasks, options.temperature, options.top_p, options.max_tokens),
    }
    return Run.at(folder, spec)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set."""
    return {name: value for name, value in options.items() if value is not None}


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line."""
    words: list[str] = []
    for name, value in given(options).items():
        words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]
    return words


def evaluate_any(options: FreeEvaluation, seed: int, folder: Path, processes: int | None, consent: bool) -> Path:
    """Sample and grade, unless that is done already; the path of samples.jsonl.

    Args:
        options: the model, the tasks and how to sample.
        seed: of sampling.
        folder: of the runs.
        processes: see `attnpo.evaluation.evaluate.run_eval`.
        consent: the user's, to tasks that run what the model writes.

    Raises:
        AttnPOError: as `attnpo.evaluation.evaluate.run_eval`.
    """
    check_tasks(options.tasks, consent)
    if options.backend != "server":
        check_model(options.model)
    run = free_run(options, seed, folder)
    words = ["attnpo", "eval", "--seed", str(seed), *(["--confirm-run-unsafe-code"] if consent else [])]
    words += option_words(asdict(options))

    def work(run_folder: Path) -> Iterable[Path]:
        from attnpo.evaluation.evaluate import run_eval

        asked: dict[str, Any] = asdict(options)
        how: dict[str, Any] = {"seed": seed, "processes": processes, "confirm_run_unsafe_code": consent}
        return [run_eval(asked.pop("model"), asked.pop("tasks"), run_folder, **asked, **how)]

    run.compute(shlex.join(words), work, {"profile": None, "quick": False})
    return run.folder / "samples.jsonl"
