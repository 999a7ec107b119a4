"""Every table and figure and the page, from made-up finished runs: no model, nothing is computed."""

from __future__ import annotations

import json
import math
import os
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fakes import PROFILE, fake_profile, fake_samples
from matplotlib.figure import Figure
from places import ROOT

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.report import figures, formats
from attnpo.report.artefacts import ARTEFACTS
from attnpo.report.evaluated import describe_trade_off, verdict
from attnpo.report.rendered import groups_to_draw
from attnpo.report.table import Block, Cell, Row
from attnpo.report.trained import draw_curves, training_table
from attnpo.runs.derive import CONVERGING, CURVES, WINDOW, bootstrap_options, chosen, derive
from attnpo.runs.plan import STUDIES, Job, all_jobs, plan_artefacts, train_spec
from attnpo.runs.profile import Profile, load_profile
from attnpo.statistics.training import convergence_table

METHODS = ["tlmre", "attnpo"]
ARTEFACTS_OF_PROFILE: dict[str, Any] = {
    **{name: {"methods": METHODS} for name in ARTEFACTS},
    "table2": {"methods": METHODS, "blocks": {"attnpo_testbed_shifted": "Shifted"}},
    "fig_passk": {"methods": ["tlmre"], "evaluate": {"samples": 4}},
    "fig_budget": {
        "methods": METHODS,
        "groups": {"the plain": ["tlmre"], "the rest": ["attnpo"]},
        "chains": {"short": [1, 2, 5], "none such": [99]},
    },
    "fig_heads": {"methods": []},
    "fig_stability": {"methods": ["attnpo"]},
    "fig_strength": {
        "methods": ["rloo", "tlmre", "tlmre+attnpo", "attnpo"],
        "groups": {"attnpo": ["tlmre+attnpo", "attnpo"], "tlmre": ["rloo", "tlmre"]},
    },
    "more": {"methods": ["tlmre+attnpo"]},
}
CHANGES: dict[str, Any] = {
    "model": "testbed",
    "seeds": [0],
    "method_seeds": {"attnpo": [0, 1]},
    "artefacts": ARTEFACTS_OF_PROFILE,
    "study": {"problems": 2, "samples": 2, "max_completion_tokens": 8, "ensemble": 3},
    "seconds": {"train": 100.0},
    "report": {**PROFILE["report"], "bootstrap": 20, "reference": "attnpo"},
}


def output(job: Job, folder: Path) -> list[Path]:
    """The files of a run, made up."""
    rng = random.Random(job.run.id)
    lines: dict[str, list[Any]] = {}
    if job.kind == "eval":
        lines["samples.jsonl"] = list(fake_samples(str(job.method).partition("+")[0], job.seed, problems=12))
    elif job.kind == "train":
        columns = ["attnpo/group_accuracy", "completions/mean_length", "steps/essential", "steps/redundant"]
        columns += ["phrases/doubt", "phrases/branch", "phrases/summary", "step_time", "rollouts/sampled_tokens"]
        lines["log.jsonl"] = [{"step": s, **{c: rng.random() for c in columns}} for s in range(1, 5)]
    elif job.kind == "intervention":
        lines["samples.jsonl"] = [
            {"problem_id": f"p{i}", "response": i, "condition": c, "correct": rng.random() < 0.7, "was_correct": True,
             "steps": 6, "dropped": 2, "dropped_essential": 1, "answer_tokens": 9}
            for i in range(12) for c in ("whole", "lowest", "random", "highest")
        ]  # fmt: skip
    for name, rows in lines.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if job.kind == "ensemble":
        rows = [{"order": o, "n": n, "heads": [], "sra": 0.8, "low": 0.7, "high": 0.9, "n_pairs": 9, "n_responses": 5}
                for o in ("best", "random") for n in (1, 2, 3)]  # fmt: skip
        (folder / "ensemble.json").write_text(json.dumps(rows))
    elif job.kind == "stability":
        rows = [{"step": s, "layer": la, "head": h, "r": rng.random(), "low": 0, "high": 1, "steps": 9, "responses": 3,
                 "key_focus": h == 0} for s in (2, 4) for la in (0, 1) for h in (0, 1)]  # fmt: skip
        (folder / "stability.json").write_text(json.dumps(rows))
    elif job.kind == "responses":
        (folder / "responses.jsonl").write_text("{}\n")
    elif job.kind == "probe":
        ranked = tuple(RankedHead(0, head, 0.5 + head / 8, 0.4, 1.0) for head in range(4))
        HeadRanking("fake", None, "corrected", 1, "made up", 9, 99, ranked).save(folder / "heads.json")
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "manifest.json")]


def finish(profile: Profile, results: Path, skip: str = "nothing") -> list[Job]:
    """Every run of the profile finished, but those whose title has `skip` in it."""
    plans = plan_artefacts(profile, results, profile.makes())
    jobs = all_jobs(plans.values())
    for job in jobs:
        if skip not in job.title:
            job.run.compute("attnpo made up", lambda folder, job=job: output(job, folder), {})  # type: ignore[misc]
    return jobs


class Page(HTMLParser):
    """Links, images and text of the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "!doctype", "li", "html"):
            self.open.append(tag)
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "img":
            self.images.append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("li", "html"):
            assert self.open.pop() == tag


@pytest.fixture
def made(tmp_path: Path) -> tuple[Profile, Path]:
    return fake_profile(tmp_path, **CHANGES), tmp_path / "results"


def test_every_artefact_is_written_and_stands_on_the_page(
    made: tuple[Profile, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    profile, results = made
    folder = results / "fake"
    finish(profile, folder)
    words = ["--profile", str(profile.path), "--results", str(results)]
    assert main(["table", *words, "--artefact", "all"]) == 0, capsys.readouterr().err
    for name in ("table1", "table2", "table3", "more", "fig_curves"):
        assert all((folder / f"{name}.{end}").is_file() for end in ("md", "csv", "tex"))
    figures = ["pareto", "strength", "curves", "cost", "pass_at_k", "heads", "ensemble", "intervention", "stability"]
    figures += ["phrases", "budget_the_plain_short", "budget_the_rest_short"]
    assert all((folder / "figures" / f"{name}.{end}").is_file() for name in figures for end in ("png", "svg"))
    assert not list((folder / "figures").glob("*none_such*"))
    assert "Shifted" in (folder / "table2.md").read_text()
    assert "## Test" not in (folder / "table2.md").read_text()
    assert "| AttnPO | " in (folder / "table1.md").read_text()
    assert re.search(r"\| AttnPO \|.*\| 0 1 \|", (folder / "table1.md").read_text())  # seeds of its own
    page = Page(folder / "index.html")
    assert not page.open
    assert "script" not in page.tags
    targets = [link for link in page.links if not link.startswith("#")] + [str(i["src"]) for i in page.images]
    assert len(targets) > 20
    assert all((folder / target).is_file() for target in targets)  # relative, and there
    assert all(image["alt"] for image in page.images)
    text = (folder / "index.html").read_text()
    assert "Not run" not in text
    for name in ARTEFACTS:
        assert f"bash reproduce/{name}.sh fake" in text
    assert "seeds 0, 1" in text
    written = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(["table", *words, "--artefact", "all"]) == 0
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == written


def test_an_interrupted_table_leaves_every_file_as_it_was_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = fake_profile(tmp_path, **CHANGES)
    results = tmp_path / "results" / "fake"
    finish(profile, results, skip="eval attnpo seed 1")
    words = ["table", "--profile", str(tmp_path / "fake.yaml"), "--results", str(tmp_path / "results")]
    assert main(words) == 0

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in results.rglob("*") if path.is_file() and path.name != ".lock"}

    old = files()
    finish(profile, results)
    records = {path: content for path, content in files().items() if "raw" in path.parts}
    draw, sync = Figure.savefig, os.fsync
    written: list[dict[Path, bytes]] = []
    for stop_at in [*range(1, 8), 10, 14]:
        left = iter(range(stop_at))

        def interrupted(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        def half_drawn(figure: Any, target: Any, check: Any = interrupted, **options: Any) -> None:
            draw(figure, target, **options)
            check()

        def half_written(descriptor: int, check: Any = interrupted) -> None:
            check()
            sync(descriptor)

        monkeypatch.setattr(Figure, "savefig", half_drawn)
        monkeypatch.setattr(os, "fsync", half_written)
        assert main(words) == 130
        written.append(files())
    monkeypatch.undo()
    assert main(words) == 0
    new = files()
    assert new != old
    for found in written:
        assert set(found) <= set(old) | set(new)  # nothing half-written is left
        assert {path: found[path] for path in records} == records
        for path, content in found.items():
            assert content in (old.get(path), new.get(path)), path
    assert "interrupted" in capsys.readouterr().err


def test_a_record_s_shaped_reward_is_not_taken_for_correctness(tmp_path: Path) -> None:
    """Earlier versions logged the shaped reward as that of correctness."""
    profile = fake_profile(tmp_path, **CHANGES)
    jobs = [job for job in plan_artefacts(profile, tmp_path / "results", ["fig_curves"])["fig_curves"] if job.method]
    names = ("rewards/correctness/mean", "rewards/correctness/std", "rewards/shaped/mean", "rewards/shaped/std")
    for job, columns in zip(jobs[:2], (names[:2], names), strict=True):
        line = {"step": 1, **{column: float(i) for i, column in enumerate(columns)}}

        def work(folder: Path, line: dict[str, float] = line) -> list[Path]:
            (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
            return [folder / "log.jsonl"]

        job.run.compute("attnpo made up", work, {})
    derive(tmp_path, [job.run for job in jobs])
    old, new = pd.read_csv(tmp_path / "derived" / "curves.csv")[list(names)].to_numpy().tolist()
    assert [*map(str, old)] == ["nan", "nan", "0.0", "1.0"]
    assert new == [0, 1, 2, 3]


def test_what_a_record_does_not_count_is_reckoned_where_responses_are_whole(tmp_path: Path) -> None:
    """Earlier versions did not log how much was sampled."""
    early = {"tlmre": {"label": "TLMRE", "reward": "tlmre"}, "s_grpo": {"reward": "s_grpo", "exits": {}}}
    early["s_grpo"]["label"] = "S-GRPO"
    profile = fake_profile(tmp_path, methods=early, artefacts={"fig_curves": {"methods": list(early)}}, report={})
    rollouts = profile.trained().prompts_per_step * profile.trained().group_size
    jobs = [job for job in plan_artefacts(profile, tmp_path / "results", ["fig_curves"])["fig_curves"] if job.method]
    for job in jobs:

        def work(folder: Path) -> list[Path]:
            (folder / "log.jsonl").write_text(json.dumps({"step": 1, "completions/mean_length": 10.5}) + "\n")
            return [folder / "log.jsonl"]

        job.run.compute("attnpo made up", work, {})
    derive(tmp_path, [job.run for job in jobs])
    table = pd.read_csv(tmp_path / "derived" / "curves.csv").groupby("method")["rollouts/sampled_tokens"].first()
    assert table["tlmre"] == 10.5 * rollouts and math.isnan(table["s_grpo"])


def grouped(groups: dict[str, list[str]]) -> dict[str, Any]:
    return {**CHANGES, "artefacts": {**ARTEFACTS_OF_PROFILE, "fig_curves": {"methods": METHODS, "groups": groups}}}


def test_curves_in_groups_are_a_figure_a_group(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path, **grouped({"Both of them": METHODS, "one": ["attnpo"], "none": []}))
    folder = tmp_path / "results" / "fake"
    finish(profile, folder)
    words = ["--profile", str(profile.path), "--results", str(tmp_path / "results")]
    assert main(["table", *words, "--artefact", "all"]) == 0
    assert sorted(path.name for path in (folder / "figures").glob("curves*.svg")) == [
        "curves_both_of_them.svg",
        "curves_one.svg",
    ]
    text = (folder / "index.html").read_text()
    assert "running mean of 5 steps: Both of them" in text


def test_curves_are_of_the_seeds_that_all_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed is what decides the prompts: the first step of all methods is the same then."""
    profile = fake_profile(tmp_path, **grouped({"both": METHODS, "one": ["attnpo"]}))
    (tmp_path / "derived").mkdir()
    rows = [("tlmre", 0, 1, 10.0), ("attnpo", 0, 1, 10.0), ("attnpo", 1, 1, 30.0)]
    table = pd.DataFrame(rows, columns=["method", "seed", "step", "completions/mean_length"])
    table.to_csv(tmp_path / "derived" / "curves.csv", index=False)
    drawn: dict[str, Any] = {}

    def keep(panels: Any, path: Path, title: str, band: str) -> list[Path]:
        drawn[path.name] = ({curve.method: list(curve.y) for curve in panels["tokens"]}, band)
        return [path]

    monkeypatch.setattr(figures, "curves", keep)
    assert draw_curves(profile, tmp_path).n == "n = 3 training runs"
    assert drawn["curves_both"] == ({"tlmre": [10.0], "attnpo": [10.0]}, "")
    assert drawn["curves_one"] == ({"attnpo": [20.0]}, "range of 2 seeds")

    table["seed"] = [2, 0, 1]
    profile = replace(profile, method_seeds={"tlmre": [2], "attnpo": [0, 1]})
    table.to_csv(tmp_path / "derived" / "curves.csv", index=False)
    draw_curves(profile, tmp_path)
    assert drawn["curves_both"] == ({"tlmre": [10.0], "attnpo": [20.0]}, "range of each one's seeds")


def test_a_group_of_which_one_has_been_run_has_a_figure_where_no_other_has(tmp_path: Path) -> None:
    groups = {"none": [], "TLMRE": ["tlmre"], "both": METHODS, "again": METHODS[::-1]}
    profile = fake_profile(tmp_path, **grouped(groups))
    assert list(groups_to_draw(profile, "fig_curves", {"tlmre"})) == ["TLMRE"]
    assert list(groups_to_draw(profile, "fig_curves", {"attnpo"})) == ["both"]
    assert list(groups_to_draw(profile, "fig_curves", set(METHODS))) == ["TLMRE", "both", "again"]
    assert groups_to_draw(profile, "fig_curves", set()) == {}


def test_convergence_says_when_each_seed_is_down_to_the_level(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path, **CHANGES)
    ends = {("tlmre", 0): 80, ("attnpo", 0): 70, ("attnpo", 1): 70, ("rloo", 0): 99}
    curves = pd.DataFrame(
        [
            {"method": method, "seed": seed, "step": step, "step_time": 2.0, "attnpo/group_accuracy": 0.5,
             "completions/mean_length": max(end, 100 - (3 if method == "attnpo" else 1) * step - seed)}
            for (method, seed), end in ends.items() for step in range(1, 41)
        ]
    ).sample(frac=1, random_state=0)  # the order of the lines says nothing  # fmt: skip

    def reached(curves: pd.DataFrame) -> Any:
        columns = CONVERGING, CURVES["accuracy"], WINDOW
        options = bootstrap_options(profile)
        found = convergence_table(chosen(profile, curves), list(profile.methods), "tlmre", *columns, **options)
        return training_table(profile, found)

    table = reached(curves)
    assert table is not None
    (block,) = table.blocks  # no redundant steps in these curves
    assert block.title == "Tokens down to 80.00, TLMRE's at the end"
    never, tlmre, attnpo = block.rows
    text = formats.to_markdown(table)
    assert (never.label, tlmre.seeds, attnpo.seeds, attnpo.responses) == ("RLOO", [0], [0, 1], 2)
    assert "| RLOO | undefined | undefined | undefined | 1 |  |" in text
    assert (
        "| TLMRE | 24.0 | 48.0 | 50.0 | 1 | 0 |" in text
    )  # the mean of 20 to 24 is 80, to the end; one seed: no interval
    assert attnpo.cells is not None
    assert attnpo.cells["step"].value == (9 + 9) / 2 and attnpo.cells["seconds"].value == 18
    assert reached(curves[curves["method"] != "tlmre"]) is None


def test_the_trade_off_is_a_line_through_the_plain_methods(tmp_path: Path) -> None:
    plain = {f"p{i}": {"label": f"P{i}", "reward": "rloo"} for i in range(4)}
    told = {"text": "Think for {n} tokens.", "low": 1, "high": 9, "evaluate": 5}
    more = {"told": {"label": "Told", "reward": "l1_exact", "target_length": told}}
    profile = fake_profile(tmp_path, methods={**PROFILE["methods"], **plain, **more})

    def row(method: str, tokens: float, correct: float) -> Row:
        cells = {"tokens": Cell(tokens, tokens, tokens, 1, 0), "accuracy": Cell(correct, 0, 1, 1, 0)}
        return Row(method, method.upper(), [0], cells, [])

    rows = [row(f"p{i}", 80 + 10 * i, 0.7 + 0.05 * i) for i in range(4)]
    rows += [row("attnpo", 90, 0.8), row("told", 100, 0.5), row("base", 200, 0.1)]
    block = Block("t", "T", [], rows, [])
    line, words = describe_trade_off(profile, block)
    assert line is not None and line.slope == pytest.approx(0.5)
    assert "the 4 methods without AttnPO or a length in the prompt, +5.0 points for 10 tokens more, r = 1.00" in words
    assert words.endswith("From it: TOLD −30.0, ATTNPO +5.0.")
    assert describe_trade_off(profile, replace(block, rows=rows[1:])) == (None, "")
    figures.pareto(block, tmp_path / "pareto", line=line)
    with_line = (tmp_path / "pareto.svg").read_bytes()
    figures.pareto(block, tmp_path / "pareto")
    assert (tmp_path / "pareto.svg").read_bytes() != with_line


def test_strengths_are_compared_at_equal_length_on_the_seeds_that_all_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = fake_profile(tmp_path, **CHANGES)
    folder = tmp_path / "results" / "fake"
    finish(profile, folder)
    words = ["--profile", str(profile.path), "--results", str(tmp_path / "results"), "--artefact"]
    assert main(["table", *words, "all"]) == 0
    text = (folder / "index.html").read_text()
    caption = text[text.index("figures/strength.png") :]
    assert re.search(r"AttnPO less TLMRE at equal tokens: accuracy \S+ \([^)]*\) points.*\(seeds 0\)\.", caption)
    without = {**CHANGES, "artefacts": {**ARTEFACTS_OF_PROFILE, "fig_strength": {"methods": METHODS}}}
    profile = fake_profile(tmp_path, **without)
    assert main(["table", *words, "fig_strength"]) == 2
    assert "artefacts.fig_strength.groups: name two methods or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.03, 0.01, 0.05, "shown"),
        (-0.03, -0.05, -0.01, "shown"),
        (0.015, 0.001, 0.029, "not decided"),  # clear of 0, but less than what counts
        (0.01, -0.005, 0.019, "smaller than the margin"),
        (0.03, -0.01, 0.07, "not decided"),
        (0.015, 0.011, 0.019, "smaller than the margin"),
    ],
)
def test_a_difference_counts_against_the_margin_that_was_declared(
    value: float, low: float, high: float, said: str
) -> None:
    assert verdict(Cell(value, low, high, 1, 0.0), 0.02) == said


def test_a_group_of_methods_that_the_artefact_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match=r"fig_curves\.groups\['one'\] has 'tlmre\+attnpo', .*; add it"):
        fake_profile(tmp_path, **grouped({"one": ["tlmre+attnpo"]}))


def test_an_evaluation_of_its_own_mixes_with_no_other(made: tuple[Profile, Path]) -> None:
    profile, results = made
    jobs = finish(profile, results / "fake")
    own = [job for job in jobs if job.artefact == "fig_passk"]
    assert [job.title for job in own] == ["eval base seed 0 (fig_passk)", "eval tlmre seed 0 (fig_passk)"]
    assert all("--artefact fig_passk" in " ".join(job.arguments(profile, results / "fake")) for job in own)
    assert main(["table", "--profile", str(profile.path), "--results", str(results), "--artefact", "all"]) == 0
    derived = results / "fake" / "derived"
    assert {p.name for p in (derived / "fig_passk").iterdir()} >= {"problems.csv", "runs.csv"}
    for folder in (derived, derived / "fig_passk"):
        assert pd.read_csv(folder / "problems.csv")["n"].eq(2).all()  # made-up responses of one evaluation, not of two


def test_what_was_not_run_is_named_and_what_is_there_is_shown(
    made: tuple[Profile, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    profile, results = made
    finish(profile, results / "fake", skip="attnpo seed")
    words = ["--profile", str(profile.path), "--results", str(results)]
    assert main(["table", *words, "--artefact", "all"]) == 0, capsys.readouterr().err
    text = (results / "fake" / "index.html").read_text()
    stability = text[text.index('<section id="fig_stability">') : text.index('<section id="fig_phrases">')]
    assert "Not run: no training run has been studied." in stability
    assert "<img" not in stability
    assert "Not run yet: train attnpo seed 0" in text
    assert "not run" in (results / "fake" / "table1.md").read_text()
    assert main(["table", *words, "--artefact", "fig_stability"]) == 2
    assert "first: attnpo run fig_stability --profile fake.yaml" in capsys.readouterr().err


def test_an_artefact_that_the_profile_cannot_make_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = fake_profile(tmp_path, **{**CHANGES, "study": None})
    words = ["--profile", str(profile.path), "--results", str(tmp_path / "results")]
    assert main(["run", "fig_heads", *words]) == 2
    assert (
        capsys.readouterr().err
        == "attnpo: profile fake: no section 'study', which this needs; `attnpo template` shows them all\n"
    )
    assert main(["run", "all", "--dry-run", *words]) == 0
    out, err = capsys.readouterr()
    assert "fig_stability: not made, profile fake: no section 'study'" in err
    assert out.count("train ") == 5  # rloo, tlmre, attnpo (two seeds), and the composed one
    assert "no time estimate" not in err  # `seconds` of the profile says what a training takes
    assert re.search(r"about [\d:]+ minutes with \d+ side by side, without eval, probe, of which nothing", err)


def test_all_runs_each_job_once(made: tuple[Profile, Path]) -> None:
    profile, results = made
    plans = plan_artefacts(profile, results, profile.makes())
    jobs = all_jobs(plans.values())
    assert len({job.run.id for job in jobs}) == len(jobs)
    planned = {job.run.id for plan in plans.values() for job in plan}  # type: ignore[union-attr]
    assert {job.run.id for job in jobs} == planned
    assert {job.kind for job in jobs} == {"probe", "train", "eval", *STUDIES}
    assert {run.id for job in jobs for run in job.needs} <= planned


def test_ids_of_trainings_do_not_depend_on_studies(tmp_path: Path) -> None:
    plain = train_spec(fake_profile(tmp_path, model="testbed"), "attnpo", 0)
    assert train_spec(fake_profile(tmp_path, **CHANGES), "attnpo", 0) == plain
    methods = {**PROFILE["methods"], "attnpo": {**PROFILE["methods"]["attnpo"], "snapshots": 2}}
    assert train_spec(fake_profile(tmp_path, model="testbed", methods=methods), "attnpo", 0) != plain


@pytest.mark.parametrize("name", ARTEFACTS)
def test_every_artefact_has_its_script_and_its_place_in_profile_tiny(name: str) -> None:
    assert f'run_artefact {name} "$@"' in (ROOT / "reproduce" / f"{name}.sh").read_text()
    assert name in load_profile("tiny").artefacts
