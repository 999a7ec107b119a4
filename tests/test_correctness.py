from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

import pytest

from attnpo.errors import AttnPOError
from attnpo.rewards.correctness import Grader, answer_part, extract_boxed, quick_verdict

FAKE_WORKER = r"""
import json, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["answer"] == "hang": time.sleep(1000)
    if request["answer"] == "die": raise SystemExit(1)
    same = request["answer"].lower() == request["gold"].lower()
    print(json.dumps({"verdict": "equal" if same else "different"}), flush=True)
"""
FAKE = [sys.executable, "-c", FAKE_WORKER]


def boxed(answer: str) -> str:
    return "thinking\n</think>\n\\boxed{" + answer + "}"


def gone(pid: int) -> bool:
    """Whether no process has this id, zombies included: a zombie would still take the signal."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5}", "5"),
        (r"first \boxed{1} then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} and more }", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{1} \boxed{2", None),
        (r"\boxed{1\\}", r"1\\"),
        ("\\boxed{a\\", None),
        ("boxed{3}", None),
        (r"\boxed{}", ""),
        ("", None),
    ],
)
def test_extract_boxed(text: str, expected: str | None) -> None:
    assert extract_boxed(text) == expected


def test_answer_part_needs_exactly_one_think_end() -> None:
    assert answer_part("a</think>b") == "b"
    assert answer_part("a") is None
    assert answer_part("a</think>b</think>c") is None


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("72", "72", True),
        (" $72$ ", "72", True),
        ("072", "72", True),
        ("+5", "5", True),
        ("1,234", "1234", True),
        ("73", "72", False),
        ("-72", "72", False),
        ("12,34", "1234", None),
        ("72.0", "72", None),
        (r"\frac{1}{2}", r"\frac{1}{2}", True),
        ("9" * 5000, "9", None),
        ("", "", None),
    ],
)
def test_quick_verdict(answer: str, gold: str, expected: bool | None) -> None:
    assert quick_verdict(answer, gold) is expected


def test_reasons_are_told_apart_without_any_process() -> None:
    responses = [
        boxed("5"),
        boxed("6"),
        r"no end \boxed{5}",
        r"a</think>b</think>\boxed{5}",
        r"\boxed{5}</think>nothing in a box",
        r"a</think>\boxed{5",
    ]
    with Grader(command=["/nonexistent"]) as grader:
        grades = grader.grade(responses, ["5"] * len(responses))
    reasons = ["equal", "different", "no_think_end", "many_think_ends", "no_box", "no_box"]
    assert [g.reason for g in grades] == reasons
    assert [g.correct for g in grades] == [True, False, False, False, False, False]
    assert [g.parse_failed for g in grades] == [False, False, False, False, True, True]
    assert [g.extracted for g in grades] == ["5", "6", None, None, None, None]


def test_lengths_must_agree() -> None:
    with pytest.raises(AttnPOError, match="2 responses but 1 gold"):
        Grader().grade(["a", "b"], ["1"])


@pytest.mark.parametrize("kwargs", [{"time_limit": 0.0}, {"workers": 0}])
def test_bad_arguments(kwargs: dict) -> None:
    with pytest.raises(AttnPOError, match="workers >= 1"):
        Grader(**kwargs)


def test_math_verify_decides_what_is_not_plain() -> None:
    cases = [
        (r"\frac{1}{2}", "0.5", "equal"),
        ("x+1", "1+x", "equal"),
        ("72.0", "72", "equal"),
        ("72.5", "72", "different"),
        ("@@!!", "5", "unparsed"),
        ("3", "@@", "gold_unparsed"),
        (r"\frac{1}{2}", "0.5", "equal"),
    ]
    with Grader(time_limit=60) as grader:
        grades = grader.grade([boxed(a) for a, _, _ in cases], [gold for _, gold, _ in cases])
    assert [g.reason for g in grades] == [reason for _, _, reason in cases]
    assert [g.parse_failed for g in grades] == [False, False, False, False, True, True, False]


def test_expression_that_hangs_in_c_is_killed_and_the_next_is_graded() -> None:
    responses = [boxed("9^{9^{9^{9}}}"), boxed("x+1")]
    with Grader(time_limit=2) as grader:
        hung = grader.grade(responses[:1], ["5"])[0]
        assert (hung.correct, hung.parse_failed, hung.reason) == (False, True, "timeout")
        grader.time_limit = 60
        assert grader.grade(responses[1:], ["1+x"])[0].correct


@pytest.mark.parametrize("answer", ["hang", "die"])
def test_a_lost_worker_is_replaced_and_leaves_no_process(answer: str) -> None:
    with Grader(time_limit=0.5, command=FAKE) as grader:
        assert grader.grade([boxed("A")], ["a"])[0].correct
        (first,) = grader._idle
        assert grader.grade([boxed(answer)], ["a"])[0].reason == "timeout"
        assert gone(first.process.pid)
        grader.time_limit = 60
        assert grader.grade([boxed("B")], ["b"])[0].correct
        (second,) = grader._idle
    assert gone(second.process.pid)


def test_repeated_pairs_are_judged_once() -> None:
    start = time.monotonic()
    with Grader(time_limit=0.5, command=FAKE) as grader:
        grades = grader.grade([boxed("hang")] * 200, ["a"] * 200)
    assert [g.reason for g in grades] == ["timeout"] * 200
    assert time.monotonic() - start < 60  # 200 limits in a row would take 100 s


def test_several_workers_and_threads_keep_the_order() -> None:
    answers = [chr(ord("A") + i % 26) * (1 + i // 26) for i in range(60)]
    golds = [a.lower() if i % 3 else "zzzzzz" for i, a in enumerate(answers)]
    expected = [bool(i % 3) for i in range(60)]
    found: list[list[bool]] = []
    with Grader(workers=2, time_limit=60, command=FAKE) as grader:

        def work() -> None:
            found.append([g.correct for g in grader.grade([boxed(a) for a in answers], golds)])

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected, expected]


def test_a_forked_child_leaves_the_parents_worker_alone() -> None:
    context = multiprocessing.get_context("fork")
    with Grader(time_limit=60, command=FAKE) as grader:
        assert grader.grade([boxed("A")], ["a"])[0].correct
        (worker,) = grader._idle

        def in_child() -> None:
            own = grader.grade([boxed("B")], ["b"])[0].correct and grader._idle[0] is not worker
            grader.close()
            sys.exit(0 if own else 1)

        child = context.Process(target=in_child)
        child.start()
        child.join()
        assert child.exitcode == 0
        assert worker.process.poll() is None
        assert grader.grade([boxed("C")], ["c"])[0].correct
        assert grader._idle == [worker]


def test_a_worker_that_cannot_start_is_an_error_with_the_remedy() -> None:
    command = [sys.executable, "-c", 'print(\'{"ready": false, "error": "No module named sympy"}\')']
    with (
        Grader(command=command) as grader,
        pytest.raises(AttnPOError, match="No module named sympy.*pip install"),
    ):
        grader.grade([boxed("A")], ["a"])
    with (
        Grader(command=[sys.executable, "-c", ""]) as grader,
        pytest.raises(AttnPOError, match="does not start"),
    ):
        grader.grade([boxed("A")], ["a"])
