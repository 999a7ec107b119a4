"""Everything that a profile shows, from the records of its runs: derived tables, then artefacts, then the page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_csv, canonical_json
from attnpo.report.artefacts import ARTEFACTS, artefact_of, write_artefact
from attnpo.report.formats import print_table
from attnpo.report.page import Section, write_page
from attnpo.report.rendered import Rendered
from attnpo.report.table import NotRunError
from attnpo.runs.derive import COMPANIONS, derive_all
from attnpo.runs.plan import Job, Plans, plan_artefacts, plan_runs, titles
from attnpo.runs.profile import Profile
from attnpo.runs.settings import BASE_OF_TRIALS
from attnpo.statistics.tables import trial_table

T = TypeVar("T")
_LINE_SECONDS = 10.0  # between two lines where there is no terminal


def write_results(profile: Profile, artefact: str, plans: Plans, results_dir: Path, options: str) -> None:
    """Derive from the records of all artefacts, then write one artefact and print it, or all of them and the page.

    Args:
        profile: not narrowed to an artefact.
        artefact: a name, or `all`.
        plans: the jobs of the artefact, or of all.
        results_dir: results/<profile>.
        options: `--profile …`, as one would type it, for commands that are shown.

    Raises:
        AttnPOError: nothing of the artefact has been run.
    """
    with _progress() as track:
        every = plan_artefacts(profile, results_dir, profile.makes()) if artefact != "all" else plans
        derive_all(profile, every, results_dir, track("estimates"))
        if artefact == "all":
            names = [*ARTEFACTS, *(name for name in plans if name not in ARTEFACTS)]
            sections = [
                _section(profile, name, plans.get(name), results_dir, options)
                for name in track("tables and figures")(names)
            ]
        else:
            try:
                made = write_report(profile, results_dir, artefact, track("tables and figures"))
            except NotRunError as error:
                raise AttnPOError(
                    f"{error}; nothing under {results_dir} to show, first: attnpo run {artefact} {options}"
                ) from error
    if artefact == "all":
        print(f"written: {write_page(profile, results_dir, sections)}")
    else:
        print_report(made, results_dir, Console(), artefact)


def write_report(
    profile: Profile,
    results_dir: Path,
    name: str = "table1",
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Rendered:
    """Write an artefact from `derived/`, with Table 1 the figures that come with it.

    Args:
        profile, name, results_dir: as in `attnpo.report.artefacts.write_artefact`.
        track: shows progress over names of artefacts.

    Raises:
        AttnPOError: as `write_artefact`.
    """
    made: list[Rendered] = []
    for each in track([name, *(COMPANIONS if name == "table1" else ())]):
        try:
            made.append(write_artefact(profile, each, results_dir))
        except NotRunError:
            if each == name:
                raise
    return made[0]._replace(figures=[figure for rendered in made for figure in rendered.figures])


def print_report(made: Rendered, results_dir: Path, console: Console, name: str) -> None:
    """Print the tables of an artefact, and what was written."""
    for table in made.tables:
        print_table(table, console, str(results_dir / f"{name}.md"))
    files = [f"{name}.md, .csv, .tex" for _ in made.tables]
    files += [f"{path.relative_to(results_dir).with_suffix('')}.png, .svg" for path, _ in made.figures]
    console.print(f"written to {results_dir}: {'; '.join(files)}", markup=False, soft_wrap=True)


def write_trials(profile: Profile, results_dir: Path) -> None:
    """`tune.csv` with every trial that is finished, those of methods not asked for this time too."""
    plan = plan_runs(profile.trials(), results_dir, BASE_OF_TRIALS)
    overlays = {
        f"{stem}@{k}": canonical_json(trial)
        for stem, method in profile.methods.items()
        for k, trial in enumerate(method.tune, start=1)
    }
    evals = [job.run.record() for job in plan if job.kind == "eval" and job.run.done()]
    path = results_dir / "tune.csv"
    atomic_write_csv(path, trial_table(pd.concat(evals, ignore_index=True), overlays, BASE_OF_TRIALS))
    print(path.read_text(encoding="utf-8"), end="")


def _section(
    profile: Profile, name: str, plan: list[Job] | AttnPOError | None, results_dir: Path, options: str
) -> Section:
    """An artefact, written, as a section of the page."""
    title = artefact_of(name).title
    command = f"bash reproduce/{name}.sh {profile.name}" if name in ARTEFACTS else f"attnpo run {name} {options}"
    command += " --quick" if profile.quick and name in ARTEFACTS else ""
    command += " --all" if name in profile.artefacts and profile.artefacts[name].core else ""
    if plan is None or isinstance(plan, AttnPOError):
        why = f"Not run: {plan or 'the profile does not list it under artefacts'}."
        return Section(name, title, command, None, "", why)
    finished = {job: _finished(job) for job in plan}
    try:
        rendered = write_artefact(profile, name, results_dir)
    except NotRunError as error:
        why = str(error).replace(f"{results_dir}{os.sep}", "")  # the page may be moved
        return Section(name, title, command, None, _about(finished, None), f"Not run: {why}.")
    return Section(name, title, command, rendered, _about(finished, rendered), _missing(finished))


def _finished(job: Job) -> str | None:
    """When a job's run was finished, by its manifest: in a clone too, where its files are not."""
    return (job.run.manifest() or {}).get("finished")


def _about(finished: Mapping[Job, str | None], rendered: Rendered | None) -> str:
    """n, seeds, runs and date of an artefact."""
    parts = [rendered.n] if rendered is not None and rendered.n else []
    dates = [date for date in finished.values() if date]
    seeds = sorted({job.seed for job, date in finished.items() if job.method is not None and date})
    parts.append(f"{len(dates)} of {len(finished)} runs")
    parts += [f"seeds {', '.join(map(str, seeds))}"] if seeds else []
    parts += [f"last run {max(dates)[:10]}"] if dates else []
    return " · ".join(parts)


def _missing(finished: Mapping[Job, str | None]) -> str:
    lacking = [job for job, date in finished.items() if not date]
    return f"Not run yet: {titles(lacking)}." if lacking else ""


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[Sequence[T]], Iterable[T]]]]:
    """A line at once, then bars on standard error, one for each name that is tracked; no terminal gets lines."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console.print("reading the records, then making estimates, tables and figures", highlight=False)

    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def track(name: str) -> Callable[[Sequence[T]], Iterable[T]]:
            def each(items: Sequence[T]) -> Iterable[T]:
                if console.is_terminal:
                    return progress.track(items, description=name)
                return _in_lines(name, items, console)

            return each

        yield track


def _in_lines(name: str, items: Sequence[T], console: Console) -> Iterator[T]:
    last = time.monotonic()
    for i, item in enumerate(items):
        if time.monotonic() - last > _LINE_SECONDS:
            console.print(f"{name}: {i} of {len(items)}", highlight=False)
            last = time.monotonic()
        yield item
