from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpo.errors import AttnPOError
from attnpo.grading.choice import ChoiceGrader, extract_choice, grade_choice
from attnpo.problems.choice import LETTERS, prompt, shuffled

CITIES = ["Paris", "Rome", "A large town", "$\\frac{1}{2}$"]

# --- the order of the options


@given(st.text(max_size=20), st.lists(st.text("xyz \\$", min_size=1, max_size=5), min_size=2, max_size=10), st.data())
def test_shuffling_permutes_and_the_letter_follows(name: str, choices: list[str], data: st.DataObject) -> None:
    gold = data.draw(st.integers(0, len(choices) - 1))
    found, letter = shuffled(name, choices, LETTERS[gold])
    assert sorted(found) == sorted(choices)
    assert found[LETTERS.index(letter)] == choices[gold]
    assert (found, letter) == shuffled(name, choices, LETTERS[gold])


def test_the_order_is_the_same_in_every_process_and_version() -> None:
    """Written down: a change would part new results from old ones."""
    assert shuffled("gpqa_diamond/rec2", ["w", "x", "y", "z"], "A") == (["z", "x", "y", "w"], "D")
    code = "from attnpo.problems.choice import shuffled; print(shuffled('mmlu/1', ['w', 'x', 'y', 'z'], 'B'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(shuffled("mmlu/1", ["w", "x", "y", "z"], "B"))


@pytest.mark.parametrize("gold", "ABCD")
def test_gold_letters_are_near_uniform_and_orders_too(gold: str) -> None:
    n = 4800
    shuffles = [shuffled(f"x/{i}", ["w", "x", "y", "z"], gold) for i in range(n)]
    letters = Counter(letter for _, letter in shuffles)
    # Five standard deviations; the ids are fixed, so this cannot fail by chance.
    assert all(abs(letters[letter] - n / 4) < 5 * (n * 3 / 16) ** 0.5 for letter in "ABCD")
    orders = Counter(tuple(choices) for choices, _ in shuffles)
    assert len(orders) == 24 and all(abs(number - n / 24) < 5 * (n / 24) ** 0.5 for number in orders.values())


@pytest.mark.parametrize(
    "last", ["All of the above", "None of these", "Both A and B", "A, B and C", "(A) or (B)", "A/B", "Options a and c"]
)
def test_options_that_speak_of_others_keep_the_published_order(last: str) -> None:
    choices = ["w", "x", "y", last]
    assert all(shuffled(f"x/{i}", choices, "B") == (choices, "B") for i in range(20))


@pytest.mark.parametrize("last", ["vitamin A", "A and not", "An A", "I and II", "AB", "the answer is given"])
def test_other_options_are_shuffled(last: str) -> None:
    choices = ["w", "x", "y", last]
    assert len({tuple(shuffled(f"x/{i}", choices, "B")[0]) for i in range(20)}) > 10


@pytest.mark.parametrize(("choices", "answer"), [(["a"], "A"), (["a", "b"], "C"), (["a", "b"], ""), (["a"] * 11, "A")])
def test_a_problem_that_makes_no_sense(choices: list[str], answer: str) -> None:
    with pytest.raises(AttnPOError, match=f"x/1 has {len(choices)} choices and the answer {answer!r}; give 2 to 10"):
        shuffled("x/1", choices, answer)


def test_prompt() -> None:
    assert prompt(" Where?\n", ["Paris", "Rome"]) == (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of AB. Think step by step before answering."
        "\n\n Where?\n\n\nA) Paris\nB) Rome"
    )


# --- the grader


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"So $\boxed{\text{B}}$.", "B"),
        (r"\boxed{(B)}", "B"),
        (r"\boxed{\textbf{B}}", "B"),
        (r"\boxed{\textbf{(B)}\ \text{Rome}}", "B"),
        (r"\boxed {B. Rome}", "B"),
        (r"\[\boxed{\mathrm{B}}\]", "B"),
        (r"\boxed{b}", "B"),
        (r"\boxed{Rome}", "B"),
        (r"\boxed{\text{rome}}", "B"),
        (r"\boxed{\frac{1}{2}}", "D"),
        (r"\boxed{A large town}", "C"),
        ("Answer: B", "B"),
        ("Answer: $B$", "B"),
        ("answer: b", "B"),
        ("**Answer: B**", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: (B)", "B"),
        ("### Final Answer:\n\n**B**\n", "B"),
        ("Answer: [B]", "B"),
        ("Answer: Option B", "B"),
        ("Answer: B) Rome", "B"),
        ("Answer: B. Because Rome is in Italy.", "B"),
        ("Answer: B because A is in France", "B"),
        ("Answer: B - Rome", "B"),
        ("Answer: Rome.", "B"),
        ("Answer: 'Rome'", "B"),
        ("Answer: A large town", "C"),
        ("Answer: A", "A"),
        ("Answer: A (Paris)", "A"),
        ("Answer: (A) as shown", "A"),
        ("Answer: A because of the river", "A"),
        ("Answer: \\(B\\)", "B"),
        (r"Answer: \boxed{B}", "B"),
        ("The answer is (B)", "B"),
        ("The correct answer is **B**.", "B"),
        ("Hence the correct option is B.", "B"),
        ("The answer to the question is B", "B"),
        ("The answer is: B", "B"),
        ("The answer is Rome. It is old.", "B"),
        ("The answer is B, not A.", "B"),
        ("Answer: A\nWait.\nAnswer: B", "B"),
        ("Answer: A\n\\boxed{B}", "B"),
        ("\\boxed{A}\nAnswer: B", "B"),
        ("\\boxed{A} \\boxed{B}", "B"),
        ("Answer: B\n\nThe answer is consistent with the map.", "B"),
        ("The answer is not A.\nAnswer: B", "B"),
        ("B", "B"),
        ("Some words.\n\n**B**\n", "B"),
        ("It is old.\n(B) Rome", "B"),
        ("It is old.\nRome", "B"),
        ("**Correct option: B**", "B"),
        ("Answer: B\nWrong answer: A", "B"),
        ("Answer: B\nA tempting answer is A.", "B"),
        ("Answer: B\n\nThe second choice is A.", "B"),
        ("Answer: B\n\nIf the answer is A, Rome is in France.", "B"),
        ("Answer: B\n\nI do not think that the answer is A.", "B"),
        ("Answer: B\n\nMany would say that the answer is A.", "B"),
        ("Answer: B\n\nOption A is correct.", "B"),
        ("It is not in France, so the answer is B.", "B"),
        ("After weighing A and B, the answer is B.", "B"),
        ("(B) is the answer", "B"),
        ("Option A is incorrect. Thus, **B** is the right choice.", "B"),
        ("The answer is not A. B is correct because Rome is old.", "B"),
    ],
)
def test_what_is_read(answer: str, letter: str) -> None:
    assert extract_choice(answer, CITIES) == (letter, "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no_answer"),
        ("I think that Rome is right, or B.", "no_answer"),
        ("So B", "no_answer"),
        ("B it is", "no_answer"),
        ("The answer is a bit hard to find.", "no_answer"),
        ("The answer is not B.", "no_answer"),
        ("It is not true that the answer is B.", "no_answer"),
        ("Neither A nor B is correct.", "no_answer"),
        ("Statement B is correct.", "no_answer"),
        ("Option B is correct only in France.", "no_answer"),
        ("A is correct. B is correct.", "ambiguous"),
        ("Answer:", "unparsed"),
        ("Answer: E", "unparsed"),
        ("Answer: it depends", "unparsed"),
        ("Answer: A small town", "unparsed"),
        ("Answer: B = 5", "unparsed"),
        ("Answer: B_1", "unparsed"),
        ("Answer: B's", "unparsed"),
        ("\\boxed{B}\n\\boxed{7}", "unparsed"),
        ("\\boxed{B}\n\\boxed{A", "unparsed"),
        ("Answer: B\nAnswer: unclear", "unparsed"),
        ("Answer: A or B", "ambiguous"),
        ("Answer: A and B", "ambiguous"),
        ("\\boxed{A, B}", "ambiguous"),
        ("\\boxed{A}\nThe answer is A/B", "ambiguous"),
        ("Answer: B. Paris", "ambiguous"),
        (r"\boxed{\text{(B) Paris}}", "ambiguous"),
        ("A) Paris\nB) Rome", "ambiguous"),
    ],
)
def test_what_is_a_parse_failure(answer: str, reason: str) -> None:
    grade = grade_choice(f"thinking</think>{answer}", CITIES, "B")
    assert (grade.correct, grade.parse_failed, grade.reason) == (False, True, reason)


@pytest.mark.parametrize(
    ("choices", "answer", "expected"),
    [
        (["Rome", "rome", "x"], "Answer: rome", ("B", "")),
        (["Rome", "rome", "x"], "Answer: ROME", ("ROME", "ambiguous")),
        (["5", "$5$", "x"], "Answer: 5", ("5", "ambiguous")),
        (["5", "$5$", "x"], "Answer: B. 5", ("B", "")),
        (["B", "A", "x"], "Answer: B", ("B", "")),  # the prompt asks for the letter
        (["x", "y", "b"], r"\boxed{b}", ("C", "")),
        (["p", "q", "A and B only"], "Answer: A and B only", ("C", "")),
        (["p", "q", "A and B only"], "Answer: (C) A and B only", ("C", "")),
        (["C is constant", "q", "r"], "Answer: C is constant", ("A", "")),
        (list("pqrstuvwxy"), "Answer: J", ("J", "")),
        (list("pqrstuvwxy"), "Answer: I think so", ("I think so", "unparsed")),
    ],
)
def test_letters_and_texts_that_could_be_mixed_up(choices: list[str], answer: str, expected: tuple[str, str]) -> None:
    assert extract_choice(answer, choices) == expected


def test_grades() -> None:
    texts = ["x</think>Answer: B", "x</think>Answer: A", "Answer: B", "x</think>y</think>Answer: B", "x</think>y"]
    grades = ChoiceGrader(CITIES).grade(texts, ["B"] * 5)
    assert [g.correct for g in grades] == [True, False, False, False, False]
    assert [g.parse_failed for g in grades] == [False, False, False, False, True]
    assert [g.reason for g in grades] == ["equal", "different", "no_think_end", "many_think_ends", "no_answer"]
    assert [g.extracted for g in grades] == ["B", "A", None, None, None]


def test_the_thinking_is_not_read() -> None:
    assert grade_choice("Answer: B\n\\boxed{B}</think>Answer: A", CITIES, "B").reason == "different"
    assert grade_choice("Answer: B</think>Well.", CITIES, "B").parse_failed


STATEMENTS = ["Answer: {}", "**Answer:** ({})", "The answer is {}.", "\\boxed{{{}}}", "$\\boxed{{\\text{{{}}}}}$"]
# What a response holds besides, with letters, texts and words that are no statements.
PROSE = ["Paris is in option A.", "A", "Not B, C or D.", "Rome", "A) Paris", "The answers differ.", "", "answer B?"]


@given(
    st.lists(st.tuples(st.sampled_from(STATEMENTS), st.sampled_from("ABCD")) | st.sampled_from(PROSE), max_size=8),
    st.sampled_from("ABCD"),
)
def test_only_the_last_stated_letter_is_accepted(parts: list[tuple[str, str] | str], gold: str) -> None:
    stated = [part[1] for part in parts if isinstance(part, tuple)]
    text = "\n".join(part if isinstance(part, str) else part[0].format(part[1]) for part in parts)
    grade = grade_choice(f"thinking</think>{text}", CITIES, gold)
    if stated:
        assert (grade.extracted, grade.correct) == (stated[-1], stated[-1] == gold)
    elif grade.correct:  # by the last line alone
        last = next(line for line in reversed(text.splitlines()) if line.strip())
        assert {"A": "A", "A) Paris": "A", "Rome": "B"}[last] == gold


@given(st.text("AB ,.:()*$\\{}\nanswerisbox", max_size=60))
def test_any_text_gets_a_grade_that_does_not_depend_on_the_gold(text: str) -> None:
    grades = [grade_choice(f"</think>{text}", ["Paris", "Rome"], gold) for gold in "AB"]
    assert sum(grade.correct for grade in grades) <= 1
    assert grades[0].parse_failed == grades[1].parse_failed == (not any(grade.correct for grade in grades))
    assert grades[0].extracted == grades[1].extracted


@pytest.mark.parametrize("text", ["answer" * 20000, "\\text{" * 20000, "Answer: " * 20000, "A\n" * 20000, "*" * 50000])
def test_long_texts_take_no_time(text: str) -> None:
    grade_choice(f"</think>{text}", CITIES, "A")
