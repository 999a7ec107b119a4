"""What each kind of run leaves in its `record.csv`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from attnpo.files import read_jsonl
from attnpo.statistics.metrics import budgets_below
from attnpo.statistics.tables import curve_table, problem_table

if TYPE_CHECKING:
    import pandas as pd

    from attnpo.runs.store import Run


def _problems(run: Run) -> pd.DataFrame:
    limit = run.spec.get("evaluate", {}).get("max_completion_tokens")
    budgets = [] if limit is None else budgets_below(limit)
    return problem_table([(run.spec["method"], run.spec["seed"], read_jsonl(run.folder / "samples.jsonl"))], budgets)


def _curve(run: Run) -> pd.DataFrame:
    return curve_table(run.spec["method"], run.spec["seed"], read_jsonl(run.folder / "log.jsonl"))


def _rows(run: Run) -> pd.DataFrame:
    """The rows of <kind>.json, with method and seed."""
    import pandas as pd

    content = json.loads((run.folder / f"{run.spec['kind']}.json").read_text(encoding="utf-8"))
    return pd.DataFrame([{key: run.spec.get(key) for key in ("method", "seed")} | row for row in content])


def _answers(run: Run) -> pd.DataFrame:
    """A row per (condition, problem) of the intervention: sums over its responses."""
    import pandas as pd

    table = pd.DataFrame(read_jsonl(run.folder / "samples.jsonl")).assign(n=1).drop(columns="response")
    return table.groupby(["condition", "problem_id"], sort=False).sum(numeric_only=True).reset_index()


RECORD_FILE = "record.csv"

RECORDS: dict[str, Callable[[Run], pd.DataFrame]] = {
    "eval": _problems,
    "train": _curve,
    "ensemble": _rows,
    "stability": _rows,
    "intervention": _answers,
}
"""Kind of run -> what is kept of its raw files in its record: the rows of a derived table."""
