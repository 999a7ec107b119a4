"""How many tokens a response has, counted on the sampled ids wherever they are known.

Counts include the end-of-sequence token, as the completion lengths in training do. If a server gives no ids, its
`usage` is taken as the total; vLLM's includes the end of sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from attnpo.method.steps import THINK_END, split_at_think_end, token_bytes_table


class TokenCounts(NamedTuple):
    """Tokens of a response. The answer includes the end of sequence; the total also includes `</think>`."""

    total: int
    thinking: int
    answer: int


def count_tokens(ids: Sequence[int], table: Sequence[bytes]) -> TokenCounts:
    """Count T sampled ids, split at their first `</think>`. Without one, all of them are thinking.

    Args:
        ids: the sampled ids, end-of-sequence included, without prompt and padding.
        table: `attnpo.method.steps.token_bytes_table(tokenizer)`.
    """
    parts = split_at_think_end(ids, table)
    return TokenCounts(len(ids), parts.thinking, parts.answer)


class Generation(str):
    """The text of a response together with what lm-eval drops. It is a plain string in all other respects."""

    ids: np.ndarray | None = None
    """(T,) int32, the sampled ids, end-of-sequence included; None if the server does not give them."""
    finish: str | None = None
    """"stop" if the response ended by itself, "length" if the token budget cut it off, None if that is not known."""
    counts: TokenCounts | None = None
    """None if there was no tokenizer to count with; then `count_response` counts."""
    usage: int | None = None
    """Number of tokens by the server's count, for a response without ids."""
    seed: int | None = None
    """With which it was sampled; None for greedy decoding and for a backend that is not seeded."""

    @classmethod
    def make(
        cls,
        text: str,
        ids: Sequence[int] | None,
        finish: str | None,
        counts: TokenCounts | None,
        usage: int | None = None,
        seed: int | None = None,
    ) -> Generation:
        """`text` with ids (T,), finish reason, counts, the server's total and the seed."""
        generation = cls(text)
        known = {"ids": ids, "finish": finish, "counts": counts, "usage": usage, "seed": seed}
        vars(generation).update({name: value for name, value in known.items() if value is not None})
        if ids is not None:
            generation.ids = np.asarray(ids, dtype=np.int32)
        return generation


def count_response(text: str, tokenizer: Callable[[], Any]) -> tuple[TokenCounts, str]:
    """The counts of a response and how they were obtained.

    Args:
        text: a `Generation`, or plain text.
        tokenizer: returns the model's tokenizer; called only for a response without counts.

    Returns:
        The counts and one of "generated" (counted on the sampled ids), "usage" (the total is the server's; thinking and
        `</think>` are tokenized again, and the answer is the rest) and "retokenized" (all of the text is tokenized
        again, so that the end of sequence is missing).
    """
    ids, usage = getattr(text, "ids", None), getattr(text, "usage", None)
    if ids is not None:
        counts = getattr(text, "counts", None)
        return counts or count_tokens(list(ids), bytes_table(tokenizer())), "generated"
    if usage is None:
        again = tokenizer()(str(text), add_special_tokens=False)["input_ids"]
        return count_tokens(again, bytes_table(tokenizer())), "retokenized"
    thinking, tag, _ = text.partition(THINK_END)
    if not tag:
        return TokenCounts(usage, usage, 0), "usage"
    before, whole = (
        len(tokenizer()(part, add_special_tokens=False)["input_ids"]) for part in (thinking, thinking + tag)
    )
    return TokenCounts(usage, min(before, usage), max(usage - whole, 0)), "usage"


@functools.lru_cache(maxsize=1)
def bytes_table(tokenizer: Any) -> list[bytes]:
    """`token_bytes_table` of the latest tokenizer, made once."""
    return token_bytes_table(tokenizer)
