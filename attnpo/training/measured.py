"""What a length reward may know of each response beside its length and correctness: fields of `Context` by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError
from attnpo.grading.form import form_of
from attnpo.grading.necessary import first_sentence, necessary_prefix, tail_of
from attnpo.rewards.reflections import count_reflections
from attnpo.rewards.repetition import repeats_itself


class Rollouts(NamedTuple):
    """The responses of this process, and what there is to measure them with."""

    reward: str
    """The length reward's name, for messages."""
    rows: Sequence[Mapping[str, Any]]
    """Of the data set, one for each response."""
    ids: Sequence[Sequence[int]]
    """Token ids of each, without padding."""
    tokenizer: Any
    table: Sequence[bytes]
    """`attnpo.method.steps.token_bytes_table` of the tokenizer; empty where `needs_bytes` says no."""

    def column(self, name: str, what: str) -> list[Any]:
        """A column of the data set; raises AttnPOError if a row lacks it."""
        if any(row.get(name) is None for row in self.rows):
            raise AttnPOError(f"{self.reward} needs {what}; give the data set a column {name!r}")
        return [row[name] for row in self.rows]


def _target_length(of: Rollouts) -> list[float]:
    return [float(length) for length in of.column("target_length", "the length told in each prompt")]


def _reference(of: Rollouts) -> list[float]:
    return [float(share) for share in of.column("reference", "the untrained model's accuracy on each problem")]


def _repeats(of: Rollouts) -> list[bool]:
    return [repeats_itself(response) for response in of.ids]


def _reflections(of: Rollouts) -> list[int]:
    return [count_reflections(text) for text in of.tokenizer.batch_decode(of.ids, skip_special_tokens=True)]


_WHERE_ANSWERED: dict[str, Callable[[Sequence[int], Sequence[bytes], str], Sequence[int]]] = {
    "necessary": necessary_prefix,
    "sentence": first_sentence,
    "tail": tail_of,
}
"""Fields that say where a response first states the gold answer, found on the bytes of its tokens."""


def _where_answered(field: str, of: Rollouts) -> list[list[int]]:
    golds = of.column("answer", "the gold answer of each problem")
    return [list(_WHERE_ANSWERED[field](ids, of.table, str(gold))) for ids, gold in zip(of.ids, golds, strict=True)]


def _form(of: Rollouts) -> list[list[int]]:
    return [list(map(int, form_of(ids, of.table))) for ids in of.ids]


_MEASURES: dict[str, Callable[[Rollouts], list[Any]]] = {
    "target_length": _target_length,
    "reference": _reference,
    "repeats": _repeats,
    "reflections": _reflections,
    "form": _form,
    **{field: functools.partial(_where_answered, field) for field in _WHERE_ANSWERED},
}


def needs_bytes(wanted: Collection[str]) -> bool:
    """Whether one of the `wanted` fields is measured on the bytes of tokens."""
    return not {"form", *_WHERE_ANSWERED}.isdisjoint(wanted)


def measured(wanted: Collection[str], rollouts: Rollouts) -> dict[str, list[Any]]:
    """Those of the `wanted` fields of `attnpo.rewards.Context` that have a value, or several, for each response.

    Raises:
        AttnPOError: a column of the data set that a field needs is missing.
    """
    return {name: of_each(rollouts) for name, of_each in _MEASURES.items() if name in wanted}
