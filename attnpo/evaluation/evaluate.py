"""Evaluate a model on tasks of ours: sample through `attnpo.sampling`, then grade. Each response is stored as it comes.

lm-eval gives the tasks: problems, prompts, how to decode, and what is computed of a problem's responses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnpo.errors import AttnPOError
from attnpo.evaluation.lm_eval_hook import tasks_folder
from attnpo.evaluation.questions import FIELDS, Decoding, Question, answers, ask, is_answered
from attnpo.evaluation.responses import sample_lines
from attnpo.evaluation.server import chat_prompt, connect, is_chat
from attnpo.evaluation.settings import RESPONSES_FOLDER, EvaluationBackend, check_address
from attnpo.evaluation.tasks import FILE_TASK, check_tasks, data_files, generation_arguments
from attnpo.files import atomic_write_jsonl
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import context_of, load_tokenizer, model_config
from attnpo.sampling.sampler import Sampler, check_room, prompt_ids
from attnpo.sampling.store import SampleFile

logger = logging.getLogger(__name__)

SAMPLES_FILE = "samples.jsonl"
GRADED_AT_ONCE = 64
"""Problems whose responses are in memory, to be graded."""


def run_eval(
    model: str,
    tasks: list[str],
    out_dir: Path,
    *,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    limit: int | None = None,
    suffix: str = "",
    revision: str | None = None,
    confirm_run_unsafe_code: bool = False,
    backend: EvaluationBackend = "hf",
    base_url: str | None = None,
    processes: int | None = None,
) -> Path:
    """Sample responses of a model to the problems of our tasks and write them to a file, one a line.

    Responses are stored as they come, so an evaluation that was killed continues when it is called again.

    Args:
        model: `testbed`, the embedded one, a folder or a hub id; its tokenizer's chat template is applied. With a
            server, also the name under which the server knows it.
        tasks: names of tasks or groups, such as `attnpo_testbed`, and data files, see `attnpo.evaluation.tasks`.
        out_dir: where `samples.jsonl` is written, once it is complete. `responses/` holds the responses so far; the
            caller deletes it when it needs no resuming any more.
        samples: k, the number of responses to each problem; None: each task's own number.
        temperature: 0 is greedy decoding; None: each task's own.
        top_p: nucleus sampling; there is no top-k cut. None: each task's own.
        max_tokens: budget of a response, in tokens; None: each task's own.
        batch_size: `hf`: responses generated at once; `server`: requests at once.
        seed: of sampling.
        limit: take only the first this many problems of each task; None: all.
        suffix: appended to each problem, such as ` Think for 80 tokens.`.
        revision: of a model on the hub; None: its main branch.
        confirm_run_unsafe_code: the user's consent to tasks that run programs written by the model.
        backend: see `EvaluationBackend`.
        base_url: the server's whole address, such as `http://localhost:8000/v1/completions`.
        processes: how many sample side by side; None: one a visible GPU. The samples do not depend on it.

    Returns:
        Path of the file. Its lines have task, problem_id, k, text, correct, parse_failed, reason, thinking,
        think_tags, tokens {total, thinking, answer}, finish, counted, seed, meta {chain or subject}, steps (number by
        the oracle's label, and sums).

    Raises:
        AttnPOError: a task is not one of ours or needs consent, a number is out of range, the model cannot be loaded,
            or the budget exceeds its context.
    """
    if (samples is not None and samples < 1) or batch_size < 1 or (limit is not None and limit < 1):
        raise AttnPOError(f"samples, batch_size and limit must be >= 1, not {samples}, {batch_size}, {limit}")
    check_address(backend, base_url)
    if backend == "server" and processes not in (None, 1):
        raise AttnPOError(f"{processes} processes with backend server: one asks; batch_size is its requests at once")
    check_tasks(tasks, confirm_run_unsafe_code)
    loaded = load_tasks(tasks, {"tokenizer": model})
    arguments = generation_arguments(tasks, temperature, top_p, max_tokens)
    decodings = {name: Decoding.of(arguments[name], name) for name in loaded}
    asked = [(name, document) for name, task in loaded.items() for document in problems_of(task, limit)]
    texts = [loaded[name].doc_to_text(document) + suffix for name, document in asked]
    chat = base_url is not None and is_chat(base_url)
    tokenizer = None if chat else load_tokenizer(model, revision)
    prompts: Sequence[Any] = list(map(chat_prompt, texts)) if tokenizer is None else prompt_ids(tokenizer, texts)
    questions = [
        Question(name, document["id"], prompt, samples or loaded[name].config.repeats, decodings[name])
        for (name, document), prompt in zip(asked, prompts, strict=True)
    ]

    def sampler() -> Sampler:
        if base_url is not None:
            return connect(base_url, model, batch_size)
        if backend == "hf":
            context = context_of(model_config(model, revision))
            for one in questions:
                check_room([one.prompt], one.decoding.max_new_tokens, context)
        longest = max(len(one.prompt) + one.decoding.max_new_tokens for one in questions)
        return make_sampler(
            "vllm" if backend == "vllm" else "hf",
            model,
            revision,
            batch_size=batch_size,
            max_model_len=longest,
            processes=processes,
        )

    def lines(file: SampleFile) -> Iterator[dict[str, Any]]:
        for start in range(0, len(asked), GRADED_AT_ONCE):
            part = range(start, min(start + GRADED_AT_ONCE, len(asked)))
            found = [answers(file, questions[i], tokenizer) for i in part]
            for name, task in loaded.items():
                task.prepare([(asked[i][1], of) for i, of in zip(part, found, strict=True) if asked[i][0] == name])
            for i, of in zip(part, found, strict=True):
                name, document = asked[i]
                figures = loaded[name].process_results(document, [of])
                yield from sample_lines(name, document["id"], document, figures["responses"])

    path = Path(out_dir) / SAMPLES_FILE
    with SampleFile(Path(out_dir) / RESPONSES_FOLDER / SAMPLES_FILE, FIELDS) as file:
        if not is_answered(file, questions):
            logger.info("%d responses are there, of %d", len(file), sum(one.k for one in questions))
            with sampler() as working:
                ask(file, working, questions, seed)
        atomic_write_jsonl(path, lines(file))
    return path


def task_manager(metadata: dict[str, Any] | None = None) -> Any:
    """lm-eval's task manager with only our tasks: reading its own thousands takes longer than our evaluation.

    Args:
        metadata: the content of `--metadata`.
    """
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=tasks_folder(), include_defaults=False, metadata=metadata)


def load_tasks(names: list[str], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Our tasks of these names, with groups resolved, and those of data files: name -> task.

    Args:
        names: of tasks, groups and data files.
        metadata: the content of `--metadata`.

    Raises:
        AttnPOError: a task's data is out of reach, or a data file cannot be read.
    """
    files = {file: name for name, file in data_files(names).items()}

    def of_file(file: str) -> Any:
        task = task_manager({**(metadata or {}), "file": file}).load(FILE_TASK)["tasks"][FILE_TASK]
        task.config.task = files[file]
        return task

    return task_manager(metadata).load([of_file(name) if name in files else name for name in names])["tasks"]


def problems_of(task: Any, limit: int | None = None) -> list[dict[str, Any]]:
    """The documents of a task in an evaluation with this limit, in order."""
    return [dict(doc) for _, doc in task.doc_iterator(rank=0, limit=limit, world_size=1)]
