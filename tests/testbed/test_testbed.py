"""The embedded problems, traces and oracle: exact labels, no leakage between splits."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attnpo.errors import AttnPOError
from attnpo.method.steps import split_steps
from attnpo.testbed import MODELS, counts, oracle, problems, routes, traces
from attnpo.testbed.problems import SCALES, TINY, ChainProblem, Scale

SHORT = ChainProblem(72, (("+", 6), ("*", 9)))
HARD = ChainProblem(37, (("*", 24), ("+", 5)))
"""37 * 24 = 88, worked out as 37 * 4 = 48, 37 * 20 = 40, 48 + 40 = 88; then 93."""
EASY = {"easy": 1, "easy_right": 1}
WORKED = ["First, 37 * 4 = 48.", "Next, 37 * 20 = 40.", "Now 48 + 40 = 88."]
LARGER = ChainProblem(837, (("*", 34), ("-", 75)), modulus=1000)
"""837 * 34 = 458, worked out as 837 * 4 = 348, 837 * 30 = 110, 348 + 110 = 458; then 383."""
both = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)

OF_TINY = {  # SHA-256 of ids, texts and answers; the embedded model and all results are of these
    "train": "e0a430866a0f8d0012aa5a64efff6e1635cb05456ebe2854c81c2ae697e91a90",
    "validation": "e6ecc79b40b336f03265d00985911f53f848e8d8e09a8b0ec852298728ad7a83",
    "test": "34f2f75c76ceb39437d85f32f9cdd7e068ffc25b6571630cd364928430f20d52",
    "shifted": "723b5378f498dd830ef764b63aa66df8412abe2a724478523163a73ff05f9319",
}
DRAWN_OF_TINY = "c94d48e04b3c6d0a62d7c9188d952e4181e848a51c3f90351e84159c56eacedf"


def lines_of(thinking: str) -> list[str]:
    return [thinking[s.start : s.end] for s in split_steps(thinking, "corrected", 1, 1)]


def test_a_problem_states_its_text_values_and_answer() -> None:
    assert SHORT.text == "Start with 72. Add 6. Times 9."
    assert SHORT.values == (72, 78, 2)
    assert SHORT.answer == "2"
    assert SHORT.id == "72+6*9"
    verbose = ChainProblem(5, (("-", 9), ("+", 2)), "verbose")
    assert verbose.text == "Take 5, then lower it by 9, then increase it by 2."
    assert verbose.values == (5, 96, 98)


def test_a_hard_link_multiplies_by_two_digits_and_has_two_parts() -> None:
    assert [problems.is_hard(*link) for link in (("*", 24), ("*", 9), ("+", 24), ("", 0))] == [
        True,
        False,
        False,
        False,
    ]
    assert HARD.parts(37, 24) == ((4, 48), (20, 40))
    assert LARGER.parts(837, 34) == ((4, 348), (30, 110))


@both
def test_the_parts_of_a_hard_link_add_up_to_it(scale: Scale) -> None:
    problem = ChainProblem(0, (("*", 24),), modulus=scale.modulus)
    for value in range(scale.modulus):
        for n in scale.hard_factors:
            (_, one), (_, ten) = problem.parts(value, n)
            assert problem.apply(one, "+", ten) == problem.apply(value, "*", n) == value * n % scale.modulus


def test_the_embedded_problems_are_those_that_the_results_belong_to() -> None:
    def digest(split: str) -> str:
        rows = [f"{p.id}\t{p.text}\t{p.answer}\n" for p in problems.load(split)]
        return hashlib.sha256("".join(rows).encode()).hexdigest()

    assert {split: digest(split) for split in problems.SIZES} == OF_TINY


def test_the_embedded_model_s_examples_are_those_that_it_was_trained_on() -> None:
    build = pytest.importorskip("attnpo.testbed.build")
    rng, digest = random.Random(7), hashlib.sha256()
    for habits in (traces.DEFAULT_HABITS, build.BARE):
        for _ in range(200):
            e = build.draw(rng, build.BuildConfig(), habits)
            digest.update(f"{e.problem.id}\t{e.prompt(100)}\t{e.trace.text}\t{e.trace.given}\n".encode())
    assert digest.hexdigest() == DRAWN_OF_TINY


@both
def test_no_two_operands_of_a_chain_end_in_the_same_digit(scale: Scale) -> None:
    for split in ("validation", "shifted"):
        for problem in problems.load(split, scale):
            assert len({n % 10 for _, n in problem.ops}) == problem.chain


@both
def test_untaught_results_are_read_and_not_learnt(scale: Scale) -> None:
    """In a line of the thinking and in an answer that recalls; the share of such facts is the declared one."""
    facts = [(value, n) for value in range(scale.modulus) for n in scale.hard_factors]
    untaught = {fact for fact in facts if not problems.is_taught(*fact)}
    assert len(untaught) / len(facts) == pytest.approx(problems.UNTAUGHT_SHARE, abs=0.04)
    rng, recalling = random.Random(3), traces.Habits(work=0.0, slip=0.0, doubt=0.0, recheck=0.0, detour=0.0, recap=0.0)
    seen = {True: 0, False: 0}
    for _ in range(200):
        problem = problems.sample(rng, "train", rng.choice(scale.chains), scale=scale)
        hard = [
            (f"{value} * {n} = {result}", (value, n) in untaught)
            for (op, n), value, result in zip(problem.ops, problem.values, problem.values[1:], strict=False)
            if problems.is_hard(op, n)
        ]
        whole, forced = traces.write_trace(problem, rng, recalling), traces.answer_at_once(problem, forced=True)
        for trace in (whole, forced):
            given = {
                trace.text[:end].rsplit("\n", 1)[-1].split(" ", 1 if trace is whole else 0)[-1]
                for _, end in trace.given
            }
            for equation, not_taught in hard:
                assert (equation in given) == not_taught, (trace, equation)
                seen[not_taught] += 1
    assert min(seen.values()) > 50


def test_each_scale_has_problems_a_model_and_settings_of_its_own() -> None:
    build = pytest.importorskip("attnpo.testbed.build")
    assert set(SCALES) == set(MODELS) == set(build.CONFIGS)
    for name, config in build.CONFIGS.items():
        assert (config.scale, config.out) == (name, MODELS[name].folder)
    tasks = [task for scale in SCALES.values() for task in scale.tasks]
    assert len(tasks) == len(set(tasks)) == 8


@both
@pytest.mark.parametrize("split", sorted(problems.SIZES))
def test_a_split_is_fixed_full_and_without_repeats(split: str, scale: Scale) -> None:
    found = problems.load(split, scale)
    assert len({p.id for p in found}) == len(found) == problems.SIZES[split]
    assert found == problems.load(split, scale)
    chains = scale.shifted_chains if split == "shifted" else scale.chains
    assert {p.chain for p in found} == set(chains)
    assert {value for p in found for value in p.values} <= set(range(scale.modulus))
    hard = [sum(problems.is_hard(*link) for link in p.ops) for p in found]
    assert min(hard) == 1
    # Half of the links, in problems that have one at least: for 2, 3 and 4 links 1.33, 1.71 and 2.13 of them. In one
    # problem their number has a standard deviation below sqrt(n) / 2; five standard errors are allowed, and that among
    # operands that end in different digits hard ones become rarer in long chains.
    expected = [n / 2 / (1 - 0.5**n) for n in chains]
    assert sum(hard) / len(hard) == pytest.approx(
        sum(expected) / len(expected), abs=5 * (chains[-1] / len(hard)) ** 0.5 / 2 + 0.01 * chains[-1]
    )


@both
def test_no_problem_is_in_two_splits_whatever_its_wording(scale: Scale) -> None:
    splits = ("train", "validation", "test")
    content = {split: {(p.start, p.ops) for p in problems.load(split, scale)} for split in splits}
    assert not content["train"] & content["validation"]
    assert not content["train"] & content["test"]
    assert not content["validation"] & content["test"]
    held_out = {(p.start, p.ops) for p in problems.load("shifted", scale)}
    assert not held_out & (content["train"] | content["validation"])


@both
def test_fine_tuning_draws_no_held_out_problem(scale: Scale) -> None:
    build = pytest.importorskip("attnpo.testbed.build")
    rng = random.Random(5)
    held_out = {(p.start, p.ops) for split in ("validation", "test", "shifted") for p in problems.load(split, scale)}
    drawn = [build.draw(rng, build.CONFIGS[scale.data]).problem for _ in range(3000)]
    assert {p.modulus for p in drawn} == {scale.modulus}
    assert {p.chain for p in drawn} == {*scale.chains, *scale.shifted_chains}
    assert not held_out & {(p.start, p.ops) for p in drawn}


def test_fine_tuning_draws_what_the_methods_need_in_their_shares() -> None:
    build = pytest.importorskip("attnpo.testbed.build")
    rng, config = random.Random(3), build.BuildConfig()
    found = [build.draw(rng, config) for _ in range(4000)]
    texts = [example.trace.text for example in found]

    def share(of: list[bool]) -> float:
        return sum(of) / len(of)

    at_once = [text.removeprefix(traces.ELLIPSIS).startswith("</think>") for text in texts]
    five_errors = 5 * (0.1 * 0.9 / 4000) ** 0.5
    assert share([bool(e.told) for e in found]) == pytest.approx(config.told_share, abs=five_errors)
    assert share([traces.EARLY in text for text in texts]) == pytest.approx(config.cut_share / 2, abs=five_errors)
    assert share(at_once) == pytest.approx(1.5 * config.at_once_share, abs=five_errors)
    assert share([text.startswith(traces.ELLIPSIS) for text in texts]) == pytest.approx(
        config.at_once_share, abs=five_errors
    )
    assert {e.prompt(60).removeprefix(e.problem.text) for e in found if e.told == build.TOLD[0]} == {
        " Think for 60 tokens."
    }
    most = {int(e.prompt(60).split()[-2]) for e in found if e.told == build.TOLD[1]}
    assert min(most) >= 60 and max(most) <= 90 and len(most) > 10


def test_what_is_given_is_not_learnt() -> None:
    build = pytest.importorskip("attnpo.testbed.build")
    tokenizer = build.make_tokenizer(build.BuildConfig())
    rng = random.Random(2)
    wrong = traces.Habits(work=0.0, slip=1.0, doubt=1.0)
    written = [
        traces.write_trace(HARD, rng, wrong),
        traces.answer_at_once(HARD, forced=True),
        traces.answer_at_once(HARD, forced=False),
        traces.write_cut_trace(HARD, rng, traces.Habits(work=1.0)),
    ]
    batch = build.batch_of([build.Example(HARD, trace) for trace in written], tokenizer)
    for trace, ids, labels in zip(written, batch["input_ids"], batch["labels"], strict=True):
        start = ids.tolist().index(tokenizer.convert_tokens_to_ids("<think>")) + 2  # it and its newline
        end = ids.tolist().index(tokenizer.eos_token_id)
        assert tokenizer.decode(ids[start:end]) == trace.text
        hidden = [
            tokenizer.decode([i]) for i, label in zip(ids[start:end], labels[start:end], strict=True) if label < 0
        ]
        assert "".join(hidden) == "".join(trace.text[a:b] for a, b in trace.given) != ""
        assert labels[end] == tokenizer.eos_token_id and (labels[:start] == -100).all()


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
def test_the_oracle_labels_easy_links(steps: list[str], labels: list[str]) -> None:
    assert oracle.label_steps(SHORT, steps) == labels


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (["First, 37 * 24 = 88.", "Then 88 + 5 = 93."], ["direct", "solve"]),
        (["First, 24 * 37 = 88."], ["direct"]),
        ([*WORKED, "Then 88 + 5 = 93."], ["work", "work", "work", "solve"]),
        ([WORKED[1], WORKED[0], "Now 40 + 48 = 88."], ["work", "work", "work"]),  # parts in any order
        ([*WORKED, "Wait, 40 + 48 = 88, yes.", "Hold on, 37 * 24 = 88."], ["work"] * 3 + ["recheck"] * 2),
        (["First, 37 * 24 = 88.", *WORKED], ["direct"] + ["recheck"] * 3),  # a doubt that confirms
        (["First, 37 * 24 = 58.", *WORKED], ["slip"] + ["repair"] * 3),  # one that repairs
        (["First, 37 * 24 = 58.", "Wait, 37 * 24 = 88."], ["slip", "repair"]),
        (["First, 37 * 24 = 58.", "Wait, 24 * 37 = 58, yes."], ["slip", "slip"]),
        ([WORKED[0], "Then 37 * 24 = 88."], ["recheck", "direct"]),  # begun and then overtaken
        ([WORKED[0], "Now 48 + 40 = 88."], ["work", "slip"]),  # a sum before its parts builds on nothing
        ([WORKED[0], WORKED[0], *WORKED[1:]], ["work", "recheck", "work", "work"]),
        (["First, 37 * 4 = 47.", *WORKED], ["slip", "repair", "repair", "repair"]),
        ([*WORKED[:2], "Now 48 + 40 = 98.", WORKED[2]], ["work", "work", "slip", "repair"]),
        (["First, 37 * 24 = 58.", "Then 58 + 5 = 63."], ["slip", "slip"]),
        ([" ".join(WORKED), "Then 88 + 5 = 93."], ["work", "solve"]),
        (["37 * 4 = 48. So 37 * 24 = 88.", "Then 88 + 5 = 93."], ["direct", "solve"]),  # overtaken within a step
    ],
)
def test_the_oracle_labels_hard_links(steps: list[str], labels: list[str]) -> None:
    assert oracle.label_steps(HARD, steps) == labels


def test_the_oracle_and_the_routes_count_by_the_modulus_of_the_problem() -> None:
    worked = ["First, 837 * 4 = 348.", "Next, 837 * 30 = 110.", "Now 348 + 110 = 458."]
    steps = [*worked, "Then 458 - 75 = 383.", "Another way: 383 + 75 = 458."]
    assert (LARGER.values, LARGER.answer) == ((837, 458, 383), "383")
    assert oracle.label_steps(LARGER, steps) == ["work", "work", "work", "solve", "detour"]
    assert oracle.label_steps(LARGER, ["First, 837 * 34 = 58."]) == ["slip"]  # true modulo 100
    found = vars(routes.routes(LARGER, steps))
    assert {name: count for name, count in found.items() if count} == {"worked": 1, "worked_right": 1, **EASY}


def test_where_each_link_is_solved() -> None:
    assert oracle.solved_in(HARD, ["Hmm.", *WORKED, "So 88.", "Then 88 + 5 = 93.", "Wait, 5 + 88 = 93."]) == [3, 5]
    assert oracle.solved_in(HARD, ["First, 37 * 24 = 58.", "Then 58 + 5 = 63."]) == []


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["First, 37 * 24 = 88.", "Then 88 + 5 = 93."], {"direct": 1, "direct_right": 1, **EASY}),
        (["First, 37 * 24 = 58.", "Then 58 + 5 = 63."], {"direct": 1, **EASY}),
        (["First, 37 * 24 = 58.", "Then 58 + 5 = 64."], {"direct": 1, "easy": 1}),
        ([*WORKED, "Then 88 + 5 = 93."], {"worked": 1, "worked_right": 1, **EASY}),
        ([*WORKED[:2], "Now 48 + 40 = 98.", "Then 98 + 5 = 3."], {"worked": 1, **EASY}),
        (["First, 37 * 4 = 38.", "Next, 37 * 20 = 40.", "Now 38 + 40 = 78."], {"worked": 1}),  # on the trace's own part
        (["First, 37 * 24 = 88.", *WORKED, "Then 88 + 5 = 93."], {"direct": 1, "direct_right": 1, "doubted": 1} | EASY),
        (["First, 37 * 24 = 58.", *WORKED, "Then 88 + 5 = 93."], {"direct": 1, "doubted": 1, "repaired": 1} | EASY),
        (["First, 37 * 24 = 58.", "Wait, 24 * 37 = 58, yes.", "So we have 58 so far."], {"direct": 1}),
        (
            ["First, 37 * 24 = 58.", "Wait, 24 * 37 = 88.", "Alternatively, 24 * 37 = 88.", "Then 88 + 5 = 93."],
            {"direct": 1, "doubted": 1, "repaired": 1} | EASY,
        ),
        (["First, 37 * 24 = 58.", "Wait, 24 * 37 = 88.", "Then 58 + 5 = 63."], {"direct": 1, **EASY}),
        ([*WORKED, "Alternatively, 24 * 37 = 88.", "Wait, 40 + 48 = 88, yes."], {"worked": 1, "worked_right": 1}),
        ([WORKED[0], "Then 37 * 24 = 88."], {"direct": 1, "direct_right": 1}),
        (["First, 36 * 24 = 64.", "Then 64 + 6 = 70."], {"strays": 2}),
        ([], {}),
    ],
)
def test_the_routes_of_hard_links(steps: list[str], expected: dict[str, int]) -> None:
    found = vars(routes.routes(HARD, steps))
    assert {name: count for name, count in found.items() if count} == expected


def test_where_the_routes_of_hard_links_begin() -> None:
    problem = ChainProblem(70, (("-", 4), ("*", 23), ("*", 22)))  # 66, 18, 96
    worked = ["Next, 18 * 2 = 36.", "Then 18 * 20 = 60.", "Now 36 + 60 = 96."]
    first = ["First, 70 - 4 = 66.", "Wait, 66 + 4 = 70.", "Then 66 * 23 = 18."]
    assert routes.begun(problem, [*first, "Okay, 18.", *worked]) == [(1, 2, False), (2, 4, True)]
    assert routes.begun(problem, [*first, worked[0]]) == [(1, 2, False)]  # begun, and not done
    assert routes.begun(problem, [*first, worked[0], "Then 18 * 22 = 96."]) == [(1, 2, False), (2, 4, False)]


def test_a_route_is_judged_by_the_value_that_the_trace_went_on_with() -> None:
    problem = ChainProblem(70, (("-", 4), ("*", 23), ("*", 22)))  # 66, 18, 96
    steps = ["First, 70 - 4 = 67.", "Another way: 67 + 4 = 70.", "Then 67 * 23 = 41.", "Now 41 * 22 = 2."]
    assert vars(routes.routes(problem, steps)) == {
        **dict.fromkeys(vars(routes.Routes()), 0),
        "direct": 2,
        "direct_right": 2,
        "easy": 1,
    }
    assert counts.count_links(problem, steps)["solved"] == 0


def test_the_numbers_of_a_trace() -> None:
    thinking = "\n".join([*WORKED, "Then 88 + 5 = 93.", "Wait, 5 + 88 = 93, yes.", ""])
    found = counts.describe_thinking(HARD, thinking)
    assert (found["steps"]["essential"], found["steps"]["redundant"], found["steps"]["work"]) == (4, 1, 3)
    assert found["links"] == {
        **dict.fromkeys(vars(routes.Routes()), 0),
        "worked": 1,
        "worked_right": 1,
        **EASY,
        "hard": 1,
        "solved": 2,
    }
    assert found["valid_share"] == len("\n".join([*WORKED, "Then 88 + 5 = 93.", ""])) / len(thinking)
    assert counts.describe_thinking(HARD, WORKED[0])["valid_share"] is None


def test_the_cause_of_a_wrong_response() -> None:
    def cause(*steps: str) -> str:
        solved = len(oracle.solved_in(SHORT, steps))
        return oracle.error_cause(counts.count_steps(oracle.label_steps(SHORT, steps)), solved, SHORT.chain)

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


def test_a_part_of_the_next_hard_link_is_a_move_to_it() -> None:
    assert oracle.next_move(HARD, 0, "First, 37 * 20 = 40.") == "link"
    assert oracle.next_move(HARD, 1, "Wait, 37 * 4 = 48.\nNow 88 + 5 = 93.") == "link"
    assert oracle.next_move(HARD, 1, "Now 88 * 24 = 12.") == "elsewhere"


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


@both
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_written_trace_without_slips_solves_each_link_once(scale: Scale, seed: int, chain: int, work: float) -> None:
    rng = random.Random(seed)
    problem = problems.sample(rng, "train", chain, scale=scale)
    assume(len({0, *problem.values}) == chain + 2)  # else one equation may stand for two links
    habits = traces.Habits(work=work, slip=0.0, doubt=0.0)
    thinking, answer = traces.write_trace(problem, rng, habits).text.split("</think>")
    steps = lines_of(thinking)
    labels = oracle.label_steps(problem, steps)
    found = routes.routes(problem, steps)
    hard = sum(problems.is_hard(*link) for link in problem.ops)
    assert "".join(steps) == thinking
    assert not {"slip", "repair"} & set(labels)
    assert len(oracle.solved_in(problem, steps)) == chain
    assert work == 0.5 or (found.direct, found.worked) == ((hard, 0) if work == 0 else (0, hard))
    assert len(answer.strip().splitlines()) == labels.count("solve") + labels.count("direct") + labels.count("work") + 1
    assert answer.endswith(f"\\boxed{{{problem.answer}}}")


@both
@given(st.integers(0, 2**32 - 1))
def test_a_doubted_slip_is_repaired_and_its_wrong_result_alone_is_given(scale: Scale, seed: int) -> None:
    rng = random.Random(seed)
    ops = (("*", rng.choice(scale.hard_factors)), ("+", 5))
    problem = ChainProblem(rng.randrange(scale.modulus), ops, modulus=scale.modulus)
    habits = traces.Habits(work=0.0, slip=1.0, doubt=1.0, recheck=0.0, detour=0.0, recap=0.0)
    trace = traces.write_trace(problem, rng, habits)
    steps = lines_of(trace.text.split("</think>")[0])
    assert oracle.label_steps(problem, steps) == ["slip", "repair", "repair", "repair", "solve"]
    assert trace.text.endswith(f"\\boxed{{{problem.answer}}}")
    ((start, end),) = trace.given
    assert steps[0].endswith(f" = {trace.text[start:end]}.\n") and trace.text[start:end] != str(problem.values[1])


@both
@given(st.integers(0, 2**32 - 1))
def test_a_cut_trace_goes_on_from_what_it_has(scale: Scale, seed: int) -> None:
    rng = random.Random(seed)
    problem = problems.sample(rng, "train", 4, scale=scale)
    trace = traces.write_cut_trace(problem, rng, traces.Habits(slip=0.0))
    thinking, answer = trace.text.split("</think>")
    assert answer.endswith(f"\\boxed{{{problem.answer}}}")
    ((start, end),) = [(a, b) for a, b in trace.given if trace.text[a:b].endswith("</think>")]
    assert trace.text[start:end] in ("</think>", traces.EARLY + "</think>")
    assert trace.text[:start].endswith("\n") and thinking.removesuffix(traces.EARLY) == trace.text[:start]


def test_habits_make_the_mix_the_testbed_asks_for() -> None:
    rng = random.Random(0)
    right, links = 0, Counter[str]()
    for _ in range(2000):
        problem = problems.sample(rng, "train", rng.choice(TINY.chains))
        text = traces.write_trace(problem, rng).text
        right += text.endswith(f"\\boxed{{{problem.answer}}}")
        links.update(counts.count_links(problem, lines_of(text.split("</think>")[0])))
    # Half of the 1.72 hard links are recalled, of these 15 % wrong, and a quarter of these repaired: .905 of the traces
    # are right, or a few more since a wrong value may still lead to the right answer. Five standard errors are .04.
    assert right / 2000 == pytest.approx(0.91, abs=0.04)
    assert links["worked"] / links["hard"] == pytest.approx(0.5, abs=0.06)
    assert links["direct_right"] / links["direct"] == pytest.approx(0.85, abs=0.04)
    assert links["doubted"] / links["direct"] == pytest.approx(0.25, abs=0.05)
    assert links["worked_right"] == links["worked"]


def test_a_doubt_goes_on_though_its_part_is_one_of_the_next_link_too() -> None:
    """28 * 26 = 28, so that 28 * 20 belongs to both links, 28 * 26 and 28 * 22."""
    problem = ChainProblem(28, (("*", 26), ("*", 22)))
    doubted = ["Hmm, wait, 28 * 26: 28 * 6 = 68.", "Next, 28 * 20 = 60.", "Next, 68 + 60 = 28, yes."]
    found = routes.routes(problem, ["First, 28 * 26 = 28.", *doubted, "Then 28 * 22 = 16."])
    assert (found.direct, found.doubted, found.strays) == (2, 1, 0)
    worked = ["Then 28 * 22: 28 * 2 = 56.", "Next, 28 * 20 = 60.", "Now 56 + 60 = 16."]
    found = routes.routes(problem, ["First, 28 * 26 = 28.", *worked])
    assert (found.direct, found.worked, found.doubted, found.strays) == (1, 1, 0, 0)
