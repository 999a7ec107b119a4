"""Run folders with responses made up for the tests of the page of traces; the testbed's tokenizer counts them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnpo.evaluation.responses import describe
from attnpo.grading.grade import Grade
from attnpo.sampling.models import load_tokenizer
from attnpo.testbed import load_problems
from attnpo.testbed.problems import ChainProblem

TASK = "attnpo_testbed_test"
tokenizer = functools.cache(lambda: load_tokenizer("testbed"))


def problem(number: int) -> ChainProblem:
    """A problem of the testbed's test."""
    found = load_problems("testbed", "test")[number]
    assert isinstance(found, ChainProblem)
    return found


def equations(of: ChainProblem) -> list[str]:
    """The links of a problem, each recalled."""
    values = zip(of.ops, of.values, of.values[1:], strict=False)
    return [f"{value} {op} {n} = {result}" for (op, n), value, result in values]


def solution(of: ChainProblem, checks: int = 0) -> str:
    """A response that solves it, with so many re-checks of its first link."""
    links = equations(of)
    lines = [f"First, {links[0]}.\n", *(f"Next, {link}.\n" for link in links[1:])]
    lines[1:1] = [f"Wait, {links[0]}, yes.\n"] * checks
    return "".join(lines) + "</think>\n" + "".join(f"{link}.\n" for link in links) + f"\\boxed{{{of.answer}}}"


def record(text: str, correct: bool, finish: str = "stop", **more: Any) -> dict[str, Any]:
    """A response as in samples.jsonl, without the fields that say to what."""
    clean = text.encode("utf-8", "replace").decode()
    found = describe(clean, Grade(correct, False, None, "equal" if correct else "different"), tokenizer)
    if finish == "stop":
        found["tokens"]["total"] += 1
        found["tokens"]["answer" if found["think_tags"] else "thinking"] += 1
    return {**found, "text": text, "finish": finish, "counted": "generated", **more}


def write_run(
    folder: Path, method: str, responses: Mapping[str, Sequence[dict[str, Any]]], task: str = TASK, **spec: Any
) -> Path:
    """A finished evaluation: problem id -> its records."""
    folder.mkdir(parents=True)
    section = {"max_completion_tokens": 256, "temperature": 1.0, "top_p": 1.0}
    found = {"kind": "eval", "method": method, "seed": 0, "model": {"name": "testbed"}, "evaluate": section, **spec}
    (folder / "manifest.json").write_text(json.dumps({"spec": found}))
    lines = [
        json.dumps({"task": task, "problem_id": id, "k": k, **one, "meta": {}}) + "\n"
        for id, of in responses.items()
        for k, one in enumerate(of)
    ]
    (folder / "samples.jsonl").write_text("".join(lines))
    return folder


def two_runs(folder: Path, problems: int = 6) -> list[Path]:
    """An untrained model that re-checks, and one that does not. Each problem has a correct and a wrong response, the
    last two correct ones; the first has a truncated response too, and the second one without `</think>`."""
    runs = []
    for method, checks in (("base", 2), ("short", 0)):
        responses = {}
        for number in range(problems):
            of = problem(number)
            text = solution(of, checks)
            wrong = text.replace(f"\\boxed{{{of.answer}}}", "\\boxed{101}")
            last = number == problems - 1
            responses[of.id] = [record(text, True), record(text, True) if last else record(wrong, False)]
        cut = solution(problem(0), checks).partition("</think>")[0]
        responses[problem(0).id].append(record(cut + "Wait, ", False, "length", reason="no_think_end"))
        responses[problem(1).id].append(record(cut, False, reason="no_think_end"))
        runs.append(write_run(folder / method, method, responses))
    return runs
