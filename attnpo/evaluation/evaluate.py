"""Evaluate a model through lm-eval, in this process. Every sample is stored as soon as its batch is generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from attnpo.errors import AttnPOError
from attnpo.evaluation.lm_eval_hook import tasks_folder
from attnpo.evaluation.responses import sample_lines
from attnpo.evaluation.settings import RESPONSES_FOLDER
from attnpo.evaluation.tasks import check_consent
from attnpo.files import atomic_write_jsonl
from attnpo.sampling.decoding import SkipFinishedRows

SAMPLES_FILE = "samples.jsonl"


def run_eval(
    model_path: str,
    tasks: list[str],
    out_dir: Path,
    *,
    samples: int | None,
    temperature: float,
    top_p: float,
    max_tokens: int,
    batch_size: int,
    seed: int,
    limit: int | None = None,
    suffix: str = "",
    revision: str | None = None,
    confirm_run_unsafe_code: bool = False,
) -> Path:
    """Sample responses of a model to the problems of our tasks and write them to a file, one a line.

    Responses are stored as they are generated, so an evaluation that was killed continues when it is called again.

    Args:
        model_path: a folder or hub name that `transformers` loads; its tokenizer's chat template is applied.
        tasks: names of tasks or groups, such as `attnpo_testbed`.
        out_dir: where `samples.jsonl` is written, once it is complete. `responses/` holds the responses so far; the
            caller deletes it when it needs no resuming any more.
        samples: k, the number of responses to each problem; None: each task's own number.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling; there is no top-k cut.
        max_tokens: budget of a response, in tokens.
        batch_size: responses generated at once.
        seed: of sampling.
        limit: take only the first this many problems of each task; None: all.
        suffix: appended to each problem, such as ` Think for 80 tokens.`.
        revision: of a model on the hub; None: its main branch.
        confirm_run_unsafe_code: the user's consent to tasks that run programs written by the model.

    Returns:
        Path of the file. Its lines have task, problem_id, k, text, correct, parse_failed, reason, thinking,
        think_tags, tokens {total, thinking, answer}, finish, counted, seed, meta {chain or subject}, steps (number by
        the oracle's label, and sums).

    Raises:
        AttnPOError: a task is not one of ours or needs consent, a number is out of range, or the budget exceeds the
            model's context.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    if (samples is not None and samples < 1) or max_tokens < 1 or batch_size < 1 or temperature < 0:
        raise AttnPOError(
            f"samples, max_tokens and batch_size must be >= 1 and temperature >= 0, "
            f"not {samples}, {max_tokens}, {batch_size}, {temperature}"
        )
    check_consent(tasks, confirm_run_unsafe_code)
    responses = (Path(out_dir) / RESPONSES_FOLDER).resolve()
    manager = task_manager({"resume": str(responses)})
    loaded = load_tasks(tasks, manager)
    generation = {
        "do_sample": temperature > 0,
        "temperature": float(temperature),
        "top_p": top_p,
        "top_k": 0,
        "max_gen_toks": max_tokens,
    }
    for task in loaded.values():
        if samples is not None:
            task.set_config(key="repeats", value=samples)
        task.set_config(key="generation_kwargs", value=generation, update=True)
        if suffix:
            _append_to_prompt(task, suffix)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # An absolute path cannot be taken for a hub name.
    pretrained = str(Path(model_path).resolve()) if Path(model_path).is_dir() else model_path
    # On a CPU, sdpa is slower than eager attention for the single query row of a decoding step.
    backend = {"attn_implementation": "eager"} if device == "cpu" else {}
    model = HFLM(pretrained=pretrained, revision=revision or "main", batch_size=batch_size, device=device, **backend)
    if model.max_length <= max_tokens:
        raise AttnPOError(f"a budget of {max_tokens} tokens leaves no room in the model's {model.max_length}; lower it")
    with SkipFinishedRows(model.model, model.model.generation_config.eos_token_id):
        results: Any = lm_eval.simple_evaluate(
            model=model,
            tasks=list(loaded.values()),
            task_manager=manager,
            limit=limit,
            apply_chat_template=bool(getattr(model.tokenizer, "chat_template", None)),
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
        )
    lines = [
        line
        for name in loaded
        for asked in results["samples"][name]
        for line in sample_lines(name, asked["doc"]["id"], asked["doc"], asked["responses"])
    ]
    path = Path(out_dir) / SAMPLES_FILE
    atomic_write_jsonl(path, lines)
    return path


def task_manager(metadata: dict[str, Any] | None = None) -> Any:
    """lm-eval's task manager with only our tasks: reading its own thousands takes longer than our evaluation.

    Args:
        metadata: the content of `--metadata`.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=tasks_folder(), include_defaults=False, metadata=metadata)


def load_tasks(names: list[str], manager: Any = None) -> dict[str, Any]:
    """Our tasks of these names, with groups resolved: name -> task.

    Raises:
        AttnPOError: a name is not one of ours, or a task's data is out of reach.
    """
    manager = manager or task_manager()
    known = set(manager.all_tasks)
    if unknown := [name for name in names if name not in known]:
        ours = sorted(name for name in known if name.startswith("attnpo_"))
        raise AttnPOError(f"there is no task {unknown[0]!r}; ours are {', '.join(ours)}")
    return manager.load(list(names))["tasks"]


def _append_to_prompt(task: Any, suffix: str) -> None:
    """Append `suffix` to the problem, which the task's YAML gives as a template."""
    template = task.config.doc_to_text
    if not isinstance(template, str):
        raise AttnPOError(
            f"{task.config.task}: its doc_to_text is no template, so nothing can be appended to it; use a task whose is"
        )
    task.set_config(key="doc_to_text", value=f"{template}{suffix}")


def problems_of(task: Any, limit: int | None = None) -> list[dict[str, Any]]:
    """The documents of a task in an evaluation with this limit, in order."""
    return [dict(doc) for _, doc in task.doc_iterator(rank=0, limit=limit, world_size=1)]
