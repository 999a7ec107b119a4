"""`attnpo table | report | trace | run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console

from attnpo.cli.common import ProfileName, Results, results_dir_of
from attnpo.environment import usable_cores
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import check_tasks
from attnpo.probing.settings import Phrases
from attnpo.runs.derive import check_undamaged
from attnpo.runs.free import given
from attnpo.runs.outlook import core_rows, outlook
from attnpo.runs.plan import (
    RUNS_OF,
    STUDIES,
    all_jobs,
    check_launcher,
    left_to_do,
    only_core,
    only_methods,
    plan_command,
    titles,
)
from attnpo.runs.profile import load_profile
from attnpo.runs.runner import only_runner, run_jobs
from attnpo.schema import STRICT, Count, Seed, build
from attnpo.testbed import check_model


def table(
    profile: ProfileName,
    artefact: str = "table1",
    quick: bool = False,
    leave_out_damaged: bool = False,
    results: Results = None,
) -> None:
    """Derive tables and figures from what has been run, write and print them; runs nothing.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        artefact: one of those that the profile makes, or `all`: every one, and the page index.html.
        quick: the table of the runs made with --quick.
        leave_out_damaged: go on without runs whose records are lost or have changed.
        results: folder of results; the checkout's results/ if not given.
    """
    from attnpo.report import write_results

    loaded = load_profile(profile, quick)
    results_dir = results_dir_of(loaded, results)
    _, plans = plan_command(loaded, artefact, None, results_dir)
    jobs = all_jobs(plans.values())
    if not leave_out_damaged:
        check_undamaged(jobs)
    shown = [job for job in jobs if job.kind in _kinds(artefact)]
    not_run = [job for job in shown if not job.run.done()]
    if 0 < len(not_run) < len(shown):
        print(f"left out, not run yet: {titles(not_run)}", file=sys.stderr)
    write_results(loaded, artefact, plans, results_dir, loaded.option)


def _kinds(artefact: str) -> set[str]:
    """The kinds of run that an artefact shows; `all`: every kind."""
    every: tuple[str, ...] = ("probe", "train", "eval", *STUDIES)
    return set(every if artefact == "all" else RUNS_OF.get(artefact, ("eval",)))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _ReportOptions:
    draws: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    bootstrap_seed: Seed
    budgets: list[Count] | None


def report(
    samples: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[LABEL=]PATH...")],
    base: Annotated[str | None, tyro.conf.arg(metavar="LABEL|[LABEL=]PATH")] = None,
    out: Path = Path("attnpo-report"),
    budgets: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="TOKENS...")] = None,
    paper: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None,
    frontier: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None,
    draws: int = 2000,
    confidence: float = 0.95,
    bootstrap_seed: int = 0,
) -> None:
    """Report evaluations of our tasks, from lm-eval or from run folders: accuracy, lengths and how sure they are.

    Args:
        samples: lm-eval output folders (made with --log_samples), its sample files, run folders. Those of one label
            are seeds of one method.
        base: which of them, or which other one, the rest is compared with: paired differences and AES.
        out: folder for report.md, .csv, .tex, problems.csv and figures.
        budgets: token budgets at which accuracy is reported; if not given, that of the runs and its halves.
        paper: model size (1.5B, 4B, 7B) whose published values of the same budget stand beside.
        frontier: columns task, budget and accuracy (%): the best that is known at token budgets, for REG; if not given,
            the best of what is compared.
        draws: bootstrap draws.
        confidence: level of the intervals.
        bootstrap_seed: seed of the draws.
    """
    from attnpo.report.comparison import write_comparison

    given = {"draws": draws, "confidence": confidence, "bootstrap_seed": bootstrap_seed, "budgets": budgets}
    build(_ReportOptions, given, "report")
    options = {"draws": draws, "level": confidence, "seed": bootstrap_seed}
    write_comparison(samples, out, Console(), base=base, budgets=budgets, paper=paper, frontier=frontier, **options)


def trace(
    samples: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[LABEL=]PATH...")],
    model: str | None = None,
    revision: str | None = None,
    heads: Annotated[Path | None, tyro.conf.arg(metavar="heads.json")] = None,
    top: int = 3,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.html")] = Path("trace.html"),
    limit: int = 200,
    data: Annotated[list[str] | None, tyro.conf.arg(metavar="FILE...")] = None,
    phrases: Phrases | None = None,
    min_chars: int | None = None,
) -> None:
    """Show responses step by step on one HTML page: what each step is, how much the heads look at it, what a run cut.

    The page needs no network and no server. Of two runs it shows, problem by problem, which steps of the first the
    second no longer writes.

    Args:
        samples: lm-eval output folders (made with --log_samples), its sample files, run folders.
        model: whose tokenizer counts tokens and, with --heads, whose heads score the steps: a folder, a hub name or
            `testbed`. Steps of the testbed's models are counted without it; others have characters only.
        revision: of a model on the hub.
        heads: heads.json of a probe; each response costs one forward pass. Not given: nothing is scored.
        top: how many of its heads, the best ones.
        out: the page.
        limit: responses on it at most, from problems that are evenly spread.
        data: files of problems of your own that were asked, so that their texts and answers are known.
        phrases: phrase set that cuts the thinking into steps; if not given, that of --heads or `corrected`.
        min_chars: steps shorter than this many characters merge into a neighbour; if not given, that of --heads, or 80
            (1 on the testbed).
    """
    from attnpo.report import trace as write

    cut = given({"phrases": phrases, "min_chars": min_chars})
    page = write(
        samples, model=model, revision=revision, heads=heads, top=top, out=out, limit=limit, data=data or (), **cut
    )
    print(page.path)


def run(
    artefact: tyro.conf.Positional[str],
    profile: ProfileName,
    method: Annotated[list[str] | None, tyro.conf.arg(metavar="NAME...")] = None,
    quick: bool = False,
    everything: Annotated[bool, tyro.conf.arg(name="all")] = False,
    recorded: bool = False,
    confirm_run_unsafe_code: bool = False,
    jobs: int | None = None,
    dry_run: bool = False,
    results: Results = None,
) -> None:
    """Run everything behind a table or figure that has not been run yet, side by side, then write it.

    Args:
        artefact: `table1`; another name under the profile's `artefacts`; `all`: every one of them, then index.html; or
            `tune`, which compares the trials of each method on validation problems and writes tune.csv.
        profile: a name in reproduce/profiles, or a YAML file.
        method: run only these methods (and what they need); the others stand as they are. If not given, the core
            rows that the profile names for the artefact, or all where it names none.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        everything: run all methods and seeds, not the core rows alone.
        recorded: run all methods; but of runs whose samples or models are not here, take the records (those in the
            repository, say) in place of running them again.
        confirm_run_unsafe_code: agree to tasks that run, in a sandbox, programs that the model writes (LiveCodeBench).
        jobs: how many runs side by side, one thread each; if not given, the profile's number or one a usable core.
        dry_run: print the plan, what of it is there and how long the rest may take; run nothing.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    results_dir = results_dir_of(loaded, results)
    narrowed, plans = plan_command(loaded, artefact, method, results_dir)
    plan = all_jobs(plans.values())
    core = None
    if artefact in loaded.artefacts and not (method or everything or recorded):
        core = loaded.artefacts[artefact].core
    expected = [] if core is None else [core_rows(narrowed, core, plan, artefact)]
    if core is not None:
        plan = only_core(plan, narrowed, core)
    elif artefact != "tune":
        plan = only_methods(plan, method, artefact)
    workers = (loaded.launch.workers or usable_cores()) if jobs is None else jobs
    if workers < 1:
        raise AttnPOError(f"--jobs {workers}: must be at least 1")
    left = left_to_do(plan, recorded)
    for job in left:
        if damage := job.run.damage():
            print(f"runs again: {job.title}, since {damage}", file=sys.stderr)
    expected += outlook(loaded, plans, plan, left, workers)
    if dry_run:
        for job in plan:
            print(f"{job.run.state():<11} {job.title:<24} {job.run.id}")
        print("\n".join(expected), file=sys.stderr)
        return
    if left:
        check_model(loaded.model)
    evaluated = {(job.artefact or "", str(job.method)) for job in left if job.kind == "eval"}
    asked = {task for own, name in evaluated for task in loaded.narrowed(own).evaluation_of(name).tasks}
    check_tasks(asked, confirm_run_unsafe_code)
    if any(job.kind == "train" for job in left):
        check_launcher(loaded.launch.train)
    with only_runner(results_dir):
        if left:
            print("\n".join(expected), file=sys.stderr, flush=True)
        for job in plan:
            job.run.clean()
        console = Console(stderr=True)
        not_done = run_jobs(narrowed, results_dir, plan, left, workers, console, confirm_run_unsafe_code)
        finished = {job.kind for job in plan if job.run.done()}
        from attnpo.report import write_results, write_trials

        if artefact == "tune" and "eval" in finished:
            write_trials(loaded, results_dir)
        elif artefact == "all" or (artefact != "tune" and finished & set(RUNS_OF.get(artefact, ["eval"]))):
            write_results(loaded, artefact, plans, results_dir, loaded.option)
    if not_done:
        raise AttnPOError(
            f"{len(not_done)} of {len(plan)} runs are missing ({', '.join(job.title for job in not_done)}); "
            "see the logs named above, then run the same command again"
        )
