"""The embedded problems, traces and oracle: exact labels, no leakage between splits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpo.errors import AttnPOError
from attnpo.method.steps import split_steps
from attnpo.testbed import oracle, problems, traces
from attnpo.testbed.problems import ChainProblem

SHORT = ChainProblem(72, (("+", 6), ("*", 9)))


def test_a_problem_states_its_text_values_and_answer() -> None:
    assert SHORT.text == "Start with 72. Add 6. Times 9."
    assert SHORT.values == (72, 78, 2)
    assert SHORT.answer == "2"
    assert SHORT.id == "72+6*9"
    verbose = ChainProblem(5, (("-", 9), ("+", 2)), "verbose")
    assert verbose.text == "Take 5, then lower it by 9, then increase it by 2."
    assert verbose.values == (5, 96, 98)


@pytest.mark.parametrize("split", sorted(problems.SIZES))
def test_a_split_is_fixed_full_and_without_repeats(split: str) -> None:
    found = problems.load(split)
    assert len({p.id for p in found}) == len(found) == problems.SIZES[split]
    assert found == problems.load(split)
    chains = problems.SHIFTED_CHAINS if split == "shifted" else problems.TRAINING_CHAINS
    assert {p.chain for p in found} == set(chains)


def test_no_problem_is_in_two_splits_whatever_its_wording() -> None:
    content = {split: {(p.start, p.ops) for p in problems.load(split)} for split in ("train", "validation", "test")}
    assert not content["train"] & content["validation"]
    assert not content["train"] & content["test"]
    assert not content["validation"] & content["test"]
    held_out = {(p.start, p.ops) for p in problems.load("shifted")}
    assert not held_out & (content["train"] | content["validation"])


def test_fine_tuning_draws_no_held_out_problem() -> None:
    build = pytest.importorskip("attnpo.testbed.build")
    rng = random.Random(5)
    held_out = {(p.start, p.ops) for split in ("validation", "test", "shifted") for p in problems.load(split)}
    assert not held_out & {(p.start, p.ops) for p, _ in (build.draw(rng, build.BuildConfig()) for _ in range(3000))}


def test_traces_of_varied_wordiness_keep_their_slips() -> None:
    build = pytest.importorskip("attnpo.testbed.build")

    def lines_a_link(share: float) -> tuple[float, float, float]:
        rng, config = random.Random(3), build.BuildConfig(varied_share=share)
        steps, bare, slips, links = 0, 0, 0, 0
        for problem, trace in (build.draw(rng, config) for _ in range(2000)):
            thinking = trace.split("</think>")[0].splitlines()
            labels = oracle.label_steps(problem, thinking)
            first = next((label for label in labels if label in ("solve", "slip")), "")
            steps, links, slips = steps + len(labels), links + problem.chain, slips + (first == "slip")
            bare += problem.chain >= 4 and len(labels) == problem.chain
        return steps / links, bare / 2000, slips / 2000

    usual, varied = lines_a_link(0.0), lines_a_link(1.0)
    # Per link 1 + .6 + .25 + .3 steps, and with all of it halved in the mean 1 + .575; five standard errors.
    assert usual[0] == pytest.approx(2.15, abs=0.06)
    assert varied[0] == pytest.approx(1.575, abs=0.07)
    assert usual[1] < 0.01 < varied[1]  # long chains in as many steps as links
    assert usual[2] == pytest.approx(varied[2], abs=0.06)


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(AttnPOError, match="no split 'dev'; choose one of train, validation, test, shifted"):
        problems.load("dev")


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (["First, 72 + 6 = 78.", "Then 78 * 9 = 2."], ["solve", "solve"]),
        (["First, 6 + 72 = 78.", "Then 9 * 78 = 2."], ["solve", "solve"]),  # operands in either order
        (["First, 72 + 6 = 78.", "Wait, 6 + 72 = 78, yes."], ["solve", "recheck"]),
        (["First, 72 + 6 = 77.", "Wait, 6 + 72 = 78, not 77, so 72 + 6 = 78."], ["slip", "repair"]),
        (["First, 72 + 6 = 77.", "Wait, 72 + 6 = 77, yes."], ["slip", "slip"]),
        (["First, 72 + 6 = 77.", "Then 77 * 9 = 93."], ["slip", "slip"]),  # right in itself, on a false value
        (["First, 72 + 6 = 78.", "Alternatively, 6 + 72 = 78."], ["solve", "detour"]),
        (["First, 72 + 6 = 78.", "So we have 78 so far."], ["solve", "recap"]),
        (["First, 72 + 6 = 78.", "But is 78 right? Yes."], ["solve", "recheck"]),
        (["Then 78 * 9 = 2.", "First, 72 + 6 = 78."], ["slip", "solve"]),  # a link before its turn builds on nothing
        (["First, 72 + 6 = 78. Then 78 * 9 = 2."], ["solve"]),  # one step may solve two links
        (["Hmm, what was it?"], ["recheck"]),
        ([], []),
    ],
)
def test_the_oracle_labels(steps: list[str], labels: list[str]) -> None:
    assert oracle.label_steps(SHORT, steps) == labels


def test_the_cause_of_a_wrong_response() -> None:
    def cause(*steps: str) -> str:
        return oracle.error_cause(oracle.count_steps(SHORT, steps), SHORT.chain)

    found = [f"{a} {op} {n} = {b}." for a, (op, n), b in zip(SHORT.values, SHORT.ops, SHORT.values[1:], strict=False)]
    assert cause(*found) == "answer"
    assert cause(*found, "So 1 + 1 = 3.") == "answer"
    assert cause(*found[:-1]) == "left_out"
    assert cause(f"{found[0][:-1]}0.") == "slip"


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("Then 78 * 9 = 2.", "link"),
        ("Then 9 * 78 = 3.", "link"),  # what it makes of it does not matter
        ("Wait, 6 + 72 = 78, yes.\nSo it is 78.\nNow 78 * 9 = 2.", "link"),
        ("Wait, 6 + 72 = 79, not 78.\nNow 78 + 6 = 84.", "elsewhere"),  # an operand that has had its turn
        ("Now 2 - 3 = 99.", "elsewhere"),  # the link after the next
        ("Wait, 6 + 72 = 78, yes.\n</think>\n78 * 9 = 2.", "end"),
        ("Wait, 6 + 72 = 78, yes.", "none"),
        ("", "none"),
    ],
)
def test_the_next_move_of_a_thought(text: str, move: str) -> None:
    assert SHORT.ops[:2] == (("+", 6), ("*", 9)) and SHORT.start == 72
    assert oracle.next_move(SHORT, 1, text) == move


def test_the_oracle_knows_a_subtraction_checked_backwards_and_turned_round() -> None:
    problem = ChainProblem(83, (("-", 4),))
    assert oracle.label_steps(problem, ["First, 83 - 4 = 79.", "Another way: 79 + 4 = 83."]) == ["solve", "detour"]
    assert oracle.label_steps(problem, ["First, 83 - 4 = 79.", "Wait, -4 + 83 = 79, yes."]) == ["solve", "recheck"]
    assert oracle.label_steps(problem, ["First, 83 - 4 = 78.", "Wait, -4 + 83 = 79, not 78."]) == ["slip", "repair"]
    assert oracle.label_steps(problem, ["First, 83 - 4 = 79.", "Wait, -4 + 83 = 78, yes."]) == ["solve", "slip"]


def test_a_computation_said_twice_in_a_step_does_not_solve_two_equal_links() -> None:
    problem = ChainProblem(0, (("*", 7), ("*", 7)))
    steps = ["First, 0 * 7 = 9.", "Wait, 7 * 0 = 0, not 9, so 0 * 7 = 0.", "Then 0 * 7 = 0."]
    assert oracle.label_steps(problem, steps) == ["slip", "repair", "solve"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_a_written_trace_without_slips_solves_each_link_once(seed: int, chain: int) -> None:
    rng = random.Random(seed)
    split = "test" if chain > 6 else "train"
    problem = problems.sample(rng, split, chain)
    trace = traces.write_trace(problem, rng, traces.Habits(slip=0.0))
    thinking, answer = trace.split("</think>")
    steps = [thinking[s.start : s.end] for s in split_steps(thinking, "corrected", 1, 1)]
    labels = oracle.label_steps(problem, steps)
    assert "".join(steps) == thinking
    assert labels.count("solve") == chain
    assert not {"slip", "repair"} & set(labels)
    assert answer.endswith(f"\\boxed{{{problem.answer}}}")


@given(st.integers(0, 2**32 - 1))
def test_labels_follow_the_habits(seed: int) -> None:
    rng = random.Random(seed)
    problem = problems.sample(rng, "train", 5)
    only_repaired = traces.Habits(slip=1.0, recheck=1.0, detour=0.0, recap=0.0)
    thinking = traces.write_trace(problem, rng, only_repaired).split("</think>")[0]
    assert oracle.label_steps(problem, thinking.strip().split("\n")) == ["slip", "repair"] * 5


def test_habits_make_the_mix_the_testbed_asks_for() -> None:
    rng = random.Random(0)
    right = 0
    for _ in range(2000):
        problem = problems.sample(rng, "train", rng.choice(problems.TRAINING_CHAINS))
        right += traces.write_trace(problem, rng).endswith(f"\\boxed{{{problem.answer}}}")
    # A slip of 15 % survives in 40 %: the mean of .94**n for n = 1..6 is .811; five standard errors of 2,000 draws
    # are .044.
    assert abs(right / 2000 - 0.811) < 0.044
