from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from places import SHARED

from attnpo.errors import AttnPOError
from attnpo.grading.comparison import judge
from attnpo.grading.grade import answer_part
from attnpo.grading.math import WORKER, Grader, extract_boxed, quick_verdict
from attnpo.grading.normalise import normalise
from attnpo.grading.quantities import has_no_one_reading

BENCHMARKS = SHARED / "benchmarks"
needs_benchmarks = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the benchmark sets beside the checkout")

FAKE_WORKER = r"""
import json, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["answer"] == "hang": time.sleep(1000)
    if request["answer"] == "die": raise SystemExit(1)
    if request["answer"] == "WAIT": time.sleep(1.5 * request["cpu"])
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
        ("52_8", "52_9", False),
        ("52_{8}", "52_8", True),
        ("052_8", "52_8", True),
        ("52", "52_8", None),
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
        assert grader.grade([boxed("y+1")], ["1+y"])[0].correct
        (worker,) = grader._idle
        hung = grader.grade(responses[:1], ["5"])[0]
        assert (hung.correct, hung.parse_failed, hung.reason) == (False, True, "timeout")
        assert worker.process.returncode == -signal.SIGPROF  # its time of the processor was up
        grader.time_limit = 60
        assert grader.grade(responses[1:], ["1+x"])[0].correct


def test_an_item_that_waits_for_the_processor_is_graded() -> None:
    with Grader(time_limit=0.5, command=FAKE) as grader:
        assert grader.grade([boxed("WAIT")], ["wait"])[0].correct


def test_a_worker_takes_the_modules_beside_it() -> None:
    """Also where another copy of the package is installed and `PYTHONPATH` does not name this one."""
    request = json.dumps({"answer": "2 3", "gold": "5", "cpu": 60, "alarm": 600})
    done = subprocess.run([sys.executable, "-P", WORKER], input=request, env={}, capture_output=True, text=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"ready": True}, {"verdict": "unparsed"}]


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


def test_a_lost_worker_among_several_costs_its_own_answer_alone() -> None:
    answers = ["A", "hang", "B", "die", "C", "D"]
    with Grader(workers=3, time_limit=0.5, command=FAKE) as grader:
        grades = grader.grade([boxed(answer) for answer in answers], ["a", "a", "b", "b", "c", "c"])
        assert [g.reason for g in grades] == ["equal", "timeout", "equal", "timeout", "equal", "different"]
        workers = list(grader._idle)
        assert 1 <= len(workers) <= 3
    assert all(gone(worker.process.pid) for worker in workers)


def test_repeated_pairs_are_judged_once() -> None:
    start = time.monotonic()
    with Grader(time_limit=0.5, command=FAKE) as grader:
        grades = grader.grade([boxed("hang")] * 200, ["a"] * 200)
    assert [g.reason for g in grades] == ["timeout"] * 200
    assert time.monotonic() - start < 60  # 200 waits in a row would take 1000 s


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


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("−5", "-5"),
        ("90°", r"90^{\circ}"),
        (r"\$1,250", "1,250"),
        ("$(2,4)$.", "(2,4)"),
        ("0.333...", "0.333..."),
        (r"\left\{ x \right.", r"\left\{ x \right."),
        (".5", ".5"),
        (r"1\,234{,}567", "1234567"),
        (r"1,\! 234", "1234"),
        (r"(1\, 23)", r"(1\, 23)"),
        (r"1 \\[4pt] 2", r"1 \\ 2"),
        (r"\bigl(1,2\bigr)", "(1,2)"),
        (r"A \bigcup B", r"A \bigcup B"),
        (r"m_{\max }=3", "m=3"),
        ("t(0,4]", "(0,4]"),
        ("f(0,4)", "f(0,4)"),
        (r"\text{18 dollars}", "18"),
        (r"5\ \text{cm}^2", "5"),
        (r"5\text{ km}/\text{h}", "5"),
        (r"\text{east}", r"\text{east}"),
        (r"\text{12 percent}", r"12\%"),
        ("3 million", r"3\cdot10^{6}"),
        ("18 or 20", "18 or 20"),
        ("15 xy", "15 xy"),
        ("2 sin x", "2 sin x"),
        ("2 arcsin x", "2 arcsin x"),
        (r"18 \text{ dollars} .", "18"),
        (r"f(x)=2x \quad \forall x \in \mathbb{R}", "f(x)=2x"),
        (r"f(x)=2x, \text{ for every } x", "f(x)=2x"),
        ("", ""),
    ],
)
def test_normalise(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


UNITS = [
    " ",
    ",",
    r"\text{a}",
    "/ ",
    "{",
    r"\,",
    "1,",
    ".",
    r"\text{",
    "a ",
    " 1",
    r"\bm{",
    "√",
    "and a half",
    r"\frac1",
    "or ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_no_text_keeps_the_rules_busy(unit: str) -> None:
    start = time.monotonic()
    for text in ("1" + unit * 100_000 + "b", ("1" + unit * 999)[:999] + "b"):
        quick_verdict(text, "5")
        has_no_one_reading(normalise(text))
    assert time.monotonic() - start < 5  # 0.2 s where a quadratic rule meets 1,000 characters


# (gold, answers that are the same): math-verify alone says so too.
SAME = [
    ("27.0", ["27", "$27$", "27.00"]),
    ("1234", ["1,234", "1{,}234", r"1,\!234", r"\$1,234"]),
    (r"\$32,\!348", ["32348", "32,348"]),
    (r"5.4 \text{ cents}", ["5.4", r"5.4\text{ cents}"]),
    (r"15\mbox{ cm}^2", ["15", r"15\,\text{cm}^{2}", r"15 \mathrm{~cm}^2"]),
    (r"90^\circ", ["90", r"90^{\circ}", r"90 \text{ degrees}"]),
    (r"62.5\%", ["0.625", r"\frac{5}{8}", "62.5%"]),
    (r"8\%", ["8", "0.08"]),
    (r"\frac{1}{2}", ["0.5", ".5", "1/2", r"\dfrac{1}{2}", r"\tfrac12", r"\frac{2}{4}", r"50\%"]),
    (r"\frac{1}{3}", ["0.333333"]),
    (r"1\frac{4}{5}", ["1.8", r"\frac{9}{5}"]),
    (".0000672", ["0.0000672", r"6.72 \times 10^{-5}"]),
    (r"3\sqrt{13}", [r"\sqrt{117}", r"3 \cdot \sqrt{13}"]),
    ("x=5", ["5", "$x = 5$"]),
    ("5", ["x=5", r"\mathbf{5}", r"\boxed{5}", r"\text{5}"]),
    ("$f(x)=2 x$", ["2x", "f(x) = 2x"]),
    ("k \\geqslant 2", [r"k\ge 2", r"2 \le k", r"[2,\infty)"]),
    ("(3,4]", [r"\left(3,4\right]", r"x \in (3, 4]"]),
    (r"(0,9) \cup (9,36)", [r"(9,36)\cup(0,9)", r"x \in (0,9) \cup (9,36)"]),
    (r"(-\infty, 0) \cup\{1\}", [r"\{1\} \cup \left(-\infty,0\right)"]),
    (r"\left( 3, \frac{\pi}{2} \right)", [r"(3, \pi/2)", r"\left(3,\dfrac{\pi}{2}\right)"]),
    ("(6,31,-1)", ["(6, 31, -1)", "6,31,-1"]),
    ("1,-2", ["-2, 1", r"\{1,-2\}", r"-2 \text{ and } 1", r"x=1 \text{ or } x=-2"]),
    (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}, 1-\sqrt{19}"]),
    (r"\{1\pm\sqrt{5},-2\}", [r"-2, 1+\sqrt{5}, 1-\sqrt{5}"]),
    (r"\text{Evelyn}", ["Evelyn", r"\text{evelyn}"]),
    (r"\text{(C)}", ["C", "(C)", r"\textbf{(C)}"]),
    ("52_8", ["52_{8}", "52"]),
    (r"\begin{pmatrix} -1/3 \\ 2 \end{pmatrix}", [r"\begin{bmatrix} -\frac{1}{3} \\ 2 \end{bmatrix}"]),
    (r"\cot x", [r"\frac{\cos x}{\sin x}"]),
    (r"\binom{2n}{n}", [r"\frac{(2n)!}{(n!)^2}"]),
    ("5x - 7y + 4 = 0", ["5x-7y=-4"]),
    ("\\frac{N}{2}", [r"\frac{n}{2}"]),  # the case of a letter does not count
]

# (gold, answers that are different): math-verify alone says so too.
DIFFERENT = [
    ("3", ["13", "-3", "3x", "0.3", "3,4", "(3,4)", r"3 \text{ or } 4", r"\frac{1}{3}", "3!", "3^2", "3n"]),
    ("1234", ["1,235", "1,2,3,4", "12,34", "1.234", "234"]),
    ("234", ["1,234"]),
    ("(1,2)", ["(2,1)", "[1,2]", "(1,2]", "(1,2,3)", "f(1,2)"]),
    ("[1,2)", ["(1,2]", "[1,2]", "(1,2)"]),
    ("1,-2", ["1,2", "1", "1,-2,3"]),
    (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}"]),
    (r"\frac{1}{3}", ["0.333", "0.33333", "0.3", r"33\%"]),
    (r"\pi", ["3.14", "3.14159"]),
    ("27.0", ["27.1", "270"]),
    ("62.5%", ["0.0625", r"6.25\%", "6250"]),
    ("12.5", ["0.125"]),
    (r"90^\circ", [r"\frac{\pi}{2}", r"80^\circ"]),
    ("x=5", ["y=5", "x=-5", "2x=5"]),
    ("y = 2x + 3", ["y=2x-3", "x=2y+3"]),
    (r"k \geqslant 2", ["k > 2", r"k \le 2", "2", "k=2"]),
    (r"(2,\infty)", [r"x \ge 2", "x < 2", r"[2,\infty)", "2"]),
    (r"(-\infty, 0) \cup\{1\}", [r"(-\infty,0)", r"(-\infty,0]\cup\{1\}", r"\{1\}", "1"]),
    (r"\text{Evelyn}", [r"\text{Carla}", "E", r"\text{not Evelyn}"]),
    (r"\text{(C)}", [r"\text{(B)}", "B"]),
    ("52_8", ["42", "53_8"]),
    (r"15\mbox{ cm}^2", ["225", "15x^2"]),
    ("18", ["18x", "18 or 20", r"\text{18 or 20}", "18 to 20", r"2 \text{ or } 18", "18 million"]),
    ("15", ["15 xy"]),
    ("10", ["-10", r"10\pi", r"10\sqrt{2}"]),
    ("6 - 5i", ["6+5i", "6"]),
    ("2 n", ["2m", "2", "n"]),
]

# (gold, answer, our verdict, why): math-verify alone says the opposite.
DIFFERENCES = [
    ("3", "3.", "equal", "rule 3: full stop"),
    (r"$(-\infty, 0) \cup\{1\}$.", r"(-\infty, 0) \cup \{1\}.", "equal", "rule 3: full stop"),
    ("1234", r"1\,234", "equal", "rule 9: thin space in a number"),
    (r"90^\circ", "90°", "equal", "rule 1: Unicode sign"),
    (r"90^\circ", r"90\degree", "equal", "rule 4: degree command"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\[4pt] 2 \end{pmatrix}", "equal", "rule 4"),
    ("(3,4)", r"\bigl(3,4\bigr)", "equal", "rule 5: command of size"),
    (r"m_{\max }=n^{2}-1", "n^2-1", "equal", "rule 6: subscript"),
    ("t(0,4]", "(0,4]", "equal", "rule 7: name before an interval"),
    ("18", "18 dollars", "equal", "rule 9: unit in plain words"),
    ("18", r"\text{18 dollars}", "equal", "rule 8: all in one text"),
    ("$f(x)=2 x$", r"f(x)=2x \text{ for all } x", "equal", "rule 10: quantifier"),
    ("62.5%", "62.5", "equal", "a percent sign on one side, of a decimal"),
    ("17.5", r"17.5\%", "equal", "a percent sign on one side, of a decimal"),
    ("(3,4]", r"3 < x \le 4", "equal", "an inequality for an interval"),
    ("6m", r"6 \cdot m", "equal", "m is a variable of the gold answer, no unit"),
    ("6m", "6", "different", "m is a variable of the gold answer, no unit"),
    ("n+2", "n+2t", "different", "t is a variable beside n, no unit"),
    (r"2\mathrm{e}", "2", "different", "e is a number, no unit"),
    (".0000672", ".000067", "different", "6 places are counted from the first digit"),
    (r"\frac{1}{6084}", "0.000164", "different", "6 places are counted from the first digit"),
    ("52_8", "52_9", "different", "another base"),
    ("3", r"3 \text{ million}", "different", "words of quantity are no unit"),
    ("3", "? = 3", "unparsed", "no number is picked out of what cannot be parsed"),
]


def math_verify_alone(gold: str, answer: str) -> bool:
    """The verdict of math-verify with its defaults, its time limits aside."""
    from math_verify import parse, verify

    parsed = [parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    return verify(*parsed, timeout_seconds=None)


def graded(pairs: list[tuple[str, str]]) -> list[str]:
    with Grader(time_limit=60) as grader:
        return [g.reason for g in grader.grade([boxed(a) for _, a in pairs], [gold for gold, _ in pairs])]


@pytest.mark.parametrize(("table", "same"), [(SAME, True), (DIFFERENT, False)], ids=["same", "different"])
def test_usual_rewritings_and_what_only_looks_like_one(table: list[tuple[str, list[str]]], same: bool) -> None:
    pairs = [(gold, answer) for gold, answers in table for answer in answers]
    assert [p for p, reason in zip(pairs, graded(pairs), strict=True) if (reason == "equal") != same] == []
    assert [p for p in pairs if math_verify_alone(*p) != same] == []


def test_where_and_why_we_differ_from_math_verify_alone() -> None:
    pairs = [(gold, answer) for gold, answer, _, _ in DIFFERENCES]
    assert graded(pairs) == [verdict for _, _, verdict, _ in DIFFERENCES]
    assert [math_verify_alone(*p) for p in pairs] == [verdict != "equal" for _, _, verdict, _ in DIFFERENCES]


def test_plain_integers_take_milliseconds() -> None:
    responses = [boxed(str(i)) for i in range(128)]
    with Grader(command=["/nonexistent"]) as grader:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            grades = grader.grade(responses, ["72"] * 128)
            seconds.append(time.perf_counter() - start)
    assert [i for i, g in enumerate(grades) if g.correct] == [72]
    assert min(seconds) < 0.05  # about 1 ms; a parser would take 0.5 s


def benchmark_golds() -> dict[str, str]:
    lines = [line for path in sorted(BENCHMARKS.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return {problem["id"]: problem["answer"] for problem in map(json.loads, lines)}


@pytest.mark.slow
@needs_benchmarks
def test_every_gold_answer_of_the_benchmarks_is_accepted() -> None:
    golds = benchmark_golds()
    assert len(golds) == 2500
    rewritings = {
        "itself": lambda gold: gold,
        "in dollars": lambda gold: f"${gold.strip('$.')}$" if gold[0] != "." else gold,
        "full stop": lambda gold: gold.rstrip(".") + ".",
        "display fractions": lambda gold: gold.replace("\\frac", "\\dfrac"),
        "spaces": lambda gold: f" {gold} ".replace(",", ", ") if "(" in gold else f" {gold} ",
        "large brackets": lambda gold: gold.replace("(", "\\big(").replace("\\left\\big(", "\\left("),
    }
    refused = {
        (name, problem)
        for name, rewrite in rewritings.items()
        for problem, reason in zip(golds, graded([(gold, rewrite(gold)) for gold in golds.values()]), strict=True)
        if reason != "equal"
    }
    assert refused == set()


@pytest.mark.slow
@needs_benchmarks
def test_every_gold_answer_is_one_for_the_parser_too() -> None:
    from math_verify import parse, verify

    golds = benchmark_golds()
    # `judge` here and not a grader: exact matches would not reach the parser.
    assert [p for p, g in golds.items() if judge(normalise(g), normalise(g)) != "equal"] == []
    # math-verify alone, gold answer in dollars against the same in the box, trips over a full stop.
    missed = []
    for problem, gold in golds.items():
        bare = gold.strip("$")
        parsed = [parse(text, parsing_timeout=None) for text in (f"${bare}$", f"\\boxed{{{bare}}}")]
        if not verify(*parsed, timeout_seconds=None):
            missed.append(problem)
        assert judge(normalise(bare), normalise(gold)) == "equal"
    assert missed == ["olympiadbench/62"]


@pytest.mark.slow
@needs_benchmarks
def test_the_answers_of_other_problems_are_refused() -> None:
    draw = random.Random(0)
    golds = sorted({normalise(gold) for gold in benchmark_golds().values()})
    expressions = [gold for gold in golds if not gold.lstrip("-").replace(",", "").isdigit()]
    pairs = [tuple(draw.sample(golds, 2)) for _ in range(1500)] + [
        tuple(draw.sample(expressions, 2)) for _ in range(150)
    ]
    accepted = {
        (gold, answer) for (gold, answer), reason in zip(pairs, graded(pairs), strict=True) if reason == "equal"
    }
    # The one exception: math-verify does not heed the case of a letter.
    assert {tuple(sorted(pair)) for pair in accepted} <= {(r"\frac{N}{2}", r"\frac{n}{2}")}
