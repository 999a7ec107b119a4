"""Is an answer to a math problem right? There must be one `</think>`, and the last `\\boxed{}` after it must be right.

This is the rule of AttnPO's evaluation (`paper.md`, "Evaluation setup"). math-verify decides whether two answers are
equal, after `normalise` and by the rules of `comparison.judge` (`docs/grading.md`). Its own time limits are signals,
which work neither in threads nor against long computations in C. So it runs in worker processes, and a worker is
replaced when one answer takes too long. The limit is on processor time, so that no grade depends on how busy the
machine is. Plain integers, and answers that equal the gold answer character by character, are decided without a
process.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import re
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from attnpo.errors import AttnPOError
from attnpo.grading.grade import Grade, answer_part, no_answer_reason
from attnpo.grading.normalise import PLAIN_INTEGER, normalise
from attnpo.grading.quantities import opposed

logger = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("_math_verify_worker.py")
_BOX = re.compile(r"\\boxed\s*\{")
_PATIENCE = 10
"""Seconds of wall-clock time for each second of processor time that an answer may take."""
_UNREADABLE = ("no_box", "unparsed", "timeout", "gold_unparsed")


def extract_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{...}`, up to its matching brace; None if there is none or it is never closed.

    Escaped braces (`\\{`) are part of the content and are not matched.
    """
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    start = openings[-1].end()
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[start:position]
        position += 1
    return None


def quick_verdict(answer: str, gold: str) -> bool | None:
    """Whether two answers are equal, where that needs no parser; None where math-verify must decide.

    Decided here are texts that are equal but for spaces after commas, two plain integers, answers that name opposites
    (a.m. and p.m.), and two numerals that name their base (`52_8`), which math-verify would ignore.
    """
    if PLAIN_INTEGER.fullmatch(answer) and PLAIN_INTEGER.fullmatch(gold):
        return int(answer.replace(",", "")) == int(gold.replace(",", ""))
    if opposed(answer, gold):
        return False
    answer, gold = normalise(answer), normalise(gold)
    if _AFTER_COMMA.sub(",", answer) == _AFTER_COMMA.sub(",", gold):
        return bool(answer) or None
    if PLAIN_INTEGER.fullmatch(answer) and PLAIN_INTEGER.fullmatch(gold):
        return int(answer.replace(",", "")) == int(gold.replace(",", ""))
    if (based := _BASED.fullmatch(answer)) and (gold_based := _BASED.fullmatch(gold)):
        return based.groups() == gold_based.groups()
    return None


_AFTER_COMMA = re.compile(r",\s+")
_BASED = re.compile(r"0*(\d+)_\{?(\d+)\}?")


class _Worker:
    """A math-verify process and the pipes to it."""

    def __init__(self, command: Sequence[str], start_limit: float) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.pending = b""
        ready = self._read(time.monotonic() + start_limit)
        if ready is None or not ready.get("ready"):
            self.kill()
            cause = (ready or {}).get("error", f"no answer in {start_limit:.0f} s")
            raise AttnPOError(f"math-verify does not start ({cause}); try `pip install 'math-verify[antlr4_13_2]'`")

    def verdict(self, answer: str, gold: str, time_limit: float) -> str | None:
        """The verdict on one pair, within about ten times the limit; None if the worker is dead or too slow."""
        patience = _PATIENCE * time_limit
        limits = {"cpu": time_limit, "alarm": math.ceil(patience) + 5}
        request = json.dumps({"answer": answer, "gold": gold, **limits}) + "\n"
        deadline = time.monotonic() + patience
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request.encode())
        except BrokenPipeError:
            return None
        reply = self._read(deadline)
        return None if reply is None else reply["verdict"]

    def _read(self, deadline: float) -> dict | None:
        """The next line as JSON; None at the deadline or the end of the stream."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return None
            self.pending += chunk
        line, self.pending = self.pending.split(b"\n", 1)
        return json.loads(line)

    def kill(self) -> None:
        """End the process and wait for its end, so that no zombie stays."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Grader:
    """Grades responses. Worker processes start when they are first needed and end with `close` or the program.

    Threads may share a grader. A forked child starts workers of its own and does not touch the parent's.

    Args:
        time_limit: seconds of processor time for one answer; the limit in wall-clock time is ten times as long. An
            answer over a limit is a parse failure, and its worker is replaced.
        workers: how many processes may work at once.
        start_limit: seconds in which a worker must have imported math-verify.
        command: the command line of a worker; for tests.
    """

    def __init__(
        self,
        time_limit: float = 3.0,
        workers: int = 1,
        start_limit: float = 120.0,
        command: Sequence[str] | None = None,
    ) -> None:
        if time_limit <= 0 or workers < 1:
            raise AttnPOError(f"time_limit must be > 0 and workers >= 1, not {time_limit} and {workers}")
        self.time_limit = time_limit
        self.workers = workers
        self.start_limit = start_limit
        self.command = list(command or [sys.executable, "-P", str(WORKER)])
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        _graders.add(self)

    def grade(self, responses: Sequence[str], golds: Sequence[str]) -> list[Grade]:
        """Grade each response against the gold answer beside it.

        Args:
            responses: N texts, thinking included.
            golds: N answers, as they would stand in the box.

        Returns:
            N grades, in order. The reasons are "equal", "different", "no_think_end", "many_think_ends" and, as parse
            failures, "no_box", "unparsed", "gold_unparsed" and "timeout".

        Raises:
            AttnPOError: the numbers of responses and golds differ, or math-verify does not start.
        """
        if len(responses) != len(golds):
            raise AttnPOError(f"{len(responses)} responses but {len(golds)} gold answers; pass one gold a response")
        verdicts: list[str | None] = []
        boxes: list[str | None] = []
        for response, gold in zip(responses, golds, strict=True):
            verdict, extracted = _without_process(response, gold)
            verdicts.append(verdict)
            boxes.append(extracted)
        pairs = {(box, gold) for box, gold, verdict in zip(boxes, golds, verdicts, strict=True) if verdict is None}
        judged = self._judge(sorted(pairs, key=str))
        grades = []
        for box, gold, verdict in zip(boxes, golds, verdicts, strict=True):
            reason = verdict or judged[box, gold]
            grades.append(Grade(reason == "equal", reason in _UNREADABLE, box, reason))
        return grades

    def _judge(self, pairs: list[tuple[str | None, str]]) -> dict[tuple[str | None, str], str]:
        judged: dict[tuple[str | None, str], str] = {}
        failures: list[BaseException] = []
        queue = list(reversed(pairs))

        def serve() -> None:
            try:
                while not failures:
                    try:
                        pair = queue.pop()
                    except IndexError:
                        return
                    judged[pair] = self._judge_one(normalise(str(pair[0])), normalise(pair[1]))
            except BaseException as error:  # raised in the caller's thread below
                failures.append(error)

        threads = [threading.Thread(target=serve) for _ in range(min(self.workers, len(pairs)) - 1)]
        for thread in threads:
            thread.start()
        if pairs:
            serve()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return judged

    def _judge_one(self, answer: str, gold: str) -> str:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or _Worker(self.command, self.start_limit)
        verdict: str | None = None
        try:
            verdict = worker.verdict(answer, gold, self.time_limit)
        finally:
            if verdict is None:
                worker.kill()
            else:
                with self._lock:
                    self._idle.append(worker)
        if verdict is None:
            logger.warning(
                "no verdict on %.80r against %.80r in %.1f s of processor time; worker replaced",
                answer,
                gold,
                self.time_limit,
            )
            return "timeout"
        return verdict

    def close(self) -> None:
        """End the worker processes. The grader stays usable."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_graders: weakref.WeakSet[Grader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for grader in list(_graders):
        grader.close()


def _leave_workers_to_parent() -> None:
    for grader in list(_graders):
        grader._idle, grader._lock = [], threading.Lock()


os.register_at_fork(after_in_child=_leave_workers_to_parent)


def _without_process(response: str, gold: str) -> tuple[str | None, str | None]:
    """(the reason of the grade, or None if math-verify must decide; content of the box)."""
    answer = answer_part(response)
    if answer is None:
        return no_answer_reason(response), None
    box = extract_boxed(answer)
    if box is None:
        return "no_box", None
    quick = quick_verdict(box, gold)
    if quick is None:
        return None, box
    return ("equal" if quick else "different"), box
