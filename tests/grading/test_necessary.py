"""The necessary prefix: chunks as DECS cuts them, and the first that states the gold answer."""

from __future__ import annotations

import pytest

from attnpo.grading.necessary import (
    FirstSentence,
    NecessaryPrefix,
    Tail,
    first_sentence,
    necessary_prefix,
    tail_of,
    valid_share,
)

TABLE = [bytes([i]) for i in range(256)]
"""A token a byte."""


def found(text: str, gold: str = "12") -> NecessaryPrefix:
    return necessary_prefix(list(text.encode()), TABLE, gold)


def test_the_prefix_ends_with_the_chunk_that_states_the_answer() -> None:
    first, second = "Three and four\nare 7.\n", "Wait, then\n7 + 5 = 12.\n"
    third = "But 5 + 7\n= 12 too.\n"
    text = f"{first}{second}{third}</think>\\boxed{{12}}"
    thinking = len(first + second + third)
    assert found(text) == NecessaryPrefix(len(first + second), thinking, 2, 3)
    assert found(text, "7") == NecessaryPrefix(len(first), thinking, 1, 3)
    assert found(text, "99") == NecessaryPrefix(0, thinking, 0, 3)


def test_a_chunk_of_one_line_merges_into_the_next() -> None:
    one, two = "So it is 12. ", "Wait, is it?\nYes.\n"
    assert found(f"{one}{two}</think>x") == NecessaryPrefix(len(one + two), len(one + two), 1, 1)
    # and the last one stands alone, as there is no next
    last = "Hmm, fine."
    text = f"Nothing\nyet.\n{last}"
    assert found(f"{text} = 12</think>x") == NecessaryPrefix(len(text) + 5, len(text) + 5, 2, 2)


@pytest.mark.parametrize("text", ["no end = 12", "a</think>b</think>", "</think>12", "= 12</think>", ""])
def test_a_response_that_cannot_be_cut_has_no_chunks(text: str) -> None:
    assert found(text) == NecessaryPrefix(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("thinking", "tokens"),
    [
        ("Three. It is 12. Wait, 12? Yes.\n", len("Three. It is 12.")),
        ("a = 1.5 and b\n= 12\nthen\n", len("a = 1.5 and b\n= 12\n")),
        ("é = 12!\n\nmore\n", len("é = 12!\n\n".encode())),
        ("it goes on and is 12", len("it goes on and is 12")),
        ("12 is not 13.\n", 0),
        ("", 0),
    ],
)
def test_the_first_sentence_with_the_answer(thinking: str, tokens: int) -> None:
    size = len(thinking.encode())
    for end, tags in (("</think>\\boxed{12}", 1), ("</think></think>", 2), ("", 0)):
        found = first_sentence(list((thinking + end).encode()), TABLE, "12")
        assert found == FirstSentence(tokens, size, tags)
    share = valid_share(thinking, "12")
    assert share == (pytest.approx(len(thinking.encode()[:tokens].decode()) / len(thinking)) if tokens else None)


def test_a_token_that_holds_the_end_of_a_sentence_belongs_to_it() -> None:
    table = [b"is 1", b"2. So", b" what", b"</think>", b"x"]
    assert first_sentence([0, 1, 2, 3, 4], table, "12") == FirstSentence(2, 3, 1)


def test_the_tail_is_what_stands_behind_the_answer_and_is_counted() -> None:
    before, after = "Wait. It is 12.\n", "Wait, check. Another way: 12. Another way: é. Alternatively, another way.\n"
    found = tail_of(list(f"{before}{after}</think>wait wait wait".encode()), TABLE, "12")
    assert found == Tail(len(before), len(before + after) + 1, 3)  # "another way" three times; two reflections
    assert tail_of(list(b"it is 12.\nHmm, wait. Hold on.</think>"), TABLE, "12").turns == 3
    assert tail_of(list(b"it is 12.</think>"), TABLE, "12") == Tail(9, 9, 0)
    assert tail_of(list(b"wait</think>12"), TABLE, "12") == Tail(0, 4, 0)
