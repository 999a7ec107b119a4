"""The tables under `derived/`, from the records of runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_csv
from attnpo.runs.records import RECORDS
from attnpo.runs.store import Run
from attnpo.statistics.tables import metric_table

if TYPE_CHECKING:
    import pandas as pd


def derive(results_dir: Path, runs: Iterable[Run], artefact: str | None = None) -> None:
    """Write `derived/*.csv` from the records of `runs`.

    runs; from evaluations problems, metrics, estimates; from training curves; and one of each study of the heads. A
    table of which no run is done is left as it is.

    Args:
        results_dir: results/<profile>.
        runs: those of a plan.
        artefact: write to `derived/<artefact>/` what belongs to it alone.

    Raises:
        AttnPOError: a manifest that cannot be read.
    """
    import pandas as pd

    from attnpo.statistics.estimates import estimate_table

    runs = list(runs)
    records: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if run.spec["kind"] in RECORDS and run.done():
            records.setdefault(run.spec["kind"], []).append(run.record())
    tables = {"runs": run_table(run for run in runs if (run.manifest() or {}).get("finished"))}
    for kind, parts in records.items():
        tables[{"eval": "problems", "train": "curves"}.get(kind, kind)] = pd.concat(parts, ignore_index=True)
    if "problems" in tables:
        tables["metrics"] = metric_table(tables["problems"])
        tables["estimates"] = estimate_table(tables["problems"], task_groups())
    for name, table in tables.items():
        atomic_write_csv(results_dir / "derived" / (artefact or "") / f"{name}.csv", table)


def run_table(runs: Iterable[Run]) -> pd.DataFrame:
    """A row per finished run: kind, method, seed, run_id, wall_seconds."""
    import pandas as pd

    rows = []
    for run in runs:
        manifest = run.manifest()
        assert manifest is not None
        row = {key: run.spec.get(key) for key in ("kind", "method", "seed")}
        rows.append({**row, "run_id": run.id, "wall_seconds": manifest["wall_seconds"]})
    return pd.DataFrame(rows, columns=["kind", "method", "seed", "run_id", "wall_seconds"])
