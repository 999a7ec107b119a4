"""The responses of one method to the problems of one task, as arrays of sums a problem."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.statistics.metrics import Array, pass_up_to

if TYPE_CHECKING:
    import pandas as pd

_KEYS = {"method", "seed", "task", "problem_id", "chain", "n"}


class Sample:
    """The responses of one method to the P problems of one task, with S seeds.

    Raises:
        AttnPOError: its seeds did not all answer the same problems.
    """

    def __init__(self, rows: pd.DataFrame, method: str) -> None:
        """`rows`: the method's and task's lines of the problem table."""
        self.method = method
        problems = [frozenset(part) for _, part in rows.groupby("seed")["problem_id"]]
        if len(set(problems)) != 1 or len(rows) != len(problems) * len(problems[0]):
            raise AttnPOError(f"method {method!r}: its seeds answered different problems; evaluate them again")
        rows = rows.sort_values(["seed", "problem_id"])
        shape = len(problems), len(problems[0])
        self.seeds: tuple[int, ...] = tuple(int(seed) for seed in rows["seed"].unique())
        self.problems: tuple[str, ...] = tuple(rows["problem_id"][: shape[1]])
        self.chains = rows["chain"].to_numpy(dtype=float)[: shape[1]] if "chain" in rows else np.full(shape[1], np.nan)
        """(P,); NaN where a problem has no chain."""
        self.n = rows["n"].to_numpy(dtype=float).reshape(shape)
        """(S, P) responses."""
        self.sums = {c: rows[c].to_numpy(dtype=float).reshape(shape) for c in rows.columns if c not in _KEYS}
        """Column of the problem table -> (S, P)."""

    def on_seeds(self, seeds: Collection[int]) -> Sample:
        """Only those of its seeds that are among these."""
        return self if set(self.seeds) <= set(seeds) else self._part(np.isin(self.seeds, list(seeds)), slice(None))

    def on_chains(self, chains: Collection[int]) -> Sample | None:
        """Only the problems with chains of these lengths; None if there are none."""
        kept = np.isin(self.chains, list(chains))
        return self._part(slice(None), kept) if kept.any() else None

    def _part(self, seeds: Array | slice, problems: Array | slice) -> Sample:
        part = object.__new__(Sample)
        part.method = self.method
        part.seeds = tuple(np.array(self.seeds)[seeds].tolist())
        part.problems = tuple(np.array(self.problems, dtype=object)[problems])
        part.chains = self.chains[problems]
        cut: Callable[[Array], Array] = lambda array: array[seeds][:, problems]  # noqa: E731
        part.n = cut(self.n)
        part.sums = {column: cut(sums) for column, sums in self.sums.items()}
        return part

    @cached_property
    def columns(self) -> list[str]:
        """Columns that `means` can give, pass@k for each k up to the smallest number of responses included."""
        known = [column for column, sums in self.sums.items() if not np.isnan(sums).all()]
        return [*known, *(f"pass@{k}" for k in range(1, int(self.n.min()) + 1))]

    def means(self, column: str) -> Array:
        """(S, P): means over the k responses of a problem."""
        if column.startswith("pass@"):
            return self._passes[..., int(column[5:]) - 1]
        return self.sums[column] / self.n

    @cached_property
    def _passes(self) -> Array:
        return pass_up_to(self.sums["correct"], self.n, int(self.n.min()))

    @property
    def responses(self) -> int:
        """Responses in all."""
        return int(self.n.sum())

    @property
    def truncated(self) -> float:
        """Share of responses cut off; NaN if that is not known."""
        return float(self.sums["truncated"].sum() / self.n.sum())


def samples_by_method(problems: pd.DataFrame) -> dict[str, dict[str, Sample]]:
    """Method -> task -> its `Sample`, in the order of the problem table."""
    found: dict[str, dict[str, Sample]] = {}
    for (method, task), rows in problems.groupby(["method", "task"], sort=False):
        found.setdefault(str(method), {})[str(task)] = Sample(rows, str(method))
    return found


def shared_seeds(seeds: Sequence[Collection[int]]) -> tuple[int, ...]:
    """The training seeds that all methods have, in order.

    A seed fixes the order of the prompts and the first rollouts, so its luck is much the same for two methods: five
    seeds of one against the first two of the other would show a difference between seeds as one between methods.
    """
    return tuple(sorted(set.intersection(*(set(of_method) for of_method in seeds))))


def compared_lines(
    lines: Mapping[str, Sequence[str]], seeds: Mapping[str, Collection[int]]
) -> list[tuple[str, str, tuple[int, ...]]]:
    """(line, reference, seeds): each line against the last one, on the seeds that all methods of the two have.

    Args:
        lines: name -> methods along it. Methods without seeds do not count; lines with fewer than two are left out, and
            where the last one is, nothing is compared.
        seeds: method -> seeds.
    """
    known = {name: [seeds[m] for m in methods if m in seeds] for name, methods in lines.items()}
    *others, reference = lines or [""]
    if len(known.get(reference, [])) < 2:
        return []
    shared = [(name, shared_seeds(known[name] + known[reference])) for name in others if len(known[name]) > 1]
    return [(name, reference, both) for name, both in shared if both]


def check_same_problems(one: Sample, other: Sample) -> None:
    """Raises AttnPOError unless both answered the same problems."""
    if one.problems != other.problems:
        only = set(one.problems) ^ set(other.problems)
        raise AttnPOError(
            f"{one.method!r} and {other.method!r} answered different problems ({len(only)} of them not in both, "
            f"{min(only)!r} for one); evaluate both on the same set and limit"
        )
