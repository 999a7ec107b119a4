"""`attnpo eval | check`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from attnpo.cli.common import Results, about, compute, refuse_beside_profile, results_dir_of, trained_model
from attnpo.errors import AttnPOError
from attnpo.evaluation.settings import EvaluationBackend, FreeEvaluation
from attnpo.runs.free import evaluate_any, given
from attnpo.runs.plan import check_sections, eval_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.settings import BASE, BASES
from attnpo.runs.store import Run
from attnpo.schema import build
from attnpo.testbed import check_model


def evaluate(
    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.yaml")] = None,
    method: str = BASE,
    seed: int = 0,
    artefact: str | None = None,
    model: str | None = None,
    revision: str | None = None,
    tasks: Annotated[list[str] | None, tyro.conf.arg(metavar="TASK...")] = None,
    backend: EvaluationBackend | None = None,
    base_url: str | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    processes: int | None = None,
    confirm_run_unsafe_code: bool = False,
    quick: bool = False,
    results: Results = None,
) -> None:
    """Sample a model's responses to our tasks and grade them: a trained method of a profile, or any model.

    attnpo eval --model MODEL --tasks attnpo_math --backend vllm needs no profile; the responses go to
    attnpo-eval/raw/ID/samples.jsonl, which `attnpo report` reads. With --profile, the profile says what is asked, and a
    table's row is made. With several visible GPUs the problems are dealt among them. A killed evaluation goes on where
    it stood: each response is kept.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        method: with a profile: a method as `attnpo train` takes it, or `base`: the untrained model (`base@`: on
            validation).
        seed: seed of sampling, and of the method's training.
        artefact: with a profile: one of its artefacts with an evaluation of its own, in place of the profile's.
        model: without a profile: a folder, a hub name, `testbed`, the embedded model, or `testbed-large`.
        revision: of a model on the hub.
        tasks: without a profile: names of tasks or groups, such as attnpo_math, and files of your own problems, such
            as test.jsonl (.jsonl, .json, .csv, .parquet; problem and answer in each row).
        backend: what samples: `hf` (transformers), `vllm`, or `server`, an OpenAI-compatible one at --base-url; if not
            given, the profile's or hf. Another backend is another run.
        base_url: the server's whole address, such as http://localhost:8000/v1/completions.
        samples: responses a problem, k; each task's own number if not given (16 for AIME and AMC, else 4).
        temperature: each task's own if not given (0.6); 0 is greedy.
        top_p: each task's own if not given (0.95).
        max_tokens: budget of a response; each task's own if not given (16384).
        batch_size: hf: responses generated at once; server: requests at once; 32 if not given.
        limit: only the first this many problems of each task.
        processes: how many sample side by side; one a visible GPU if not given. The samples are the same.
        confirm_run_unsafe_code: agree to tasks that run, in a sandbox, programs that the model writes (LiveCodeBench).
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; if not given, the checkout's results/ with a profile, else attnpo-eval.
    """
    alone = {
        "model": model, "revision": revision, "tasks": tasks, "samples": samples, "temperature": temperature,
        "top_p": top_p, "max_tokens": max_tokens, "batch_size": batch_size, "limit": limit,
    }  # fmt: skip
    refuse_beside_profile(profile, alone)
    if profile is None and (model is None or not tasks):
        raise AttnPOError("give either --profile NAME, or --model MODEL and --tasks TASK...")
    where = given({"backend": backend, "base_url": base_url})
    if profile is None:
        options = build(FreeEvaluation, given({**alone, **where}), "eval")
        folder = (results or Path("attnpo-eval")).absolute()
        path = evaluate_any(options, seed, folder, processes, confirm_run_unsafe_code)
        print(path)
        return
    loaded = load_profile(profile, quick)
    results_dir = results_dir_of(loaded, results)
    if artefact is not None:
        loaded = loaded.narrowed(artefact)
    check_sections(loaded, ["eval"] if method in BASES else ["eval", "train"], [method])
    check_model(loaded.model)
    loaded = loaded.evaluated_by(where)
    run = Run.at(results_dir, eval_spec(loaded, method, seed))
    trained, target = loaded.model, None
    if method not in BASES:
        target = loaded.method(method).target_length
        trained = str(trained_model(loaded, results_dir, method, seed))

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.evaluation.evaluate import run_eval

        section = loaded.evaluation_of(method)
        run_eval(
            trained,
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
            revision=loaded.revision if method in BASES else None,
            confirm_run_unsafe_code=confirm_run_unsafe_code,
            backend=section.backend,
            base_url=section.base_url,
            processes=processes,
        )
        return [folder / "samples.jsonl"]

    words = [f"attnpo eval {loaded.option} --method {method} --seed {seed}"]
    words += ["--confirm-run-unsafe-code"] if confirm_run_unsafe_code else []
    words += [f"--{name.replace('_', '-')} {value}" for name, value in where.items()]
    words += [] if artefact is None else [f"--artefact {artefact}"]
    compute(run, " ".join(words), work, about(loaded))


def check(
    against: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    write: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    model: str | None = None,
    revision: str | None = None,
    tasks: Annotated[list[str] | None, tyro.conf.arg(metavar="TASK...")] = None,
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
        tasks: names of tasks or groups, and files of your own problems; attnpo_testbed_test if not given.
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
    asked = given(values)
    chance = {} if false_alarm is None else {"false_alarm": false_alarm}
    console = Console()
    if write is not None:
        settings = build(checks.Settings, {"tasks": ["attnpo_testbed_test"], **asked}, "check")
        checks.write(write, checks.record(settings, build(checks.Bands, chance, "check")))
        console.print(f"{write} written", highlight=False)
        return 0
    assert against is not None
    if other := [name for name in [*asked, *chance] if name not in ("model", "revision")]:
        option = f"--{other[0].replace('_', '-')}"
        raise AttnPOError(f"{option}: {against} holds the settings; leave it out, or write a new baseline with it")
    baseline = checks.read(against)
    changes = checks.check(baseline, model, revision)
    console.print(checks.table(changes))
    console.print(checks.verdict(changes, baseline.bands), highlight=False)
    return int(any(change.moved for change in changes))
