"""The figures of an evaluation with their intervals, from sums a problem (`attnpo.statistics.tables.problem_table`).

`MEASURES` is the one list of what is reported; `docs/numbers.md` explains each. No files here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.method.phrases import PHRASE_KINDS
from attnpo.statistics.bootstrap import Estimate, bootstrap_tasks
from attnpo.statistics.metrics import aes_unchecked, pass_at_k_each

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Means = Mapping[str, Array]
"""Column -> mean over responses, (T,) or (T, B)."""

KEYS = ["method", "task"]
ESTIMATE_COLUMNS = [*KEYS, "measure", "value", "low", "high", "problems", "responses", "seeds"]


class Measure(NamedTuple):
    """A figure: its heading, the columns it needs, how it follows from their means, and how it is shown."""

    heading: str
    columns: tuple[str, ...]
    of: Callable[..., Array]
    """From the means of `columns`, in their order; any shape."""
    scale: float = 1.0
    """Factor to the unit of the heading."""
    digits: int = 1


def _mean(heading: str, column: str, scale: float = 1.0, digits: int = 1) -> Measure:
    return Measure(heading, (column,), lambda mean: mean, scale, digits)


MEASURES: dict[str, Measure] = {
    "accuracy": _mean("accuracy %", "correct", 100),
    "tokens": _mean("tokens", "tokens"),
    "tokens_of_correct": Measure("tokens of correct", ("correct_tokens", "correct"), lambda t, c: t / c),
    "tokens_of_wrong": Measure(
        "tokens of wrong", ("tokens", "correct_tokens", "correct"), lambda t, right, c: (t - right) / (1 - c)
    ),
    "tokens_per_correct": Measure("tokens per correct answer", ("tokens", "correct"), lambda t, c: t / c),
    "thinking_tokens": _mean("thinking tokens", "thinking_tokens"),
    "answer_tokens": _mean("answer tokens", "answer_tokens"),
    "truncated": _mean("truncated %", "truncated", 100),
    "missing_think_end": _mean("no </think> %", "missing_think_end", 100),
    "parse_failed": _mean("grader failed %", "parse_failed", 100),
    "retokenized": _mean("retokenized %", "retokenized", 100),
    "essential_steps": _mean("essential steps", "steps_essential", digits=2),
    "redundant_steps": _mean("redundant steps", "steps_redundant", digits=2),
    **{f"{kind}_phrases": _mean(f"{kind} phrases", f"phrases_{kind}", digits=2) for kind in PHRASE_KINDS},
    **{
        f"{kind}_rate": Measure(
            f"{kind} per 1k thinking", (f"phrases_{kind}", "thinking_tokens"), lambda n, t: n / t, 1000, 2
        )
        for kind in PHRASE_KINDS
    },
}
"""Name -> measure, of those that any evaluation may have; `measures_of` adds pass@k and accuracy at budgets."""


def measures_of(columns: Sequence[str]) -> dict[str, Measure]:
    """The measures that these columns allow: `MEASURES`, pass@k and accuracy@B (`pass@2`, `correct_at_2048`)."""
    passes = sorted((c for c in columns if c.startswith("pass@")), key=lambda c: int(c[5:]))
    budgets = sorted((c for c in columns if c.startswith("correct_at_")), key=lambda c: int(c[11:]))
    found = {name: m for name, m in MEASURES.items() if set(m.columns) <= set(columns)}
    found |= {c: _mean(f"{c} %", c, 100) for c in passes}
    return found | {f"accuracy@{c[11:]}": _mean(f"% correct within {c[11:]} tokens", c, 100) for c in budgets}


class Sample:
    """The responses of one method to the problems of one task.

    Raises:
        AttnPOError: its seeds did not all answer the same problems.
    """

    def __init__(self, rows: pd.DataFrame, method: str) -> None:
        """`rows`: the method's and task's lines of the problem table."""
        self.rows = rows.sort_values(["seed", "problem_id"])
        self.method = method
        self.seeds = [int(seed) for seed in sorted(rows["seed"].unique())]
        problems = [set(part["problem_id"]) for _, part in rows.groupby("seed")]
        if any(other != problems[0] for other in problems):
            raise AttnPOError(f"method {method!r}: its seeds answered different problems; evaluate them again")

    def where(self, kept: pd.Series) -> Sample:
        """Only some of the problems or seeds."""
        return Sample(self.rows[kept], self.method)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Ids of the P problems, in the order of `means`."""
        return tuple(self.rows["problem_id"][: len(self.rows) // len(self.seeds)])

    @cached_property
    def columns(self) -> list[str]:
        """Columns that `means` can give, pass@k for each k up to the smallest number of responses included."""
        other = {"method", "seed", "task", "problem_id", "chain", "n"}
        known = [c for c in self.rows.columns if c not in other and self.rows[c].notna().any()]
        return [*known, *(f"pass@{k}" for k in range(1, int(self.rows["n"].min()) + 1))]

    def means(self, *columns: str) -> Array:
        """(S, P) for one column, (S, P, M) for several: means over the k responses of a problem."""
        n = self.rows["n"].to_numpy(dtype=float)
        values = [
            pass_at_k_each(self.rows["correct"], n, int(c[5:]))
            if c.startswith("pass@")
            else self.rows[c].to_numpy(dtype=float) / n
            for c in columns
        ]
        cube = np.stack(values, axis=-1).reshape(len(self.seeds), -1, len(columns))
        return cube[..., 0] if len(columns) == 1 else cube

    @property
    def responses(self) -> int:
        """Responses in all."""
        return int(self.rows["n"].sum())

    @property
    def truncated(self) -> float:
        """Share of responses cut off; NaN if that is not known."""
        return float(self.rows["truncated"].sum(skipna=False) / self.responses)


def estimates(samples: Sequence[Sample], **options: Any) -> dict[str, Estimate | None]:
    """Every measure of one method, macro mean over its tasks, with intervals; None where undefined.

    Args:
        samples: one a task; one sample gives the figures of that task.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.
    """
    columns = _shared_columns(samples)
    measures = measures_of(columns)
    found = bootstrap_tasks(_statistic(columns, measures), _cubes(samples, columns), **options)
    return dict(zip(measures, found, strict=True))


def differences(
    samples: Sequence[Sample], base: Sequence[Sample], **options: Any
) -> dict[str, tuple[Estimate | None, Estimate | None]]:
    """Every measure of a method less that of another, paired over the problems: (difference, relative difference);
    and `aes`, the Accuracy-Efficiency Score with `base` as its base (no relative difference).

    Args:
        samples, base: one a task, the same tasks in one order.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.

    Raises:
        AttnPOError: they did not answer the same problems.
    """
    for mine, theirs in zip(samples, base, strict=True):
        check_same_problems(mine, theirs)
    columns = [c for c in _shared_columns(samples) if c in set(_shared_columns(base))]
    measures = measures_of(columns)
    one = _statistic(columns, measures)
    place = [columns.index("correct"), columns.index("tokens")]

    def statistic(mine: Array, theirs: Array) -> Array:
        a, b = one(mine), one(theirs)
        mean, base_mean = mine[..., place].mean(axis=0), theirs[..., place].mean(axis=0)
        score = aes_unchecked(mean[..., 0], mean[..., 1], base_mean[..., 0], base_mean[..., 1])
        return np.concatenate([a - b, a / b - 1, score[..., None]], axis=-1)

    found = bootstrap_tasks(statistic, _cubes(samples, columns), _cubes(base, columns), **options)
    n = len(measures)
    return dict(zip(measures, zip(found[:n], found[n : 2 * n], strict=True), strict=True)) | {"aes": (found[-1], None)}


def on_shared_seeds(*samples: Sample) -> tuple[Sample, ...]:
    """Each with the training seeds that all have, or as they are where they share none.

    A seed fixes the order of the prompts and the first rollouts, so its luck is much the same for two methods: five
    seeds of one against the first two of the other would show a difference between seeds as one between methods.
    """
    shared = sorted(set.intersection(*(set(sample.seeds) for sample in samples)))
    if not shared:
        return samples
    return tuple(s if s.seeds == shared else s.where(s.rows["seed"].isin(shared)) for s in samples)


def check_same_problems(one: Sample, other: Sample) -> None:
    """Raises AttnPOError unless both answered the same problems."""
    if one.problems != other.problems:
        only = set(one.problems) ^ set(other.problems)
        raise AttnPOError(
            f"{one.method!r} and {other.method!r} answered different problems ({len(only)} of them not in both, "
            f"{min(only)!r} for one); evaluate both on the same set and limit"
        )


def estimate_table(
    problems: pd.DataFrame, groups: Mapping[str, Sequence[str]] | None = None, **options: Any
) -> pd.DataFrame:
    """A row per (method, task or group, measure) with its interval; undefined ones are left out.

    Args:
        problems: see `attnpo.statistics.tables.problem_table`.
        groups: name -> its tasks; a group is reported for the methods that were evaluated on all of them.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.
    """
    import pandas as pd

    rows = []
    for method, tasks in samples_by_method(problems).items():
        for name, members in [*((t, [t]) for t in tasks), *(groups or {}).items()]:
            if not set(members) <= set(tasks):
                continue
            samples = [tasks[t] for t in members]
            count = (sum(len(s.problems) for s in samples), sum(s.responses for s in samples))
            seeds = " ".join(map(str, samples[0].seeds))
            for measure, estimate in estimates(samples, **options).items():
                if estimate is not None:
                    rows.append([method, name, measure, *estimate, *count, seeds])
    return pd.DataFrame(rows, columns=ESTIMATE_COLUMNS)


def samples_by_method(problems: pd.DataFrame) -> dict[str, dict[str, Sample]]:
    """Method -> task -> its `Sample`, in the order of the problem table."""
    found: dict[str, dict[str, Sample]] = {}
    for (method, task), rows in problems.groupby(KEYS, sort=False):
        found.setdefault(str(method), {})[str(task)] = Sample(rows, str(method))
    return found


def _shared_columns(samples: Sequence[Sample]) -> list[str]:
    return [c for c in samples[0].columns if all(c in s.columns for s in samples)]


def _cubes(samples: Sequence[Sample], columns: Sequence[str]) -> list[Array]:
    seeds = {tuple(s.seeds) for s in samples}
    if len(seeds) > 1:
        raise AttnPOError(f"{samples[0].method!r}: its tasks have different seeds; evaluate the missing ones")
    return [s.means(*columns).reshape(len(s.seeds), -1, len(columns)) for s in samples]


def _statistic(columns: Sequence[str], measures: Mapping[str, Measure]) -> Callable[[Array], Array]:
    """(T, M) or (T, B, M) means -> (Q,) or (B, Q): each measure for each task, then the macro mean."""
    place = {column: i for i, column in enumerate(columns)}

    def statistic(means: Array) -> Array:
        values = [m.of(*(means[..., place[c]] for c in m.columns)).mean(axis=0) for m in measures.values()]
        return np.stack(values, axis=-1)

    return statistic
