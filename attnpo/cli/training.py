"""`attnpo template | probe | train | study`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import tyro

from attnpo.cli.common import ProfileName, Results, about, compute, heads_file_of, need, results_dir_of, trained_model
from attnpo.errors import AttnPOError
from attnpo.runs.plan import check_sections, probe_spec, study_spec, train_spec
from attnpo.runs.profile import TEMPLATE, load_profile
from attnpo.runs.store import Run
from attnpo.testbed import check_model


def template() -> None:
    """Print a profile to start from, for a model and problems of your own: attnpo template > mine.yaml."""
    print(TEMPLATE.read_text(encoding="utf-8"), end="")


def probe(profile: ProfileName, quick: bool = False, results: Results = None) -> None:
    """Rank the attention heads: sample responses, label and score their steps, write heads.json.

    Args:
        profile: a name in reproduce/profiles, or a YAML file.
        quick: merge the profile's section `quick`; results go to results/NAME-quick.
        results: folder of results; the checkout's results/ if not given.
    """
    loaded = load_profile(profile, quick)
    check_sections(loaded, ["probe"])
    check_model(loaded.model)
    run = Run.at(results_dir_of(loaded, results), probe_spec(loaded))

    def work(folder: Path) -> Iterable[Path]:
        from attnpo.probing.heads import HeadRanking
        from attnpo.probing.probe import run_probe
        from attnpo.report.figures import heads_heatmap

        path = run_probe(loaded.source, loaded.steps, loaded.probed(), folder, heads_file=run.new / "heads.json")
        (folder / "figures").mkdir(exist_ok=True)
        return [path, *heads_heatmap(HeadRanking.load(path), folder / "figures" / "heads")]

    compute(run, f"attnpo probe {loaded.option}", work, about(loaded))


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
        return [folder / "log.jsonl", *models]

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
            draws = loaded.probed().bootstrap
            return [studies.run_ensemble(source, steps, section, responses, heads_file, folder, bootstrap=draws)]
        heads = studies.key_focus_heads(section, heads_file, loaded.n_heads)
        if kind == "intervention":
            return [studies.run_intervention(source, steps, section, heads, responses, folder)]
        return [studies.run_stability(source, steps, section, heads, responses, models, folder)]

    compute(run, command, work, about(loaded))
