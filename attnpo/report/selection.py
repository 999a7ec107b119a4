"""Looking up the rows of the table of estimates that a table or figure shows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from attnpo.report.table import Cell, NotRunError
from attnpo.statistics.estimates import compared_seeds

Key = tuple[str, str, str, str, str, str]
"""task, slice, method, seeds, reference, reference's seeds"""


def read_derived(results_dir: Path, name: str, artefact: str | None = None, optional: bool = False) -> pd.DataFrame:
    """`derived/NAME.csv`; that of an artefact with an evaluation of its own if it is named.

    Raises:
        NotRunError: it is missing and not optional.
    """
    path = results_dir / "derived" / (artefact or "") / f"{name}.csv"
    if path.is_file():
        exact = ["value", "low", "high"]  # as text first: pandas 2 may read a float's last digit wrongly
        text = ["problem_id", "slice", "seeds", "reference", "reference_seeds", *exact]
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
        return table.astype({column: float for column in exact if column in table})
    if optional:
        return pd.DataFrame(columns=["method", "seed"])
    raise NotRunError(f"{path}: missing; make it with `attnpo table` once something has been run")


class Selection:
    """The estimates of some methods, each on its own training seeds."""

    def __init__(
        self,
        estimates: pd.DataFrame,
        seeds: Mapping[str, Collection[int]] | None = None,
        untrained: Collection[str] = (),
    ) -> None:
        """Select.

        Args:
            estimates: see `attnpo.statistics.estimates`.
            seeds: method -> seeds that count, of those that were evaluated; None: all methods with all of theirs.
            untrained: methods that keep all seeds in comparisons.
        """
        self._untrained = untrained
        self._cells: dict[Key, dict[str, Cell]] = {}
        self._seeds: dict[tuple[str, str], set[int]] = {}
        columns = ["task", "slice", "method", "seeds", "reference", "reference_seeds"]
        table = estimates.assign(**{c: estimates[c].fillna("") for c in columns})
        numbers = ["measure", "value", "low", "high", "n", "truncated"]
        for *key, measure, value, low, high, n, truncated in table[[*columns, *numbers]].itertuples(index=False):
            task, _, method, own, reference, _ = key
            if seeds is not None and method not in seeds:
                continue
            self._cells.setdefault((*key,), {})[measure] = Cell(value, low, high, int(n), truncated)
            if not reference:
                known = {int(s) for s in own.split()}
                kept = known if seeds is None else known & set(seeds[method])
                self._seeds.setdefault((task, method), set()).update(kept)

    @property
    def tasks(self) -> list[str]:
        """Tasks and groups in which a method was evaluated, in the order of the table."""
        return list(dict.fromkeys(task for (task, _), seeds in self._seeds.items() if seeds))

    def methods(self, task: str) -> list[str]:
        """Methods that were evaluated on a task, in the order of the table."""
        return [method for (of, method), seeds in self._seeds.items() if of == task and seeds]

    def seeds(self, task: str, method: str) -> list[int]:
        """The seeds of a method that were evaluated; empty: it was not run."""
        return sorted(self._seeds.get((task, method), ()))

    def values(
        self, task: str, method: str, chains: Collection[int] = (), seeds: Collection[int] | None = None
    ) -> dict[str, Cell]:
        """Measure -> value of a method; on some of its seeds if they are given."""
        own = " ".join(map(str, sorted(seeds) if seeds is not None else self.seeds(task, method)))
        return self._cells.get((task, " ".join(map(str, chains)), method, own, "", ""), {})

    def slices(self, task: str) -> list[str]:
        """Slices of a task, in the order of the table."""
        return list(dict.fromkeys(key[1] for key in self._cells if key[0] == task and key[1]))

    def differences(self, task: str, method: str, reference: str) -> dict[str, Cell]:
        """Measure -> difference of a method from a reference; empty: one of them was not run."""
        seeds = [self.seeds(task, name) for name in (method, reference)]
        if not all(seeds):
            return {}
        mine, theirs = compared_seeds(method, seeds[0], reference, seeds[1], self._untrained)
        return self.line(task, method, mine, reference, theirs)

    def line(
        self, task: str, method: str, seeds: Collection[int], reference: str, reference_seeds: Collection[int]
    ) -> dict[str, Cell]:
        """As `differences`, on given seeds."""
        own, theirs = (" ".join(map(str, of)) for of in (seeds, reference_seeds))
        return self._cells.get((task, "", method, own, reference, theirs), {})

    def compared(self, task: str, method: str, reference: str) -> list[int]:
        """The seeds of a method on which it is compared with a reference."""
        seeds = [self.seeds(task, name) for name in (method, reference)]
        return list(compared_seeds(method, seeds[0], reference, seeds[1], self._untrained)[0])
