"""The sampler on vLLM against a made-up vLLM: what it is asked, in which order it answers, what it refuses."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from attnpo.errors import AttnPOError
from attnpo.sampling import vllm as module
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.sampler import Sample
from attnpo.testbed import EMBEDDED, MODEL_DIR

END = 2


class FakeEngine:
    """Ends its requests last come, first served; a response is made of prompt and seed."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[int], Any]] = []
        self.most = 0
        self.aborted: list[str] = []
        self.is_shut = False
        self.engine_core = SimpleNamespace(shutdown=lambda: setattr(self, "is_shut", True))

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: Any, lora_request: Any) -> None:
        assert lora_request is None
        self.requests.append((request_id, prompt["prompt_token_ids"], params))
        self.most = max(self.most, len(self.requests))

    def step(self) -> list[Any]:
        request_id, prompt, params = self.requests.pop()
        ids = [prompt[0], params.seed, END][: params.max_tokens]
        reason = "stop" if ids[-1] == END else "length"
        response = SimpleNamespace(token_ids=tuple(ids), finish_reason=reason)
        return [
            SimpleNamespace(request_id="another", finished=False, outputs=[]),
            SimpleNamespace(request_id=request_id, finished=True, outputs=[response]),
        ]

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The engines that the made-up vLLM has started, with their arguments."""
    started: list[Any] = []

    def start(**arguments: Any) -> Any:
        engine = FakeEngine()
        length = arguments["max_model_len"] or 100
        started.append((engine, arguments))
        return SimpleNamespace(llm_engine=engine, model_config=SimpleNamespace(max_model_len=length))

    fake: Any = ModuleType("vllm")
    fake.__version__, fake.LLM = "0.26.0", start
    params: Any = ModuleType("vllm.sampling_params")
    params.SamplingParams = SimpleNamespace
    params.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return started


def test_each_response_is_a_request_with_its_own_seed(engines: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_FLIGHT", 3)
    with make_sampler("vllm", EMBEDDED, max_model_len=50, seed=3) as sampler:
        assert not engines  # it starts when there is something to do
        assert not list(sampler.sample([], temperature=1.0, max_new_tokens=3))
        assert not engines
        found = list(sampler.sample([[7, 7], [8]], k=2, temperature=0.6, top_p=0.9, max_new_tokens=3, seeds=range(4)))
        ((engine, arguments),) = engines
        assert arguments == {
            "model": str(MODEL_DIR),
            "revision": None,
            "dtype": "float32",
            "max_model_len": 50,
            "seed": 3,
        }
        assert sorted(found) == [
            (0, 0, Sample([7, 0, END], "stop")),
            (0, 1, Sample([7, 1, END], "stop")),
            (1, 0, Sample([8, 2, END], "stop")),
            (1, 1, Sample([8, 3, END], "stop")),
        ]
        assert found != sorted(found)  # they come as they are done
        assert engine.most == 3
        ((*_, cut),) = sampler.sample([[9]], temperature=0.0, max_new_tokens=2, seeds=[5])
        assert cut == Sample([9, 5], "length")
        assert len(engines) == 1
        assert not engine.aborted
    assert engine.is_shut


def test_vllm_is_asked_for_ids_without_a_top_k_cut(engines: list[Any]) -> None:
    sampler = make_sampler("vllm", EMBEDDED)
    run = sampler.sample(
        [[7], [8], [9]], temperature=0.6, top_p=0.9, max_new_tokens=3, seeds=[1, 2, 3], options={"min_p": 0.1}
    )
    next(run)
    ((engine, _),) = engines
    assert vars(engine.requests[0][2]) == {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.1,
        "seed": 1,
        "max_tokens": 3,
        "detokenize": False,
        "output_kind": "final",
    }
    run.close()  # type: ignore[attr-defined]
    assert engine.aborted == ["0", "1"]


def test_a_prompt_without_room_for_its_response_is_refused(engines: list[Any]) -> None:
    sampler = make_sampler("vllm", EMBEDDED, max_model_len=10)
    with pytest.raises(
        AttnPOError, match="prompt of 8 tokens and a budget of 3 exceed the model's context of 10 tokens"
    ):
        list(sampler.sample([[1] * 8], temperature=1.0, max_new_tokens=3))


def test_no_vllm_an_old_one_and_one_that_fails_are_one_line(
    engines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled() -> None:
        list(make_sampler("vllm", EMBEDDED).sample([[1]], temperature=1.0, max_new_tokens=3))

    def failing(**_: Any) -> None:
        raise ValueError("no memory\nmore")

    fake: Any = sys.modules["vllm"]
    for version in ("0.26.0", "0.22.0", "0.33.1+cu130", "dev"):
        monkeypatch.setattr(fake, "__version__", version)
        sampled()
    monkeypatch.setattr(fake, "__version__", "0.21.3")
    with pytest.raises(AttnPOError, match=r"vLLM 0\.21\.3 is too old; install 0\.22\.0 or newer, or set backend: hf"):
        sampled()
    monkeypatch.setattr(fake, "__version__", "0.26.0")
    monkeypatch.setattr(fake, "LLM", failing)
    with pytest.raises(AttnPOError, match=r"vLLM could not start with model 'testbed' \(no memory\)") as caught:
        sampled()
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(AttnPOError, match=r"backend vllm needs vLLM, .*pip install 'attnpo\[vllm\]', or set"):
        sampled()
