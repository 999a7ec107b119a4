"""What each kind of run leaves in its `record.csv`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpo.files import read_jsonl
from attnpo.statistics.metrics import budgets_below
from attnpo.statistics.tables import curve_table, problem_table

if TYPE_CHECKING:
    import pandas as pd


Spec = Mapping[str, Any]
"""What determines a run."""


def _problems(folder: Path, spec: Spec) -> pd.DataFrame:
    limit = spec.get("evaluate", {}).get("max_completion_tokens")
    budgets = [] if limit is None else budgets_below(limit)
    return problem_table([(spec["method"], spec["seed"], read_jsonl(folder / "samples.jsonl"))], budgets)


def _curve(folder: Path, spec: Spec) -> pd.DataFrame:
    return curve_table(spec["method"], spec["seed"], read_jsonl(folder / "log.jsonl"))


def _rows(folder: Path, spec: Spec) -> pd.DataFrame:
    """The rows of <kind>.json, with method and seed."""
    import pandas as pd

    content = json.loads((folder / f"{spec['kind']}.json").read_text(encoding="utf-8"))
    return pd.DataFrame([{key: spec.get(key) for key in ("method", "seed")} | row for row in content])


def _answers(folder: Path, spec: Spec) -> pd.DataFrame:
    """A row per (condition, problem) of the intervention: sums over its responses."""
    import pandas as pd

    table = pd.DataFrame(read_jsonl(folder / "samples.jsonl")).assign(n=1).drop(columns="response")
    return table.groupby(["condition", "problem_id"], sort=False).sum(numeric_only=True).reset_index()


RECORD_FILE = "record.csv"

RECORDS: dict[str, Callable[[Path, Spec], pd.DataFrame]] = {
    "eval": _problems,
    "train": _curve,
    "ensemble": _rows,
    "stability": _rows,
    "intervention": _answers,
}
"""Kind of run -> its record, from its folder and its spec: rows of a derived table."""
