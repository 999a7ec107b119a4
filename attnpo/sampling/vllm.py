"""Sample through vLLM's offline engine: each response is a request with a seed of its own.

vLLM is imported when the engine starts. Its engine holds most of a GPU's memory until `close`: whoever scores the
samples with a model of transformers closes the sampler first, or is done with the model before the engine starts.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from packaging.version import InvalidVersion, Version

from attnpo.errors import AttnPOError, first_line
from attnpo.sampling.models import checkpoint_dtype, free_memory
from attnpo.sampling.sampler import Sample, Sampler, check_room
from attnpo.testbed import model_path

OLDEST = "0.22.0"
"""The oldest vLLM that is supported, for sampling as for training; newer ones than TRL's range do for sampling."""
_IN_FLIGHT = 2048
"""Requests that the engine holds at once: more than it decodes side by side, so that it never runs dry."""


class VLLMSampler(Sampler):
    """A sampler on vLLM. Each response is a `unit` of its own: its seed alone decides it, up to the rounding of a batch
    with other neighbours.

    The engine starts with the first call of `sample` that has something to do. An end token that a response is ended
    by is the model's, by vLLM's reading of its generation config, and stays in the ids.

    Args:
        model: one of `attnpo.testbed.MODELS`, a folder or a hub id.
        revision: hub revision; None is the main branch.
        max_model_len: tokens of the longest prompt and its response; None: all that the model allows.
        engine: more arguments of `vllm.LLM`. `dtype` is the checkpoint's own if it is not given; vLLM's own default
            would run a float32 model in half precision.
    """

    unit = 1

    def __init__(
        self, model: str, revision: str | None = None, max_model_len: int | None = None, **engine: Any
    ) -> None:
        self._name, self._revision = model, revision
        self._arguments = {"max_model_len": max_model_len, **engine}
        self._llm: Any = None
        self._lora: Any = None

    @classmethod
    def on(cls, llm: Any, lora: Any = None) -> VLLMSampler:
        """A sampler on a `vllm.LLM` that runs already, with vLLM's request for an adapter if there is one."""
        sampler = cls(llm.model_config.model)
        sampler._llm, sampler._lora = llm, lora
        return sampler

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        k: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[int, int, Sample]]:
        """See `Sampler.sample`; the shortest responses come first. The k responses to a prompt share its prefill.

        Raises:
            AttnPOError: vLLM is missing, too old, or cannot load the model; a prompt has no room for its response.
        """
        if not prompts:
            return
        engine = self._engine()
        params: Any = importlib.import_module("vllm.sampling_params")
        check_room(prompts, max_new_tokens, self._llm.model_config.max_model_len)
        waiting = iter(range(len(prompts) * k))
        running: dict[str, int] = {}
        try:
            while True:
                while len(running) < _IN_FLIGHT and (turn := next(waiting, None)) is not None:
                    how = params.SamplingParams(
                        temperature=temperature,
                        top_p=top_p,
                        seed=None if seeds is None else seeds[turn],
                        max_tokens=max_new_tokens,
                        detokenize=False,
                        output_kind=params.RequestOutputKind.FINAL_ONLY,
                        **{"top_k": -1, **(options or {})},
                    )
                    prompt = {"prompt_token_ids": list(prompts[turn // k])}
                    engine.add_request(str(turn), prompt, how, lora_request=self._lora)
                    running[str(turn)] = turn
                if not running:
                    return
                for output in engine.step():
                    if output.finished:
                        (response,) = output.outputs
                        turn = running.pop(output.request_id)
                        yield turn // k, turn % k, Sample(list(response.token_ids), _finish(response.finish_reason))
        finally:
            if running:  # an error, or nobody wants the rest
                engine.abort_request(list(running))

    def _engine(self) -> Any:
        if self._llm is None:
            vllm = import_vllm()
            dtype = str(checkpoint_dtype(self._name, self._revision)).removeprefix("torch.")
            arguments = {"model": model_path(self._name), "revision": self._revision, "dtype": dtype, **self._arguments}
            try:
                self._llm = vllm.LLM(**arguments)
            except (OSError, ValueError, RuntimeError) as error:
                raise AttnPOError(
                    f"vLLM could not start with model {self._name!r} ({first_line(error)}); its log above says "
                    "more, or set backend: hf"
                ) from error
        return self._llm.llm_engine

    def close(self) -> None:
        """End the engine, whose processes give the GPU's memory back."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            free_memory()


def _finish(reason: str) -> Any:
    if reason not in ("stop", "length"):
        raise AttnPOError(f"vLLM ended a response with {reason!r}, neither stop nor length; see its log, then go on")
    return reason


def import_vllm() -> Any:
    """The module `vllm`.

    Raises:
        AttnPOError: it is not installed, does not load, or is older than `OLDEST`.
    """
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise AttnPOError(
            f"backend vllm needs vLLM, which does not load ({error}); pip install 'attnpo[vllm]', or set backend: hf"
        ) from error
    try:
        old = Version(vllm.__version__) < Version(OLDEST)
    except InvalidVersion:  # a build of one's own
        return vllm
    if old:
        raise AttnPOError(f"vLLM {vllm.__version__} is too old; install {OLDEST} or newer, or set backend: hf")
    return vllm
