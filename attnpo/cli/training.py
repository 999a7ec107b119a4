"""`attnpo template | probe | train | study`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from attnpo.cli.common import (
    ColumnNames,
    ProfileName,
    Results,
    about,
    columns_of,
    compute,
    heads_file_of,
    need,
    refuse_beside_profile,
    results_dir_of,
    trained_model,
)
from attnpo.errors import AttnPOError
from attnpo.probing.settings import LabelSource, Phrases, ProbeSection, Source, StepsSection, Vote
from attnpo.runs.free import given, option_words
from attnpo.runs.plan import check_sections, spec_of_probe, study_spec, train_spec
from attnpo.runs.profile import TEMPLATE, load_profile
from attnpo.runs.samples import take_samples
from attnpo.runs.store import Run
from attnpo.sampling.settings import Backend
from attnpo.schema import build
from attnpo.testbed import check_model
from attnpo.training.settings import CARD


def template() -> None:
    """Print a profile to start from, for a model and problems of your own: attnpo template > mine.yaml."""
    print(TEMPLATE.read_text(encoding="utf-8"), end="")


def probe(
    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.yaml")] = None,
    model: str | None = None,
    revision: str | None = None,
    data: str | None = None,
    data_revision: str | None = None,
    columns: ColumnNames = None,
    split: str | None = None,
    labels: Annotated[list[LabelSource] | None, tyro.conf.arg(metavar="SOURCE...")] = None,
    problems: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    backend: Backend | None = None,
    heads: int | None = None,
    forced_answer: str | None = None,
    answers: int | None = None,
    answer_tokens: int | None = None,
    judge_url: Annotated[list[str] | None, tyro.conf.arg(metavar="URL...")] = None,
    judge_model: Annotated[list[str] | None, tyro.conf.arg(metavar="MODEL...")] = None,
    vote: Vote | None = None,
    phrases: Phrases | None = None,
    min_chars: int | None = None,
    seed: int | None = None,
    quick: bool = False,
    results: Results = None,
) -> None:
    """Rank the attention heads: sample responses, label and score their steps, write heads.json.

    attnpo probe --model MODEL --data problems.jsonl --labels first_answer needs no profile. It ends with the heads as a
    line for a profile, or with the reasons why the evidence is too thin for that. A killed probe goes on where it
    stood: each response is kept, and a probe with other labels or steps takes the responses of the first.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        model: without a profile: a folder, a hub name, or `testbed`, the embedded model.
        revision: of a model on the hub.
        data: without a profile: a file of problems (.jsonl, .json, .csv, .parquet; problem and answer in each row), a
            hub data set, or `testbed`.
        data_revision: of a hub data set.
        columns: what the data call theirs, if not problem and answer: problem=question answer=solution.
        split: of a hub data set or the testbed; train if not given.
        labels: without a profile: who says which steps are essential: `first_answer` (steps behind the first one that
            states the gold answer are redundant), `ablation` (steps that can be removed without making the gold answer
            much less likely), `sampled_ablation` (the same by answers that the model samples), `prefix_gain` (steps
            behind which it answers right no more often than before them), `judge` (other models, by --judge-url and
            --judge-model) or `oracle` (exact, for the testbed's problems alone). Of several, steps are labelled on
            which all agree.
        problems: how many are asked; 128 if not given.
        samples: responses a problem; 4 if not given.
        temperature: of sampling; 1 if not given.
        max_tokens: budget of a response; 4096 if not given.
        batch_size: hf: responses generated at once; 32 if not given.
        backend: what samples: `hf` (transformers), if not given, or `vllm`.
        heads: how many of the best are named at the end; 3 if not given.
        forced_answer: the sources that ask the model: what stands between </think> and its answer; R1's words if not
            given. Empty, for `prefix_gain` and `sampled_ablation`: the whole answer is the model's own.
        answers: `prefix_gain`, `sampled_ablation`: how many are sampled behind each part of the thinking; 5 if not
            given.
        answer_tokens: `prefix_gain`, `sampled_ablation`: budget of each of them; 32 if not given.
        judge_url: `--labels judge`: the address of each judge, such as http://localhost:8000/v1/chat/completions. The
            key is taken from OPENAI_API_KEY; a profile can name another variable for each judge.
        judge_model: the name of each judge's model, in the same order; one address may serve several.
        vote: `unanimous`, if not given: a step is labelled where all judges agree; `majority`: where more than half do.
        phrases: phrase set that cuts the thinking into steps; `corrected` if not given.
        min_chars: steps shorter than this many characters merge into a neighbour; 80 if not given.
        seed: without a profile: of the sampling and of the intervals; 0 if not given.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; if not given, the checkout's results/ with a profile, else attnpo-probe.
    """
    whence = {"model": model, "revision": revision, "data": data, "data_revision": data_revision}
    cut = {"phrases": phrases, "min_chars": min_chars}
    section = {
        "split": split, "problems": problems, "samples": samples, "temperature": temperature, "batch_size": batch_size,
        "backend": backend, "heads": heads, "vote": vote, "forced_answer": forced_answer,
        "answers": answers, "answer_tokens": answer_tokens,
    }  # fmt: skip
    alone: dict[str, Any] = {
        **whence,
        "columns": columns,
        "labels": labels,
        "max_tokens": max_tokens,
        **cut,
        **section,
        "seed": seed,
    }
    alone |= {"judge_url": judge_url, "judge_model": judge_model}
    refuse_beside_profile(profile, alone)
    if profile is not None:
        loaded = load_profile(profile, quick)
        check_sections(loaded, ["probe"])
        check_model(loaded.model)
        _probed(
            results_dir_of(loaded, results),
            (loaded.source, loaded.steps, loaded.probed()),
            0,
            f"attnpo probe {loaded.option}",
            about(loaded),
        )
        return
    if model is None or data is None or labels is None:
        raise AttnPOError("give either --profile NAME, or --model MODEL, --data FILE and --labels SOURCE")
    check_model(model)
    named = {
        "labels": labels[0] if len(labels) == 1 else labels,
        "max_completion_tokens": 4096 if max_tokens is None else max_tokens,
        "judges": _judges(judge_url or [], judge_model or []),
    }
    defaults = {"problems": 128, "samples": 4, "batch_size": 32}
    settings = build(ProbeSection, {**defaults, **named, **given(section)}, "probe")
    source = build(Source, {**given(whence), "revision": revision}, "probe")
    source = dataclasses.replace(source, data_columns=columns_of(columns))
    run = _probed(
        (results or Path("attnpo-probe")).absolute(),
        (source, build(StepsSection, given(cut), "probe"), settings),
        seed or 0,
        shlex.join(["attnpo", "probe", *option_words(alone)]),
        {"profile": None, "quick": False},
    )
    _say_heads(run.folder / "heads.json", settings.heads)


def _judges(urls: list[str], models: list[str]) -> list[dict[str, str]]:
    if len(urls) not in (1, len(models)) and (urls or models):
        raise AttnPOError(f"--judge-url has {len(urls)} addresses and --judge-model {len(models)} names; give one each")
    return [{"base_url": url, "model": model} for url, model in zip(urls * len(models), models, strict=False)]


def _probed(
    folder: Path,
    asked: tuple[Source, StepsSection, ProbeSection],
    seed: int,
    command: str,
    context: dict[str, Any],
) -> Run:
    """The probe under `folder`, done now unless it was done already."""
    run = Run.at(folder, spec_of_probe(*asked, seed))

    def work(run_folder: Path) -> Iterable[Path]:
        from attnpo.probing.heads import HeadRanking
        from attnpo.probing.probe import run_probe
        from attnpo.report.figures import heads_heatmap

        take_samples(run)
        path = run_probe(*asked, run_folder, seed, heads_file=run.new / "heads.json")
        (run_folder / "figures").mkdir(exist_ok=True)
        return [path, *heads_heatmap(HeadRanking.load(path), run_folder / "figures" / "heads")]

    compute(run, command, work, context)
    return run


def _say_heads(path: Path, count: int) -> None:
    """Print the heads as a line for a profile, or why they are not to be relied on."""
    from attnpo.probing.heads import HeadRanking

    ranking = HeadRanking.load(path)
    best = ranking.best(min(count, len(ranking.heads)))
    if doubts := ranking.doubts(len(best)):
        print(f"the evidence is too thin to name heads: {'; '.join(doubts)}; raise --problems or --samples")
    else:
        print(f"heads: {[[head.layer, head.head] for head in best]}")
    print(path)


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
    check_sections(loaded, ["train"], [method])
    check_model(loaded.model)
    results_dir = results_dir_of(loaded, results)
    run = Run.at(results_dir, train_spec(loaded, method, seed))
    heads_file = None
    if loaded.method(method).needs_probe:
        heads_file = heads_file_of(loaded, results_dir)

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.training.run import run_training

        section = loaded.method(method)
        run_training(loaded.source, loaded.steps, loaded.trained(), section, seed, heads_file, loaded.n_heads, folder)
        models = [p for name in ("model", "snapshots") for p in (folder / name).rglob("*") if p.is_file()]
        card = folder / "model" / CARD  # people edit it: that changes nothing of the run
        return [folder / "log.jsonl", *(path for path in models if path != card)]

    compute(run, f"attnpo train {loaded.option} --method {method} --seed {seed}", work, about(loaded))


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
    results_dir = results_dir_of(loaded, results)
    if (method is not None) != (kind == "stability"):
        raise AttnPOError(f"--method goes with `stability`, and only with it; not {method!r} with {kind!r}")
    check_sections(loaded, [kind], [] if method is None else [method])
    check_model(loaded.model)
    run = Run.at(results_dir, study_spec(loaded, kind, method, seed))
    command = f"attnpo study {kind} {loaded.option}"
    command += "" if method is None else f" --method {method} --seed {seed}"
    responses, heads_file, models = Path(), None, {}
    if kind != "responses":
        needed = Run.at(results_dir, study_spec(loaded, "responses"))
        responses = need(needed, "responses.jsonl", f"attnpo study responses {loaded.option}")
    if "probe" in run.spec:
        heads_file = heads_file_of(loaded, results_dir)
    if method is not None:
        last = trained_model(loaded, results_dir, method, seed)
        models[loaded.trained().steps] = last
        Run.at(results_dir, train_spec(loaded, method, seed)).check("snapshots")
        models |= {int(folder.name): folder for folder in (last.parent / "snapshots").glob("[0-9]*")}

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.probing import studies

        source, steps, section = loaded.source, loaded.steps, loaded.studied()
        if kind == "responses":
            return [studies.run_responses(source, section, folder)]
        if kind == "ensemble":
            assert heads_file is not None  # its spec has the probe
            probed = loaded.probed()
            return [studies.run_ensemble(source, steps, section, probed, responses, heads_file, folder)]
        heads = studies.key_focus_heads(section, heads_file, loaded.n_heads)
        if kind == "intervention":
            return [studies.run_intervention(source, steps, section, heads, responses, folder)]
        return [studies.run_stability(source, steps, section, heads, responses, models, folder)]

    compute(run, command, work, about(loaded))
