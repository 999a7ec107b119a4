"""Judges behind a real HTTP server with scripted replies: what is read, asked again, kept and refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.method.scores import Response
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.heads import HeadRanking
from attnpo.probing.judge import PROMPT, judge_labels, prompt_for, read_labels
from attnpo.probing.labels import voted
from attnpo.probing.settings import JudgeSection, ProbeSection
from attnpo.problems.problem import Problem
from attnpo.sampling.models import load_tokenizer
from attnpo.schema import build
from attnpo.testbed import EMBEDDED

PROBLEM = Problem("x", "Start with 3. Add 4. Add 5.", "12")
TEXT = "First, 3 + 4 = 7.\nWait, 4 + 3 = 7, yes.\nThen 7 + 5 = 12.\n</think>\n3 + 4 = 7.\n\\boxed{12}"
LABELS = [True, False, True]


def said(labels: list[bool]) -> str:
    names = {True: "essential", False: "redundant"}
    return json.dumps({"labels": [{"step": n, "label": names[label]} for n, label in enumerate(labels, 1)]})


GOOD = said(LABELS)


class Server:
    """A chat endpoint that answers as scripted: a text, an HTTP status, "drop" (it dies in the middle) or "sleep"."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.asked.append(body)
                    server.headers.append(self.headers.get("Authorization"))
                    what = script(len(server.asked), body)
                if what == "sleep":
                    time.sleep(1.5)
                    what = GOOD
                if isinstance(what, int):
                    self.send_response(what)
                    self.send_header("Retry-After", "0")
                    self.end_headers()
                    self.wfile.write(b'{"error": "scripted"}')
                    return
                message = {"role": "assistant", "content": None if what == "refuse" else what}
                usage = {"prompt_tokens": 100, "completion_tokens": 10}
                finish = "length" if what == GOOD[:40] else "stop"
                whole = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
                answer = json.dumps({"error": "a proxy's"} if what == "proxy" else whole).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer[: len(answer) // 2] if what == "drop" else answer)

            def log_message(self, *_: Any) -> None:
                """Nothing is printed."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/chat/completions"


@pytest.fixture
def serve() -> Iterator[Callable[[Any], Server]]:
    servers: list[Server] = []

    def start(script: Any) -> Server:
        """`script`: a function of the request's number and body, a list of replies in order, or one reply to all."""
        if isinstance(script, list):
            rest = list(script)
            servers.append(Server(lambda *_: rest.pop(0)))
        else:
            servers.append(Server(script if callable(script) else lambda *_: script))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(EMBEDDED)


@pytest.fixture
def row(tokenizer: PreTrainedTokenizerBase) -> tuple[Problem, Response]:
    ids = list(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    return PROBLEM, Response([1], ids, align_steps(ids, token_bytes_table(tokenizer), "corrected", 1))


def judge(server: Server, model: str = "m", **changes: Any) -> JudgeSection:
    quick: dict[str, Any] = {"wait": 0.0, "attempts": 3, "concurrent": 2}
    return JudgeSection(base_url=server.url, model=model, **{**quick, **changes})


def test_a_judge_is_asked_once_for_each_response_and_never_again(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path
) -> None:
    server = serve(GOOD)
    replies = tmp_path / "cache" / "judges.sqlite"
    other = (Problem("y", PROBLEM.text, "13"), row[1])
    assert judge_labels([row, other], [judge(server)], "unanimous", replies) == [LABELS, LABELS]
    assert len(server.asked) == 2
    body = server.asked[0]
    assert body["model"] == "m" and body["temperature"] == 0 and body["response_format"]["type"] == "json_schema"
    assert server.headers == [None, None]
    for _ in range(2):
        assert judge_labels([row, other], [judge(server)], "unanimous", replies) == [LABELS, LABELS]
    assert len(server.asked) == 2
    judge_labels([row], [judge(server, "another")], "unanimous", replies)
    judge_labels([row], [judge(server, temperature=0.5)], "unanimous", replies)
    assert len(server.asked) == 4


def test_what_was_answered_before_the_server_died_is_not_asked_again(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path
) -> None:
    rows = [(Problem(str(n), f"{PROBLEM.text} {n}", "12"), row[1]) for n in range(6)]
    dying = serve(lambda number, _: GOOD if number <= 3 else "drop")
    with pytest.raises(AttnPOError, match=r"judge 'm' at http.*did not answer.*what was answered is kept"):
        judge_labels(rows, [judge(dying, concurrent=1)], "unanimous", tmp_path / "r")
    healthy = serve(GOOD)
    assert judge_labels(rows, [judge(healthy)], "unanimous", tmp_path / "r") == [LABELS] * 6
    assert len(healthy.asked) == 3


@pytest.mark.parametrize(
    "passing",
    [[429, GOOD], [500, 503, GOOD], ["drop", GOOD], ["sleep", GOOD], ["proxy", GOOD]],
    ids=["429", "5xx", "drop", "timeout", "proxy"],
)
def test_an_error_that_may_pass_is_tried_again(
    passing: list[Any], serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path
) -> None:
    server = serve(list(passing))
    assert judge_labels([row], [judge(server, timeout=0.5)], "unanimous", tmp_path / "r") == [LABELS]
    assert len(server.asked) == len(passing)


def test_an_error_that_stays_names_the_judge_and_the_remedy(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    server = serve(401)
    with pytest.raises(AttnPOError, match="401.*scripted.*put a key into the environment variable MY_KEY") as error:
        judge_labels([row], [judge(server, api_key_env="MY_KEY")], "unanimous", tmp_path / "r")
    assert server.headers == ["Bearer s3cret"] and "s3cret" not in str(error.value)
    assert len(server.asked) == 1
    with pytest.raises(AttnPOError, match="404.*check address and model name"):
        judge_labels([row], [judge(serve(404))], "unanimous", tmp_path / "r")
    with pytest.raises(AttnPOError, match="did not answer"):
        judge_labels([row], [judge(serve(lambda *_: 500))], "unanimous", tmp_path / "r")


def test_a_server_that_knows_no_schema_is_asked_without(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path
) -> None:
    server = serve(lambda _, body: 400 if "response_format" in body else f"Sure!\n```json\n{GOOD}\n```")
    rows = [(Problem(str(n), f"{PROBLEM.text} {n}", "12"), row[1]) for n in range(3)]
    assert judge_labels(rows, [judge(server, concurrent=1)], "unanimous", tmp_path / "r") == [LABELS] * 3
    assert ["response_format" in body for body in server.asked] == [True, False, False, False]


def test_a_reply_that_cannot_be_read_is_answered_with_the_reason(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path
) -> None:
    server = serve(["I think all of them are fine.", said([True, False]), GOOD])
    assert judge_labels([row], [judge(server)], "unanimous", tmp_path / "r") == [LABELS]
    last = server.asked[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert "no JSON object" in last[2]["content"] and "step 3 is not labelled" in last[4]["content"]
    assert judge_labels([row], [judge(server)], "unanimous", tmp_path / "r") == [LABELS]
    assert len(server.asked) == 3  # even what could not be read was paid for


@pytest.mark.parametrize("script", ["refuse", "never JSON"])
def test_a_judge_that_refuses_labels_nothing(
    script: str,
    serve: Callable[[Any], Server],
    row: tuple[Problem, Response],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    server = serve(script)
    assert judge_labels([row], [judge(server)], "unanimous", tmp_path / "r") == [[None] * 3]
    assert len(server.asked) == (1 if script == "refuse" else 3)
    assert ("1 refused" if script == "refuse" else "1 unreadable") in caplog.text
    assert f"{len(server.asked)} asked" in caplog.text and f"{100 * len(server.asked)} prompt_tokens" in caplog.text


def test_a_reply_that_is_cut_off_is_not_asked_for_again(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(GOOD[:40])
    assert judge_labels([row], [judge(server)], "unanimous", tmp_path / "r") == [[None] * 3]
    assert len(server.asked) == 1 and "raise its max_tokens" in caplog.text


def test_three_judges_vote(
    serve: Callable[[Any], Server], row: tuple[Problem, Response], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    by_model = {"a": [True, False, True], "b": [True, True, True], "c": [True, False, False]}
    server = serve(lambda _, body: said(by_model[body["model"]]))
    judges = [judge(server, model) for model in by_model]
    assert judge_labels([row], judges, "unanimous", tmp_path / "r") == [[True, None, None]]
    assert judge_labels([row], judges, "majority", tmp_path / "r") == [[True, False, True]]
    assert len(server.asked) == 3
    assert "a and b agree on 0.667" in caplog.text


def test_votes() -> None:
    assert voted([[True, None]], "unanimous") == [True, None]
    assert voted([[True, False, None], [True, None, None]], "unanimous") == [True, None, None]
    assert voted([[True, False], [False, False]], "majority") == [None, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("{nonsense}", "its JSON is broken"),
        ('{"labels": "all"}', "no list"),
        ('{"labels": [{"step": 1, "label": "vital"}]}', "is no label"),
        ('{"labels": [{"step": "1", "label": "essential"}]}', "is no label"),
        ('{"labels": [{"step": 1, "label": "essential"}, {"step": 1, "label": "redundant"}]}', "labelled twice"),
        (said([True]), "step 2 is not labelled; there are 2 steps"),
        (said([True] * 3), "step 3 is labelled, but there are 2 steps"),
    ],
)
def test_what_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_labels(text, 2)


def test_prose_and_thinking_around_the_labels_are_skipped() -> None:
    assert read_labels(f"{{maybe?}}</think> Here: {GOOD} Done.", 3) == LABELS


def test_the_prompt_says_what_is_asked_once() -> None:
    prompt = prompt_for(Problem("x", "What is <<steps>>?", "4 {x}"), ["one\n", "two"])
    assert "What is <<steps>>?" in prompt and "4 {x}" in prompt and prompt.rstrip().endswith("[1] one\n\n[2] two")
    assert all(PROMPT.read_text(encoding="utf-8").count(f"<<{name}>>") == 1 for name in ("problem", "answer", "steps"))


def test_settings_of_judges_are_checked() -> None:
    about = {"problems": 1, "samples": 1, "max_completion_tokens": 8}
    one = {"base_url": "http://localhost:8000/v1/chat/completions", "model": "m"}
    assert build(ProbeSection, {**about, "labels": "judge", "judges": [one]}, "x").judges[0].model == "m"
    for wrong in ({"labels": "judge"}, {"judges": [one]}, {"labels": "judge", "judges": [{**one, "base_url": "x"}]}):
        with pytest.raises(AttnPOError, match=r"judges .* go with labels judge|is no address of a chat"):
            build(ProbeSection, {**about, **wrong}, "x")


def test_a_probe_with_a_judge_needs_no_profile(
    serve: Callable[[Any], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def every_other(_: int, body: dict[str, Any]) -> str:
        steps = body["messages"][0]["content"].rpartition("# Steps")[2].count("\n\n[")
        return said([n % 2 == 0 for n in range(steps)])

    server = serve(every_other)
    monkeypatch.setenv("ATTNPO_CACHE", str(tmp_path / "cache"))
    words = ["--model", EMBEDDED, "--data", EMBEDDED, "--problems", "8", "--samples", "1", "--max-tokens", "200"]
    words += ["--min-chars", "1", "--results", str(tmp_path / "probe"), "--labels", "judge"]
    assert main(["probe", *words, "--judge-url", server.url, "--judge-model", "m"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert HeadRanking.load(path).label_source == "judge (m; unanimous)"
    assert (tmp_path / "cache" / "judges.sqlite").is_file()
    assert main(["probe", *words, "--judge-model", "m"]) == 2
    assert "--judge-url has 0 addresses and --judge-model 1 names" in capsys.readouterr().err
