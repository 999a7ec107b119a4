"""The command line: `attnpo probe | train | eval | study | table | report | run | check`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.logging import RichHandler

from attnpo.environment import checkout_root, usable_cores
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import check_consent
from attnpo.runs.outlook import outlook
from attnpo.runs.plan import (
    RUNS_OF,
    all_jobs,
    eval_spec,
    left_to_do,
    only_methods,
    plan_command,
    probe_spec,
    study_spec,
    train_spec,
)
from attnpo.runs.profile import Profile, load_profile
from attnpo.runs.runner import die_with_runner, only_runner, run_jobs
from attnpo.runs.settings import BASE, BASES
from attnpo.runs.store import Run
from attnpo.schema import build
from attnpo.testbed import model_path

ProfileName = Annotated[str, tyro.conf.arg(metavar="NAME|FILE.yaml")]
Results = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def probe(profile: ProfileName, quick: bool = False, results: Results = None) -> None:
    """Rank the attention heads: sample responses, label and score their steps, write heads.json.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    run = Run.at(_results_dir(loaded, results), probe_spec(loaded))

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.probing.heads import HeadRanking
        from attnpo.probing.probe import run_probe
        from attnpo.report.figures import heads_heatmap

        path = run_probe(loaded.source, loaded.steps, loaded.probe, folder, heads_file=run.new / "heads.json")
        (folder / "figures").mkdir(exist_ok=True)
        return [path, *heads_heatmap(HeadRanking.load(path), folder / "figures" / "heads")]

    _compute(loaded, run, f"attnpo probe {loaded.option}", work)


def train(
    profile: ProfileName,
    method: str,
    seed: int = 0,
    quick: bool = False,
    results: Results = None,
) -> None:
    """Train one method with one seed; an unfinished run goes on from its last checkpoint.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        method: a method of the profile; `NAME+attnpo` is NAME with AttnPO on top, `NAME@2` its second trial.
        seed: seed of sampling and of the order of the prompts.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    results_dir = _results_dir(loaded, results)
    run = Run.at(results_dir, train_spec(loaded, method, seed))
    heads_file = None
    if loaded.method(method).needs_probe:
        heads_file = _heads_file(loaded, results_dir)

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.training.run import run_training

        section = loaded.method(method)
        run_training(loaded.source, loaded.steps, loaded.train, section, seed, heads_file, loaded.probe.heads, folder)
        models = [p for name in ("model", "snapshots") for p in (folder / name).rglob("*") if p.is_file()]
        return [folder / "log.jsonl", *models]

    _compute(loaded, run, f"attnpo train {loaded.option} --method {method} --seed {seed}", work)


def evaluate(
    profile: ProfileName,
    method: str = BASE,
    seed: int = 0,
    artefact: str | None = None,
    confirm_run_unsafe_code: bool = False,
    quick: bool = False,
    results: Results = None,
) -> None:
    """Sample a trained method's model, or the untrained one, through lm-eval.

    A killed evaluation goes on where it stood: each batch of responses is kept. Any other model needs no profile:
    lm_eval --tasks attnpo_math --model hf --model_args pretrained=MODEL --metadata '{"resume": "FOLDER"}'
    --log_samples --output_path OUT.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        method: a method as `attnpo train` takes it, or `base`: the untrained model (`base@`: on validation).
        seed: seed of training and of sampling.
        artefact: one of the profile's with an evaluation of its own, in place of the profile's.
        confirm_run_unsafe_code: agree to tasks that run, in a sandbox, programs that the model writes (LiveCodeBench).
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    results_dir = _results_dir(loaded, results)
    if artefact is not None:
        loaded = loaded.narrowed(artefact)
    run = Run.at(results_dir, eval_spec(loaded, method, seed))
    model, target = model_path(loaded.model), None
    if method not in BASES:
        target = loaded.method(method).target_length
        model = str(_trained_model(loaded, results_dir, method, seed))

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.evaluation.evaluate import run_eval

        section = loaded.evaluation_of(method)
        run_eval(
            model,
            section.tasks,
            folder,
            samples=section.samples,
            temperature=section.temperature,
            top_p=section.top_p,
            max_tokens=section.max_completion_tokens,
            batch_size=section.batch_size,
            seed=seed,
            limit=section.limit,
            suffix="" if target is None else target.add_to("", target.evaluate),
            revision=loaded.revision if method == BASE else None,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
        )
        return [folder / "samples.jsonl"]

    words = f"attnpo eval {loaded.option} --method {method} --seed {seed}"
    words += " --confirm-run-unsafe-code" if confirm_run_unsafe_code else ""
    _compute(loaded, run, words if artefact is None else f"{words} --artefact {artefact}", work)


def study(
    kind: tyro.conf.Positional[Literal["responses", "ensemble", "intervention", "stability"]],
    profile: ProfileName,
    method: str | None = None,
    seed: int = 0,
    quick: bool = False,
    results: Results = None,
) -> None:
    """Study the heads of the untrained model on responses of its own.

    Args:
        kind: `responses` samples them, for the others; `ensemble`: SRA of the mean score of several heads;
            `intervention`: drop steps from the thinking, let the model answer; `stability`: correlation of step scores
            between the untrained model and what a method makes of it.
        profile: a name in reproduce/profiles, or a YAML file.
        method: for `stability`, the method that was trained.
        seed: for `stability`, that of the training.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    results_dir = _results_dir(loaded, results)
    if (method is not None) != (kind == "stability"):
        raise AttnPOError(f"--method goes with `stability`, and only with it; not {method!r} with {kind!r}")
    run = Run.at(results_dir, study_spec(loaded, kind, method, seed))
    command = f"attnpo study {kind} {loaded.option}"
    command += "" if method is None else f" --method {method} --seed {seed}"
    responses, heads_file, models = Path(), None, {}
    if kind != "responses":
        needed = Run.at(results_dir, study_spec(loaded, "responses"))
        responses = _need(needed, "responses.jsonl", f"attnpo study responses {loaded.option}")
    if "probe" in run.spec:
        heads_file = _heads_file(loaded, results_dir)
    if method is not None:
        last = _trained_model(loaded, results_dir, method, seed)
        models[loaded.train.steps] = last
        models |= {int(folder.name): folder for folder in (last.parent / "snapshots").glob("[0-9]*")}

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.probing import studies

        source, steps, section = loaded.source, loaded.steps, loaded.studied()
        if kind == "responses":
            return [studies.run_responses(source, section, folder)]
        if kind == "ensemble":
            assert heads_file is not None  # its spec has the probe
            draws = loaded.probe.bootstrap
            return [studies.run_ensemble(source, steps, section, responses, heads_file, folder, bootstrap=draws)]
        heads = studies.key_focus_heads(section, heads_file, loaded.probe.heads)
        if kind == "intervention":
            return [studies.run_intervention(source, steps, section, heads, responses, folder)]
        return [studies.run_stability(source, steps, section, heads, responses, models, folder)]

    _compute(loaded, run, command, work)


def table(profile: ProfileName, artefact: str = "table1", quick: bool = False, results: Results = None) -> None:
    """Derive tables and figures from what has been run, write and print them; runs nothing.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        artefact: one of those that the profile makes, or `all`: every one, and the page index.html.
        quick: the table of the runs made with --quick.
        results: folder of results; the checkout's results/ if not given.
    """
    from attnpo.report import write_results

    loaded = load_profile(profile, quick)
    results_dir = _results_dir(loaded, results)
    _, plans = plan_command(loaded, artefact, None, results_dir)
    write_results(loaded, artefact, plans, results_dir, loaded.option)


def report(
    samples: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[LABEL=]PATH...")],
    base: Annotated[str | None, tyro.conf.arg(metavar="LABEL|[LABEL=]PATH")] = None,
    out: Path = Path("attnpo-report"),
    budgets: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="TOKENS...")] = None,
    paper: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None,
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
        paper: model size (1.5B, 7B) whose published values of the same budget stand beside.
        draws: bootstrap draws.
        confidence: level of the intervals.
        bootstrap_seed: seed of the draws.
    """
    from attnpo.report.comparison import write_comparison

    options = {"draws": draws, "level": confidence, "seed": bootstrap_seed}
    write_comparison(samples, out, Console(), base=base, budgets=budgets, paper=paper, **options)


def run(
    artefact: tyro.conf.Positional[str],
    profile: ProfileName,
    method: list[str] | None = None,
    quick: bool = False,
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
        method: run only these methods (and what they need); the others stand as they are.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        recorded: of runs whose samples or models are not here, take the records (those in the repository, say) in
            place of running them again.
        confirm_run_unsafe_code: agree to tasks that run, in a sandbox, programs that the model writes (LiveCodeBench).
        jobs: how many runs side by side, one thread each; if not given, the profile's number or one a usable core.
        dry_run: print the plan, what of it is there and how long the rest may take; run nothing.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    results_dir = _results_dir(loaded, results)
    narrowed, plans = plan_command(loaded, artefact, method, results_dir)
    plan = all_jobs(plans.values())
    plan = plan if artefact == "tune" else only_methods(plan, method, artefact)
    workers = (loaded.launch.workers or usable_cores()) if jobs is None else jobs
    if workers < 1:
        raise AttnPOError(f"--jobs {workers}: must be at least 1")
    left = left_to_do(plan, recorded)
    expected = "\n".join(outlook(loaded, plans, plan, left, workers))
    if dry_run:
        for job in plan:
            print(f"{job.run.state():<11} {job.title:<24} {job.run.id}")
        print(expected, file=sys.stderr)
        return
    asked = {task for job in left if job.kind == "eval" for task in job.run.spec["evaluate"]["tasks"]}
    check_consent(asked, confirm_run_unsafe_code)
    with only_runner(results_dir):
        if artefact == "all":
            print(expected, file=sys.stderr)
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


def check(
    against: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    write: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    model: str | None = None,
    revision: str | None = None,
    tasks: list[str] | None = None,
    limit: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    false_alarm: float | None = None,
) -> int:
    """Evaluate a small model on a small slice and fail if accuracy or length left the band around a baseline.

    attnpo check --write baseline.json --model MODEL --tasks attnpo_gsm8k --limit 64 --max-tokens 4096, once;
    attnpo check --against baseline.json, in CI. The check takes the settings from the file, problems, seeds and all.
    Exit code 0: within the bands; 1: something moved; 2: it could not be checked (the problems changed, say).

    Args:
        against: compare with this baseline file.
        write: measure a baseline and write it to this file.
        model: hub name or folder; with --against the baseline's own if not given, else `testbed`, the embedded one.
        revision: of a model on the hub.
        tasks: names of tasks or groups; attnpo_testbed_test if not given.
        limit: problems of each task; 64 if not given.
        samples: responses a problem, k; 8 if not given.
        temperature: 1 if not given; 0 is greedy (take one sample then).
        top_p: 1 if not given.
        max_tokens: budget of a response; 256 if not given.
        batch_size: responses generated at once; 128 if not given.
        seed: of sampling; 0 if not given.
        false_alarm: chance that any figure leaves its band though nothing changed; 0.01 if not given.
    """
    from attnpo.evaluation import check as checks

    if (against is None) == (write is None):
        raise AttnPOError("give either --against FILE, to check, or --write FILE, to make a baseline")
    values = {
        "model": model, "revision": revision, "tasks": tasks, "limit": limit, "samples": samples,
        "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in values.items() if value is not None}
    chance = {} if false_alarm is None else {"false_alarm": false_alarm}
    console = Console()
    if write is not None:
        settings = build(checks.Settings, {"tasks": ["attnpo_testbed_test"], **given}, "check")
        checks.write(write, checks.record(settings, build(checks.Bands, chance, "check")))
        console.print(f"{write} written", highlight=False)
        return 0
    assert against is not None
    if other := [name for name in [*given, *chance] if name not in ("model", "revision")]:
        option = f"--{other[0].replace('_', '-')}"
        raise AttnPOError(f"{option}: {against} holds the settings; leave it out, or write a new baseline with it")
    baseline = checks.read(against)
    changes = checks.check(baseline, model, revision)
    console.print(checks.table(changes))
    console.print(checks.verdict(changes, baseline.bands), highlight=False)
    return int(any(change.moved for change in changes))


def _results_dir(profile: Profile, results: Path | None) -> Path:
    return (results or checkout_root() / "results").absolute() / profile.results_name


def _need(run: Run, name: str, command: str) -> Path:
    if not (run.done() if name == "heads.json" else run.state() == "finished"):
        raise AttnPOError(f"{run.id} is not there yet; first: {command}")
    return run.folder / name


def _heads_file(profile: Profile, results_dir: Path) -> Path:
    return _need(Run.at(results_dir, probe_spec(profile)), "heads.json", f"attnpo probe {profile.option}")


def _trained_model(profile: Profile, results_dir: Path, method: str, seed: int) -> Path:
    command = f"attnpo train {profile.option} --method {method} --seed {seed}"
    return _need(Run.at(results_dir, train_spec(profile, method, seed)), "model/config.json", command).parent


def _compute(profile: Profile, run: Run, command: str, work: Callable[[Path], Iterable[Path]]) -> None:
    if int(os.environ.get("RANK", "0")) > 0:  # one process of several: the first keeps lock and manifest
        if run.state() != "finished":
            list(work(run.folder))
        return
    done = run.compute(command, work, {"profile": profile.name, "quick": profile.quick})
    logging.getLogger(__name__).info("%s %s", run.folder, "finished" if done else "was finished already")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code: 0, 1 (a check found a change), 2 (an error), 130 (interrupted).

    Raises:
        SystemExit: from the parser, for --help and for what it cannot parse.
    """
    die_with_runner()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    try:
        commands: dict[str, Callable[..., Any]] = {
            "probe": probe, "train": train, "eval": evaluate, "study": study, "table": table, "report": report,
            "run": run, "check": check,
        }  # fmt: skip
        code = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="attnpo",
            description="AttnPO: attention-guided process supervision for efficient reasoning.",
            args=arguments,
        )
    except AttnPOError as error:
        print(f"attnpo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("attnpo: interrupted; the same command goes on where this one stood", file=sys.stderr)
        return 130
    except Exception:  # Python's own exit code for these is 1, which says that a check found a change
        logging.getLogger(__name__).exception("attnpo: this should not happen")
        return 2
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
