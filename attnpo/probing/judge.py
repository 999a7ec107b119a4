"""Labels by judges: models behind OpenAI-compatible chat endpoints say which steps are essential.

The paper labels by agreement of three such judges; their names, their prompt and how often they agree are not public.
The prompt here is ours (`judge_prompt.md`). 2604.18307 finds such a judge worse at finding steps that can go than
activations are, so its labels should be compared with those of another source.

Each reply is kept on disk before it is read, so that nothing that was paid for is asked for again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.progress import Progress

from attnpo.errors import AttnPOError, first_line
from attnpo.files import canonical_json
from attnpo.method.scores import Response
from attnpo.probing.labels import voted
from attnpo.probing.quality import agreement
from attnpo.probing.settings import JudgeSection, Vote
from attnpo.problems.problem import Problem
from attnpo.sampling.http import may_pass, status_of

logger = logging.getLogger(__name__)

PROMPT = Path(__file__).with_name("judge_prompt.md")
TRIES = 3
"""How often a judge is asked before a reply that cannot be read counts as none."""
SCHEMA = {
    "type": "object",
    "properties": {
        "labels": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "step": {"type": "integer"},
                    "label": {"type": "string", "enum": ["essential", "redundant"]},
                },
                "required": ["step", "label"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["labels"],
    "additionalProperties": False,
}
"""What a judge is to answer, as JSON schema. Servers that refuse to be given one are asked without."""
_WITH_SCHEMA = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "labels", "strict": True, "schema": SCHEMA}}
}
_REFUSED_FIELD = (400, 422)
_REFUSED_KEY = (401, 403)

Message = dict[str, str]


class Reply(NamedTuple):
    """What a judge said."""

    text: str
    """Empty if it refused."""
    prompt_tokens: int
    completion_tokens: int
    """By the server's account; 0 if it gives none."""
    cut: bool
    """Its budget of tokens ran out first."""


class Replies:
    """Replies on disk, by a hash of model, messages and settings. Several threads and processes may use one file.

    A context manager.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(path, timeout=60, check_same_thread=False)
            with self._base:
                self._base.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise AttnPOError(f"{path}: not a file of judges' replies ({error}); move it away") from error

    def find(self, key: str) -> Reply | None:
        """The reply under a key, or None."""
        with self._lock:
            row = self._base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply(*json.loads(row[0]))

    def keep(self, key: str, reply: Reply) -> None:
        """Write a reply; it is on disk when this returns."""
        with self._lock, self._base:
            self._base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(reply)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._base.close()


class Judge:
    """A judge: one model at one endpoint."""

    def __init__(self, section: JudgeSection, replies: Replies) -> None:
        self.section, self._replies = section, replies
        self.counts: Counter[str] = Counter()
        """Replies `asked` for and `known` from disk, responses `refused`, `cut_off` and `unreadable`, and
        `prompt_tokens` and `completion_tokens`."""
        self._counting = threading.Lock()
        self._takes_schema = True

    def labels(self, problem: Problem, texts: Sequence[str]) -> list[bool | None]:
        """Its label of each of K steps; all None if it refuses, is cut off, or if no reply of `TRIES` can be read.

        Raises:
            AttnPOError: the server is out of reach, or refuses the request.
        """
        messages: list[Message] = [{"role": "user", "content": prompt_for(problem, texts)}]
        for _ in range(TRIES):
            reply = self._reply(messages)
            if not reply.text.strip():
                self._count(refused=1)
                return [None] * len(texts)
            try:
                return list(read_labels(reply.text, len(texts)))
            except ValueError as error:
                if reply.cut:  # another one would be cut too
                    self._count(cut_off=1)
                    return [None] * len(texts)
                complaint = f"This could not be read: {error}. Answer again, with the JSON alone."
                messages = [*messages, {"role": "assistant", "content": reply.text}]
                messages += [{"role": "user", "content": complaint}]
        self._count(unreadable=1)
        return [None] * len(texts)

    def _reply(self, messages: list[Message]) -> Reply:
        section = self.section
        asked = {"model": section.model, "messages": messages, "max_tokens": section.max_tokens}
        asked |= {"temperature": section.temperature}
        key = hashlib.sha256(canonical_json(asked).encode()).hexdigest()
        reply = self._replies.find(key)
        if reply is None:
            reply = self._ask(asked)
            self._replies.keep(key, reply)
            self._count(asked=1, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens)
        else:
            self._count(known=1)
        return reply

    def _count(self, **more: int) -> None:
        with self._counting:  # several threads ask at once
            self.counts.update(more)

    def _ask(self, asked: Mapping[str, Any]) -> Reply:
        import requests

        with_schema = self._takes_schema
        try:
            return self._post({**asked, **_WITH_SCHEMA} if with_schema else asked)
        except requests.RequestException as error:
            if not with_schema or status_of(error) not in _REFUSED_FIELD:
                raise self._failure(error) from error
        if self._takes_schema:
            logger.warning("%s refuses a JSON schema; it is asked in words alone", self.section.base_url)
        self._takes_schema = False
        try:
            return self._post(asked)
        except requests.RequestException as error:
            raise self._failure(error) from error

    def _post(self, asked: Mapping[str, Any]) -> Reply:
        """The server's reply; asked again after an error that may pass."""
        import requests
        from tenacity import Retrying, retry_if_exception, stop_after_attempt

        section = self.section
        key = os.environ.get(section.api_key_env)

        def once() -> Reply:
            answer = requests.post(
                section.base_url,
                json=asked,
                timeout=section.timeout,
                headers={"Authorization": f"Bearer {key}"} if key else {},
            )
            answer.raise_for_status()
            return _read(answer.json())

        return Retrying(
            stop=stop_after_attempt(section.attempts),
            wait=lambda state: _pause(state, section.wait),
            retry=retry_if_exception(may_pass),
            reraise=True,
        )(once)

    def _failure(self, error: Any) -> AttnPOError:
        section, said = self.section, first_line(error)
        if getattr(error, "response", None) is not None:
            said += f": {' '.join(error.response.text.split())[:300]}"
        if status_of(error) in _REFUSED_KEY:
            remedy = f"put a key into the environment variable {section.api_key_env}"
        else:
            remedy = "check address and model name"
        return AttnPOError(
            f"judge {section.model!r} at {section.base_url} did not answer ({said}); {remedy}, "
            "then run the same command again: what was answered is kept"
        )


def _pause(state: Any, least: float) -> float:
    """Seconds before the next request: twice as many each time, or what the server asks for."""
    response = getattr(state.outcome.exception(), "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return max(min(least * 2 ** (state.attempt_number - 1), 60.0), float(asked) if asked.isdecimal() else 0.0)


def _read(answer: Any) -> Reply:
    """A server's JSON as a reply.

    Raises:
        requests.RequestException: it is no chat completion, as where a proxy answers in the server's place.
    """
    import requests

    try:
        choice = answer["choices"][0]
        text, usage = choice["message"].get("content") or "", answer.get("usage") or {}
        tokens = [int(usage.get(f"{part}_tokens") or 0) for part in ("prompt", "completion")]
        return Reply(str(text), tokens[0], tokens[1], choice.get("finish_reason") == "length")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise requests.RequestException(f"its answer is no chat completion: {json.dumps(answer)[:200]}") from error


def prompt_for(problem: Problem, texts: Sequence[str]) -> str:
    """What a judge is asked about K steps."""
    steps = "\n\n".join(f"[{number}] {text.strip()}" for number, text in enumerate(texts, 1))
    prompt, rest = "", PROMPT.read_text(encoding="utf-8")
    for mark, value in (("<<problem>>", problem.text), ("<<answer>>", problem.answer), ("<<steps>>", steps)):
        before, _, rest = rest.partition(mark)
        prompt += before + value
    return prompt + rest


def read_labels(text: str, n_steps: int) -> list[bool]:
    """The labels of K steps in a judge's reply, True for essential; prose and thinking around the JSON is skipped.

    Raises:
        ValueError: there is no JSON, or it does not label each step once.
    """
    said = text.rpartition("</think>")[2]
    start, end = said.find("{"), said.rfind("}")
    if start < 0 or end < start:
        raise ValueError("there is no JSON object in it")
    try:
        found = json.loads(said[start : end + 1])
    except ValueError as error:
        raise ValueError(f"its JSON is broken ({error})") from error
    entries = found.get("labels") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it has no list "labels"')
    labels: dict[int, bool] = {}
    for entry in entries:
        step = entry.get("step") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(step, int) or label not in ("essential", "redundant"):
            raise ValueError(f"{json.dumps(entry)[:80]} is no label of a step")
        if step in labels:
            raise ValueError(f"step {step} is labelled twice")
        labels[step] = label == "essential"
    if missing := [step for step in range(1, n_steps + 1) if step not in labels]:
        raise ValueError(f"step {missing[0]} is not labelled; there are {n_steps} steps")
    if beyond := [step for step in labels if not 1 <= step <= n_steps]:
        raise ValueError(f"step {beyond[0]} is labelled, but there are {n_steps} steps")
    return [labels[step] for step in range(1, n_steps + 1)]


def judge_labels(
    rows: Sequence[tuple[Problem, Response]], judges: Sequence[JudgeSection], vote: Vote, replies: Path
) -> list[list[bool | None]]:
    """Label the steps of responses by the judges' vote. What was asked, what it cost and who agreed is logged.

    Args:
        rows: each problem and a correct response to it, with its steps.
        judges: at least one.
        vote: see `voted`.
        replies: the file that keeps each reply.

    Raises:
        AttnPOError: a server is out of reach, or refuses the request. What was answered is kept.
    """
    texts = [response.steps.texts for _, response in rows if response.steps is not None]
    found: list[list[list[bool | None]]] = []
    with Replies(replies) as kept, Progress(console=Console(stderr=True)) as progress:
        for section in judges:
            judge = Judge(section, kept)
            task = progress.add_task(section.model, total=len(rows))

            def label(number: int, judge: Judge = judge, task: Any = task) -> list[bool | None]:
                labels = judge.labels(rows[number][0], texts[number])
                progress.advance(task)
                return labels

            with ThreadPoolExecutor(section.concurrent) as pool:
                going = [pool.submit(label, number) for number in range(len(rows))]
                try:
                    found.append([done.result() for done in going])
                except BaseException:
                    for waiting in going:
                        waiting.cancel()
                    raise
            logger.info("judge %s: %s", section.model, ", ".join(f"{v:,} {k}" for k, v in judge.counts.items()))
            if judge.counts["cut_off"]:
                logger.warning("replies of judge %s were cut off: raise its max_tokens", section.model)
    flat = [[label for labels in of_judge for label in labels] for of_judge in found]
    for i, one in enumerate(flat):
        for j, other in enumerate(flat[:i]):
            alike, kappa = agreement(one, other)
            logger.info("%s and %s agree on %.3f, kappa %.3f", judges[j].model, judges[i].model, alike, kappa)
    return [voted([of_judge[number] for of_judge in found], vote) for number in range(len(rows))]
