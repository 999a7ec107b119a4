"""The necessary prefix of a thinking (DECS, arXiv 2509.25827): all up to the first chunk that states the gold answer.

DECS asks a trained 1.5B model which chunk that is; ours asks `attnpo.grading.stated`. Source of the chunks:
pixas/DECS `src_valid/reward_manager.py`, commit 0d12e53 [C].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from attnpo.grading.stated import states_answer
from attnpo.method.steps import PhraseSet, align_steps

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
