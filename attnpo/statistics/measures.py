"""The measures of an evaluation: what each is called, how it follows from sums, and how it is shown.

`MEASURES` is the one list; `docs/numbers.md` explains each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from attnpo.method.phrases import PHRASE_KINDS
from attnpo.statistics.metrics import Array


class Measure(NamedTuple):
    """A measure: its name and heading, how it follows from means over the responses, and how it is shown."""

    name: str
    heading: str
    columns: tuple[str, ...] = ()
    """Columns of the problem table whose means over the responses it needs."""
    of: Callable[..., Array] = lambda mean: mean
    """From the means of `columns`, in their order; any shape."""
    scale: float = 1.0
    """Factor to the unit of the heading."""
    digits: int = 1
    detail: bool = False
    """Written to CSV files alone."""


def mean_of(name: str, heading: str, column: str, scale: float = 1.0, digits: int = 1, detail: bool = False) -> Measure:
    """The measure that is the mean of one column over the responses."""
    return Measure(name, heading, (column,), lambda mean: mean, scale, digits, detail)


_ALL = [
    mean_of("accuracy", "accuracy %", "correct", 100),
    mean_of("tokens", "tokens", "tokens"),
    Measure("tokens_of_correct", "tokens of correct", ("correct_tokens", "correct"), lambda t, c: t / c),
    Measure(
        "tokens_of_wrong",
        "tokens of wrong",
        ("tokens", "correct_tokens", "correct"),
        lambda t, right, c: (t - right) / (1 - c),
    ),
    Measure("tokens_per_correct", "tokens per correct answer", ("tokens", "correct"), lambda t, c: t / c),
    mean_of("thinking_tokens", "thinking tokens", "thinking_tokens"),
    mean_of("answer_tokens", "answer tokens", "answer_tokens"),
    mean_of("truncated", "truncated %", "truncated", 100),
    mean_of("missing_think_end", "no </think> %", "missing_think_end", 100),
    mean_of("no_thinking", "no thinking %", "no_thinking", 100),
    mean_of("wrong_truncated", "wrong, cut off %", "wrong_truncated", 100),
    mean_of("wrong_unread", "wrong, no answer %", "wrong_unread", 100),
    mean_of("wrong_different", "wrong, another answer %", "wrong_different", 100),
    mean_of("parse_failed", "grader failed %", "parse_failed", 100),
    mean_of("retokenized", "retokenized %", "retokenized", 100),
    mean_of("essential_steps", "essential steps", "steps_essential", digits=2),
    mean_of("redundant_steps", "redundant steps", "steps_redundant", digits=2),
    *(mean_of(f"{kind}_phrases", f"{kind} phrases", f"phrases_{kind}", digits=2) for kind in PHRASE_KINDS),
    *(
        Measure(
            f"{kind}_rate",
            f"{kind} per 1k thinking",
            (f"phrases_{kind}", "thinking_tokens"),
            lambda n, t: n / t,
            1000,
            2,
        )
        for kind in PHRASE_KINDS
    ),
    mean_of("slip_steps", "slips", "steps_slip", digits=2, detail=True),
    Measure("worked_links", "hard links worked out %", ("links_worked", "links_hard"), lambda w, n: w / n, 100),
    Measure("direct_right", "recalled right %", ("links_direct_right", "links_direct"), lambda r, n: r / n, 100),
    Measure("worked_right", "worked out right %", ("links_worked_right", "links_worked"), lambda r, n: r / n, 100),
    mean_of("repairs", "repairs", "links_repaired", digits=2),
    Measure("valid_thinking_rate", "valid thinking %", ("valid_thinking", "valid_of"), lambda v, n: v / n, 100),
    mean_of("doubts", "doubted links", "links_doubted", digits=2, detail=True),
    mean_of("strays", "miscopied operands", "links_strays", digits=2, detail=True),
]

MEASURES = {measure.name: measure for measure in _ALL}
"""Name -> measure, of those that have a name of their own; `measures_of` adds the rest."""

AES = Measure("aes", "AES", digits=2)
"""Accuracy-Efficiency Score against a reference, see `attnpo.statistics.metrics.aes`."""
REG = Measure("reg", "REG, points", scale=100)
"""Reasoning Efficiency Gap to a frontier, see `attnpo.statistics.metrics.efficiency_gap`."""
TOKENS_RELATIVE = Measure("tokens_relative", "tokens, %", scale=100)
"""Difference of the tokens as a share of the reference's."""
REDUNDANT_SHARE = Measure("redundant_share_of_cut", "share of redundant steps in those cut %", scale=100)
"""Of the essential and redundant steps that the reference has more: the share that is redundant."""


def measures_of(columns: Collection[str]) -> dict[str, Measure]:
    """The measures that these columns of the problem table allow, by name.

    Those of `MEASURES`; and of other columns: `LABEL_steps` and `wrong_CAUSE`, then pass@k and accuracy@B, whose
    columns are named `pass@2` and `correct_at_2048`.
    """
    names = [name for name, m in MEASURES.items() if set(m.columns) <= set(columns)]
    labels = [c.removeprefix("steps_") for c in columns if c.startswith("steps_")]
    names += [f"{label}_steps" for label in labels if f"{label}_steps" not in MEASURES]
    names += [c for c in columns if c.startswith("wrong_") and c not in MEASURES]
    names += [f"pass@{k}" for k in _numbers(columns, "pass@")]
    names += [f"accuracy@{budget}" for budget in _numbers(columns, "correct_at_")]
    return {name: measure_named(name) for name in names}


def measure_named(name: str) -> Measure:
    """The measure of a name, as `measures_of` gives it.

    Raises:
        KeyError: there is none.
    """
    if name in MEASURES:
        return MEASURES[name]
    if name == REG.name:
        return REG
    if name.startswith("pass@"):
        return mean_of(name, f"{name} %", name, 100)
    if name.startswith("accuracy@"):
        budget = name.removeprefix("accuracy@")
        return mean_of(name, f"% correct within {budget} tokens", f"correct_at_{budget}", 100)
    if name.startswith("wrong_"):
        return mean_of(name, f"{name.replace('_', ' ')} %", name, 100, detail=True)
    if name.endswith("_steps"):
        label = name.removesuffix("_steps")
        return mean_of(name, f"{label} steps", f"steps_{label}", digits=2, detail=True)
    raise KeyError(name)


def _numbers(columns: Collection[str], prefix: str) -> list[int]:
    return sorted(int(column.removeprefix(prefix)) for column in columns if column.startswith(prefix))
