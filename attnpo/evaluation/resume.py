"""Evaluations that survive `kill -9`: a resumed run gives the samples of an uninterrupted one.

lm-eval asks for all responses in one call and returns them at its end. `install` wraps `generate_until` of every model
class (hf, vllm, API) from the outside. Requests that `attach` has marked are generated in seeded chunks, and each chunk
is on the disk before the next one begins. The same command then asks only for what is missing. All other requests are
passed on unchanged.

Greedy responses are asked for once, whatever k is.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError
from attnpo.evaluation.response_store import Store, Stored, with_seed
from attnpo.evaluation.seeds import derive, is_greedy, run_seed, seeded, seeding, stable_json

logger = logging.getLogger(__name__)

VARIABLE = "ATTNPO_RESUME"
"""Environment variable with the folder of stored responses, for a task whose metadata names none."""

VLLM_CHUNK = 2048
"""Responses in a chunk if vLLM batches by itself. While the last responses of a chunk end, the engine is not full;
with eight times its default of 256 sequences, that is a small share of the time."""
CONCURRENT_CHUNK = 16
"""Requests in a chunk for each of an API model's concurrent requests, for the same reason."""
OTHER_CHUNK = 64
"""Responses in a chunk of a backend whose batch size is not known."""

# Arguments of a model that say how it runs, not which model it is. If one is missing here, a resumed run asks again;
# one too many, and it would take another model's responses.
_EXECUTION = {
    *("batch_size", "max_batch_size", "device", "device_map", "parallelize", "max_memory_per_gpu", "offload_folder"),
    *("tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "max_num_seqs", "distributed_executor"),
    *("num_concurrent", "max_retries", "timeout", "verify_certificate", "ca_cert_path", "auth_token"),
}
_NOT_THE_MODEL = _EXECUTION | {"samples", "resume", "chunk", "data_dir", "config_source"}

# Files of a model's folder that identify it.
_WEIGHTS = {".safetensors", ".bin", ".gguf", ".pt", ".pth"}
_SETTINGS = ("config", "generation_config", "adapter_config", "tokenizer", "chat_template", "vocab", "merges")


class Plan(NamedTuple):
    """How the requests of a task are generated."""

    task: str
    folder: Path | None
    """Where responses are stored; None: they are not stored."""
    chunk: int | None
    """Responses between two writes; None: a number that suits the backend."""
    model: dict[str, Any]
    """The model's arguments, as far as lm-eval passes them to tasks."""


def plan(task: str, metadata: dict[str, Any]) -> Plan:
    """Read `resume` (a folder; without it `ATTNPO_RESUME`) and `chunk` (a number) from a task's metadata.

    Raises:
        AttnPOError: resume is no name, or chunk no number of at least 1.
    """
    folder, chunk = metadata.get("resume", os.environ.get(VARIABLE) or None), metadata.get("chunk")
    if folder is not None and (not isinstance(folder, str) or not folder):
        raise AttnPOError(f"resume is {folder!r} in the metadata of {task}; give the name of a folder")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise AttnPOError(f"chunk is {chunk!r} in the metadata of {task}; give a whole number, at least 1")
    model = {name: value for name, value in metadata.items() if name not in _NOT_THE_MODEL}
    return Plan(task, Path(folder).expanduser() if folder else None, chunk, model)


def attach(requests: Iterable[Any], plan: Plan) -> None:
    """Mark lm-eval's requests to be generated as `plan` says."""
    for request in requests:
        request.attnpo_plan = plan


def install() -> None:
    """Wrap `generate_until` of every model class that is loaded. It is safe to call this again."""
    from lm_eval.api.model import LM

    for cls in _subclasses(LM):
        original = vars(cls).get("generate_until")
        # functools.wraps copies our attribute to a wrapper around ours. Only our own wrapper refers to itself.
        if original is None or getattr(original, "_attnpo_resume", None) is original:
            continue
        wrapper = _wrap(original)
        wrapper._attnpo_resume = wrapper  # type: ignore[attr-defined]
        cls.generate_until = wrapper


def _subclasses(cls: Any) -> Iterator[Any]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _wrap(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    @functools.wraps(original)
    def generate_until(self: Any, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        inside = vars(self).get("_attnpo_generating", False)
        if inside or not any(hasattr(request, "attnpo_plan") for request in requests):
            return original(self, requests, *args, **kwargs)
        ours = [i for i, request in enumerate(requests) if hasattr(request, "attnpo_plan")]
        others = [i for i, request in enumerate(requests) if not hasattr(request, "attnpo_plan")]
        quiet = bool(args[0] if args else kwargs.get("disable_tqdm", False))
        self._attnpo_generating = True
        try:
            texts: dict[int, str] = {}
            if others:
                texts |= zip(others, original(self, [requests[i] for i in others], *args, **kwargs), strict=True)
            with _without_cache_hook(self):
                generated = _generate(self, functools.partial(original, self), [requests[i] for i in ours], quiet)
        finally:
            del self._attnpo_generating
        texts |= zip(ours, generated, strict=True)
        return [texts[i] for i in range(len(requests))]

    return generate_until


@contextmanager
def _without_cache_hook(lm: Any) -> Iterator[None]:
    """Keep lm-eval's `--use_cache` from storing our single responses: it would store the text without its counts.

    It still stores whole calls, for greedy decoding only.
    """
    from lm_eval.api.model import CacheHook

    before = lm.cache_hook
    lm.cache_hook = CacheHook(None)
    try:
        yield
    finally:
        lm.cache_hook = before


@dataclass
class _Job:
    """One response to ask for."""

    request: Any
    prompt: str
    """The prompt as lm-eval built it."""
    places: list[int]
    """Positions in the list of requests that get this response; several for greedy decoding."""
    k: int
    content: str
    """Hash of what is asked; the model is not in it."""
    key: str
    """Hash of all that determines the response, the model included."""

    @property
    def order(self) -> tuple[Any, ...]:
        """Key to sort by: longest prompts first, as in lm-eval. It depends only on what is asked."""
        return -len(self.prompt), self.prompt, self.k, self.content


def _generate(lm: Any, ask: Callable[..., list[str]], requests: Sequence[Any], quiet: bool) -> list[str]:
    """The responses to marked requests, stored ones first; `ask` is the backend's own `generate_until`."""
    from tqdm import tqdm

    mode, base = seeding(lm), run_seed(lm)
    jobs = _jobs(lm, base, requests)
    with ExitStack() as stack:
        folders = {request.attnpo_plan.folder for request in requests} - {None}
        stores = {f: stack.enter_context(closing(Store(f, lm.rank, _writes(lm)))) for f in folders}
        answers = _stored_answers(jobs, stores)
        if len(answers) < len(jobs):
            stack.enter_context(_settled_batch_size(lm))
        if _takes_disable_tqdm(ask):
            ask = functools.partial(ask, disable_tqdm=quiet or mode == "chunk")
        hidden = quiet or lm.rank != 0
        bar = stack.enter_context(tqdm(total=len(jobs), initial=len(answers), desc="Responses", disable=hidden))
        for chunk in _chunks(lm, mode, jobs, answers, bool(stores)):
            responses = _ask(ask, mode, base, chunk)
            answers |= {response.key: response.text for response in responses}
            for folder, store in stores.items():
                pairs = zip(chunk, responses, strict=True)
                store.append([response for job, response in pairs if job.request.attnpo_plan.folder == folder])
            bar.update(len(chunk))
    result: list[str] = [""] * len(requests)
    for job in jobs:
        for place in job.places:
            result[place] = answers[job.key]
    return result


def _stored_answers(jobs: list[_Job], stores: dict[Path, Store]) -> dict[str, str]:
    """The stored responses to `jobs` by key. Requests that need not be asked again get the prompt that was sent."""
    there: dict[str, Stored] = {}
    for store in stores.values():
        there |= store.load()
    answers = {job.key: there[job.key].text for job in jobs if job.key in there}
    asked_again = {id(job.request) for job in jobs if job.key not in answers}
    for job in jobs:  # lm-eval logs the prompts as they were sent
        if id(job.request) not in asked_again and (prompt := there[job.key].prompt) is not None:
            job.request.arguments = (prompt, *job.request.args[1:])
    for folder in stores:
        found, missing = len(answers), len(jobs) - len(answers)
        logger.info("%d of %d responses are in %s; %d to generate", found, len(jobs), folder, missing)
    return answers


def _ask(ask: Callable[..., list[str]], mode: str, base: list[Any], chunk: list[_Job]) -> list[Stored]:
    """Generate the responses of one chunk with their seeds."""
    seeds = [_seed(mode, base, job, chunk) for job in chunk]
    asked = [_with_argument(mode, job.request, seed) for job, seed in zip(chunk, seeds, strict=True)]
    with seeded(seeds[0] if mode == "chunk" else None):
        texts = ask(asked)
    responses = []
    for job, sent, text, seed in zip(chunk, asked, texts, seeds, strict=True):
        request = job.request
        prompt = _prompt(sent) if _prompt(sent) != job.prompt else None
        request.arguments = (sent.args[0], *request.args[1:])
        task, text = request.attnpo_plan.task, with_seed(text, seed)
        responses.append(Stored(job.key, task, request.doc_id, job.k, text, prompt))
    return responses


def _jobs(lm: Any, base: list[Any], requests: Sequence[Any]) -> list[_Job]:
    """The responses to ask for. A request is in the list once for each k."""
    identity = model_identity(lm)
    repeats: Counter[int] = Counter()
    same: Counter[str] = Counter()
    first: dict[int, _Job] = {}
    jobs = []
    for place, request in enumerate(requests):
        k = repeats[id(request)]
        repeats[id(request)] += 1
        prompt, options = _prompt(request), request.args[1]
        greedy = is_greedy(options)
        if greedy and k:
            first[id(request)].places.append(place)
            continue
        plan: Plan = request.attnpo_plan
        doc = request.doc.get("id", request.doc_id) if isinstance(request.doc, dict) else request.doc_id
        content = _hash([plan.task, doc, prompt, options, *([] if greedy else [k, base])])
        same[content] += 1
        if same[content] > 1:  # two problems of which all is equal
            content = _hash([content, same[content]])
        jobs.append(_Job(request, prompt, [place], k, content, _hash([content, identity, plan.model])))
        first.setdefault(id(request), jobs[-1])
    return jobs


def _chunks(lm: Any, mode: str, jobs: list[_Job], answers: dict[str, str], stored: bool) -> list[list[_Job]]:
    """What to ask for, in order.

    A chunk without any stored response is the same as in an uninterrupted run, and so has the same seed.
    """

    def group(job: _Job) -> tuple[str, int]:
        return stable_json(job.request.args[1]), job.k if mode == "repeat" else 0

    ordered = sorted(jobs, key=lambda job: (group(job), job.order))
    if not stored and mode != "chunk":  # nothing is stored, and seeds do not depend on chunks
        return [ordered]
    given = [p.chunk for p in {id(job.request): job.request.attnpo_plan for job in jobs}.values() if p.chunk]
    size = min(given) if given else _chunk_size(lm, mode)
    chunks: list[list[_Job]] = []
    for _, members in groupby(ordered, key=group):
        rest: list[_Job] = []
        for chunk in _cut(list(members), size):
            absent = [job for job in chunk if job.key not in answers]
            if len(absent) == len(chunk):
                chunks.append(chunk)
            else:
                rest += absent
        chunks += _cut(rest, size)
    return chunks


def _cut(jobs: list[_Job], size: int) -> list[list[_Job]]:
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


def _chunk_size(lm: Any, mode: str) -> int:
    batch = getattr(lm, "_batch_size" if mode == "repeat" else "batch_size", None)
    number = batch if isinstance(batch, int) and batch > 0 else None
    if mode == "repeat":
        concurrent = getattr(lm, "_concurrent", 1)
        return (number or 1) * (CONCURRENT_CHUNK * concurrent if concurrent > 1 else 1)
    if mode == "request":
        return number or VLLM_CHUNK
    return number or OTHER_CHUNK


@contextmanager
def _settled_batch_size(lm: Any) -> Iterator[None]:
    """With hf's `batch_size=auto`, find the largest batch once instead of once for each chunk."""
    if getattr(lm, "batch_size", None) != "auto" or not hasattr(lm, "batch_size_per_gpu"):
        yield
        return
    lm.batch_size_per_gpu = lm._detect_batch_size()
    logger.info("batch size %d", lm.batch_size_per_gpu)
    try:
        yield
    finally:
        lm.batch_size_per_gpu = "auto"


def _takes_disable_tqdm(ask: Callable[..., Any]) -> bool:
    return "disable_tqdm" in inspect.signature(ask).parameters


def _writes(lm: Any) -> bool:
    # Under tensor parallelism by torchrun, lm-eval takes each process for rank 0. All generate the same responses, so
    # only one of them writes.
    return lm.world_size > 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0


def _seed(mode: str, base: list[Any], job: _Job, chunk: list[_Job]) -> int | None:
    if mode == "none" or is_greedy(job.request.args[1]):
        return None
    if mode == "request":
        return derive(job.content)
    if mode == "repeat":
        return derive(base, job.k)
    return derive([member.content for member in chunk])


def model_identity(lm: Any) -> dict[str, Any]:
    """What identifies a loaded model: class, name, adapters, commit on the hub, number format, server.

    Of a local folder also the files with size and time of change, as their contents are too large to be read.
    """
    config = getattr(lm, "config", None) or getattr(lm, "_config", None)
    model = getattr(lm, "model", None)
    name = model if isinstance(model, str) else getattr(config, "_name_or_path", None)
    adapters = [getattr(lm, attribute, None) for attribute in ("peft", "delta", "lora_local_path")]
    folders = [Path(n) for n in (name, *adapters) if isinstance(n, str) and n and Path(n).is_dir()]
    return {
        "class": type(lm).__qualname__,
        "name": name,
        "adapters": [a if isinstance(a, str) else None for a in adapters],
        "commit": getattr(config, "_commit_hash", None),
        "dtype": str(getattr(model, "dtype", None)),
        "address": getattr(lm, "base_url", None),
        "files": [
            [path.name, path.stat().st_size, path.stat().st_mtime_ns]
            for folder in folders
            for path in sorted(folder.iterdir())
            if path.suffix in _WEIGHTS or path.name.startswith(_SETTINGS)
        ],
    }


def _prompt(request: Any) -> str:
    prompt = request.args[0]
    return str(getattr(prompt, "prompt", prompt))  # lm-eval wraps the chats of API models


def _with_argument(mode: str, request: Any, seed: int | None) -> Any:
    """The request as it is sent: a copy with the seed, if the backend takes the seed as an argument."""
    if seed is None or mode == "chunk":
        return request
    copied = copy.copy(request)
    copied.arguments = (request.args[0], {**request.args[1], "seed": seed}, *request.args[2:])
    return copied


def _hash(value: Any) -> str:
    return hashlib.sha256(stable_json(value).encode()).hexdigest()[:32]
