"""Answers the requests of our tasks in lm-eval 0.4.13: with exact token counts, a seed a response, and a file to resume
from.

lm-eval hands requests of type X to the method X of its model and expects a list of texts. The requests of our tasks
have a type of their own, `REQUEST_TYPE`, and `add_method` gives lm-eval's base class the method of that name. Nothing
of lm-eval's is replaced: other tasks run as without us. The method samples with the model that lm-eval has loaded,
through `attnpo.sampling` (`hf`, `vllm`) or `attnpo.evaluation.server` (API models). Any other model is asked through
its own `generate_until`, and its texts are tokenized again to be counted.

All that we rely on in lm-eval's models, beside the arguments of a request, stands in this file and in `server.py`:

- `LM`: `generate_until`, `apply_chat_template`, `rank`, `world_size`;
- `HFLM`: `model`, `tokenizer`, `batch_size`, `_detect_batch_size`, `max_length`, `backend`, `mixed_precision_dtype`;
- `VLLM`: `model`, `tokenizer`, `lora_request`, `data_parallel_size`;
- `TemplateAPI`: `model_call`, `parse_generations`, `tok_encode`, `tokenized_requests`, `tokenizer_backend`,
  `max_retries`, `base_url`, `_concurrent`, `_batch_size`; `JsonChatStr.prompt`.

`tests/contract/test_lm_eval.py` guards them.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attnpo.errors import AttnPOError
from attnpo.evaluation.questions import FIELDS, Decoding, Question, answers, ask, is_answered, stable_json
from attnpo.evaluation.server import ServerSampler
from attnpo.sampling.sampler import Sample, Sampler
from attnpo.sampling.store import SampleFile
from attnpo.sampling.transformers import TransformersSampler
from attnpo.sampling.vllm import VLLMSampler

logger = logging.getLogger(__name__)

REQUEST_TYPE = "attnpo_sample"
"""Type of our requests, and name of the method that answers them."""
VARIABLE = "ATTNPO_RESUME"
"""Environment variable with the folder of stored responses, for a task whose metadata names none."""

# Arguments of a model that say how it runs, not which model it is. If one is missing here, a resumed run asks again;
# one too many, and it would take another model's responses.
_EXECUTION = {
    *("batch_size", "max_batch_size", "device", "device_map", "parallelize", "max_memory_per_gpu", "offload_folder"),
    *("tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "max_num_seqs", "distributed_executor"),
    *("num_concurrent", "max_retries", "timeout", "verify_certificate", "ca_cert_path", "auth_token"),
}
_NOT_THE_MODEL = _EXECUTION | {"samples", "resume", "data_dir", "config_source"}

# Files of a model's folder that identify it.
_WEIGHTS = {".safetensors", ".bin", ".gguf", ".pt", ".pth"}
_SETTINGS = ("config", "generation_config", "adapter_config", "tokenizer", "chat_template", "vocab", "merges")


class Plan(NamedTuple):
    """How the requests of a task are answered."""

    task: str
    folder: Path | None
    """Where responses are stored; None: in a temporary folder."""
    model: dict[str, Any]
    """The model's arguments, as far as lm-eval passes them to tasks."""
    templated: bool = False
    """Whether lm-eval has applied the chat template."""

    @staticmethod
    def of(task: str, metadata: Mapping[str, Any]) -> Plan:
        """Read `resume`, a folder, from a task's metadata, or else from the environment.

        Raises:
            AttnPOError: resume is no name.
        """
        folder = metadata.get("resume", os.environ.get(VARIABLE) or None)
        if folder is not None and (not isinstance(folder, str) or not folder):
            raise AttnPOError(f"resume is {folder!r} in the metadata of {task}; give the name of a folder")
        model = {name: value for name, value in metadata.items() if name not in _NOT_THE_MODEL}
        return Plan(task, Path(folder).expanduser() if folder else None, model)


def add_method() -> None:
    """Give lm-eval's base class of models the method that answers our requests."""
    from lm_eval.api.model import LM

    setattr(LM, REQUEST_TYPE, respond)


def respond(lm: Any, requests: Sequence[Any]) -> list[str]:
    """The responses to our tasks' requests, each of which stands in the list once for each k.

    Args:
        lm: the model that lm-eval has loaded.
        requests: lm-eval's instances, each with a `Plan` as its attribute `attnpo_plan`.

    Returns:
        A `Generation` for each request, in order.
    """
    once = list({id(request): request for request in requests}.values())
    backend = _backend(lm)
    _apply_missing_chat_template(lm, once)
    questions = _questions(lm, backend, requests, once)
    found: dict[int, Iterator[str]] = {}
    with ExitStack() as stack:
        # The random numbers of other tasks go on as if there had been none of ours.
        gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        for folder in {request.attnpo_plan.folder for request in once}:
            mine = [request for request in once if request.attnpo_plan.folder == folder]
            asked = [questions[id(request)] for request in mine]
            file = stack.enter_context(_file(lm, folder, stack))
            if not is_answered(file, asked):
                sampler, mixed = _sampler(lm, backend, mine)
                seed = None if backend == "other" else _seed(mine[0].attnpo_plan)
                with mixed:
                    ask(file, sampler, asked, seed, show=lm.rank == 0)
            tokenizer = lm.tokenizer if backend in ("hf", "vllm") else None
            for request in mine:
                found[id(request)] = iter(answers(file, questions[id(request)], tokenizer))
    return [next(found[id(request)]) for request in requests]


def _backend(lm: Any) -> str:
    """What samples: "hf", "vllm", "server" or "other"; by the names of the classes, since vLLM may not be installed."""
    names = {cls.__name__ for cls in type(lm).__mro__}
    if "HFLM" in names:
        return "hf" if lm.backend == "causal" else "other"
    if "VLLM" in names:
        if lm.data_parallel_size > 1:
            raise AttnPOError(
                f"data_parallel_size={lm.data_parallel_size}: lm-eval then starts its engines by call, out of our "
                "reach; leave it out, or evaluate by `attnpo eval --backend vllm`, which takes all visible GPUs"
            )
        return "vllm"
    return "server" if "TemplateAPI" in names else "other"


def _sampler(lm: Any, backend: str, requests: Sequence[Any]) -> tuple[Sampler, Any]:
    """A sampler on the model of `lm`, and what it has to be called in."""
    if backend == "hf":
        batch = lm.batch_size
        if not isinstance(batch, int):  # "auto"
            batch = lm._detect_batch_size()
            logger.info("batch size %d", batch)
        mixed = lm.mixed_precision_dtype
        autocast = nullcontext() if mixed is None else torch.autocast(lm.device.type, mixed)
        return TransformersSampler(lm.model, lm.tokenizer, batch, lm.max_length), autocast
    if backend == "vllm":
        return VLLMSampler.on(lm.model, lm.lora_request), nullcontext()
    if backend == "server":
        return ServerSampler(lm, max(lm._concurrent, 1) * max(lm._batch_size, 1)), nullcontext()
    return _TextSampler(lm), nullcontext()


class _TextSampler(Sampler):
    """Asks a model of which nothing is known through its `generate_until`; it gives texts alone, and takes no seeds."""

    unit = 1
    at_once = 64
    """Responses that are asked for in one call, and lost if that is stopped."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def sample(
        self,
        prompts: Sequence[Any],
        *,
        k: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[int, int, Sample]]:
        """See `Sampler.sample`; the prompts are lm-eval's requests, which say themselves how to decode."""
        turns = [(prompt, number) for prompt in range(len(prompts)) for number in range(k)]
        for start in range(0, len(turns), self.at_once):
            chunk = turns[start : start + self.at_once]
            texts = self._lm.generate_until([prompts[prompt] for prompt, _ in chunk])
            for (prompt, number), text in zip(chunk, texts, strict=True):
                yield prompt, number, Sample([], None, text)

    def close(self) -> None:
        """There is nothing to give back."""


# what is asked


def _apply_missing_chat_template(lm: Any, requests: Sequence[Any]) -> None:
    """Without `--apply_chat_template` a reasoning model would be asked in a form that it was never trained on."""
    bare = [request for request in requests if not request.attnpo_plan.templated]
    chat = any(cls.__name__ == "LocalChatCompletion" for cls in type(lm).__mro__)
    if not bare or not (chat or getattr(getattr(lm, "tokenizer", None), "chat_template", None)):
        return
    logger.warning("the prompts lack the model's chat template; it is applied, as by --apply_chat_template")
    for request in bare:
        prompt = lm.apply_chat_template([{"role": "user", "content": request.args[0]}])
        request.arguments = (prompt, *request.args[1:])  # which lm-eval logs
        request.attnpo_plan = request.attnpo_plan._replace(templated=True)


def _questions(lm: Any, backend: str, requests: Sequence[Any], once: Sequence[Any]) -> dict[int, Question]:
    """What each request asks, by its id."""
    number: dict[int, int] = {}
    for request in requests:  # how often it stands in the list
        number[id(request)] = number.get(id(request), 0) + 1
    identity = model_identity(lm)
    prompts = _prompts(lm, backend, once)
    questions: dict[int, Question] = {}
    same: dict[str, int] = {}
    for request, prompt in zip(once, prompts, strict=True):
        plan: Plan = request.attnpo_plan
        decoding = Decoding.of(request.args[1], plan.task)
        problem = request.doc.get("id", request.doc_id) if isinstance(request.doc, dict) else request.doc_id
        # Greedy responses do not depend on the seed.
        seed = None if decoding.greedy else _seed(plan)
        asked = [plan.task, problem, _text(request), decoding, seed, identity, plan.model]
        content = hashlib.sha256(stable_json(asked).encode()).hexdigest()[:32]
        same[content] = same.get(content, 0) + 1
        if same[content] > 1:  # two problems of which all is equal
            content = f"{content}-{same[content]}"
        questions[id(request)] = Question(plan.task, problem, prompt, number[id(request)], decoding, content)
    return questions


def _prompts(lm: Any, backend: str, requests: Sequence[Any]) -> list[Any]:
    """The requests' prompts as the sampler takes them."""
    if backend == "other":
        return [_plain(request) for request in requests]
    if backend == "server":
        ids = lm.tokenized_requests and lm.tokenizer_backend is not None
        return [lm.tok_encode(request.args[0]) if ids else request.args[0] for request in requests]
    return [
        lm.tokenizer(request.args[0], add_special_tokens=False)[
            "input_ids"
        ]  # the template writes special tokens itself
        if request.attnpo_plan.templated
        else lm.tok_encode(request.args[0])
        for request in requests
    ]


def _plain(request: Any) -> Any:
    copied = copy.copy(request)
    copied.request_type = "generate_until"
    return copied


def _text(request: Any) -> str:
    prompt = request.args[0]
    return str(getattr(prompt, "prompt", prompt))  # lm-eval wraps the chats of API models


def _seed(plan: Plan) -> Any:
    """lm-eval's seed for torch (`--seed`), and the model's own (`--model_args seed=`) if it is given."""
    own = plan.model.get("seed")
    return torch.initial_seed() if own is None else [torch.initial_seed(), own]


def _file(lm: Any, folder: Path | None, stack: ExitStack) -> SampleFile:
    """The file of this process's samples. It sees those of others, too, from a run with more processes perhaps."""
    # Under tensor parallelism by torchrun, lm-eval takes each process for rank 0. All generate the same responses, so
    # only one of them writes.
    writes = lm.world_size > 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0
    fields = (*FIELDS, "asked")
    beside = [] if folder is None else sorted(folder.glob("samples-*.jsonl"))
    if folder is None or not writes:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attnpo-")))
        return SampleFile(scratch / "samples.jsonl", fields, beside)
    path = folder / f"samples-{lm.rank}.jsonl"
    return SampleFile(path, fields, [other for other in beside if other != path])


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
