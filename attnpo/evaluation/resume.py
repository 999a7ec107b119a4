"""Evaluations that survive `kill -9`, and seeds that make a resumed run give the samples of a straight one.

lm-eval asks for all responses in one call and returns them at its end. `install` wraps `generate_until` of
every model class (hf, vllm, API) from the outside: requests that `attach` has marked go through it in seeded
chunks, and each chunk is appended to a JSON-lines file, flushed to disk, before the next one begins. The same
command asks only for what is missing. Other requests are handed on as they are.

Seeds are derived from the run's seed and from what is asked, never from the model, so that two models are
sampled with equal seeds. Which responses share one depends on what the backend can do:

- vllm: each response its own, so that samples do not depend on what else is in the batch;
- API models: one for each k, as a request takes one for all its prompts (lm-eval itself sends the same seed
  for each k, and a server that honours it gives k equal samples);
- hf: one for each chunk, a batch, since a batch draws from one stream of random numbers;
- other backends are not seeded.

Greedy responses are asked for once, whatever k is.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.evaluation.lengths import Generation, TokenCounts
from attnpo.files import locked

logger = logging.getLogger(__name__)

VARIABLE = "ATTNPO_RESUME"
"""Environment variable: the folder of stored responses, for a task whose metadata names none."""

VLLM_CHUNK = 2048
"""Responses a chunk where vLLM batches by itself. While a chunk's last responses end, the engine is not full:
eight times its default of 256 sequences keep that share small."""
CONCURRENT_CHUNK = 16
"""Likewise, requests a chunk for each of an API model's concurrent requests."""
OTHER_CHUNK = 64
"""Responses a chunk of a backend whose batch size is not known."""

# Of a model's arguments, those that say how it runs and not what it is. One that is missing here costs time (a
# resumed run asks again), one too many would replay another model's responses.
_EXECUTION = {
    *("batch_size", "max_batch_size", "device", "device_map", "parallelize", "max_memory_per_gpu", "offload_folder"),
    *("tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "max_num_seqs", "distributed_executor"),
    *("num_concurrent", "max_retries", "timeout", "verify_certificate", "ca_cert_path", "auth_token"),
}
_NOT_THE_MODEL = _EXECUTION | {"samples", "resume", "chunk", "data_dir", "config_source"}


_WEIGHTS = {".safetensors", ".bin", ".gguf", ".pt", ".pth"}
_SETTINGS = ("config", "generation_config", "adapter_config", "tokenizer", "chat_template", "vocab", "merges")


class Plan(NamedTuple):
    """How the requests of a task are generated."""

    task: str
    folder: Path | None
    """Where responses are stored; None: nowhere."""
    chunk: int | None
    """Responses between two writes; None: as suits the backend."""
    model: dict[str, Any]
    """The model's arguments, as far as lm-eval tells them to tasks."""


def plan(task: str, metadata: dict[str, Any]) -> Plan:
    """Read `resume` (a folder; without it `ATTNPO_RESUME`) and `chunk` (a number) from a task's metadata.

    Raises:
        AttnPOError: values of another kind.
    """
    folder, chunk = metadata.get("resume", os.environ.get(VARIABLE) or None), metadata.get("chunk")
    if folder is not None and (not isinstance(folder, str) or not folder):
        raise AttnPOError(f"resume is {folder!r} in the metadata of {task}; give the name of a folder")
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise AttnPOError(f"chunk is {chunk!r} in the metadata of {task}; give a whole number, at least 1")
    model = {name: value for name, value in metadata.items() if name not in _NOT_THE_MODEL}
    return Plan(task, Path(folder).expanduser() if folder else None, chunk, model)


def attach(requests: Iterable[Any], plan: Plan) -> None:
    """Mark lm-eval's requests as ours, to be generated as `plan` says."""
    for request in requests:
        request.attnpo_plan = plan


class Seeded(str):
    """A response that came as plain text, with its seed."""

    seed: int | None


def with_seed(text: str, seed: int | None) -> str:
    """The response with the attribute `seed`; None: greedy, or drawn by a backend that is not seeded."""
    seeded = text if isinstance(text, (Generation, Seeded)) else Seeded(text)
    vars(seeded)["seed"] = seed
    return seeded


def install() -> None:
    """Wrap `generate_until` of every model class that is loaded by now, outermost; safe to call again."""
    from lm_eval.api.model import LM

    for cls in _subclasses(LM):
        original = vars(cls).get("generate_until")
        # A wrapper put around ours copies its attributes: only the outermost one refers to itself.
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
                made = _generate(self, functools.partial(original, self), [requests[i] for i in ours], quiet)
        finally:
            del self._attnpo_generating
        texts |= zip(ours, made, strict=True)
        return [texts[i] for i in range(len(requests))]

    return generate_until


@contextmanager
def _without_cache_hook(lm: Any) -> Iterator[None]:
    """Let lm-eval's `--use_cache` not keep single responses of ours: it would keep the text without its counts.

    Whole calls it keeps, and for greedy decoding alone.
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
    """As lm-eval built it."""
    places: list[int]
    """Where the response belongs in the list of requests; several for greedy decoding."""
    k: int
    content: str
    """Hash of what is asked, without the model."""
    key: str
    """Hash of what determines the response, the model included."""

    @property
    def order(self) -> tuple[Any, ...]:
        """Longest prompts first, as lm-eval sorts, and settled by what is asked alone."""
        return -len(self.prompt), self.prompt, self.k, self.content


def _generate(lm: Any, ask: Callable[..., list[str]], requests: Sequence[Any], quiet: bool) -> list[str]:
    from tqdm import tqdm

    mode, base = _seeding(lm), _run_seed(lm)
    jobs = _jobs(lm, base, requests)
    with ExitStack() as stack:
        folders = {request.attnpo_plan.folder for request in requests} - {None}
        stores = {f: stack.enter_context(closing(Store(f, lm.rank, _writes(lm)))) for f in folders}
        there: dict[str, _Stored] = {}
        for store in stores.values():
            there |= store.load()
        answers: dict[str, str] = {}
        for job in jobs:
            if stored := there.get(job.key):
                answers[job.key] = stored.text
        asked_again = {id(job.request) for job in jobs if job.key not in answers}
        for job in jobs:  # a prompt as it was sent goes into lm-eval's log; one that is asked again is made anew
            if id(job.request) not in asked_again and (prompt := there[job.key].prompt) is not None:
                job.request.arguments = (prompt, *job.request.args[1:])
        missing = len(jobs) - len(answers)
        for folder in stores:
            logger.info("%d of %d responses are in %s; %d to generate", len(answers), len(jobs), folder, missing)
        if missing:
            stack.enter_context(_settled_batch_size(lm))
        inner = {"disable_tqdm": quiet or mode == "chunk"} if _takes_disable_tqdm(ask) else {}
        hidden = quiet or lm.rank != 0
        bar = stack.enter_context(tqdm(total=len(jobs), initial=len(answers), desc="Responses", disable=hidden))
        for chunk in _chunks(lm, mode, jobs, answers, bool(stores)):
            seeds = [_seed(mode, base, job, chunk) for job in chunk]
            asked = [_with_argument(mode, job.request, seed) for job, seed in zip(chunk, seeds, strict=True)]
            with _seeded(seeds[0] if mode == "chunk" else None):
                texts = ask(asked, **inner)
            new: dict[Path, list[tuple[_Job, _Stored]]] = {folder: [] for folder in stores}
            for job, sent, text, seed in zip(chunk, asked, texts, seeds, strict=True):
                answers[job.key] = with_seed(text, seed)
                prompt = _prompt(sent) if _prompt(sent) != job.prompt else None
                job.request.arguments = (sent.args[0], *job.request.args[1:])
                if (folder := job.request.attnpo_plan.folder) is not None:
                    new[folder].append((job, _Stored(answers[job.key], prompt)))
            for folder, pairs in new.items():
                stores[folder].append(pairs)
            bar.update(len(chunk))
    result: list[str] = [""] * len(requests)
    for job in jobs:
        for place in job.places:
            result[place] = answers[job.key]
    return result


def _jobs(lm: Any, base: list[Any], requests: Sequence[Any]) -> list[_Job]:
    """The responses that the requests stand for: a request stands in the list once for each k."""
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
        if same[content] > 1:  # two problems that are equal in all that is asked
            content = _hash([content, same[content]])
        jobs.append(_Job(request, prompt, [place], k, content, _hash([content, identity, plan.model])))
        first.setdefault(id(request), jobs[-1])
    return jobs


def is_greedy(options: dict[str, Any]) -> bool:
    """Whether lm-eval's backends decode greedily with these generation arguments."""
    temperature = options.get("temperature")
    if options.get("do_sample") is False or temperature == 0:
        return True
    return options.get("do_sample") is None and not temperature


def _chunks(lm: Any, mode: str, jobs: list[_Job], answers: dict[str, str], stored: bool) -> list[list[_Job]]:
    """What to ask for, in order. A chunk of which nothing is there is made up as in a straight run."""

    def group(job: _Job) -> tuple[str, int]:
        return _json(job.request.args[1]), job.k if mode == "repeat" else 0

    ordered = sorted(jobs, key=lambda job: (group(job), job.order))
    if not stored and mode != "chunk":  # nothing to save, and seeds do not depend on chunks
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
    """For hf's `batch_size=auto`: look for the largest batch once, not once a chunk."""
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
    # Under tensor parallelism by torchrun every process says that it has rank 0; all must know the same answers.
    return lm.world_size > 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0


# what determines a response


def _seeding(lm: Any) -> str:
    """ "request", "repeat", "chunk" or "none": what shares a seed. Told by names, since vllm may not be there."""
    names = {cls.__name__ for cls in type(lm).__mro__}
    for name, mode in (("VLLM", "request"), ("TemplateAPI", "repeat"), ("HFLM", "chunk")):
        if name in names:
            return mode
    return "none"


def _seed(mode: str, base: list[Any], job: _Job, chunk: list[_Job]) -> int | None:
    if mode == "none" or is_greedy(job.request.args[1]):
        return None
    if mode == "request":
        return derive(job.content)
    if mode == "repeat":
        return derive(base, job.k)
    return derive([member.content for member in chunk])


def derive(*parts: Any) -> int:
    """A seed of 31 bits (every backend takes those) from JSON values: equal values, equal seed."""
    return int.from_bytes(hashlib.sha256(_json(list(parts)).encode()).digest()[:4], "big") >> 1


def _run_seed(lm: Any) -> list[Any]:
    """lm-eval's seed for torch, and the model's own."""
    import torch

    arguments = getattr(lm, "model_args", None)
    own = arguments.get("seed") if isinstance(arguments, dict) else getattr(lm, "_seed", None)
    return [torch.initial_seed(), own]


def model_identity(lm: Any) -> dict[str, Any]:
    """What tells a loaded model from others: class, name, commit on the hub, number format, and of a local
    folder the files with size and time of change (their contents are too large to be read)."""
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
    return str(getattr(prompt, "prompt", prompt))  # chats of API models are wrapped


def _with_argument(mode: str, request: Any, seed: int | None) -> Any:
    """The request as it is sent; where the backend takes a seed as an argument, a copy that has it."""
    if seed is None or mode == "chunk":
        return request
    copied = copy.copy(request)
    copied.arguments = (request.args[0], {**request.args[1], "seed": seed}, *request.args[2:])
    return copied


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for the while; afterwards its random numbers go on as if nothing had happened."""
    if seed is None:
        yield
        return
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _hash(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:32]


# the file


class _Stored(NamedTuple):
    text: str
    prompt: str | None
    """The prompt as sent, where the backend's wrapper changed it."""


class Store:
    """Responses in `responses-<rank>.jsonl` of a folder, a line each.

    A chunk is there or not: lines carry their place in it, and what a killed process left of one is cut off
    when the file is opened again.

    Args:
        folder: made if missing.
        rank: of this process; each writes its own file and reads all.
        writes: whether this process keeps what it generates.
    """

    def __init__(self, folder: Path, rank: int = 0, writes: bool = True) -> None:
        self.folder = folder
        self.file: Any = None
        self._held = ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        if not writes:
            return
        path = folder / f"responses-{rank}.jsonl"
        message = f"{path}: another process writes there; wait for it, or resume in another folder"
        self.file = self._held.enter_context(locked(path, message=message))
        _, end = _read(path)
        self.file.truncate(end)

    def load(self) -> dict[str, _Stored]:
        """What is there, by key.

        Raises:
            AttnPOError: a line is broken, and not because the process was killed while it wrote the last one.
        """
        found: dict[str, _Stored] = {}
        for path in sorted(self.folder.glob("responses-*.jsonl")):
            found |= _read(path)[0]
        return found

    def append(self, pairs: Sequence[tuple[_Job, _Stored]]) -> None:
        """Write a chunk's responses and wait until they are on the disk."""
        if self.file is None or not pairs:
            return
        lines = []
        for i, (job, stored) in enumerate(pairs):
            line = {
                "key": job.key,
                "chunk": [i, len(pairs)],
                "task": job.request.attnpo_plan.task,
                "doc": job.request.doc_id,
                "k": job.k,
                **({} if stored.prompt is None else {"prompt": stored.prompt}),
                "text": str(stored.text),
                **_attributes(stored.text),
            }
            lines.append(json.dumps(line, ensure_ascii=True) + "\n")
        self.file.write("".join(lines).encode())
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Let others write to the file."""
        self._held.close()


_OWN = {"key", "chunk", "task", "doc", "k", "prompt", "text"}


def _attributes(text: str) -> dict[str, Any]:
    """What a response carries beside its text: seed, and for a `Generation` ids, finish and counts."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(text).items()}


def _response(line: dict[str, Any]) -> str:
    attributes = {name: value for name, value in line.items() if name not in _OWN}
    text: str = Seeded(line["text"])
    if set(attributes) - {"seed"}:  # what a backend does not give is not there
        text = Generation(line["text"])
        if "ids" in attributes:
            attributes["ids"] = np.asarray(attributes["ids"], dtype=np.int32)
        if "counts" in attributes:
            attributes["counts"] = TokenCounts(*attributes["counts"])
    vars(text).update(attributes)
    return text


def _read(path: Path) -> tuple[dict[str, _Stored], int]:
    """Responses of the complete chunks, and the position behind the last of them."""
    found: dict[str, _Stored] = {}
    begun: dict[str, _Stored] = {}
    position = end = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            position += len(raw)
            if not raw.endswith(b"\n"):
                break  # the process was killed while it wrote this line
            try:
                line = json.loads(raw)
                index, size = line["chunk"]
                stored = _Stored(_response(line), line.get("prompt"))
            except (ValueError, KeyError, TypeError) as error:
                raise AttnPOError(
                    f"{path}:{number}: not a stored response ({error}); delete the line, or the file to start anew"
                ) from error
            if index == 0:
                begun = {}
            begun[line["key"]] = stored
            if index == size - 1:
                if len(begun) == size:
                    found |= begun
                begun, end = {}, position
    return found, end
