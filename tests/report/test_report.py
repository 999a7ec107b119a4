from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fakes import MEANS, PROFILE, fake_profile, fake_samples, fake_tables
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_jsonl, atomic_write_text
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.report import figures, formats, write_report
from attnpo.report.comparison import read_frontier, write_comparison
from attnpo.report.labels import spread
from attnpo.report.style import Curve
from attnpo.report.table import Block, Cell, Row, Table
from attnpo.report.tables import build_table
from attnpo.report.trained import training_curves
from attnpo.runs.derive import bootstrap_options, wanted_for
from attnpo.runs.profile import Profile
from attnpo.runs.store import Run
from attnpo.statistics.estimates import estimate_table
from attnpo.statistics.measures import MEASURES
from attnpo.statistics.metrics import efficiency_gap

ALL = list(MEANS)


def made(profile: Profile, problems: pd.DataFrame, runs: pd.DataFrame) -> Table:
    """Table 1 from made-up sums of problems."""
    wanted = [wanted_for(profile, "table1")]
    estimates = estimate_table(problems, wanted, task_groups(), **bootstrap_options(profile))
    return build_table(profile, estimates, runs)


def build(tmp_path: Path, methods: list[str] = ALL, quick: bool = False, **changes: Any) -> Table:
    profile = fake_profile(tmp_path, quick, **changes)
    return made(profile, *fake_tables(methods, profile.seeds))


def test_rows_columns_and_blocks_follow_the_profile(tmp_path: Path) -> None:
    table = build(tmp_path)
    assert [block.title for block in table.blocks] == ["Test", "Shifted"]
    test = table.blocks[0]
    assert [row.label for row in test.rows] == ["base", "RLOO", "TLMRE", "AttnPO"]
    assert [c.name for c in test.columns[:3]] == ["accuracy", "tokens", "aes"]
    assert [c.name for c in test.columns[-6:]] == [f"chain {i}" for i in range(1, 7)]
    assert {"tokens", "aes", "redundant_steps", "essential_steps", "truncated"} <= {c.name for c in test.columns}


def test_cells_are_means_inside_their_interval_and_know_their_n(tmp_path: Path) -> None:
    problems, runs = fake_tables(ALL, [0, 1, 2])
    row = made(fake_profile(tmp_path), problems, runs).blocks[0].rows[3]
    mine = problems[(problems["method"] == "attnpo") & (problems["task"] == "attnpo_testbed_test")]
    assert row.cells is not None
    columns = {"accuracy": "correct", "tokens": "tokens", "redundant_steps": "steps_redundant"}
    for measure, column in columns.items():
        cell = row.cells[measure]
        assert cell.value == pytest.approx(mine[column].sum() / mine["n"].sum())
        assert cell.low < cell.value < cell.high
        assert cell.n == 360
    chain = row.cells["chain 2"]
    part = mine[mine["chain"] == 2]
    assert (chain.value, chain.n) == (pytest.approx(part["correct"].sum() / part["n"].sum()), 60)
    assert chain.truncated == pytest.approx(part["truncated"].sum() / part["n"].sum())
    assert row.run_ids == list(runs.loc[runs["method"] == "attnpo", "run_id"])


def test_aes_is_zero_for_the_base_and_orders_the_methods(tmp_path: Path) -> None:
    rows = build(tmp_path).blocks[0].rows
    scores = [row.cells["aes"].value for row in rows if row.cells is not None]
    assert scores[0] == 0
    assert scores[3] > scores[2] > scores[1] > 0


def test_a_group_is_a_block_of_macro_means(tmp_path: Path) -> None:
    both = {"attnpo_testbed_test": "Test", "attnpo_testbed_shifted": "Shifted", "attnpo_testbed": "Mean"}
    table = build(tmp_path, ["base", "attnpo"], report={"bootstrap": 200, "blocks": both})
    test, shifted, mean = (block.rows[3].cells for block in table.blocks)
    assert test is not None and shifted is not None and mean is not None
    assert table.blocks[2].title == "Mean"
    for key in ("accuracy", "tokens", "redundant_steps"):
        assert mean[key].value == pytest.approx((test[key].value + shifted[key].value) / 2)
    assert mean["aes"].value > 0
    assert mean["accuracy"].n == test["accuracy"].n + shifted["accuracy"].n
    assert table.blocks[2].rows[1].cells is None  # RLOO was not run


def test_measured_values_stand_beside_published_ones_of_the_same_budget(tmp_path: Path) -> None:
    problems, runs = fake_tables(["base", "tlmre"], [0, 1, 2])
    problems["task"] = problems["task"].replace("attnpo_testbed_test", "attnpo_aime2024")
    evaluate = {"tasks": ["attnpo_aime2024"], "samples": 2, "batch_size": 2}
    report = {"bootstrap": 200, "blocks": {"attnpo_aime2024": "AIME 2024"}}
    texts = []
    for budget in (16384, 32768, 4096):
        profile = fake_profile(tmp_path, evaluate={**evaluate, "max_completion_tokens": budget}, report=report)
        texts.append(formats.to_markdown(made(profile, problems, runs)))
    assert "| base | 27.99 [P] | 12202 [P] |" in texts[0]
    assert "| TLMRE, measured | 9" in texts[0]
    assert "[C] | 15498" not in texts[0] and "budget 32768" in texts[0]  # named as left out
    assert "27.99" not in texts[1] and "27.99" not in texts[2]


def test_what_was_not_run_says_so(tmp_path: Path) -> None:
    table = build(tmp_path, ["base", "tlmre"])
    text = formats.to_markdown(table)
    assert "| AttnPO | not run |" in text
    assert "AttnPO against TLMRE: AttnPO not run" in text
    assert "attnpo_testbed_test,attnpo,AttnPO,tokens,not run,,,,,," in formats.to_csv(table)
    assert "AES" in text
    printed = io.StringIO()
    formats.print_table(table, Console(file=printed, width=200), "table1.md")
    assert "Not run: RLOO, AttnPO." in printed.getvalue()  # in a line: the table is of what was run
    assert printed.getvalue().count("not run") == 1 + len(table.blocks[0].findings)  # the finding on AttnPO
    neither = formats.to_markdown(build(tmp_path, ["base"]))
    assert "nothing can be said" not in neither


def test_aes_without_a_base_is_undefined(tmp_path: Path) -> None:
    without_base = build(tmp_path, ["tlmre"])
    assert "| base | not run |" in formats.to_markdown(without_base)
    assert ",tlmre,TLMRE,aes,undefined," in formats.to_csv(without_base)
    problems, runs = fake_tables(ALL, [0, 1, 2])
    problems.loc[problems["method"] == "base", "correct"] = 0
    never_right = made(fake_profile(tmp_path), problems, runs)
    assert "| undefined |" in formats.to_markdown(never_right)


def test_findings_come_from_the_numbers(tmp_path: Path) -> None:
    wide = {"bootstrap": 200, "accuracy_margin": 0.2}
    table = build(tmp_path, report=wide)
    shorter, cut, against_base, other_against_base = table.blocks[0].findings
    assert shorter.startswith("AttnPO is shorter than TLMRE at equal accuracy. Tokens −")
    assert any("above −20 points" in condition for condition in table.conditions)
    assert cut.endswith(
        "It cut redundant steps; that essential steps changed is not shown (at most 0.15 of them lost)."
    )
    assert against_base.startswith("AttnPO against base")
    assert other_against_base.startswith("TLMRE against base")
    strict = build(tmp_path, report={"bootstrap": 200, "accuracy_margin": 0.0001}).blocks[0].findings[0]
    assert strict.startswith("AttnPO is shorter than TLMRE; that its accuracy is equal is not shown.")


def test_differences_from_the_reference_are_paired_and_have_a_block_of_their_own(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path, report={**PROFILE["report"], "reference": "attnpo"})
    problems, runs = fake_tables(ALL, [0, 1, 2])
    table = made(profile, problems, runs)
    assert [block.differences for block in table.blocks] == ["", "difference"] * (len(table.blocks) // 2)
    plain, block = table.blocks[:2]
    assert [row.method for row in block.rows] == [m for m in ("base", *profile.methods) if m != "attnpo"]
    rows, reference = {row.method: row.cells for row in plain.rows}, next(r for r in plain.rows if r.method == "attnpo")
    for row in block.rows:
        cells, theirs, ours = row.cells, rows[row.method], reference.cells
        assert cells is not None and theirs is not None and ours is not None
        assert cells["accuracy"].value == pytest.approx(theirs["accuracy"].value - ours["accuracy"].value)
        assert cells["tokens"].value == pytest.approx(theirs["tokens"].value - ours["tokens"].value)
        assert cells["tokens_relative"].value == pytest.approx(theirs["tokens"].value / ours["tokens"].value - 1)
        assert cells["tokens"].low < cells["tokens"].value < cells["tokens"].high
    only_base = problems[problems["method"] == "base"]
    assert not any(b.differences for b in made(profile, only_base, runs).blocks)


def test_methods_of_the_same_reward_are_compared_at_their_own_settings(tmp_path: Path) -> None:
    methods = {name: dict(section) for name, section in PROFILE["methods"].items()}
    methods["attnpo"]["reward_args"] = {"alpha": 0.4}
    table = made(fake_profile(tmp_path, methods=methods), *fake_tables(ALL, [0, 1, 2]))
    assert table.blocks[0].findings[0].startswith("AttnPO is shorter than TLMRE")


def test_only_the_reference_is_compared_with_every_method_of_its_reward(tmp_path: Path) -> None:
    methods = {name: dict(section) for name, section in PROFILE["methods"].items()}
    methods |= {"ablation": {**methods["attnpo"], "label": "ablation"}, "stronger": dict(methods["tlmre"])}
    methods["stronger"] |= {"label": "stronger TLMRE", "reward_args": {"alpha": 0.5}}
    problems, runs = fake_tables(ALL, [0, 1, 2])
    copies = {"ablation": "attnpo", "stronger": "tlmre"}
    copied = [problems[problems["method"] == source].assign(method=name) for name, source in copies.items()]
    profile = fake_profile(tmp_path, methods=methods, report={**PROFILE["report"], "reference": "attnpo"})
    said = "\n".join(made(profile, pd.concat([problems, *copied]), runs).blocks[0].findings)
    assert "AttnPO is shorter than TLMRE;" in said and "AttnPO is shorter than stronger TLMRE;" in said
    assert "ablation is shorter than TLMRE;" in said and "ablation is shorter than stronger TLMRE" not in said


def test_of_many_methods_with_attnpo_a_block_says_what_it_adds(tmp_path: Path) -> None:
    methods = {name: dict(section) for name, section in PROFILE["methods"].items()}
    methods |= {name: {**methods["attnpo"], "label": name} for name in ("one", "two")}
    problems, runs = fake_tables(ALL, [0, 1, 2])
    copied = [problems[problems["method"] == "attnpo"].assign(method=name) for name in ("one", "two")]
    profile = fake_profile(tmp_path, methods=methods, report={**PROFILE["report"], "reference": "attnpo"})
    table = made(profile, pd.concat([problems, *copied]), runs)
    values, _, adds = table.blocks[:3]
    assert adds.differences == "with less without"
    assert [row.label for row in adds.rows] == ["AttnPO less TLMRE", "one less TLMRE", "two less TLMRE"]
    cells = {row.method: row.cells for row in values.rows}
    theirs, ours = cells["tlmre"], cells["one"]
    assert adds.rows[1].cells is not None and theirs is not None and ours is not None
    assert adds.rows[1].cells["tokens"].value == pytest.approx(ours["tokens"].value - theirs["tokens"].value)
    said = " ".join(values.findings)
    assert "AttnPO is shorter than TLMRE;" in said and "one" not in said
    assert ",attnpo_testbed_test with less without,one,one less TLMRE,tokens,−" in formats.to_csv(table).replace(
        ",-", ",−"
    )


def swapped(problems: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """TLMRE's figures as AttnPO's, and the other way round, in some columns."""
    table = problems.copy()
    a, t = table["method"] == "attnpo", table["method"] == "tlmre"
    table.loc[a, columns], table.loc[t, columns] = (
        problems.loc[t, columns].to_numpy(),
        problems.loc[a, columns].to_numpy(),
    )
    return table


def test_findings_are_not_always_favourable(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path)
    problems, runs = fake_tables(ALL, [0, 1, 2])
    longer = made(profile, swapped(problems, ["tokens"]), runs).blocks[0].findings[0]
    assert longer.startswith("AttnPO is longer than TLMRE.")
    kept = made(profile, swapped(problems, ["steps_redundant"]), runs).blocks[0].findings[1]
    assert kept.endswith("That it cut redundant steps is not shown.")
    worse = problems.copy()
    worse.loc[worse["method"] == "attnpo", "correct"] = 0
    finding = made(profile, worse, runs).blocks[0].findings[0]
    assert finding.startswith("AttnPO is shorter than TLMRE, but less accurate.")
    essential = problems.copy()
    essential.loc[essential["method"] == "attnpo", "steps_essential"] = 0
    cut = made(profile, essential, runs).blocks[0].findings[1]
    assert "Both fell. What it cut was mostly essential: 34%" in cut
    rose = problems.copy()
    rose.loc[rose["method"] == "attnpo", "steps_essential"] += 2
    cut = made(profile, rose, runs).blocks[0].findings[1]
    assert cut.endswith("It cut redundant steps, while essential steps rose.")
    assert "%" not in cut
    fell = problems.copy()
    fell.loc[fell["method"] == "attnpo", "steps_essential"] -= 1
    cut = made(profile, fell, runs).blocks[0].findings[1]
    assert "Both fell. What it cut was mostly redundant: 77%" in cut


def test_a_quick_run_is_marked_everywhere(tmp_path: Path) -> None:
    table = build(tmp_path, quick=True)
    for text in (formats.to_markdown(table), formats.to_csv(table), formats.to_latex(table)):
        assert "QUICK RUN" in text
    assert "problems only: there is one seed" in formats.to_markdown(table)
    printed = io.StringIO()
    formats.print_table(table, Console(file=printed, width=400), "table1.md")
    first = table.blocks[1].title
    said = "A quick run shows that everything works, not what a method does: after 2 training steps"
    assert said in printed.getvalue().partition(first)[0]  # under the first table, before the second
    assert "The same command without --quick shows what it does." in formats.to_markdown(table)
    plain = formats.to_markdown(build(tmp_path))
    assert "QUICK" not in plain and "quick run" not in plain


def test_published_values_stand_apart_with_their_tags(tmp_path: Path) -> None:
    text = formats.to_markdown(build(tmp_path))
    heading = (
        "## Published values, attnpo-1.5B-16k: DeepSeek-R1-Distill-Qwen-1.5B, budget 16384 tokens, temperature 0.6"
    )
    ours, paper = text.split(heading)
    assert "[S]" not in ours
    assert "| base | 78.8 [S] | 82.1 [S] | 28.1 [C] | 22.8 [S] | 54.5 [S] | 8005 [S] |" in paper
    assert "≈ 3120 [D]" in paper
    assert "RLOO" not in paper  # the paper has no such row
    assert "| TLMRE | 84.86 [P] | 2376 [P] |" in paper.partition("## Published values, decs-1.5B-16k")[2]
    assert "dot-1.5B-32k" not in paper  # the profile has none of its methods


def test_latex_has_a_row_a_line_and_escapes(tmp_path: Path) -> None:
    lines = formats.to_latex(build(tmp_path, report={**PROFILE["report"], "reference": "attnpo"})).splitlines()
    start = lines.index("\\midrule") + 1
    end = lines.index("\\bottomrule")
    assert end - start == 4
    assert all(line.endswith(" \\\\") for line in lines[start:end])
    assert len({line.count(" & ") for line in lines[start - 2 : end] if "&" in line}) == 1
    written = [line for line in lines if not line.startswith("%")]
    assert not any("%" in line.replace("\\%", "") for line in written)
    assert any(" & $-$" in line for line in written) and all(line.isascii() for line in written)


def test_the_terminal_table_fits_eighty_columns(tmp_path: Path) -> None:
    console = Console(width=80, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    formats.print_table(build(tmp_path), console, "table1.md")
    text = console.export_text()
    assert "…" not in text
    assert "78.8 [S]" in text


def test_figures_are_the_same_to_the_byte(tmp_path: Path) -> None:
    block = build(tmp_path).blocks[0]
    ranked = tuple(RankedHead(i // 4, i % 4, i / 8, 0.0, 1.0) for i in range(8))
    ranking = HeadRanking("made up", None, "corrected", 1, "made up", 9, 99, ranked)
    for folder in ("a", "b"):
        figures.pareto(block, tmp_path / folder / "pareto")
        figures.heads_heatmap(ranking, tmp_path / folder / "heads")
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["heads.png", "heads.svg", "pareto.png", "pareto.svg"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "AttnPO" in (tmp_path / "a" / "pareto.svg").read_text()


def test_the_report_is_written_from_derived_files(tmp_path: Path) -> None:
    results_dir = tmp_path / "results" / "fake"
    profile = fake_profile(tmp_path)
    problems, runs = fake_tables(ALL, [0, 1, 2])
    estimates = estimate_table(problems, [wanted_for(profile, "table1")], **bootstrap_options(profile))
    for name, table in {"estimates": estimates, "runs": runs}.items():
        atomic_write_text(results_dir / "derived" / f"{name}.csv", table.to_csv(index=False))
    write_report(profile, results_dir)
    first = {p: p.read_bytes() for p in results_dir.rglob("*") if p.is_file()}
    write_report(profile, results_dir)
    assert {p: p.read_bytes() for p in results_dir.rglob("*") if p.is_file()} == first
    assert {p.name for p in first} >= {"table1.md", "table1.csv", "table1.tex", "pareto.png", "pareto.svg"}


def test_missing_derived_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match=r"estimates\.csv: missing"):
        write_report(fake_profile(tmp_path), tmp_path)


# attnpo report


def response(k: int, correct: bool, total: int, **changes: Any) -> dict[str, Any]:
    return {
        "text": f"Wait, {k}.</think>x",
        "correct": correct,
        "parse_failed": False,
        "reason": "equal",
        "think_tags": 1,
        "tokens": {"total": total, "thinking": total - 3, "answer": 2},
        "finish": "stop",
        "counted": "generated",
        **changes,
    }


def write_lm_eval(
    folder: Path, task: str = "attnpo_aime2024", shift: int = 0, date: str = "2026-01-02T03-04-05.678", **changes: Any
) -> Path:
    """Files as lm-eval 0.4.13 writes them for a task of ours: 6 problems, 4 responses each."""
    settings = {
        "until": [],
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 0,
        "max_gen_toks": 16384,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "doc_id": i,
            "doc": {"id": f"p{i}", "text": "?", "answer": "1"},
            "doc_hash": f"hash{i}",
            "arguments": {"gen_args_0": {"arg_0": "?", "arg_1": settings}},
            "responses": [response(k, (i + k + shift) % 3 > 0, 1000 * (i + k + 1) - 100 * shift) for k in range(4)],
        }
        for i in range(6)
    ]
    path = folder / f"samples_{task}_{date}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {"model_name": "/some/where/my-model", "config": {"torch_seed": 7}}
    (folder / f"results_{date}.json").write_text(json.dumps(content))
    return path


def compare(tmp_path: Path, *samples: str, **options: Any) -> str:
    with (tmp_path / "out.txt").open("w") as out:
        write_comparison(samples, tmp_path / "rep", Console(file=out, width=80), draws=100, **options)
    return (tmp_path / "rep" / "report.md").read_text()


def cells_of(tmp_path: Path, block: str) -> pd.DataFrame:
    table = pd.read_csv(tmp_path / "rep" / "report.csv")
    return table[table["block"] == block].set_index(["method", "column"])


def test_a_report_of_lm_evals_files(tmp_path: Path) -> None:
    write_lm_eval(tmp_path / "lm" / "my-model")
    text = compare(tmp_path, str(tmp_path / "lm"))
    assert "attnpo_aime2024: budget 16384 tokens, temperature 0.6, top_p 0.95." in text
    cells = cells_of(tmp_path, "attnpo_aime2024")["value"].astype(float)
    records = [(k, i, (i + k) % 3 > 0, 1000 * (i + k + 1)) for i in range(6) for k in range(4)]
    right = [tokens for _, _, correct, tokens in records if correct]
    assert cells["my-model", "accuracy"] == pytest.approx(len(right) / 24, abs=1e-5)
    assert cells["my-model", "tokens_of_correct"] == pytest.approx(np.mean(right), abs=0.1)
    assert cells["my-model", "accuracy@4096"] == pytest.approx(sum(t <= 4096 for t in right) / 24, abs=1e-5)
    assert cells["my-model", "doubt_phrases"] == 1
    columns = set(cells.index.get_level_values("column"))
    assert {"pass@1", "pass@2", "pass@3", "pass@4", "accuracy@1024", "accuracy@16384"} <= columns
    assert "| pass@2 % |" in text and "pass@3" not in text  # all k are in the CSV
    written = {p.name for p in (tmp_path / "rep").rglob("*") if p.is_file()}
    figure = {f"{kind}_attnpo_aime2024.{end}" for kind in ("pareto", "pass_at_k", "budget") for end in ("png", "svg")}
    assert written == {"report.md", "report.csv", "report.tex", "problems.csv"} | figure


def test_a_report_against_a_base(tmp_path: Path) -> None:
    before, after = (str(write_lm_eval(tmp_path / name, shift=shift)) for name, shift in (("a", 0), ("b", 1)))
    text = compare(tmp_path, f"new={after}", base=f"old={before}", paper="1.5B")
    assert "new against old: tokens −100.0 (−100.0 to −100.0), that is −2.0" in text
    assert "## attnpo_aime2024, difference from old, paired over the problems" in text
    cells = cells_of(tmp_path, "attnpo_aime2024 difference")
    assert list(dict.fromkeys(cells.index.get_level_values("method"))) == ["new"]
    assert float(cells.loc[("new", "tokens"), "value"]) == pytest.approx(-100)
    assert float(cells_of(tmp_path, "attnpo_aime2024").loc[("old", "aes"), "value"]) == 0
    for name in ("attnpo-1.5B-16k", "decs-1.5B-16k"):
        grid = text.partition(f"## Published values, {name}")[2].partition("\n## ")[0]
        assert "| base | 2" in grid and "| old, measured | 66.7 ±" in grid
    assert "Published values, dot-1.5B-32k" not in text


def test_the_gap_to_the_best_of_what_is_compared_or_of_a_file(tmp_path: Path) -> None:
    one, other = (str(write_lm_eval(tmp_path / name, shift=shift)) for name, shift in (("a", 0), ("b", 1)))
    assert "REG, points" in compare(tmp_path, f"one={one}", f"other={other}")
    cells = cells_of(tmp_path, "attnpo_aime2024")["value"].astype(float)
    budgets = [1024, 2048, 4096, 8192, 16384]
    curves = {name: [cells[name, f"accuracy@{b}"] for b in budgets] for name in ("one", "other")}
    best = [max(pair) for pair in zip(*curves.values(), strict=True)]
    for name, curve in curves.items():
        assert cells[name, "reg"] == pytest.approx(efficiency_gap(curve, best, budgets), abs=1e-5)
    compare(tmp_path, f"one={one}")
    assert ("one", "reg") not in cells_of(tmp_path, "attnpo_aime2024").index
    file = tmp_path / "best.csv"
    file.write_text("task,budget,accuracy\nattnpo_aime2024,1024,100\nattnpo_aime2024,16384,100\n")
    compare(tmp_path, f"one={one}", frontier=file)
    cells = cells_of(tmp_path, "attnpo_aime2024")["value"].astype(float)
    assert cells["one", "reg"] == pytest.approx(efficiency_gap(curves["one"], [1.0] * 5, budgets), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,budget\na,1\n", "no column 'accuracy'; it needs task, budget and accuracy"),
        ("task,budget,accuracy\na,1,101\n", ":2: budget 1, accuracy 101; give whole tokens and per cent"),
        ("task,budget,accuracy\na,9,1\na,0,1\n", ":3: budget 0, accuracy 1"),
        ("task,budget,accuracy\na,many,1\n", ":2: budget many, accuracy 1"),
        (None, "No such file"),
    ],
)
def test_a_frontier_that_cannot_be_read_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "best.csv").write_text(text)
    with pytest.raises(AttnPOError, match=re.escape(message)):
        read_frontier(tmp_path / "best.csv")


def test_seeds_of_one_label_stand_together(tmp_path: Path) -> None:
    runs = [str(write_lm_eval(tmp_path / name, shift=shift)) for name, shift in (("a", 0), ("b", 1))]
    path = tmp_path / "b" / "results_2026-01-02T03-04-05.678.json"
    path.write_text(path.read_text().replace("7}", "8}"))
    text = compare(tmp_path, *(f"mine={run}" for run in runs))
    assert "over seeds and problems" in text
    cells = cells_of(tmp_path, "attnpo_aime2024")
    assert cells.loc[("mine", "tokens"), "seeds"] == "7 8"
    assert int(cells.loc[("mine", "tokens"), "n"]) == 48


def test_the_newest_of_lm_evals_files_counts(tmp_path: Path) -> None:
    write_lm_eval(tmp_path / "lm", shift=1, date="2026-01-01T00-00-00.0")
    write_lm_eval(tmp_path / "lm", shift=0, date="2026-01-02T00-00-00.0")
    compare(tmp_path, str(tmp_path / "lm"))
    assert float(cells_of(tmp_path, "attnpo_aime2024").loc[("my-model", "tokens"), "value"]) == 5000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_gen_toks": 32768}, "budget 16384 tokens.*budget 32768 tokens.*not comparable, report them apart"),
        ({"temperature": 1.0}, "temperature 0.6.*temperature 1, "),
        ({"do_sample": False}, "temperature 0.6.*greedy"),
        ({"top_k": 20}, "top_k 20"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    paths = [str(write_lm_eval(tmp_path / "a")), str(write_lm_eval(tmp_path / "b", **changes))]
    with pytest.raises(AttnPOError, match=message) as caught:
        compare(tmp_path, f"a={paths[0]}", f"b={paths[1]}")
    assert "\n" not in str(caught.value)


def test_other_problems_under_the_same_names_are_refused(tmp_path: Path) -> None:
    one, other = write_lm_eval(tmp_path / "a"), write_lm_eval(tmp_path / "b")
    other.write_text(other.read_text().replace("hash3", "hash9"))
    with pytest.raises(AttnPOError, match="'a' and 'b' answered different problems"):
        compare(tmp_path, f"a={one}", f"b={other}")


def test_the_command_line_reports_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = write_lm_eval(tmp_path / "a"), write_lm_eval(tmp_path / "b", max_gen_toks=512)
    out = ["--out", str(tmp_path / "rep"), "--draws", "50", "--budgets", "2048", "8192"]
    assert main(["report", f"mine={one}", *out]) == 0
    assert "% correct within 8192 tokens" in capsys.readouterr().out
    assert main(["report", f"mine={one}", "--base", f"base={other}", *out[:4]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("attnpo: attnpo_aime2024: ") and error.count("\n") == 1
    assert main(["report", *out[:2]]) == 2
    assert "no samples are named" in capsys.readouterr().err


def test_of_a_cut_sample_file_the_line_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "lm" / "my-model"
    write_lm_eval(folder, task="attnpo_gsm8k")
    cut = write_lm_eval(folder)
    cut.write_bytes(cut.read_bytes()[:-400])
    with pytest.raises(AttnPOError) as caught:
        compare(tmp_path, str(tmp_path / "lm"))
    message = str(caught.value)
    assert message.startswith(f"{cut}:6: not JSON (")
    assert message.endswith("evaluate attnpo_aime2024 again, or take this file away; those of other tasks can stay")
    cut.unlink()
    assert "attnpo_gsm8k: budget 16384" in compare(tmp_path, str(tmp_path / "lm"))

    section = {"max_completion_tokens": 256, "temperature": 1.0, "top_p": 1.0}
    run = Run.at(tmp_path / "tiny", {"kind": "eval", "method": "base", "seed": 0, "evaluate": section})

    def work(folder: Path) -> list[Path]:
        atomic_write_jsonl(folder / "samples.jsonl", fake_samples("base", 0, problems=2))
        return [folder / "samples.jsonl"]

    run.compute("attnpo eval", work, {})
    ours = run.folder / "samples.jsonl"
    ours.write_bytes(ours.read_bytes()[:-20])
    n_lines = len(list(fake_samples("base", 0, problems=2)))
    with pytest.raises(AttnPOError, match=rf"samples\.jsonl:{n_lines}: .*; delete samples\.jsonl and evaluate again"):
        compare(tmp_path, str(run.folder))


def test_what_is_no_sample_file_is_refused(tmp_path: Path) -> None:
    plain = write_lm_eval(tmp_path / "plain", task="gsm8k")
    plain.write_text('{"doc_id": 0, "doc": {}, "resps": [["x"]]}\n')
    one = write_lm_eval(tmp_path / "two" / "x")
    write_lm_eval(tmp_path / "two" / "y", task="attnpo_gsm8k")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "samples.jsonl").write_text("{}\n")
    for argument, message in [
        (plain, "no exact lengths in it"),
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "two", "holds several models .x, y.; name one folder for each"),
        (bare, "no manifest of an evaluation"),
    ]:
        with pytest.raises(AttnPOError, match=message):
            compare(tmp_path, str(argument))
    with pytest.raises(AttnPOError, match="both called 'my-model', seed 7; name them"):
        compare(tmp_path, str(one), str(one))
    with pytest.raises(AttnPOError, match="--budgets 32768: the responses had 16384 tokens"):
        compare(tmp_path, str(one), budgets=[2048, 32768])


def test_run_folders_are_read_with_their_manifest(tmp_path: Path) -> None:
    section = {"max_completion_tokens": 256, "temperature": 1.0, "top_p": 1.0}
    for method in ("base", "attnpo"):
        for seed in (0, 1):
            run = Run.at(tmp_path / "tiny", {"kind": "eval", "method": method, "seed": seed, "evaluate": section})

            def work(folder: Path, method: str = method, seed: int = seed) -> list[Path]:
                atomic_write_jsonl(folder / "samples.jsonl", fake_samples(method, seed, problems=10))
                return [folder / "samples.jsonl"]

            run.compute("attnpo eval", work, {})
    text = compare(tmp_path, str(tmp_path / "tiny"), base="base", budgets=[40, 80])
    assert "## attnpo_testbed: macro mean of 2" in text
    assert "budget 256 tokens, temperature 1, top_p 1." in text
    assert "| % correct within 80 tokens |" in text
    assert "| redundant steps |" in text
    assert "attnpo against base: tokens −" in text


# figures


def lines(methods: list[str], xs: list[float], slope: float = 0.1) -> list[Curve]:
    curves = []
    for i, method in enumerate(methods):
        y = [0.2 + 0.02 * i + slope * j / len(xs) for j in range(len(xs))]
        curves.append(Curve(method, method, xs, y, [v - 0.05 for v in y], [v + 0.05 for v in y]))
    return curves


FOUR = ["base", "rloo", "tlmre", "attnpo"]
STEPS: list[float] = [0, 25, 50, 75]
DRAWN: dict[str, Any] = {
    "pass_at_k": lambda path: figures.pass_at_k(lines(FOUR, [1, 2, 4, 8]), path, "AIME2024"),
    "budget": lambda path: figures.budget(lines(FOUR, [2048, 4096, 8192]), path),
    "phrases": lambda path: figures.phrases({k: lines(FOUR, STEPS) for k in ("doubt", "branch", "summary")}, path),
    "curves": lambda path: figures.curves(
        {k: lines(FOUR, STEPS) for k in ("accuracy", "tokens", "redundant")}, path, band="range of 3 seeds"
    ),
    "stability": lambda path: figures.stability(lines(["0.1", "0.2", "1.3"], STEPS), ["1.3"], path),
    "ensemble": lambda path: figures.ensemble(lines(["attnpo"], [1, 2, 3]), path),
    "intervention": lambda path: figures.intervention(
        [figures.Bar("all steps", 0.28, 0.25, 0.31), figures.Bar("best removed", 0.24, 0.2, 0.27, "attnpo")], path
    ),
    "label_sources": lambda path: figures.label_sources(
        [figures.Bar("oracle", 0.93, 0.92, 0.94), figures.Bar("first answer", 0.875, 0.86, 0.89, "attnpo")], path
    ),
}


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_figure_is_deterministic_labelled_and_of_half_a_column(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        png, svg = DRAWN[name](tmp_path / folder / name)
    for path in (png, svg):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    text = svg.read_text()
    labels = {"stability": ["1.3", "other heads"], "ensemble": ["attnpo"], "intervention": ["all steps", "28.0"]}
    labels["label_sources"] = ["oracle", "first answer", ".875"]
    for label in labels.get(name, FOUR):
        assert f">{label}</text>" in text
    axes = {
        "pass_at_k": "pass@k (%)",
        "budget": "correct within budget (%)",
        "intervention": "accuracy (%)",
        "label_sources": "Step Ranking Accuracy (dotted: chance)",
        "ensemble": "Step Ranking Accuracy",
        "curves": "training step (band: range of 3 seeds)",
    }
    assert f">{axes.get(name, 'training step')}</text>" in text
    assert f'width="{3.4 * 72:g}pt"' in text


def test_bands_are_drawn_where_there_are_intervals(tmp_path: Path) -> None:
    without = [Curve("base", "base", [1, 2], [0.2, 0.3])]
    figures.pass_at_k(without, tmp_path / "without")
    figures.pass_at_k(lines(["base"], [1, 2]), tmp_path / "with")
    bands = [(tmp_path / f"{name}.svg").read_text().count("FillBetweenPolyCollection") for name in ("without", "with")]
    assert bands[0] == 0 < bands[1]


def test_a_method_looks_the_same_everywhere_and_no_two_alike() -> None:
    names = (
        "base rloo grpo tlmre kimi shorter diet arlcp thinkprune l1_exact l1_max laser laser_d laser_de overlong dler"
    )
    methods = [*names.split(), "dot", "attnpo", "dler_attnpo", "attnpo_dot", "thinkprune_attnpo", "attnpo_diet"]
    methods += ["pa_only", "na_only", "random_heads", "oracle"]
    looks = {method: figures.style(method) for method in methods}
    assert len(set(looks.values())) == len(methods)
    assert looks["dler_attnpo"].color == looks["attnpo"].color != looks["dler"].color
    assert looks["dler_attnpo"].marker == looks["dler"].marker
    assert looks["dler_attnpo"].fill == looks["dler"].color
    assert figures.style("attnpo_late").color == looks["attnpo"].color == looks["pa_only"].color
    assert figures.style("tlmre_as_short").color == looks["tlmre"].color
    assert figures.style("something") == figures.style("something")


def test_training_curves_are_means_over_seeds_with_their_range() -> None:
    rows = [("a", seed, step, step + 10.0 * seed) for seed in (0, 1, 2) for step in (2, 1, 3)]
    table = pd.DataFrame([*rows, ("b", 0, 1, 5.0)], columns=["method", "seed", "step", "steps/redundant"])
    a, b = training_curves(table, "steps/redundant", {"a": "A", "b": "B", "c": "C"})
    assert (a.label, list(a.x), list(a.y)) == ("A", [1, 2, 3], [11, 12, 13])
    assert (list(a.low or []), list(a.high or [])) == ([1, 2, 3], [21, 22, 23])
    assert (list(b.x), list(b.y)) == ([1], [5])
    (smooth, _) = training_curves(table, "steps/redundant", {"a": "A", "b": "B"}, window=2)
    assert list(smooth.y) == [11, 11.5, 12.5]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15), st.floats(0.01, 0.06))
def test_labels_never_overlap_and_keep_their_order(places: list[float], gap: float) -> None:
    apart = spread(places, gap)
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    for lower, upper in itertools.pairwise(order):
        assert apart[upper] - apart[lower] >= gap - 1e-9
    assert min(apart) >= -1e-9 and max(apart) <= 1 + 1e-9  # 15 * .06 < 1: there is room
    if all(b - a >= gap for a, b in itertools.pairwise(sorted(places))):
        assert apart == pytest.approx(places)


def test_a_terminal_gets_the_columns_that_fit_and_the_file_of_the_others() -> None:
    names = ["accuracy", "tokens", "redundant_steps", "essential_steps", "truncated", "missing_think_end"]
    cells = {name: Cell(0.5, 0.4, 0.6, 10, 0.0) for name in names}
    rows = [Row(f"method{i}", f"a rather long method {i}", [0, 1], cells, []) for i in range(12)]
    table = Table("Report", [], [Block("t", "wide", [MEASURES[name] for name in names], rows, [])], [])
    lines = {}
    for width in (80, 60, 200):
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=True, color_system=None)
        formats.print_table(table, console, "results/table1.md")
        lines[width] = out.getvalue().splitlines()
        assert max(map(len, lines[width])) <= width
        assert sum("50.0 ± 10.0" in line for line in lines[width]) == 12
    assert "accuracy %" in lines[80][2] and "redundant steps" in lines[80][2]
    said = " ".join(" ".join(lines[80]).split())
    assert "Not shown, too wide for this terminal: essential steps, truncated %, no </think> %, n, seeds." in said
    assert "All is in results/table1.md." in said
    assert "redundant steps, essential steps" in " ".join(" ".join(lines[60]).split())
    assert not any("Not shown" in line for line in lines[200])


def test_what_is_no_terminal_gets_every_cell(tmp_path: Path) -> None:
    cells = {"tokens": Cell(123.4, 120.0, 126.8, 10, 0.0)}
    rows = [Row(f"method{i}", f"method {i}", [0], cells, []) for i in range(12)]
    block = Block("t", "wide", [MEASURES["tokens"]], rows, [])
    with (tmp_path / "out.txt").open("w") as out:
        formats.print_table(Table("Report", [], [block], []), Console(file=out, width=80), "t.md")
    text = (tmp_path / "out.txt").read_text()
    assert "…" not in text
    assert text.count("123.4 ± 3.4") == 12
