"""Wrong grades of the past, and the test suites of other graders.

`faults.jsonl` holds one input a line, with the right outcome and where it was found; `decision` says why the outcome
is the one of our rules where there are reasons for another. `peers.json` restates the cases of other graders' own
tests as pairs, with the source and licence of each suite, and names each pair on which we differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnpo.grading.choice import extract_choice
from attnpo.grading.code import extract_code, judge
from attnpo.grading.math import Grader
from attnpo.grading.sandbox import Sandbox
from attnpo.problems.livecodebench import Test as Case
from attnpo.problems.livecodebench import Tests as Suite

HERE = Path(__file__).parent
FAULTS = [json.loads(line) for line in (HERE / "faults.jsonl").read_text("utf-8").splitlines()]
PEERS = json.loads((HERE / "peers.json").read_text("utf-8"))


def of(area: str) -> list[dict[str, Any]]:
    return [fault for fault in FAULTS if fault["area"] == area]


def equal(pairs: list[tuple[str, str]]) -> list[bool]:
    """Whether the answers are right, for pairs of gold answer and answer."""
    responses = ["thinking</think>\\boxed{" + answer + "}" for _, answer in pairs]
    with Grader(time_limit=10) as grader:
        return [grade.correct for grade in grader.grade(responses, [gold for gold, _ in pairs])]


def test_math() -> None:
    faults = of("math grader")
    found = equal([(fault["gold"], fault["answer"]) for fault in faults])
    assert [fault for fault, same in zip(faults, found, strict=True) if same != fault["equal"]] == []
    assert len(faults) == 79


@pytest.mark.parametrize("fault", of("choice grader"), ids=lambda fault: fault["answer"])
def test_choice(fault: dict[str, Any]) -> None:
    letter, reason = extract_choice(fault["answer"], fault["choices"])
    assert (None if reason else letter) == fault["letter"]


@pytest.mark.parametrize("fault", of("LiveCodeBench extraction"), ids=lambda fault: fault["answer"])
def test_extraction_of_programs(fault: dict[str, Any]) -> None:
    assert extract_code(fault["answer"]) == fault["program"]


@pytest.mark.parametrize("fault", of("LiveCodeBench"), ids=lambda fault: fault["program"][60:])
def test_programs(fault: dict[str, Any]) -> None:
    suite = Suite([Case(fault["input"], fault["output"])], fault["function"])
    assert judge(fault["program"], suite, Sandbox("none", run_untrusted_code=True)) == fault["verdict"]


@pytest.mark.slow
@pytest.mark.parametrize("suite", PEERS, ids=lambda suite: suite["name"])
def test_other_graders_suites(suite: dict[str, Any]) -> None:
    """We differ from a suite just where the file says so, in both directions if the suite's own grader has none."""
    pairs = [(gold, answer, same) for gold, answer, same in suite["pairs"]]
    if suite["both_ways"]:
        pairs += [(answer, gold, same) for gold, answer, same in pairs]
    found = equal([(gold, answer) for gold, answer, _ in pairs])
    differ = {(gold, answer) for (gold, answer, same), ours in zip(pairs, found, strict=True) if ours != same}
    named = {(gold, answer) for gold, answer, _ in suite["differences"]}
    assert {pair for pair in differ if pair not in named and pair[::-1] not in named} == set()
    assert {pair for pair in named if pair not in differ and pair[::-1] not in differ} == set()
    agreed = sum(same == ours for (_, _, same), ours in zip(pairs, found, strict=True))
    assert [agreed, len(pairs)] == suite["agreed"]
