"""Resumable, seeded generation: fake backends for the rules, the embedded model and a real `kill -9` for the rest."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CachingLM
from places import ROOT

from attnpo.errors import AttnPOError
from attnpo.evaluation import evaluate, lm_eval_backends, lm_eval_hook, resume
from attnpo.evaluation.lengths import Generation, TokenCounts
from attnpo.evaluation.response_store import Store
from attnpo.evaluation.seeds import is_greedy
from attnpo.testbed import MODEL_DIR

SAMPLED = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
GREEDY = {"until": [], "do_sample": False, "max_gen_toks": 8}


class Backend(LM):
    """Answers with what it was asked and, as a model would, with random numbers; notes all it is asked."""

    batch_size = 4

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__()
        self.calls: list[list[Any]] = []
        self.die_after = die_after

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise NotImplementedError

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        if self.die_after is not None and len(self.calls) == self.die_after:
            raise KeyboardInterrupt
        self.calls.append(list(requests))
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> str:
        return f"{request.args[0]} {torch.rand(()).item():.6f}"

    @property
    def asked(self) -> int:
        return sum(map(len, self.calls))


class HFLM(Backend):
    """A backend that draws from torch's random numbers. Its name tells."""

    def answer(self, request: Any) -> str:
        text = super().answer(request)
        return Generation.make(text, [len(text), 7], "stop", TokenCounts(2, 1, 0))


class Server(Backend):
    """A backend with random numbers of its own, which honours a seed among the generation arguments."""

    def answer(self, request: Any) -> str:
        seed = request.args[1].get("seed")
        sampled = request.args[1].get("do_sample") and request.args[1].get("temperature")
        return f"{request.args[0]} {random.Random(seed).random() if sampled else 'greedy'}"


class VLLM(Server):
    """A backend that takes a seed for each request."""

    batch_size = "auto"  # type: ignore[assignment]


class TemplateAPI(Server):
    """A backend that takes a seed for each payload."""

    _batch_size = 2


class Strange(Server):
    """A backend of which nothing is known."""


BACKENDS = [HFLM, VLLM, TemplateAPI, Strange]


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    before = {
        cls: vars(cls)["generate_until"] for cls in {LM, *resume._subclasses(LM)} if "generate_until" in vars(cls)
    }
    resume.install()
    yield
    for cls, function in before.items():
        cls.generate_until = function


def requests(
    problems: int, repeats: int, options: dict[str, Any] = SAMPLED, task: str = "attnpo_x", **metadata: Any
) -> list[Instance]:
    """As lm-eval hands them over: an instance stands in the list once for each k."""
    made = [
        Instance(
            request_type="generate_until",
            doc={"id": f"p{i}", "text": f"problem {i}"},
            arguments=(f"problem {'long ' * (i % 3)}{i}", dict(options)),
            idx=0,
            metadata=(task, i, repeats),
        )
        for i in range(problems)
    ]
    resume.attach(made, resume.plan(task, metadata))
    return [instance for instance in made for _ in range(repeats)]


def run(lm: Any, *args: Any, seed: int = 3, **kwargs: Any) -> list[str]:
    torch.manual_seed(seed)
    return lm.generate_until(requests(*args, **kwargs), disable_tqdm=True)


def seeds(texts: Sequence[Any]) -> list[Any]:
    return [text.seed for text in texts]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_a_killed_run_goes_on_and_asks_for_the_rest_alone(backend: type[Backend], chunk: int, tmp_path: Path) -> None:
    straight = run(backend(), 5, 3, resume=str(tmp_path / "a"), chunk=chunk)
    killed = backend(die_after=min(2, -(-15 // chunk) - 1))
    with pytest.raises(KeyboardInterrupt):
        run(killed, 5, 3, resume=str(tmp_path / "b"), chunk=chunk)
    again = backend()
    texts = run(again, 5, 3, resume=str(tmp_path / "b"), chunk=chunk)
    assert killed.asked + again.asked == 15
    assert len(set(texts)) == 15
    third = backend()
    assert run(third, 5, 3, resume=str(tmp_path / "b"), chunk=chunk) == texts
    assert third.asked == 0
    if backend is not Strange:
        assert texts == straight
        assert seeds(texts) == seeds(straight)
        assert None not in seeds(texts)
    else:
        assert set(seeds(texts)) == {None}


@pytest.mark.parametrize("backend", [HFLM, VLLM, TemplateAPI])
def test_storing_changes_no_sample(backend: type[Backend], tmp_path: Path) -> None:
    assert run(backend(), 7, 2) == run(backend(), 7, 2, resume=str(tmp_path))


def test_what_shares_a_seed() -> None:
    lm: Backend = VLLM()
    texts = run(lm, 5, 3)
    assert len(set(seeds(texts))) == 15
    assert len(lm.calls) == 1  # nothing to store: the engine gets all at once
    assert sorted(r.args[1]["seed"] for r in lm.calls[0]) == sorted(seeds(texts))
    assert seeds(run(VLLM(), 5, 3, seed=4)) != seeds(texts)

    texts = run(TemplateAPI(), 5, 3)
    assert seeds(texts) == seeds(texts)[:3] * 5 and len(set(seeds(texts))) == 3

    lm = HFLM()
    texts = run(lm, 5, 3)
    assert [len(call) for call in lm.calls] == [4, 4, 4, 3]
    assert len(set(seeds(texts))) == 4
    assert all("seed" not in r.args[1] for call in lm.calls for r in call)
    lengths_sorted = [len(r.args[0]) for call in lm.calls for r in call]
    assert lengths_sorted == sorted(lengths_sorted, reverse=True)


def test_seeds_do_not_depend_on_the_model_and_what_is_stored_does(tmp_path: Path) -> None:
    metadata = {"resume": str(tmp_path), "pretrained": "one"}
    first = run(VLLM(), 2, 2, **metadata)
    other = VLLM()
    assert seeds(run(other, 2, 2, **{**metadata, "pretrained": "two"})) == seeds(first)
    assert other.asked == 4
    same = VLLM()
    run(same, 2, 2, **metadata, batch_size=64, gpu_memory_utilization=0.5, samples=2, config_source="/elsewhere")
    assert same.asked == 0


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"options": {**SAMPLED, "temperature": 0.5}}, {"task": "attnpo_y"}, {"revision": "other"}],
)
def test_whatever_determines_a_response_is_in_its_key(change: dict[str, Any], tmp_path: Path) -> None:
    run(VLLM(), 2, 2, resume=str(tmp_path))
    again = VLLM()
    run(again, 2, 2, resume=str(tmp_path), **change)
    assert again.asked == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_problems_and_samples_ask_for_what_is_new(backend: type[Backend], tmp_path: Path) -> None:
    first = run(backend(), 4, 2, resume=str(tmp_path))
    lm = backend()
    more = run(lm, 9, 3, resume=str(tmp_path))
    assert lm.asked == 9 * 3 - 4 * 2
    assert [more[3 * i + k] for i in range(4) for k in range(2)] == first


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [GREEDY, {**SAMPLED, "temperature": 0.0}, {"until": [], "max_gen_toks": 8}])
def test_greedy_responses_are_asked_for_once(backend: type[Backend], options: dict[str, Any], tmp_path: Path) -> None:
    lm = backend()
    texts = run(lm, 3, 4, options, resume=str(tmp_path))
    assert lm.asked == 3
    assert all(len(set(texts[4 * i : 4 * i + 4])) == 1 for i in range(3)) and len(set(texts)) == 3
    assert set(seeds(texts)) == {None}
    again = backend()
    assert run(again, 3, 4, options, resume=str(tmp_path), seed=9) == texts
    assert again.asked == 0


@pytest.mark.parametrize(
    ("options", "greedy"), [(SAMPLED, False), (GREEDY, True), ({}, True), ({"temperature": 1}, False)]
)
def test_is_greedy_is_lm_eval_s(options: dict[str, Any], greedy: bool) -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    normal = normalize_gen_kwargs(options)
    assert is_greedy(options) == greedy == (not normal["do_sample"] or normal.get("temperature") == 0)


def test_a_generation_comes_back_whole(tmp_path: Path) -> None:
    first: Any = run(HFLM(), 2, 2, resume=str(tmp_path))
    again: Any = run(HFLM(), 2, 2, resume=str(tmp_path))
    for one, other in zip(first, again, strict=True):
        assert (one, one.finish, one.counts, one.seed) == (other, other.finish, other.counts, other.seed)
        assert isinstance(other.counts, TokenCounts)
        np.testing.assert_array_equal(one.ids, other.ids)
        assert other.ids.dtype == one.ids.dtype == np.int32


def test_what_a_server_does_not_give_stays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ids and no counts: a finish reason and the server's own total alone."""

    def answer(self: Any, request: Any) -> Generation:
        text = Generation(request.args[0])
        vars(text).update(finish="stop", usage=7)
        return text

    monkeypatch.setattr(TemplateAPI, "answer", answer)
    first, again = (run(TemplateAPI(), 1, 1, resume=str(tmp_path)) for _ in range(2))
    assert vars(first[0]) == vars(again[0]) == {"finish": "stop", "usage": 7, "seed": first[0].seed}  # type: ignore[attr-defined]
    assert isinstance(again[0], Generation)


def test_other_people_s_requests_are_handed_on_as_they_are() -> None:
    lm = HFLM()
    theirs = requests(3, 2, task="gsm8k")
    for request in theirs:
        vars(request).pop("attnpo_plan", None)
    torch.manual_seed(5)
    alone = lm.generate_until(theirs)
    assert lm.calls == [theirs]
    ours = requests(3, 2)
    torch.manual_seed(5)
    mixed = lm.generate_until([*ours[:3], *theirs, *ours[3:]])
    assert mixed[3:9] == alone
    assert lm.calls[1] == theirs
    assert [type(text) for text in mixed[3:9]] == [Generation] * 6 and not hasattr(mixed[3], "seed")
    after = torch.rand(3)
    torch.manual_seed(5)
    for _ in theirs:
        torch.rand(())
    assert torch.equal(after, torch.rand(3))


def test_a_wrapper_put_around_ours_ends_up_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when exact counts are switched on for a class after this."""
    import functools

    ours = HFLM.generate_until

    @functools.wraps(ours)
    def outer(self: Any, requests: Any, **kwargs: Any) -> Any:
        assert len(requests) <= 4, "called with all of them: it is not inside"
        return ours(self, requests, **kwargs)

    monkeypatch.setattr(HFLM, "generate_until", outer)
    resume.install()
    assert HFLM.generate_until is not outer
    assert len(set(run(HFLM(), 5, 3))) == 15
    wrapped = HFLM.generate_until
    resume.install()
    assert HFLM.generate_until is wrapped


@pytest.mark.parametrize("options", [SAMPLED, GREEDY])
def test_under_lm_eval_s_cache(options: dict[str, Any], tmp_path: Path) -> None:
    """Its cache keeps whole greedy calls, counts included, and no sampled text."""
    lm = HFLM()
    cached: Any = CachingLM(lm, str(tmp_path / "cache.db"))
    torch.manual_seed(1)
    first = cached.generate_until(requests(3, 2, options))
    torch.manual_seed(1)
    again = cached.generate_until(requests(3, 2, options))
    assert first == again
    assert lm.asked == (3 if options is GREEDY else 12)
    assert all(isinstance(text, Generation) and text.counts.total == 2 for text in again)


def test_problems_that_are_equal_are_asked_apart(tmp_path: Path) -> None:
    twins = requests(1, 2, resume=str(tmp_path)) + requests(1, 2, resume=str(tmp_path))
    lm = VLLM()
    texts = lm.generate_until(twins)
    assert len(set(texts)) == 4
    assert lm.generate_until(twins) == texts
    assert lm.asked == 4


def test_a_prompt_that_the_backend_s_wrapper_changed_is_restored(tmp_path: Path) -> None:
    class Templated(HFLM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            for request in {id(r): r for r in requests if not r.args[0].startswith("<user>")}.values():
                request.arguments = (f"<user>{request.args[0]}", *request.args[1:])
            return super().generate_until(requests, disable_tqdm)

    resume.install()
    for repeats, asked in ((2, 6), (4, 6), (4, 0)):
        lm, made = Templated(), requests(3, repeats, resume=str(tmp_path))
        texts = lm.generate_until(made)
        assert all(request.args[0].startswith("<user>problem") for request in made)
        assert all(text.startswith("<user>problem") for text in texts)
        assert lm.asked == asked


def test_a_chat_stays_one_from_chunk_to_chunk(tmp_path: Path) -> None:
    """API models are sent chats in a type of their own, which the template is applied to in the first chunk."""
    from lm_eval.models.api_models import JsonChatStr

    class Chat(TemplateAPI):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            for request in requests:
                if isinstance(request.args[0], str):
                    request.arguments = (JsonChatStr(json.dumps([request.args[0]])), *request.args[1:])
            return super().generate_until(requests, disable_tqdm)

    resume.install()
    for repeats, asked in ((2, 6), (4, 6), (4, 0)):
        lm = Chat()
        texts = run(lm, 3, repeats, resume=str(tmp_path), chunk=1)
        assert lm.asked == asked and len(set(texts)) == 3 * repeats
        assert all(type(request.args[0]) is JsonChatStr for call in lm.calls for request in call)


# the file


def stored_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "responses-0.jsonl").read_text().splitlines()]


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(min_value=0))
def test_a_file_cut_anywhere_keeps_its_complete_chunks(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    straight = run(HFLM(), 3, 3, resume=str(folder))  # chunks of 4, 4, 1
    path = folder / "responses-0.jsonl"
    whole = path.read_bytes()
    cut %= len(whole) + 1
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    kept = 9 if complete == 9 else complete - complete % 4
    lm = HFLM()
    assert run(lm, 3, 3, resume=str(folder)) == straight
    assert lm.asked == 9 - kept
    assert path.read_bytes() == whole


def test_a_line_broken_in_another_way_is_an_error(tmp_path: Path) -> None:
    run(HFLM(), 3, 3, resume=str(tmp_path))
    path = tmp_path / "responses-0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], '{"key": \n', *lines[2:]]))
    with pytest.raises(AttnPOError, match=r"responses-0\.jsonl:2: not JSON .* delete the line"):
        run(HFLM(), 3, 3, resume=str(tmp_path))


def test_a_second_process_is_told_to_wait(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(AttnPOError, match="another process writes there"):
        run(HFLM(), 1, 1, resume=str(tmp_path))
    store.close()
    run(HFLM(), 1, 1, resume=str(tmp_path))


def test_ranks_write_apart_and_read_all(tmp_path: Path) -> None:
    class Second(HFLM):
        _rank = 1

    lm = Second()
    lm._rank, lm._world_size = 1, 2
    texts = run(lm, 2, 2, resume=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["responses-1.jsonl"]
    again = Second()
    assert run(again, 2, 2, resume=str(tmp_path)) == texts
    assert again.asked == 0


def test_what_a_line_holds(tmp_path: Path) -> None:
    run(HFLM(), 1, 2, resume=str(tmp_path))
    lines = stored_lines(tmp_path)
    keys = {"key", "chunk", "task", "doc", "k", "text", "ids", "finish", "counts", "seed"}
    assert [set(line) for line in lines] == [keys, keys]
    assert {line["k"] for line in lines} == {0, 1}
    assert [line["chunk"] for line in lines] == [[0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"resume": 3}, "resume is 3 in the metadata of attnpo_x; give the name of a folder"),
        ({"resume": ""}, "resume is '' in the metadata"),
        ({"chunk": 0}, "chunk is 0 in the metadata of attnpo_x; give a whole number, at least 1"),
        ({"chunk": "8"}, "chunk is '8'"),
        ({"chunk": True}, "chunk is True"),
    ],
)
def test_metadata_that_makes_no_sense(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        resume.plan("attnpo_x", metadata)


def test_the_environment_names_a_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPO_RESUME", "there")
    assert resume.plan("attnpo_x", {}).folder == Path("there")
    assert resume.plan("attnpo_x", {"resume": "here"}).folder == Path("here")
    monkeypatch.setenv("ATTNPO_RESUME", "")
    assert resume.plan("attnpo_x", {}).folder is None


def test_a_local_model_is_told_by_its_files(tmp_path: Path) -> None:
    class Local(Backend):
        model = str(tmp_path)

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "log.txt").write_text("x")
    before = resume.model_identity(Local())
    (tmp_path / "log.txt").write_text("longer")
    assert resume.model_identity(Local()) == before
    (tmp_path / "model.safetensors").write_bytes(b"more weights")
    assert resume.model_identity(Local()) != before


# the real thing: the embedded model, lm-eval's command line, kill -9

LM_EVAL = f"""
import sys, lm_eval.tasks.manager as manager
manager.__file__ = "/nowhere/manager.py"  # to read all of lm-eval's own task files takes half a minute
from attnpo.evaluation import lm_eval_hook
lm_eval_hook.extend(manager.TaskManager)
sys.argv[1:] = ["run", "--model", "hf", "--model_args", "pretrained={MODEL_DIR}", "--device", "cpu",
    "--tasks", "attnpo_testbed_test", "--limit", "12", "--batch_size", "8", "--seed", "11", "--log_samples",
    "--gen_kwargs", "temperature=1.0,top_p=1.0,max_gen_toks=96", *sys.argv[1:]]
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


def start(out: Path, folder: Path | None, *more: str) -> subprocess.Popen[bytes]:
    metadata = {"samples": 4, **({} if folder is None else {"resume": str(folder)})}
    command = [sys.executable, "-c", LM_EVAL, "--metadata", json.dumps(metadata), "--output_path", str(out), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATTNPO_NO_LM_EVAL_HOOK": "1", "ATTNPO_RESUME": ""}
    with (out.parent / f"{out.name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def samples(out: Path) -> list[tuple[Any, ...]]:
    (path,) = out.rglob("samples_attnpo_testbed_test_*.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [(line["doc"]["id"], line["arguments"], record) for line in lines for record in line["responses"]]
    assert all({"tokens", "finish", "seed", "text"} <= set(record) for _, _, record in rows)
    return rows


@pytest.mark.slow
def test_kill_9_through_lm_eval(tmp_path: Path) -> None:
    straight = start(tmp_path / "straight", None)
    folder = tmp_path / "stored"
    killed = start(tmp_path / "killed", folder)
    path = folder / "responses-0.jsonl"
    deadline = time.monotonic() + 300
    while not path.is_file() or path.read_bytes().count(b"\n") < 16:
        assert killed.poll() is None, (tmp_path / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    there = stored_lines(folder)
    assert 16 <= len(there) < 48, "killed too late: the test shows nothing"
    again = start(tmp_path / "again", folder)
    assert (again.wait(), straight.wait()) == (0, 0), (tmp_path / "again.log").read_text()
    rows = samples(tmp_path / "again")
    assert len(rows) == 48
    assert rows == samples(tmp_path / "straight")
    assert len({record["text"] for _, _, record in rows}) > 40
    finally_there = stored_lines(folder)
    assert finally_there[: len(there)] == there
    assert len(finally_there) == len({line["key"] for line in finally_there}) == 48


@pytest.mark.slow
def test_attnpo_s_own_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM as HF

    options: dict[str, Any] = {
        "samples": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 48, "batch_size": 4, "seed": 5, "limit": 5,
    }  # fmt: skip
    straight = evaluate.run_eval(str(MODEL_DIR), ["attnpo_testbed"], tmp_path / "a", **options).read_text()
    original, rows = HF._model_generate, []

    def generate(self: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        if len(rows) == 8:
            raise KeyboardInterrupt
        rows.extend(context)
        return original(self, context, *args, **kwargs)

    monkeypatch.setattr(HF, "_model_generate", generate)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run_eval(str(MODEL_DIR), ["attnpo_testbed"], tmp_path / "b", **options)
    assert len(stored_lines(tmp_path / "b" / "responses")) == 8
    monkeypatch.setattr(HF, "_model_generate", original)
    before, rows = rows, []
    monkeypatch.setattr(
        HF, "_model_generate", lambda self, context, **kw: (rows.extend(context), original(self, context, **kw))[1]
    )
    path = evaluate.run_eval(str(MODEL_DIR), ["attnpo_testbed"], tmp_path / "b", **options)
    assert len(before) + len(rows) == 2 * 5 * 2
    assert path.read_text() == straight
    assert sorted(p.name for p in path.parent.iterdir()) == ["responses", "samples.jsonl"]
    path.unlink()
    rows = []
    path = evaluate.run_eval(str(MODEL_DIR), ["attnpo_testbed"], tmp_path / "b", **options)
    assert (path.read_text(), rows) == (straight, [])  # until the caller deletes them, no response is made again


def test_tasks_refuse_lm_eval_s_request_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by task alone and would bring back another run's k and temperature."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=lm_eval_hook.tasks_folder(), include_defaults=False, metadata={"samples": 3, "chunk": 5}
    )
    (task,) = manager.load(["attnpo_testbed_test"])["tasks"].values()
    monkeypatch.setattr(
        "lm_eval.api.task.load_from_cache", lambda file_name, cache: pytest.fail("asked") if cache else None
    )
    task.build_all_requests(limit=2, cache_requests=True, rewrite_requests_cache=True)
    assert [request.repeats for request in task.instances] == [3, 3]
    assert task.instances[0].attnpo_plan.chunk == 5


def test_exact_counts_lie_inside(tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM as HF

    lm_eval_backends.install()
    resume.install()
    lm = HF(pretrained=str(MODEL_DIR), batch_size=4, device="cpu")
    options = {**SAMPLED, "top_k": 0, "max_gen_toks": 32}
    texts: Any = lm.generate_until(requests(3, 3, options, resume=str(tmp_path)), disable_tqdm=True)
    again: Any = lm.generate_until(requests(3, 3, options, resume=str(tmp_path)), disable_tqdm=True)
    assert all(isinstance(text, Generation) for text in texts)
    assert texts == again and [t.counts for t in texts] == [t.counts for t in again]
