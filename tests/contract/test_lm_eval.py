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
from attnpo.evaluation import evaluate, lm_eval_backends, lm_eval_hook
from attnpo.evaluation.responses import describe
from attnpo.grading.grade import Grade
from attnpo.testbed import build, problems

ROOT = Path(__file__).parents[2]
CONFIG = build.BuildConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The testbed's tokenizer and a random model of its architecture, which ends some responses by chance."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build.train_tokenizer(CONFIG)
    torch.manual_seed(0)
    model = build.new_model(CONFIG, tokenizer)
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(model_dir: Path, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    lm_eval_backends.install()
    return HFLM(pretrained=str(model_dir), batch_size=batch_size, device="cpu")


def request(task: str, prompt: str, repeats: int = 1, **generation: Any) -> Any:
    from lm_eval.api.instance import Instance

    options = {
        "until": [],
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "max_gen_toks": 48,
        **generation,
    }
    return Instance(
        request_type="generate_until",
        doc={"text": prompt},
        arguments=(prompt, options),
        idx=0,
        metadata=(task, 0, repeats),
    )


def templated(task: str, prompt: str, **generation: Any) -> Any:
    """A request whose prompt has the chat template already."""
    made = request(task, prompt, **generation)
    made.doc = {"text": "the bare problem"}
    return made


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
    prompts = [lm.apply_chat_template([{"role": "user", "content": p.text}]) for p in problems.load("test")[:8]]
    # Two temperatures make two groups, repeats stand side by side, prompts differ in length.
    requests = [r for p in prompts for r in [request("attnpo_x", p)] * 3]
    requests += [request("attnpo_x", prompts[i], temperature=0.9) for i in (5, 0)]
    torch.manual_seed(1)
    generations: Any = lm.generate_until(requests, disable_tqdm=True)

    found = Counter(
        (tuple(lm.tok_encode(r.args[0])), tuple(g.ids.tolist())) for r, g in zip(requests, generations, strict=True)
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


def test_the_text_that_lm_eval_returns_is_kept_apart_from_special_tokens(model_dir: Path) -> None:
    """Through the wrapper and without it, the same seed gives the same plain text."""
    lm = load(model_dir, 16)
    prompt = lm.apply_chat_template([{"role": "user", "content": "Start with 1."}])
    torch.manual_seed(3)
    ours: Any = lm.generate_until([request("attnpo_x", prompt)] * 16, disable_tqdm=True)
    torch.manual_seed(3)
    theirs = lm.generate_until([request("gsm8k", prompt)] * 16, disable_tqdm=True)
    assert [type(text) for text in theirs] == [str] * 16
    assert [lm.tok_decode(g.ids.tolist()) for g in ours] == theirs


def test_the_model_is_left_as_it_was_found_even_after_an_error(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load(model_dir, 4)
    before = dict(vars(lm))
    lm.generate_until([request("attnpo_x", "a")], disable_tqdm=True)
    assert vars(lm) == before
    monkeypatch.setattr(lm.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lm.generate_until([request("attnpo_x", "a")], disable_tqdm=True)
    assert vars(lm) == before


def test_stop_strings_give_plain_text_as_the_ids_would_not_match_it(model_dir: Path) -> None:
    lm = load(model_dir, 4)
    (text,) = lm.generate_until([request("attnpo_x", "a", until=["e"])], disable_tqdm=True)
    assert type(text) is str


def test_a_missing_chat_template_is_applied_once(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    lm = load(model_dir, 4)
    bare = request("attnpo_x", "Start with 5.")
    other = request("gsm8k", "Start with 5.")
    lm.generate_until([bare, bare, other], disable_tqdm=True)
    assert bare.args[0] == lm.apply_chat_template([{"role": "user", "content": "Start with 5."}])
    assert other.args[0] == "Start with 5."
    assert "--apply_chat_template" in caplog.text
    assert bare.args[0].count("<|user|>") == 1


def test_a_loop_that_changed_is_an_error(model_dir: Path) -> None:
    recorded = lm_eval_backends._Recorded(sampled=[([1, 2], "stop")], keys=[])
    with pytest.raises(AttnPOError, match=r"generated 1 rows, told of 0; install lm-eval==0\.4\.13"):
        lm_eval_backends._attach(load(model_dir, 4), [], [], recorded)


def test_a_prompt_that_lm_eval_would_cut_is_refused(model_dir: Path) -> None:
    lm = load(model_dir, 4)
    prompt = lm.apply_chat_template([{"role": "user", "content": "Start with 5."}])
    tokens = len(lm.tok_encode(prompt))
    budget = lm.max_length - tokens + 1
    message = f"a prompt of {tokens} tokens and a budget of {budget} exceed the 1024 tokens"
    with pytest.raises(AttnPOError, match=message):
        lm.generate_until([templated("attnpo_x", prompt, max_gen_toks=budget)], disable_tqdm=True)


# --- vLLM, by what its backend in lm-eval is given (benchmarks/vllm_parity.py runs the real one)


class FakeVLLM:
    """What `attnpo.evaluation.lm_eval_backends` touches of lm-eval's VLLM: its own order, and it cuts texts."""

    backend, max_length = "causal", 512

    def __init__(self, tokenizer: Any, outputs: list[tuple[list[int], str]]) -> None:
        self.tokenizer, self.outputs = tokenizer, outputs
        self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)

    def tok_encode(self, string: str) -> list[int]:
        return self.tokenizer(string)["input_ids"]

    def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> list[Any]:
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids), finish_reason=reason)])
            for ids, reason in (self.outputs.pop(0) for _ in requests)
        ]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        order = sorted(range(len(requests)), key=lambda i: requests[i].args[0])
        texts: dict[int, str] = {}
        for chunk in (order[:2], order[2:]):
            outputs = self._model_generate(requests=[requests[i].args[0] for i in chunk], generate=True)
            for i, output in zip(chunk, outputs, strict=True):
                ids = output.outputs[0].token_ids
                texts[i] = self.tokenizer.decode(ids, skip_special_tokens=True)
                self.cache_hook.add_partial("generate_until", (requests[i].args[0], {"normalised": True}), texts[i])
        return [texts[i] for i in range(len(requests))]


def test_vllm_s_ids_and_finish_reasons(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    end, tag = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("</think>")
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", SimpleNamespace(VLLM=FakeVLLM))
    monkeypatch.setattr(FakeVLLM, "generate_until", FakeVLLM.generate_until)
    lm_eval_backends.install()
    # In the order of generation: the two of "a", then the two of "b", of which the texts are alike.
    sampled = [([20, 21, tag, 22, end], "stop"), ([20, 23], "length"), ([24, end], "stop"), ([24], "abort")]
    lm = FakeVLLM(tokenizer, list(sampled))
    before = dict(vars(lm))
    answers: Any = lm.generate_until([templated("attnpo_x", "b")] * 2 + [templated("attnpo_x", "a")] * 2)
    assert vars(lm) == before
    assert [(g.ids.tolist(), g.finish) for g in answers] == [sampled[2], ([24], None), *sampled[:2]]
    assert [g.counts for g in answers] == [(2, 2, 0), (1, 1, 0), (5, 2, 2), (2, 2, 0)]
    assert answers[2] == tokenizer.decode([20, 21, tag, 22])


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
        prompts = payload["prompt"] if "prompt" in payload else [payload["messages"][-1]["content"]]
        choices = []
        for index, prompt in enumerate(prompts):
            text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
            wanted = int(re.search(r"\d+", text).group())  # type: ignore[union-attr]
            ids = [7 + payload["seed"] % 10, *[20] * (wanted - 3), tag, end][: payload["max_tokens"]]
            finish = "stop" if ids[-1] == end else "length"
            shown = tokenizer.decode([i for i in ids if i != end], skip_special_tokens=False)
            body: dict[str, Any] = {"message": {"content": shown}} if "messages" in payload else {"text": shown}
            if ids_known and payload.get("return_token_ids"):
                body["token_ids"] = ids
            choices.append({"index": index, "finish_reason": finish, **body})
        total = {"usage": {"completion_tokens": len(ids)}} if usage else {}
        return 200, {"choices": choices[::-1], **total}

    return reply


def ask_server(server: Server, model_dir: Path, chat: bool = False, **changes: Any) -> tuple[Any, list[Any]]:
    pytest.importorskip("tenacity", reason="lm-eval's servers need its extra `api`")
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    lm_eval_backends.install()
    options = {"max_retries": 1, "num_concurrent": 1, **changes}
    if chat:
        lm: Any = LocalChatCompletion(base_url=f"{server.url}/chat/completions", model="x", **options)
    else:
        options = {"tokenizer_backend": "huggingface", **options}
        lm = LocalCompletionsAPI(base_url=f"{server.url}/completions", model=str(model_dir), **options)
    before = dict(vars(lm))
    ours = [request("attnpo_x", f"{n} tokens", max_gen_toks=10, seed=k) for n in (5, 12) for k in range(3)]
    theirs = [request("gsm8k", "4 tokens")] if not chat else []
    answers = lm.generate_until(ours + theirs)
    assert {k: v for k, v in vars(lm).items() if k in before} == before
    return lm, answers


@pytest.mark.parametrize("changes", [{}, {"num_concurrent": 4}, {"batch_size": 2}])
@pytest.mark.parametrize("chat", [False, True])
def test_a_server_s_ids(model_dir: Path, chat: bool, changes: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer)) as server:
        _, answers = ask_server(server, model_dir, chat, **changes)
    end = tokenizer.eos_token_id
    short, long = answers[:3], answers[3:6]
    assert [len(g.ids) for g in short] == [5] * 3 and {g.ids[-1] for g in short} == {end}
    assert [len(g.ids) for g in long] == [10] * 3
    assert [g.finish for g in [*short, *long]] == ["stop"] * 3 + ["length"] * 3
    # Three seeds, three samples, in their order.
    assert [g.ids[0] for g in short] == [g.ids[0] for g in long] == [7, 8, 9]
    assert [type(text) for text in answers[6:]] == [str] * (not chat)
    asked = [payload for payload in server.seen if payload["max_tokens"] == 10]
    assert all(p["return_token_ids"] is True and p["skip_special_tokens"] is False for p in asked)
    assert not any("return_token_ids" in p for p in server.seen if p["max_tokens"] != 10)
    record = describe(short[0], Grade(False, True, None, "no_box"), lambda: tokenizer)
    assert (record["tokens"], record["counted"]) == ({"total": 5, "thinking": 3, "answer": 1}, "generated")


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("concurrent", [1, 4])
def test_a_server_that_refuses_to_be_asked_for_ids(
    model_dir: Path, chat: bool, concurrent: int, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer, strict=True)) as server:
        lm, answers = ask_server(server, model_dir, chat, num_concurrent=concurrent)
        refusals = sum("return_token_ids" in payload for payload in server.seen)
        lm.generate_until([request("attnpo_x", "5 tokens", seed=1)])
    # It is asked again neither in this call nor in the next.
    assert sum("return_token_ids" in payload for payload in server.seen) == refusals <= concurrent
    assert caplog.text.count("refuses to be asked for token ids") == 1
    assert "return_token_ids" not in server.seen[-1]
    assert [(g.ids, g.usage, g.finish) for g in answers[:6]] == [(None, 5, "stop")] * 3 + [(None, 10, "length")] * 3
    record = describe(answers[0], Grade(False, True, None, "no_box"), lambda: tokenizer)
    assert (record["tokens"], record["counted"]) == ({"total": 5, "thinking": 3, "answer": 1}, "usage")


def test_usage_of_several_choices_is_none_s(model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer, ids_known=False)) as server:
        _, answers = ask_server(server, model_dir, batch_size=2)
    records = [describe(g, Grade(False, True, None, "no_box"), lambda: tokenizer) for g in answers[:6]]
    assert {r["counted"] for r in records} == {"retokenized"}
    assert [r["finish"] for r in records] == ["stop"] * 3 + ["length"] * 3


def test_a_server_s_other_errors_stay_errors(model_dir: Path) -> None:
    requests = pytest.importorskip("requests")
    with Server(lambda _: (400, {"error": "no such model"})) as server, pytest.raises(requests.HTTPError, match="400"):
        ask_server(server, model_dir)
    assert ["return_token_ids" in payload for payload in server.seen] == [True, False]


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


def test_a_server_s_prompt_is_not_cut(model_dir: Path) -> None:
    """With its default length of 2048, lm-eval would send an empty prompt for a budget of 4096."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    with Server(sampler(tokenizer)) as server:
        lm, _ = ask_server(server, model_dir)
        number = len(server.seen)
        with pytest.raises(AttnPOError, match="budget of 4096 exceed the 2047 tokens"):
            lm.generate_until([request("attnpo_x", "3 tokens", max_gen_toks=4096)])
    assert len(server.seen) == number


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
        "task problem_id k text correct parse_failed reason thinking think_tags tokens finish counted seed meta steps"
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


def test_greedy_responses_are_all_alike(model_dir: Path, tmp_path: Path) -> None:
    lines = evaluate_tasks(model_dir, tmp_path / "a", tasks=["attnpo_testbed_test"], temperature=0.0, limit=1)
    assert len(lines) == 3
    assert len({line["text"] for line in lines}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["attnpo_tesbed"]}, "no task 'attnpo_tesbed'; ours are .*attnpo_math500, .*attnpo_testbed, "),
        ({"max_tokens": 4096}, "4096 tokens leaves no room in the model's 1024"),
        ({"samples": 0}, "must be >= 1"),
    ],
)
def test_run_eval_refuses(model_dir: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        evaluate_tasks(model_dir, tmp_path, **changes)


def test_the_group_through_lm_eval_itself(model_dir: Path) -> None:
    """As `lm_eval --tasks attnpo_testbed --model hf` runs it, but for the search of lm-eval's own task files."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=lm_eval_hook.tasks_folder(), include_defaults=False)
    results: Any = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model_dir), "device": "cpu"},
        tasks=["attnpo_testbed"],
        task_manager=manager,
        batch_size=16,
        limit=2,
        gen_kwargs="max_gen_toks=24",
    )
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


def test_a_length_is_appended_to_the_problem() -> None:
    from lm_eval.tasks import TaskManager

    from attnpo.evaluation.evaluate import _append_to_prompt, load_tasks

    manager = TaskManager(include_path=lm_eval_hook.tasks_folder(), include_defaults=False)
    (task,) = load_tasks(["attnpo_testbed_validation"], manager).values()
    document = task.test_docs()[3]
    assert document["split"] == "validation"
    assert task.doc_to_text(document) == document["text"]
    _append_to_prompt(task, " Think for 90 tokens.")
    assert task.doc_to_text(document) == document["text"] + " Think for 90 tokens."
    assert task.doc_to_target(document) == document["answer"]
