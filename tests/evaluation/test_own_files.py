"""Data files among the tasks: evaluated with the embedded model, with and without a profile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from fakes import fake_profile, write_profile

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.evaluation.evaluate import load_tasks
from attnpo.evaluation.settings import FreeEvaluation
from attnpo.evaluation.tasks import check_tasks, data_files, generation_arguments, task_names, tasks_identity
from attnpo.runs.free import free_run
from attnpo.runs.plan import eval_spec
from attnpo.runs.store import run_id
from attnpo.testbed.problems import load

SECTION = {"tasks": ["own.jsonl"], "samples": 2, "max_completion_tokens": 48, "batch_size": 8, "limit": 6}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of problems in the current folder."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"p{p.id}", "problem": p.text, "answer": p.answer} for p in load("validation")[:8]]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# what is asked


def test_a_file_is_asked_and_graded_as_the_math_tasks_are(own: Path) -> None:
    tasks = load_tasks(["attnpo_testbed_test", "./own.jsonl"], {"pretrained": "x"})
    assert list(tasks) == ["attnpo_testbed_test", "own"]
    task, first = tasks["own"], load("validation")[0]
    documents = task.test_docs()
    assert len(documents) == 8
    assert documents[0] == {"id": f"p{first.id}", "text": first.text, "answer": first.answer, "thinking": True}
    assert task.doc_to_text(documents[0]) == first.text
    assert task.config.repeats == 4
    assert task.config.generation_kwargs == generation_arguments(["own.jsonl"])["own"]
    assert task.config.generation_kwargs["max_gen_toks"] == 16384


def test_lm_eval_s_own_task_names_the_file_in_its_metadata(own: Path) -> None:
    (task,) = load_tasks(["attnpo_file"], {"file": "own.jsonl", "thinking": False, "samples": 3}).values()
    assert task.config.repeats == 3 and not any(task.test_docs()["thinking"])
    for file in (None, "owner/set", 3):
        with pytest.raises(AttnPOError, match="attnpo_file asks the problems of a data file, not of .*; name it by"):
            load_tasks(["attnpo_file"], {"file": file})
    with pytest.raises(AttnPOError, match="no option 'fille', did you mean 'file'"):
        load_tasks(["attnpo_file"], {"fille": "own.jsonl"})


# which run it is


def test_the_problems_count_and_the_path_does_not(own: Path, tmp_path: Path) -> None:
    before = tasks_identity(["own.jsonl"])
    assert list(before) == ["own"] and tasks_identity([str(own), "attnpo_gsm8k"])["own"] == before["own"]
    columns = {key: [row[key] for row in lines(own)] for key in ("id", "problem", "answer")}
    (tmp_path / "folder").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "folder" / "own.parquet")
    assert tasks_identity(["folder/own.parquet"]) == before
    shutil.copyfile(own, tmp_path / "other.jsonl")
    assert tasks_identity(["other.jsonl"]) == {"other": before["own"]}
    own.write_text(own.read_text().replace('"answer": "', '"answer": "1', 1))
    assert tasks_identity(["own.jsonl"]) != before


def test_a_changed_file_is_another_run(own: Path, tmp_path: Path) -> None:
    free = FreeEvaluation(model="testbed", tasks=["own.jsonl"])
    same = FreeEvaluation(model="testbed", tasks=[str(own)])
    profile = fake_profile(tmp_path, evaluate=SECTION)
    mixed = fake_profile(tmp_path, evaluate={**SECTION, "tasks": ["attnpo_testbed", "own.jsonl"]})
    alone = fake_profile(tmp_path)

    def ids() -> list[str]:
        specs = [eval_spec(one, "base", 0) for one in (profile, mixed, alone)]
        return [free_run(free, 0, tmp_path).id, *map(run_id, specs)]

    before = ids()
    assert free_run(same, 0, tmp_path).id == before[0]
    assert list(eval_spec(mixed, "base", 0)["tasks"]) == ["own"]  # the testbed's have hashes of their own
    own.write_text(own.read_text() + '{"problem": "1 + 1", "answer": "2"}\n')
    assert [one == other for one, other in zip(before, ids(), strict=True)] == [False, False, False, True]


def test_a_name_that_begins_as_the_testbed_s_is_a_file_s(own: Path, tmp_path: Path) -> None:
    own.rename(tmp_path / "attnpo_testbed_mine.jsonl")
    section = {**SECTION, "tasks": ["attnpo_testbed_mine.jsonl"]}
    spec = eval_spec(fake_profile(tmp_path, evaluate=section), "base", 0)
    assert spec["problems"] is None and list(spec["tasks"]) == ["attnpo_testbed_mine"]


# bad input


def test_names_of_ours_stay_ours_and_two_files_of_one_name_are_refused(own: Path, tmp_path: Path) -> None:
    (tmp_path / "attnpo_math").mkdir()
    assert data_files(["attnpo_math", "owner/set", "own.jsonl"]) == {"own": "own.jsonl"}
    assert task_names(["attnpo_math", "~/x.csv", "own.jsonl"]) == ["attnpo_math", "x", "own"]
    for files, other in ((["own.jsonl", "b/own.csv"], "own.jsonl"), (["attnpo_math.csv"], "a task of ours")):
        with pytest.raises(AttnPOError, match=f"its name would be '.*', which is that of {other}; rename the file"):
            check_tasks(files, confirmed=False)
    with pytest.raises(AttnPOError, match="no task 'attnpo_file'.* problems of your own are named by their file"):
        check_tasks(["attnpo_file"], confirmed=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "none.jsonl: no such data file; check its path"),
        ("bad.jsonl", "bad.jsonl:2: no 'answer'; each problem needs"),
        ("empty.csv", "empty.csv: there are no problems in it"),
        ("some.txt", "some.txt: files that end in .txt are not read"),
        ("folder", "folder: a folder, no data file"),
    ],
)
def test_a_bad_file_is_one_line_before_anything_is_made(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("attnpo.evaluation.evaluate.load_tokenizer", lambda *_: pytest.fail("loaded"))
    Path("bad.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n{"problem": "2 + 2"}\n')
    Path("empty.csv").write_text("problem,answer\n")
    Path("some.txt").touch()
    Path("folder").mkdir()
    write_profile(Path(), evaluate={**SECTION, "tasks": [name]})
    profile = ["--profile", "fake.yaml", "--results", "results"]
    for words in (
        ["eval", "--model", "testbed", "--tasks", name, "--results", "results"],
        ["check", "--write", "results", "--tasks", name],
        ["eval", *profile],
        ["run", "table1", *profile],
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert not Path("results").exists()


# from start to end


def test_eval_report_and_check_of_a_file(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "testbed", "--tasks", "own.jsonl", "--limit", "6", "--samples", "2", "--processes", "1"]
    assert main(["eval", *words, "--max-tokens", "48"]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    found = lines(path)
    assert [(line["task"], line["problem_id"], line["k"]) for line in found[:3]] == [
        ("own", lines(own)[0]["id"], 0),
        ("own", lines(own)[0]["id"], 1),
        ("own", lines(own)[1]["id"], 0),
    ]
    assert len(found) == 12 and {line["counted"] for line in found} == {"generated"}
    assert all(line["tokens"]["total"] <= 48 for line in found)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert " --tasks own.jsonl " in manifest["command"] and manifest["spec"]["evaluate"]["tasks"] == ["own"]
    assert main(["report", str(path.parent), "--out", "report", "--draws", "20"]) == 0
    text = Path("report/report.md").read_text()
    assert "own: budget 48 tokens, temperature 0.6, top_p 0.95." in text
    assert "pass@2 %" in text and "% correct within 24 tokens" in text


def test_a_baseline_of_a_file_knows_when_its_problems_change(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tasks", "own.jsonl", "--samples", "1", "--max-tokens", "16", "--false-alarm", ".5"]
    assert main(["check", "--write", "baseline.json", *words]) == 0
    assert main(["check", "--against", "baseline.json"]) == 0
    assert "0 of 6 figures left their band" in capsys.readouterr().out
    own.write_text(own.read_text().replace('"answer": "', '"answer": "1', 1))
    assert main(["check", "--against", "baseline.json"]) == 2
    assert "the problems of own are not those of the baseline" in capsys.readouterr().err


def test_a_profile_evaluates_a_file_and_its_table_has_it(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(Path(), seeds=[0], evaluate=SECTION, report={"bootstrap": 20, "blocks": {"own": "Mine"}})
    words = ["--profile", "fake.yaml", "--results", "results"]
    assert main(["eval", *words, "--processes", "1"]) == 0
    (run,) = Path("results/fake/raw").iterdir()
    assert {line["task"] for line in lines(run / "samples.jsonl")} == {"own"}
    capsys.readouterr()
    assert main(["table", *words]) == 0
    assert "Mine" in Path("results/fake/table1.md").read_text()
