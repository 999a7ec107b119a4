"""Where a thinking first states the gold answer: by chunks (DECS, 2509.25827) and by sentences (LC-R1, 2506.14755).

DEPO (2510.15374) counts what stands behind the sentence. All of them ask trained models; ours asks
`attnpo.grading.stated`. Source of the chunks: pixas/DECS `src_valid/reward_manager.py`, commit 0d12e53 [C].
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from attnpo.grading.stated import states_answer
from attnpo.method.steps import PhraseSet, ThinkingAndAnswer, align_steps, split_at_think_end

CHUNK_WORDS = PhraseSet(doubt=("Wait", "But", "Alternatively", "Hmm", "Let", "Therefore"))
"""Each opens a chunk, wherever it stands."""


class NecessaryPrefix(NamedTuple):
    """Where the gold answer is first stated."""

    tokens: int
    """Of the response, from its first to the last of the chunk that states it; 0 if none does."""
    thinking: int
    """Tokens of the thinking."""
    chunk: int
    """The chunk's number, from 1; 0 if none states it."""
    chunks: int
    """How many there are."""


def necessary_prefix(ids: Sequence[int], table: Sequence[bytes], gold: str) -> NecessaryPrefix:
    """Cut the thinking into chunks and find the first that states the gold answer.

    A chunk of a single line merges into the next. A response without exactly one `</think>` has no chunks.

    Args:
        ids: of a response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of its tokenizer.
        gold: the answer as it would stand in a box.
    """
    steps = align_steps(ids, table, CHUNK_WORDS, min_chars=1, lone_trigger_chars=0)
    if steps is None:
        return NecessaryPrefix(0, 0, 0, 0)
    texts = steps.texts
    ends: list[int] = []  # the last step of each chunk
    begun = ""
    for number, text in enumerate(texts):
        begun += text
        if "\n" in begun.strip("\n") or number == len(texts) - 1:
            ends.append(number)
            begun = ""
    first = 0
    for chunk, end in enumerate(ends, start=1):
        if states_answer("".join(texts[first : end + 1]), gold):
            tokens = sum(0 <= step <= end for step in steps.step_of_token)
            return NecessaryPrefix(tokens, steps.thinking[1], chunk, len(ends))
        first = end + 1
    return NecessaryPrefix(0, steps.thinking[1], 0, len(ends))


_SENTENCE = re.compile(r"[^\n]*?(?:[.!?](?=\s|$)|\n|$)[\n]*")


class FirstSentence(NamedTuple):
    """The first sentence that states the gold answer."""

    tokens: int
    """Of the response, from its first to the one with the sentence's last byte; 0 if there is no such sentence."""
    thinking: int
    """Tokens of the thinking; without `</think>` all of the response."""
    tags: int
    """How many `</think>` the response has."""


def stated_at(thinking: str, gold: str) -> int | None:
    """The character at which the first sentence ends that states the gold answer; None if no sentence states it."""
    for match in _SENTENCE.finditer(thinking):
        if match.group() and states_answer(match.group(), gold):
            return match.end()
    return None


def valid_share(thinking: str, gold: str) -> float | None:
    """The share of the characters of a thinking up to the end of the first sentence that states the gold answer.

    The valid-thinking rate of LC-R1 (2506.14755) and DECS's share of the necessary prefix, which ask a model where the
    answer stands. None if no sentence states it.
    """
    end = stated_at(thinking, gold)
    return None if end is None else end / len(thinking)


def first_sentence(ids: Sequence[int], table: Sequence[bytes], gold: str) -> FirstSentence:
    """Find the first sentence of the thinking that states the gold answer.

    Args:
        ids: of a response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of its tokenizer.
        gold: the answer as it would stand in a box.
    """
    return _first_sentence(split_at_think_end(ids, table), gold)


def _first_sentence(parts: ThinkingAndAnswer, gold: str) -> FirstSentence:
    text = parts.raw[: parts.tag_start].decode("utf-8", "surrogateescape")
    end = stated_at(text, gold)
    if end is None:
        return FirstSentence(0, parts.thinking, parts.tags)
    n_bytes = len(text[:end].encode("utf-8", "surrogateescape"))
    return FirstSentence(min(bisect_left(parts.ends, n_bytes) + 1, parts.thinking), parts.thinking, parts.tags)


PATHS = ("alternatively", "another way", "another approach", "another method", "different way", "different approach")
"""Phrases that open another path. DEPO's own list is not public."""
_REFLECTIONS = re.compile(r"\b(?:wait|hold on|hmm|verify|check|double-check|make sure|think again)\b", re.IGNORECASE)
"""Words of reflection. DEPO's own list is not public."""


class Tail(NamedTuple):
    """The thinking behind the first sentence that states the gold answer."""

    start: int
    """Tokens of the response before it; 0 if there is no such sentence."""
    end: int
    """Tokens of the thinking."""
    turns: int
    """The largest count of one of `PATHS` in it, or that of reflections if that is larger."""


def tail_of(ids: Sequence[int], table: Sequence[bytes], gold: str) -> Tail:
    """Find the thinking behind the first sentence that states the gold answer, and count how often it turns around.

    Args:
        ids: of a response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of its tokenizer.
        gold: the answer as it would stand in a box.
    """
    parts = split_at_think_end(ids, table)
    sentence = _first_sentence(parts, gold)
    if not sentence.tokens:
        return Tail(0, sentence.thinking, 0)
    behind = parts.raw[parts.ends[sentence.tokens - 1] : parts.ends[sentence.thinking - 1]]
    text = behind.decode("utf-8", "replace").lower()
    turns = max(len(_REFLECTIONS.findall(text)), *(text.count(path) for path in PATHS))
    return Tail(sentence.tokens, sentence.thinking, turns)
