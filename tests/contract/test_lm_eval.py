"""What we lean on in lm-eval: its generation loop, its task index, its command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from attnpo.errors import AttnPOError
from attnpo.evaluation import evaluate, lm_eval_hook, lm_eval_models
from attnpo.evaluation.responses import describe
from attnpo.grading.grade import Grade
from attnpo.testbed import build, problems

ROOT = Path(__file__).parents[2]
lm_eval_models.add_method()  # as the first of our tasks does
CONFIG = build.BuildConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The testbed's tokenizer and a random model of its architecture, which ends some responses by chance."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build.make_tokenizer(CONFIG)
    torch.manual_seed(0)
    model = build.new_model(CONFIG, tokenizer)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(model_dir: Path, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model_dir), batch_size=batch_size, device="cpu")


def request(task: str, prompt: str, templated: bool = True, doc: str = "p", **generation: Any) -> Any:
    from lm_eval.api.instance import Instance

    options = {"until": [], "do_sample": True, "temperature": 1.0, "top_k": 0, "max_gen_toks": 48, **generation}
    made: Any = Instance(
        request_type=lm_eval_models.REQUEST_TYPE,  # type: ignore[arg-type]
        doc={"id": doc, "text": prompt},
        arguments=(prompt, options),
        idx=0,
        metadata=(task, 0, 1),
    )
    made.attnpo_plan = lm_eval_models.Plan.of(task, {})._replace(templated=templated)
    return made


def templated(lm: Any, problem: str) -> str:
    return lm.apply_chat_template([{"role": "user", "content": problem}])


def spy_on_generate(lm: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, sampled ids) of every row, noted inside the model, apart from the code under test."""
    rows: list[tuple[list[int], list[int]]] = []
    original, end = lm.model.generate, lm.tokenizer.eos_token_id

    def generate(input_ids: Any, attention_mask: Any, **kwargs: Any) -> Any:
        output = original(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        for prompt, mask, row in zip(input_ids, attention_mask, output, strict=True):
            sampled = row[len(prompt) :].tolist()
            sampled = sampled[: sampled.index(end) + 1] if end in sampled else sampled
            rows.append((prompt[mask.bool()].tolist(), sampled))
        return output

    monkeypatch.setattr(lm.model, "generate", generate)
    return rows


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_ids_are_those_that_the_model_sampled(
    model_dir: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(model_dir, batch_size)
    rows = spy_on_generate(lm, monkeypatch)
    prompts = [templated(lm, p.text) for p in problems.load("test")[:8]]
    # Two temperatures make two groups, repeats stand side by side, prompts differ in length.
    once = [request("attnpo_x", p, doc=str(i)) for i, p in enumerate(prompts)]
    requests = [r for r in once for _ in range(3)]
    requests += [request("attnpo_x", prompts[i], temperature=0.9, doc=f"other {i}") for i in (5, 0)]
    generations: Any = lm.attnpo_sample(requests)

    found = Counter(
        (tuple(lm.tokenizer(r.args[0], add_special_tokens=False)["input_ids"]), tuple(g.ids.tolist()))
        for r, g in zip(requests, generations, strict=True)
    )
    assert found == Counter((tuple(prompt), tuple(sampled)) for prompt, sampled in rows)
    assert {g.finish for g in generations} == {"stop", "length"}
    end = lm.tokenizer.eos_token_id
    for g in generations:
        ids = g.ids.tolist()
        assert g.counts.total == len(ids) == (48 if g.finish == "length" else ids.index(end) + 1)
        assert g == lm.tokenizer.decode(ids[:-1] if g.finish == "stop" else ids, skip_special_tokens=False)
        tag = lm.tokenizer.convert_tokens_to_ids("</think>")
        assert g.counts.thinking == (ids.index(tag) if tag in ids else len(ids))
    assert any("</think>" in g for g in generations)


@pytest.mark.parametrize("options", [{}, {"do_sample": False, "temperature": 0.0}])
def test_lm_eval_itself_generates_the_same_tokens(model_dir: Path, options: dict[str, Any]) -> None:
    """Its `generate_until`, of which nothing is changed, decodes the same from the same random numbers."""
    lm = load(model_dir, 16)
    prompt = templated(lm, "Start with 1.")
    ours: Any = lm.attnpo_sample([request("attnpo_x", prompt, **options)] * (16 if not options else 1))
    torch.manual_seed(ours[0].seed or 0)
    theirs = lm.generate_until([request("gsm8k", prompt, **options)] * len(ours), disable_tqdm=True)
    assert [type(text) for text in theirs] == [str] * len(ours)
    assert [lm.tok_decode(g.ids.tolist()) for g in ours] == theirs


def test_the_model_and_other_tasks_are_left_as_they_were(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load(model_dir, 4)
    before = dict(vars(lm))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    lm.attnpo_sample([request("attnpo_x", "a")])
    assert vars(lm) == before
    assert torch.equal(torch.rand(3), expected)
    monkeypatch.setattr(lm.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lm.attnpo_sample([request("attnpo_x", "a")])
    assert vars(lm) == before


def test_making_a_task_changes_nothing_of_lm_eval(tmp_path: Path) -> None:
    """Every function of lm-eval is the one that its own files define."""
    code = """
import lm_eval.api.model, lm_eval.api.task, lm_eval.evaluator, lm_eval.models.huggingface as hf
watched = [lm_eval.api.model.LM, lm_eval.api.model.TemplateLM, lm_eval.api.model.CachingLM, hf.HFLM,
           lm_eval.api.task.ConfigurableTask, lm_eval.api.task.Task, lm_eval.evaluator]
before = [dict(vars(one)) for one in watched]
from attnpo.evaluation.evaluate import load_tasks
load_tasks(["attnpo_testbed"])
for one, old in zip(watched, before):
    new = dict(vars(one))
    added = {name for name in new if name not in old}
    assert added <= {"attnpo_sample"}, (one, added)
    changed = {name for name in old if new.get(name) is not old[name] and name != "__abstractmethods__"}
    assert not changed, (one, changed)
assert "attnpo_sample" in vars(lm_eval.api.model.LM)
"""
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_missing_chat_template_is_applied_once(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = load(model_dir, 4)
    bare = request("attnpo_x", "Start with 5.", templated=False)
    lm.attnpo_sample([bare, bare])
    assert bare.args[0] == templated(lm, "Start with 5.")
    assert "--apply_chat_template" in caplog.text
    assert bare.args[0].count("<|user|>") == 1


@pytest.mark.parametrize("flag", [True, False])
def test_a_system_instruction_is_refused_where_it_would_be_glued_to_the_problem(flag: bool) -> None:
    (task,) = evaluate.load_tasks(["attnpo_testbed_test"]).values()
    options: dict[str, Any] = {"limit": 1, "system_instruction": "Be brief.", "apply_chat_template": flag}
    if flag:
        task.build_all_requests(**options, chat_template=lambda chat, **_: json.dumps(chat))
        assert task.instances[0].args[0].startswith('[{"role": "system", "content": "Be brief."}')
    else:
        with pytest.raises(AttnPOError, match="--system_instruction needs .* add --apply_chat_template"):
            task.build_all_requests(**options)


def test_a_prompt_that_would_have_to_be_cut_is_refused(model_dir: Path) -> None:
    lm = load(model_dir, 4)
    prompt = templated(lm, "Start with 5.")
    tokens = len(lm.tok_encode(prompt))
    message = f"a prompt of {tokens} tokens and a budget of {1025 - tokens} exceed the model's context of 1024 tokens"
    with pytest.raises(AttnPOError, match=message):
        lm.attnpo_sample([request("attnpo_x", prompt, max_gen_toks=1025 - tokens)])


# --- vLLM, by what its backend in lm-eval is given (benchmarks/vllm_parity.py runs the real one)


class FakeEngine:
    """What `attnpo.sampling.vllm` touches of vLLM's engine: it answers two requests a step, the last ones first."""

    def __init__(self, outputs: dict[str, tuple[list[int], str]]) -> None:
        self.outputs, self.waiting = outputs, []  # type: ignore[var-annotated]
        self.llm_engine, self.model_config = self, SimpleNamespace(max_model_len=512, model="x")

    def add_request(self, request_id: str, prompt: Any, params: Any, lora_request: Any = None) -> None:
        assert lora_request == "an adapter"
        self.waiting.append((request_id, prompt["prompt_token_ids"], params))

    def step(self) -> list[Any]:
        done, self.waiting = self.waiting[-2:], self.waiting[:-2]
        found = []
        for request_id, prompt, _ in reversed(done):
            ids, reason = self.outputs[chr(prompt[0])].pop(0)
            output = SimpleNamespace(token_ids=tuple(ids), finish_reason=reason)
            found.append(SimpleNamespace(request_id=request_id, finished=True, outputs=[output]))
        return found


def fake_vllm(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, outputs: Any, **changes: Any) -> Any:
    """lm-eval's VLLM with a fake engine; a prompt's only token is its first character."""
    params = SimpleNamespace(SamplingParams=SimpleNamespace, RequestOutputKind=SimpleNamespace(FINAL_ONLY=2))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)

    class Tokenizer:
        chat_template = None

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(text[0])]}

        def __len__(self) -> int:
            return len(tokenizer)

    engine = FakeEngine(outputs)
    settings = {"model": engine, "tokenizer": Tokenizer(), "lora_request": "an adapter", "data_parallel_size": 1}
    cls = type("VLLM", (), {"attnpo_sample": lm_eval_models.respond, "rank": 0, "world_size": 1})
    lm: Any = cls()
    vars(lm).update(settings | changes)
    return lm


def test_vllm_s_ids_and_finish_reasons(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    end, tag = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("</think>")
    sampled = {"b": [([24, end], "stop"), ([24], "length")], "a": [([20, 21, tag, 22, end], "stop")]}
    lm = fake_vllm(monkeypatch, tokenizer, {name: list(of) for name, of in sampled.items()})
    twice = request("attnpo_x", "b", doc="1")
    answers: Any = lm.attnpo_sample([twice, twice, request("attnpo_x", "a", doc="2", min_p=0.1)])
    # The engine ended the second of "b" first.
    assert [(g.ids.tolist(), g.finish) for g in answers] == [([24], "length"), ([24, end], "stop"), sampled["a"][0]]
    assert [g.counts for g in answers] == [(1, 1, 0), (2, 2, 0), (5, 2, 2)]
    assert answers[2] == tokenizer.decode([20, 21, tag, 22])


def test_vllm_that_lm_eval_starts_by_call_is_refused(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    lm = fake_vllm(monkeypatch, tokenizer, {}, data_parallel_size=2)
    with pytest.raises(AttnPOError, match="data_parallel_size=2: .*`attnpo eval --backend vllm`"):
        lm.attnpo_sample([request("attnpo_x", "a")])


# --- OpenAI-compatible servers


class Server:
    """Answers as an OpenAI-compatible server on 127.0.0.1; `reply` makes the response from path and payload."""

    def __init__(self, reply: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append(payload)
                status, body = reply(payload)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.shutdown()
        self.http.server_close()


def sampler(tokenizer: Any, ids_known: bool = True, strict: bool = False, usage: bool = True) -> Any:
    """A server's replies: as many tokens as the prompt tells ("3 ..."), other ones for another seed."""
    end, tag = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("</think>")

    def reply(payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if strict and "return_token_ids" in payload:
            return 400, {"error": "unrecognized request argument: return_token_ids"}
        (prompt,) = payload["prompt"] if "prompt" in payload else [payload["messages"][-1]["content"]]
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        wanted = int(re.search(r"\d+", text).group())  # type: ignore[union-attr]
        ids = [7 + payload["seed"] % 10, *[20] * (wanted - 3), tag, end][: payload["max_tokens"]]
        shown = tokenizer.decode([i for i in ids if i != end], skip_special_tokens=False)
        body: dict[str, Any] = {"message": {"content": shown}} if "messages" in payload else {"text": shown}
        if ids_known and payload.get("return_token_ids"):
            body["token_ids"] = ids
        choice = {"index": 0, "finish_reason": "stop" if ids[-1] == end else "length", **body}
        return 200, {"choices": [choice], **({"usage": {"completion_tokens": len(ids)}} if usage else {})}

    return reply


def api_model(server: Server, model_dir: Path, chat: bool = False, **changes: Any) -> Any:
    pytest.importorskip("tenacity", reason="lm-eval's servers need its extra `api`")
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    options = {"max_retries": 1, "num_concurrent": 1, **changes}
    if chat:
        return LocalChatCompletion(base_url=f"{server.url}/chat/completions", model="x", **options)
    options = {"tokenizer_backend": "huggingface", **options}
    return LocalCompletionsAPI(base_url=f"{server.url}/completions", model=str(model_dir), **options)


def ask_server(server: Server, model_dir: Path, chat: bool = False, **changes: Any) -> tuple[Any, list[Any]]:
    """Three responses of 5 tokens and three that a budget of 10 cuts."""
    lm = api_model(server, model_dir, chat, **changes)
    before = dict(vars(lm))
    once = [request("attnpo_x", f"{n} tokens", templated=not chat, doc=str(n), max_gen_toks=10) for n in (5, 12)]
    answers = lm.attnpo_sample([one for one in once for _ in range(3)])
    assert {k: v for k, v in vars(lm).items() if k in before} == before
    return lm, answers


@pytest.mark.parametrize("changes", [{}, {"num_concurrent": 4}])
@pytest.mark.parametrize("chat", [False, True])
def test_a_server_s_ids(model_dir: Path, chat: bool, changes: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer)) as server:
        lm, answers = ask_server(server, model_dir, chat, **changes)
        if not chat:
            plain = lm.generate_until([request("gsm8k", "4 tokens")])
            assert [type(text) for text in plain] == [str] and "return_token_ids" not in server.seen.pop()
    end = tokenizer.eos_token_id
    short, long = answers[:3], answers[3:]
    assert [len(g.ids) for g in short] == [5] * 3 and {g.ids[-1] for g in short} == {end}
    assert [len(g.ids) for g in long] == [10] * 3
    assert [g.finish for g in answers] == ["stop"] * 3 + ["length"] * 3
    # Each has its own seed, and the response that the server made of it.
    assert len({g.seed for g in answers}) == 6
    assert [g.ids[0] for g in answers] == [7 + g.seed % 10 for g in answers]
    assert all(p["return_token_ids"] is True and p["skip_special_tokens"] is False for p in server.seen)
    record = describe(short[0], Grade(False, True, None, "no_box"), lambda: tokenizer)
    assert (record["tokens"], record["counted"]) == ({"total": 5, "thinking": 3, "answer": 1}, "generated")
    assert record["seed"] == short[0].seed


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("concurrent", [1, 4])
def test_a_server_that_refuses_to_be_asked_for_ids(
    model_dir: Path, chat: bool, concurrent: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer, strict=True)) as server:
        _, answers = ask_server(server, model_dir, chat, num_concurrent=concurrent)
        refusals = sum("return_token_ids" in payload for payload in server.seen)
    assert refusals <= concurrent and len(server.seen) == 6 + refusals
    assert caplog.text.count("refuses to be asked for token ids") == 1
    assert "return_token_ids" not in server.seen[-1]
    assert [(g.ids, g.usage, g.finish) for g in answers] == [(None, 5, "stop")] * 3 + [(None, 10, "length")] * 3
    record = describe(answers[0], Grade(False, True, None, "no_box"), lambda: tokenizer)
    assert (record["tokens"], record["counted"]) == ({"total": 5, "thinking": 3, "answer": 1}, "usage")


def test_a_server_without_ids_and_usage_is_counted_again(model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer, ids_known=False, usage=False)) as server:
        _, answers = ask_server(server, model_dir)
    records = [describe(g, Grade(False, True, None, "no_box"), lambda: tokenizer) for g in answers]
    assert {r["counted"] for r in records} == {"retokenized"}
    assert [r["finish"] for r in records] == ["stop"] * 3 + ["length"] * 3


def test_a_server_s_other_errors_are_one_line(model_dir: Path) -> None:
    pytest.importorskip("requests")
    reply = (400, {"error": "no such model"})
    with Server(lambda _: reply) as server, pytest.raises(AttnPOError, match="400.*no such model.*check address"):
        ask_server(server, model_dir)
    assert ["return_token_ids" in payload for payload in server.seen][:2] == [True, False]


def test_a_server_s_passing_errors_are_asked_again(model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    reply, failures = sampler(tokenizer), [503, 429]
    with Server(lambda payload: (failures.pop(), {}) if failures else reply(payload)) as server:
        _, answers = ask_server(server, model_dir, max_retries=3)
    assert [len(g.ids) for g in answers] == [5] * 3 + [10] * 3
    assert len(server.seen) == 8


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"reasoning": "a", "content": "b"}, "a</think>b"),
        ({"reasoning_content": "a", "content": None}, "a"),  # cut off while it was thinking
        ({"reasoning": None, "content": "a</think>b"}, "a</think>b"),
        ({"content": None}, ""),
    ],
)
def test_thinking_that_a_server_takes_out_is_put_back(model_dir: Path, message: dict, expected: str) -> None:
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": {"completion_tokens": 9}}
    with Server(lambda _: (200, body)) as server:
        _, answers = ask_server(server, model_dir, chat=True)
    assert list(answers) == [expected] * 6
    assert {g.usage for g in answers} == {9}


def test_what_lm_eval_would_take_out_stays(model_dir: Path) -> None:
    """Its chat model strips the thinking by `think_end_token`; counts and grade would be wrong."""
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "a</think>b"}}]}
    with Server(lambda _: (200, body)) as server:
        _, answers = ask_server(server, model_dir, chat=True, think_end_token="</think>")
    assert set(answers) == {"a</think>b"}


def test_a_server_s_prompt_is_not_cut(model_dir: Path) -> None:
    """With its default length of 2048, lm-eval would send an empty prompt for a budget of 4096."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer)) as server:
        lm = api_model(server, model_dir)
        lm.attnpo_sample([request("attnpo_x", "3 tokens", max_gen_toks=4096)])
    (payload,) = server.seen
    assert payload["prompt"] == [tokenizer("3 tokens", add_special_tokens=False)["input_ids"]]
    assert payload["max_tokens"] == 4096


# --- through lm-eval's own evaluation


def simple_evaluate(model_dir: Path, limit: int = 2, **changes: Any) -> Any:
    """As `lm_eval --tasks attnpo_testbed --model hf` runs it, but for the search of lm-eval's own task files."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    metadata = changes.pop("metadata", None)
    manager = TaskManager(include_path=lm_eval_hook.tasks_folder(), include_defaults=False, metadata=metadata)
    return lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model_dir), "device": "cpu"},
        task_manager=manager,
        batch_size=16,
        limit=limit,
        **{"tasks": ["attnpo_testbed"], "gen_kwargs": "max_gen_toks=24", **changes},
    )


def test_the_group_through_lm_eval_itself(model_dir: Path) -> None:
    results = simple_evaluate(model_dir)
    tables = results["results"]
    test, shifted = tables["attnpo_testbed_test"], tables["attnpo_testbed_shifted"]
    assert test["responses,none"] == 2 * 4
    assert 1 <= test["tokens,none"] <= 24
    assert test["retokenized,none"] == 0
    for name in ("avg@k", "pass@k", "tokens", "truncated", "missing_think_end", "redundant_steps"):
        macro = (test[f"{name},none"] + shifted[f"{name},none"]) / 2
        assert results["groups"]["attnpo_testbed"][f"{name},none"] == pytest.approx(macro)
    sample = results["samples"]["attnpo_testbed_test"][0]
    assert sample["arguments"][0][0].startswith("<|begin|><|user|>")
    assert len(json.loads(json.dumps(sample))["responses"]) == 4


def test_attnpo_eval_gives_the_samples_of_lm_eval(model_dir: Path, tmp_path: Path) -> None:
    """Same seed, same batches: `lm_eval` and `attnpo eval` are two ways to the same numbers."""
    results = simple_evaluate(model_dir, torch_random_seed=7)
    options: dict[str, Any] = {"max_tokens": 24, "batch_size": 16, "seed": 7, "limit": 2}
    path = evaluate.run_eval(str(model_dir), ["attnpo_testbed"], tmp_path, **options)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for task in ("attnpo_testbed_test", "attnpo_testbed_shifted"):
        theirs = [record for sample in results["samples"][task] for record in sample["responses"]]
        ours = [{k: v for k, v in line.items() if k in theirs[0]} for line in lines if line["task"] == task]
        assert ours == theirs


@pytest.mark.parametrize(
    ("gen_kwargs", "longest"),
    [("max_new_tokens=20", 20), ("max_tokens=20", 20), ("max_gen_toks=20,temperature=0", 20), (None, 256)],
)
def test_generation_arguments_mean_what_they_say(model_dir: Path, gen_kwargs: str | None, longest: int) -> None:
    results = simple_evaluate(model_dir, limit=1, tasks=["attnpo_testbed_test"], gen_kwargs=gen_kwargs)
    (sample,) = results["samples"]["attnpo_testbed_test"]
    records = sample["responses"]
    assert all(r["tokens"]["total"] == longest for r in records if r["finish"] == "length")
    assert max(r["tokens"]["total"] for r in records) <= longest
    greedy = "temperature=0" in (gen_kwargs or "")
    assert (len({r["text"] for r in records}) == 1) == greedy
    assert ({r["seed"] for r in records} == {None}) == greedy


def test_stop_strings_are_refused(model_dir: Path) -> None:
    """The counts would be of other tokens than the text: lm-eval cuts the text, not the ids."""
    with pytest.raises(AttnPOError, match=r"attnpo_testbed_test: until=\['Question:'\]: .* leave it out"):
        simple_evaluate(model_dir, gen_kwargs={"until": ["Question:"]})


def test_predict_only_grades_and_runs_nothing(model_dir: Path) -> None:
    (task,) = evaluate.load_tasks(["attnpo_testbed_test"]).values()
    task.set_config(key="process_results", value=lambda *_: pytest.fail("graded"))
    results = simple_evaluate(model_dir, tasks=[task], predict_only=True)
    samples = results["samples"]["attnpo_testbed_test"]
    assert [len(sample["resps"][0]) for sample in samples] == [4, 4]
    assert all(sample["bypass"] == 0 for sample in samples)


# --- attnpo eval


def evaluate_tasks(model_dir: Path, out: Path, **changes: Any) -> list[dict[str, Any]]:
    options: dict[str, Any] = {
        "samples": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 32,
        "batch_size": 16,
        "seed": 0,
        "limit": 4,
        **changes,
    }
    path = evaluate.run_eval(str(model_dir), options.pop("tasks", ["attnpo_testbed"]), out, **options)
    # The responses that it resumes from stay until whoever keeps the samples needs them no more.
    assert {p.name for p in out.iterdir()} == {"samples.jsonl", "responses"}
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_run_eval_writes_a_line_a_response(model_dir: Path, tmp_path: Path) -> None:
    lines = evaluate_tasks(model_dir, tmp_path / "a")
    assert len(lines) == 2 * 4 * 3
    assert [line["k"] for line in lines[:4]] == [0, 1, 2, 0]
    for task, split in (("attnpo_testbed_test", "test"), ("attnpo_testbed_shifted", "shifted")):
        ids = [line["problem_id"] for line in lines if line["task"] == task]
        assert ids == [p.id for p in problems.load(split)[:4] for _ in range(3)]
    assert len({line["text"] for line in lines}) > len(lines) // 2
    keys = (
        "task problem_id k text correct parse_failed reason thinking think_tags tokens finish counted seed meta steps "
        "links valid_share"
    )
    for line in lines:
        assert set(line) == set(keys.split())
        assert line["counted"] == "generated"
        assert (line["tokens"]["total"] == 32) or line["finish"] == "stop"
        assert set(line["meta"]) == {"chain"}


def test_run_eval_is_settled_by_its_seed(model_dir: Path, tmp_path: Path) -> None:
    options = {"tasks": ["attnpo_testbed_test"], "samples": 2, "limit": 2}
    first, same, other = (
        evaluate_tasks(model_dir, tmp_path / name, seed=seed, **options)
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert first == same
    assert first != other


def test_two_processes_give_the_samples_of_one(model_dir: Path, tmp_path: Path) -> None:
    one, two = (evaluate_tasks(model_dir, tmp_path / str(n), batch_size=5, processes=n) for n in (1, 2))
    assert one == two


def test_greedy_responses_are_all_alike(model_dir: Path, tmp_path: Path) -> None:
    lines = evaluate_tasks(model_dir, tmp_path / "a", tasks=["attnpo_testbed_test"], temperature=0.0, limit=1)
    assert len(lines) == 3
    assert len({line["text"] for line in lines}) == 1
    assert {line["seed"] for line in lines} == {None}
    stored = (tmp_path / "a" / "responses" / "samples.jsonl").read_text().splitlines()
    assert len(stored) == 1  # asked for once


def test_a_length_is_appended_to_each_problem(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(evaluate, "prompt_ids", lambda _, texts: asked.extend(texts) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_tasks(model_dir, tmp_path, tasks=["attnpo_testbed_validation"], suffix=" Think for 90 tokens.")
    expected = [f"{p.text} Think for 90 tokens." for p in problems.load("validation")[:4]]
    assert asked == expected


@pytest.mark.parametrize("chat", [False, True])
def test_run_eval_asks_a_server(model_dir: Path, tmp_path: Path, chat: bool) -> None:
    pytest.importorskip("tenacity", reason="lm-eval's servers need its extra `api`")
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer)) as server:
        url = f"{server.url}/chat/completions" if chat else f"{server.url}/completions"
        lines = evaluate_tasks(
            model_dir, tmp_path, tasks=["attnpo_testbed_test"], backend="server", base_url=url, batch_size=4
        )
    assert len(lines) == 12 and len(server.seen) == 12
    texts = [p.text for p in problems.load("test")[:4]]
    if chat:
        assert {p["messages"][0]["content"] for p in server.seen} == set(texts)
    else:
        found = {tokenizer.decode(p["prompt"][0]) for p in server.seen}
        assert found == {templated_by(tokenizer, text) for text in texts}
    assert {p["model"] for p in server.seen} == {str(model_dir)}
    assert all(p["stop"] == [] and p["max_tokens"] == 32 for p in server.seen)
    assert {line["counted"] for line in lines} == {"generated"}
    assert len({line["seed"] for line in lines}) == 12


def templated_by(tokenizer: Any, problem: str) -> str:
    chat = [{"role": "user", "content": problem}]
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["attnpo_tesbed"]}, "no task 'attnpo_tesbed'; ours are .*attnpo_math500, .*attnpo_testbed, "),
        ({"max_tokens": 4096}, "a budget of 4096 exceed the model's context of 1024 tokens; lower the budget"),
        ({"samples": 0}, "must be >= 1"),
        ({"limit": 0}, "must be >= 1"),
        ({"temperature": -1.0}, "attnpo_testbed_test: temperature -1, top_p 1, budget 32; take a temperature of 0"),
        ({"top_p": 0.0}, "top_p 0, budget 32; take .* 0 < top_p <= 1"),
        ({"max_tokens": 0}, "budget 0; take .* at least 1 token"),
        ({"processes": 0}, "0 sampling processes; take 1 or more"),
        ({"backend": "server"}, "base_url goes with backend server, and only with it; not None with 'server'"),
        ({"base_url": "http://x/v1/completions"}, "base_url goes with backend server, and only with it"),
        ({"backend": "server", "base_url": "http://x/v1"}, "'http://x/v1': give the whole address, such as"),
        (
            {"backend": "server", "base_url": "http://x/v1/completions", "processes": 2},
            "2 processes with backend server: one asks",
        ),
    ],
)
def test_run_eval_refuses(model_dir: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        evaluate_tasks(model_dir, tmp_path, **changes)


# --- the import hook


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


def as_installed(tmp_path: Path, code: str) -> str:
    """`code` after the `.pth` file was read as Python reads those of an installation."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "attnpo_lm_eval.pth").write_text((ROOT / "tasks" / "attnpo_lm_eval.pth").read_text())
    return f"import site; site.addsitedir({str(folder)!r})\n{code}"


def test_the_command_line_finds_the_group_from_any_folder(tmp_path: Path) -> None:
    # lm-eval's own files are put out of sight: to read them all takes half a minute.
    command = f"""
import sys, runpy, lm_eval.tasks.manager as manager
manager.__file__ = {str(tmp_path / "manager.py")!r}
sys.argv[1:] = ["ls", "groups"]
runpy.run_module("lm_eval", run_name="__main__")
"""
    result = run_python(as_installed(tmp_path, command), tmp_path, ATTNPO_NO_LM_EVAL_HOOK="")
    assert result.returncode == 0, result.stderr
    assert "attnpo_testbed" in result.stdout


@pytest.mark.parametrize("command_line", [True, False])
def test_without_a_network_the_command_line_ends_in_one_line(tmp_path: Path, command_line: bool) -> None:
    load = "from lm_eval.tasks import TaskManager; TaskManager(include_defaults=False).load(['attnpo_aime2024'])"
    command = f"""
import sys, runpy, lm_eval.tasks.manager as manager
manager.__file__ = {str(tmp_path / "manager.py")!r}
sys.argv[1:] = ["run", "--tasks", "attnpo_aime2024", "--model", "dummy"]
runpy.run_module("lm_eval", run_name="__main__")
"""
    nowhere = {"https_proxy": "http://127.0.0.1:9", "ATTNPO_CACHE": str(tmp_path / "cache"), "ATTNPO_DATA": ""}
    code = as_installed(tmp_path, command if command_line else load)
    result = run_python(code, tmp_path, ATTNPO_NO_LM_EVAL_HOOK="", **nowhere)
    assert result.returncode == 1
    assert "set ATTNPO_DATA" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("lm_eval: " if command_line else "attnpo.errors.AttnPOError: ")
    assert ("Traceback" in result.stderr) != command_line


LIST_OURS = "from lm_eval.tasks import TaskManager\nprint(TaskManager(include_defaults=False).all_tasks)"
# The file of a task or group has its name.
NAMES = str(sorted(path.stem for path in (ROOT / "tasks").rglob("*.yaml")))


@pytest.mark.parametrize(("switch", "expected"), [("", NAMES), ("0", NAMES), ("1", "[]")])
def test_the_hook_can_be_turned_off(tmp_path: Path, switch: str, expected: str) -> None:
    result = run_python(as_installed(tmp_path, LIST_OURS), tmp_path, ATTNPO_NO_LM_EVAL_HOOK=switch)
    assert (result.stdout.strip(), result.stderr) == (expected, "")


def test_the_pth_file_is_silent_without_the_package(tmp_path: Path) -> None:
    code = "import sys; sys.modules['attnpo'] = None\n" + as_installed(tmp_path, "print('alive')")
    result = run_python(code, tmp_path)
    assert (result.stdout.strip(), result.stderr) == ("alive", "")


def test_the_hook_imports_next_to_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from attnpo.evaluation.lm_eval_hook import install; install()\n"
        "print(sorted(set(sys.modules) - before))"
    )
    result = run_python(code, tmp_path, ATTNPO_NO_LM_EVAL_HOOK="")
    assert result.returncode == 0, result.stderr
    allowed = {"__future__", "attnpo", "attnpo.evaluation.lm_eval_hook"}
    assert set(yaml.safe_load(result.stdout)) <= allowed


def test_a_task_manager_that_changed_is_a_warning(tmp_path: Path) -> None:
    package = tmp_path / "lm_eval" / "tasks"
    package.mkdir(parents=True)
    (tmp_path / "lm_eval" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "manager.py").write_text("class TaskManager:\n    def __init__(self): pass\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from attnpo.evaluation.lm_eval_hook import install; install()\n"
        "from lm_eval.tasks.manager import TaskManager; TaskManager(); print('works')"
    )
    result = run_python(code, tmp_path, ATTNPO_NO_LM_EVAL_HOOK="")
    assert result.stdout.strip() == "works"
    assert "install lm-eval==0.4.13" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ((), {}),
        ((None, "theirs"), {}),
        ((), {"include_path": Path("theirs")}),
        ((), {"include_path": ["theirs", "more"], "include_defaults": False}),
    ],
)
def test_our_folder_precedes_what_the_caller_includes(arguments: tuple[tuple, dict]) -> None:
    class Manager:
        def __init__(self, verbosity: Any = None, include_path: Any = None, include_defaults: bool = True) -> None:
            self.seen = SimpleNamespace(include_path=include_path, include_defaults=include_defaults)

    args, kwargs = arguments
    plain = Manager(*args, **kwargs).seen
    lm_eval_hook.extend(Manager)
    seen = Manager(*args, **kwargs).seen
    theirs = plain.include_path or []
    theirs = theirs if isinstance(theirs, list) else [theirs]
    assert seen.include_path == [lm_eval_hook.tasks_folder(), *theirs]
    assert seen.include_defaults == plain.include_defaults
    assert Manager(include_path=lm_eval_hook.tasks_folder()).seen.include_path == lm_eval_hook.tasks_folder()


class FailsWithOurs:
    """A task manager that cannot read our folder."""

    def __init__(self, include_path: Any = None, metadata: Any = None) -> None:
        folders = include_path if isinstance(include_path, list) else [include_path]
        if lm_eval_hook.tasks_folder() in folders:
            raise PermissionError("tasks: permission denied")
        if include_path == "wrong":
            raise FileNotFoundError("wrong")
        self.include_path, self.metadata = include_path, metadata


def test_a_folder_that_lm_eval_cannot_read_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsWithOurs, "__init__", FailsWithOurs.__init__)
    lm_eval_hook.extend(FailsWithOurs)
    with pytest.warns(RuntimeWarning, match="cannot see AttnPO's tasks: PermissionError: tasks: permission denied"):
        made = FailsWithOurs("theirs", metadata={"a": 1})
    assert (made.include_path, made.metadata) == ("theirs", {"a": 1})


def test_no_folder_to_be_found_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Manager:
        def __init__(self, include_path: Any = None) -> None:
            self.include_path = include_path

    lm_eval_hook.extend(Manager)

    def gone() -> str:
        raise FileNotFoundError("the current folder was deleted")

    monkeypatch.setattr(lm_eval_hook, "tasks_folder", gone)
    with pytest.warns(RuntimeWarning, match="the current folder was deleted"):
        assert Manager("theirs").include_path == "theirs"
    monkeypatch.setattr(lm_eval_hook, "tasks_folder", lambda: None)
    assert Manager("theirs").include_path == "theirs"


@pytest.mark.filterwarnings("error")
def test_the_caller_s_own_mistakes_are_raised_as_without_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsWithOurs, "__init__", FailsWithOurs.__init__)
    lm_eval_hook.extend(FailsWithOurs)
    with pytest.raises(FileNotFoundError, match="wrong"):
        FailsWithOurs("wrong")
    with pytest.raises(TypeError, match="unexpected keyword argument 'include_paths'"):
        FailsWithOurs(include_paths="theirs")  # type: ignore[call-arg]


def test_a_loader_that_cannot_be_wrapped_is_a_warning(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
from attnpo.evaluation import lm_eval_hook
lm_eval_hook.TARGET = "target_module"
lm_eval_hook.install()

class Loader:
    __slots__ = ()
    def create_module(self, spec): return None
    def exec_module(self, module): module.TaskManager = "theirs"

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_loader(name, Loader()) if name == "target_module" else None

sys.meta_path.append(Finder)
import target_module
print(target_module.TaskManager)
"""
    result = run_python(code, tmp_path, ATTNPO_NO_LM_EVAL_HOOK="")
    assert result.stdout.strip() == "theirs", result.stderr
    assert "cannot see AttnPO's tasks" in result.stderr


def test_older_versions_without_the_module_are_left_alone(tmp_path: Path) -> None:
    """Before 0.4.9 the class stood in `lm_eval.tasks` itself."""
    package = tmp_path / "lm_eval" / "tasks"
    package.mkdir(parents=True)
    (tmp_path / "lm_eval" / "__init__.py").touch()
    (package / "__init__.py").write_text("class TaskManager: pass\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from attnpo.evaluation.lm_eval_hook import install; install()\n"
        "from lm_eval.tasks import TaskManager; TaskManager()\n"
        "try:\n    import lm_eval.tasks.manager\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    result = run_python(code, tmp_path, ATTNPO_NO_LM_EVAL_HOOK="")
    assert result.stdout.strip() == "No module named 'lm_eval.tasks.manager'"
    assert result.stderr == ""


def test_tasks_folder_is_the_checkouts() -> None:
    assert lm_eval_hook.tasks_folder() == str(ROOT / "tasks")
