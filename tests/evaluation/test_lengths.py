from __future__ import annotations

import json
import math
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from attnpo.evaluation.lengths import Generation, TokenCounts, count_response, count_tokens
from attnpo.evaluation.responses import describe, judge, mean_of_pairs, number_of_responses, summarise
from attnpo.grading.grade import Grade
from attnpo.grading.math import Grader
from attnpo.method.steps import thinking_part
from attnpo.testbed import MODEL_DIR

TABLE = [b"", b"a", b"</think>", b"</th", b"ink>", b">b", b"</think", b"\xe2\x82", b"\xac", b"<|end|>"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 1, 2, 1, 9], (5, 2, 2)),
        ([2, 9], (2, 0, 1)),
        ([1, 2], (2, 1, 0)),
        ([], (0, 0, 0)),
        ([1, 1], (2, 2, 0)),
        ([1, 3, 4, 1, 1], (5, 1, 2)),  # the tag in two tokens
        ([1, 6, 5, 1], (4, 1, 1)),  # its end shared with the answer's first letter
        ([1, 2, 1, 2, 1], (5, 1, 3)),  # the first of two tags parts the response
        ([7, 8, 2, 1], (4, 2, 1)),  # a character over two tokens
        ([1, 0, 2, 99, 1], (5, 2, 2)),  # ids without bytes, one of them beyond the table
    ],
)
def test_count_tokens(ids: list[int], expected: tuple[int, int, int]) -> None:
    assert count_tokens(ids, TABLE) == TokenCounts(*expected)


@given(st.lists(st.integers(0, 12), max_size=30))
def test_parts_never_exceed_the_total(ids: list[int]) -> None:
    total, thinking, answer = count_tokens(ids, TABLE)
    assert total == len(ids)
    assert thinking + answer <= total
    assert (thinking == total) == (b"</think>" not in b"".join(TABLE[i] for i in ids if i < 10))


def test_a_generation_is_a_string_that_survives_pickle_and_json() -> None:
    generation = Generation.make("a</think>b", [1, 2, 9], "stop", TokenCounts(3, 1, 1))
    copy = pickle.loads(pickle.dumps(generation))
    assert copy == generation == "a</think>b"
    assert copy.usage is None
    assert (copy.finish, copy.counts) == ("stop", (3, 1, 1))
    np.testing.assert_array_equal(copy.ids, [1, 2, 9])
    assert json.loads(json.dumps([generation])) == ["a</think>b"]


RIGHT = Grade(True, False, "5", "equal")
WRONG = Grade(False, True, None, "no_box")


def no_tokenizer() -> Any:
    raise AssertionError("no tokenizer is needed")


def test_describe_takes_the_counts_of_a_generation() -> None:
    generation = Generation.make("a</think>b", [1, 2, 1, 9], "length", TokenCounts(4, 1, 2))
    assert describe(generation, RIGHT, no_tokenizer) == {
        "text": "a</think>b",
        "correct": True,
        "parse_failed": False,
        "reason": "equal",
        "thinking": True,
        "think_tags": 1,
        "tokens": {"total": 4, "thinking": 1, "answer": 2},
        "finish": "length",
        "counted": "generated",
        "seed": None,
    }


def test_summarise() -> None:
    def record(total: int, grade: Grade, tags: int, finish: str | None) -> dict:
        text = "a" + "</think>" * tags
        if finish is None:
            return {**record(total, grade, tags, "stop"), "finish": None, "counted": "retokenized"}
        generation = Generation.make(text, [1] * total, finish, TokenCounts(total, total - 3, 2))
        return {**describe(generation, grade, no_tokenizer), "steps": {"essential": 2, "redundant": total}}

    records = [record(10, RIGHT, 1, "stop"), record(20, RIGHT, 1, "stop"), record(60, WRONG, 0, "length")]
    figures = summarise(records)
    assert figures.pop("responses") == records
    assert figures.pop("correct_tokens") == [30, 2]
    assert figures.pop("wrong_tokens") == [60, 1]
    assert figures == pytest.approx(
        {
            "avg@k": 2 / 3,
            "pass@k": 1.0,
            "tokens": 30,
            "thinking_tokens": 27,
            "answer_tokens": 2,
            "truncated": 1 / 3,
            "missing_think_end": 1 / 3,
            "parse_failed": 1 / 3,
            "retokenized": 0,
            "essential_steps": 2,
            "redundant_steps": 30,
        }
    )
    unknown = summarise([record(10, WRONG, 1, None), records[0]])
    assert np.isnan(unknown["truncated"])
    assert unknown["retokenized"] == 0.5
    assert "essential_steps" not in summarise([{k: v for k, v in records[0].items() if k != "steps"}])


def test_thinking_part_of_a_truncated_response_is_all_of_it() -> None:
    assert thinking_part("a</think>b</think>c") == "a"
    assert thinking_part("a") == "a"


@cache
def load_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture
def tokenizer() -> Any:
    return load_tokenizer()


TEXT = "First, 1 + 2 = 3.</think>\\boxed{3}"


def test_ids_that_come_without_counts_are_counted(tokenizer: Any) -> None:
    ids = [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id]
    generation = Generation.make(TEXT, ids, "stop", None, usage=99)
    tag = ids.index(tokenizer.convert_tokens_to_ids("</think>"))
    assert count_response(generation, lambda: tokenizer) == ((len(ids), tag, len(ids) - tag - 1), "generated")


@pytest.mark.parametrize(
    ("text", "usage", "expected"),
    [
        (TEXT, 30, (30, 7, 22)),  # more tokens were sampled than the text has; what is not thinking is answer
        ("First, 1 + 2 = 3.", 11, (11, 11, 0)),
        (TEXT, 5, (5, 5, 0)),  # a server that contradicts its own text
        ("", 0, (0, 0, 0)),
    ],
)
def test_a_servers_usage_is_the_total(text: str, usage: int, expected: tuple, tokenizer: Any) -> None:
    assert len(tokenizer("First, 1 + 2 = 3.")["input_ids"]) == 7
    generation = Generation.make(text, None, "stop", None, usage=usage)
    assert count_response(generation, lambda: tokenizer) == (expected, "usage")


@given(st.text(alphabet="12 =", max_size=12), st.booleans(), st.text(alphabet="3 }", max_size=8), st.integers(0, 40))
def test_usage_is_split_without_a_rest(thinking: str, tag: bool, answer: str, usage: int) -> None:
    text = thinking + "</think>" * tag + answer * tag
    counts, _ = count_response(Generation.make(text, None, "stop", None, usage=usage), load_tokenizer)
    assert counts.total == usage
    assert min(counts) >= 0
    # The tag is one token of this tokenizer.
    assert counts.thinking + counts.answer + tag == usage or counts.answer == 0


def test_a_finish_reason_alone_is_kept(tokenizer: Any) -> None:
    record = describe(Generation.make(TEXT, None, "length", None), RIGHT, lambda: tokenizer)
    assert (record["finish"], record["counted"]) == ("length", "retokenized")
    assert record["tokens"]["total"] == len(tokenizer(TEXT)["input_ids"])


def test_judge_asks_for_a_tokenizer_only_to_count_plain_strings() -> None:
    text = "12</think>\\boxed{5}"
    generation = Generation.make(text, [1, 2, 3], "stop", TokenCounts(3, 1, 1))
    asked = []

    def load() -> Any:
        asked.append(AutoTokenizer.from_pretrained(MODEL_DIR))
        return asked[-1]

    with Grader() as grader:
        exact = judge([generation] * 2, "5", grader, load)
        assert not asked
        mixed = judge([generation, text], "6", grader, load)
    assert exact == [describe(generation, Grade(True, False, "5", "equal"), no_tokenizer)] * 2
    assert [r["counted"] for r in mixed] == ["generated", "retokenized"]
    assert [r["reason"] for r in mixed] == ["different"] * 2
    assert mixed[1]["tokens"]["total"] == len(asked[0](text)["input_ids"])


def test_aggregations() -> None:
    assert mean_of_pairs([[30, 2], [0, 0], [60, 1]]) == 30
    assert math.isnan(mean_of_pairs([[0, 0]]))
    assert number_of_responses([[{}, {}], [{}]]) == 3
