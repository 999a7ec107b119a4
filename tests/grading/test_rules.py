"""The rules of `docs/grading.md` for numbers, words, solution sets and Unicode, with neighbours on both sides."""

from __future__ import annotations

import pytest

from attnpo.grading.math import Grader
from attnpo.grading.quantities import opposed

# (gold, answers that are the same, answers that are not)
TINY = [
    (r"\frac{3}{2^{60}}", [r"\frac{6}{2^{61}}", r"3\cdot2^{-60}"], [r"\frac{1}{2^{60}}", r"\frac{3}{2^{61}}", "0"]),
    (r"\sqrt{10^{40}+1}", [r"\sqrt{1+10^{40}}"], ["10^{20}", r"\sqrt{10^{40}+2}"]),
    (r"1.6\times10^{-19}", [r"1.60\cdot10^{-19}", r"16\times10^{-20}"], [r"9.1\times10^{-31}", r"1.602\times10^{-19}"]),
    ("0", ["0.0", r"\sqrt6-\sqrt2\sqrt3"], ["0.0000001", r"10^{-30}"]),
    (r"\{2^{-70}, 3\}", [r"\{3, \frac{1}{2^{70}}\}"], [r"\{2^{-71}, 3\}"]),
    (r"[2^{-70}, 1)", [r"[\frac{1}{2^{70}}, 1)"], ["[2^{-71}, 1)", "[0, 1)"]),
    (r"x=2^{-70}", [r"x=\frac{1}{2^{70}}"], [r"x=2^{-71}"]),
    (r"\frac{x}{2^{70}}", [r"x\cdot2^{-70}"], [r"\frac{3x}{2^{70}}", "0"]),
    (r"\begin{pmatrix} 2^{-70} \\ 1 \end{pmatrix}", [], [r"\begin{pmatrix} 2^{-71} \\ 1 \end{pmatrix}"]),
    ("0.0000001", [r"10^{-7}"], ["0.0000002", "0"]),
    (r"\frac18", [r"\cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{3\pi}{7}"], [r"\frac18+2^{-99}"]),
]
SIDE_BY_SIDE = [
    ("5", [], ["2 3", r"2\,3", r"2\quad3", "2~3", r"4\frac{5}{5}"]),
    ("6", [r"2\cdot3", r"2^1 3"], ["2 3", r"2\;3"]),
    ("0", [], ["10 000", r"1\,000", "5 000"]),
    ("50", [], ["5 0", r"5\ 0"]),
    (r"\frac12", [r"\frac 1 2"], ["1 1/4", "1 1/2"]),
    (
        "58,500",
        ["58 500", r"58\;500", r"58\>500", "58~500", r"58\thinspace 500", "58{,}500", r"58\,500.0"],
        ["58 50", "58 5000"],
    ),
    ("1000000", ["1 000 000", r"1\,000\,000", r"1{,}000{,}000"], ["1 000 00", "1000 000"]),
    ("(1000, 2000)", [r"(1\;000, 2 000)"], ["(1 00, 2 000)"]),
    (
        r"\frac72",
        ["3 1/2", r"3\,1/2", r"3~\tfrac{1}{2}", r"3 \frac12", "x = 3 1/2", r"3 1/2 \text{ cups}"],
        ["-3 1/2", "3 2/1", "31/2"],
    ),
    (r"-\frac72", ["-3 1/2", r"-3\frac{1}{2}"], ["3 1/2"]),
    ("10", [], [r"\binom 5 3 1"]),
    (r"\binom52", ["10", r"\binom 5 2"], []),
    (r"\frac{1}{6}", [r"0.1\overline{6}", r"0.1\bar{6}"], [r"0.\overline{16}", "0.1666"]),
]
WORDS = [
    (
        "2",
        [
            r"2 \text{ times}",
            "2 times",
            r"2 \text{ one-dollar bills}",
            r"2 \text{ hundred-dollar bills}",
            r"2 \text{ seconds}",
        ],
        [
            r"2 \text{ trillion}",
            r"2 \text{ and a half}",
            "2 times five",
            "2 plus three",
            "2 thirds",
            "2 squared",
            r"2 \text{ or more}",
        ],
    ),
    ("2500000", ["2.5 million", r"2.5 \text{ million people}", r"25 \text{ lakh}"], ["2.5", r"2.5 \text{ billion}"]),
    ("2.5", [r"2 \text{ and a half}", "2 and a half", r"2 \text{ and a half hours}"], ["2"]),
    ("24", [r"2 \text{ dozen}", "2 dozen eggs"], [r"24 \text{ dozen}"]),
    (r"7 \text{ p.m.}", ["7", r"7\text{ PM}", r"7 \text{ pm}"], [r"7 \text{ a.m.}", "7 am", r"8 \text{ p.m.}"]),
    (r"5 \text{ miles east}", ["5", r"5 \text{ mi. East}"], [r"5 \text{ miles west}"]),
    (r"20\% \text{ increase}", [r"20\%", r"20\% \text{ gain}"], [r"20\% \text{ decrease}"]),
    (r"\text{two}", ["two"], [r"\text{three}"]),
    ("10", ["10 cm^2", "10 km/h", "10 USD", r"\text{USD }10", r"10 \text{ m}/\text{s}^2"], ["10 x^2", "10x/h", "10^2"]),
    (r"\text{Yes}", [r"\text{Yes.}"], [r"\text{No.}"]),
    (
        "18",
        [r"\boldsymbol{18}", r"\bm{18}", r"\underline{18}", r"\textcolor{red}{18}", "18,", "= 18"],
        [r"\bm{18}x", "= 18 = 19"],
    ),
]
SETS = [
    (
        r"(-\infty,2)\cup(3,\infty)",
        [
            r"x<2 \text{ or } x>3",
            r"x>3 \quad\text{or}\quad 2>x",
            "x<2, x>3",
            r"x<2 \lor x>3",
            r"\{x \mid x<2 \text{ or } x>3\}",
            r"(-\infty,2)\text{ or }(3,\infty)",
            r"(-\infty,2)\text{ and }(3,\infty)",
            r"x\in(-\infty,2)\cup(3,\infty)",
        ],
        [r"x\le2 \text{ or } x>3", r"x<2", r"x<2 \text{ or } y>3", r"x<2 \text{ and } x>3", "2, 3", r"2<x<3"],
    ),
    (
        r"x<2 \text{ or } x>3",
        [r"(-\infty,2)\cup(3,\infty)", r"x>3\text{ or }x<2"],
        [r"(-\infty,2]\cup(3,\infty)", r"t<2 \text{ or } t>3"],
    ),
    (
        r"(0,9)\cup(9,36)",
        [r"0<x<36, x\ne9", r"0<x<36 \text{ and } x\neq9", r"(0,36)\setminus\{9\}", r"0<x<9 \text{ or } 9<x<36"],
        ["0<x<36", r"x\ne9", "(0,36)", r"0\le x<36, x\ne9"],
    ),
    (r"0<x<36, x\ne9", [r"(0,9)\cup(9,36)"], [r"(0,36)"]),
    (
        r"\mathbb{R}\setminus\{9\}",
        [r"x\ne9", r"(-\infty,9)\cup(9,\infty)", r"\{x\in\mathbb{R}: x\neq9\}"],
        [r"\mathbb{R}", r"x=9"],
    ),
    (r"(-\infty,0)\cup\{1\}", [r"x<0 \text{ or } x=1"], [r"x<0", r"x\le0 \text{ or } x=1"]),
    (r"(-\infty,3)", [r"\{x: x<3\}", r"\left\{x \,\middle|\, x<3\right\}", "3>x"], [r"\{x: x\le3\}"]),
    (r"(-\infty,\frac13)", ["x<0.333333", r"(-\infty,0.333333)"], ["x<0.333", r"(-\infty,0.33)"]),
    (r"(-\infty,\frac14)\cup(1,2]", [r"x<0.25 \text{ or } 1<x\le2.0"], [r"x<0.24 \text{ or } 1<x\le2"]),
    ("(2,3)", ["x>2, x<3"], [r"x>2 \text{ or } x<3"]),
    (r"(-\infty,-0.5)\cup(\frac12,\infty)", [r"x<-\frac12 \text{ or } x>0.5"], [r"x<-0.5 \text{ or } x>0.6"]),
]
UNICODE = [
    (r"2\sqrt5", ["2√5", "2√(5)"], ["2√6", "25"]),
    (r"\sqrt[3]{2}", ["∛2"], ["√2", "∜2"]),
    ("x^2", ["x²"], ["x2", "x³"]),
    ("2^{-10}", ["2⁻¹⁰"], ["2¹⁰", "2-10"]),
    ("x_1+x_2", ["x₁+x₂"], ["x1+x3"]),
    (r"\frac12", ["½", "1⁄2", "１／２"], ["12", "¼"]),
    ("2.5", ["2½"], ["2¼", "1"]),
    ("6", ["2·3", "2×3", "2⋅3", "12÷2"], ["23"]),
    ("-3", ["–3", "−3", "—3", "－3"], ["3"]),
    (r"90^\circ", ["90º", "90°", "90˚"], ["90^0"]),
    ("(1,2)", ["（1，2）"], ["（2，1）"]),
    ("[1,2)", ["［1，2）"], ["（1，2）"]),
    ("1234", ["１２３４", "1\u00a0234", "1\u202f234", "1\u2009234", "\ufeff1234"], ["1\u00a023", "１２３"]),
    (r"5\%", ["5％"], ["6％"]),
    ("12", ["12。", "12．"], ["1。2"]),
    (r"2\pm\sqrt3", ["2 ± √3"], ["2 + √3"]),
    (r"(-\infty,2)\cup[3,\infty)", ["(−∞,2)∪[3,∞)", "x<2 or x≥3", "x∈(−∞,2)∪[3,∞)"], ["(−∞,2]∪[3,∞)"]),
    (r"\lfloor x\rfloor", ["⌊x⌋"], ["⌈x⌉"]),
]
OTHERS = [
    ("-1", ["i^2", "e^{i\\pi}"], ["i", "1"]),
    ("1+2i", ["i(2-i)"], ["i(2+i)"]),
    (r"\frac12", [r"\sin 30^\circ", r"\cos(60^{\circ})"], [r"\sin 30", r"\sin 60^\circ"]),
    (r"\frac{1}{432}", [r"2.314814814815 \times 10^{-3}"], [r"2.3148 \times 10^{-3}"]),
    ("100,200", ["100, 200"], ["100200, 1"]),
    ("5, 120", ["5,120"], ["5120"]),
]
TABLES = {"tiny": TINY, "side": SIDE_BY_SIDE, "words": WORDS, "sets": SETS, "unicode": UNICODE, "others": OTHERS}


@pytest.mark.parametrize("name", TABLES)
def test_what_is_equal_and_what_is_not(name: str) -> None:
    triples = [(gold, answer, True) for gold, same, _ in TABLES[name] for answer in same]
    triples += [(gold, answer, False) for gold, _, others in TABLES[name] for answer in others]
    responses = ["thinking</think>\\boxed{" + answer + "}" for _, answer, _ in triples]
    with Grader(time_limit=60) as grader:
        grades = grader.grade(responses, [gold for gold, _, _ in triples])
    wrong = [
        (*triple, grade.reason) for triple, grade in zip(triples, grades, strict=True) if grade.correct != triple[2]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "answer", ["2 3", r"2\frac{7}{2}", r"2 \text{ thirds}", "2 plus three", r"\frac{1}{2} \text{ or more}"]
)
def test_what_has_no_one_reading_is_a_parse_failure(answer: str) -> None:
    with Grader(time_limit=60) as grader:
        (grade,) = grader.grade(["thinking</think>\\boxed{" + answer + "}"], ["5"])
    assert (grade.correct, grade.parse_failed, grade.reason) == (False, True, "unparsed")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (r"\left(1,2\right)", r"\right", False),
        (r"\frac{ad}{bc}", r"\frac{da}{bc}", False),
        ("2am", "2pm", True),
        (r"300 \text{ BC}", r"300 \text{ AD}", True),
        ("5", "5 miles up", False),
        ("down", "up", True),
    ],
)
def test_opposites(one: str, other: str, expected: bool) -> None:
    assert opposed(one, other) is opposed(other, one) is expected
