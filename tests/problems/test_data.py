"""Problems from the testbed, files and the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from attnpo.errors import AttnPOError
from attnpo.probing.labels import oracle_labels
from attnpo.problems.problem import Problem
from attnpo.problems.training_sets import Columns
from attnpo.testbed import load_problems, on_hub
from attnpo.testbed.problems import ChainProblem


def test_the_testbed_brings_its_chain_along() -> None:
    problem = load_problems("testbed", "validation")[0]
    assert isinstance(problem, ChainProblem)
    content = ChainProblem(problem.start, problem.ops, problem.wording)
    assert (problem.id, problem.text, problem.answer) == (content.id, content.text, content.answer)


def test_a_file_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"problem": "1+1?", "answer": 2}\n{"id": "b", "problem": "2+2?", "answer": "4"}\n')
    assert load_problems(str(path), "any") == [Problem("1", "1+1?", "2"), Problem("b", "2+2?", "4")]


ROWS = [{"problem": "1+1?", "answer": "2"}, {"problem": 'Say "a, é"', "answer": "4", "id": "b"}]
SAME = [Problem("1", "1+1?", "2"), Problem("b", 'Say "a, é"', "4")]


def test_a_list_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    table = 'id,problem,answer,more\n,1+1?,2,x\nb,"Say ""a, é""",4,y\n'
    (tmp_path / "some.csv").write_text(table, encoding="utf-8")
    (tmp_path / "spreadsheet.CSV").write_text(table.replace("\n", "\r\n"), encoding="utf-8-sig", newline="")
    columns = {key: [row.get(key) for row in ROWS] for key in ("id", "problem")} | {"answer": [2, 4]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "some.parquet")
    for name in ("some.json", "lines.json", "some.csv", "spreadsheet.CSV", "some.parquet"):
        assert load_problems(str(tmp_path / name), "any") == SAME, name


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("answer,question,final\nby hand,1+1?,2\n", encoding="utf-8")
    columns = Columns(problem="question", answer="final")
    assert load_problems(str(path), "any", columns=columns) == [Problem("1", "1+1?", "2")]
    with pytest.raises(AttnPOError, match="data 'testbed' has no columns"):
        load_problems("testbed", "train", columns=columns)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", '{"problem": "1+1?", "answer": "2"}\n{"problem": "2', ":2: not JSON"),
        ("bad.jsonl", json.dumps({"problem": "1+1?"}), ":1: no 'answer'; .* this one has 'problem'; if .* --columns"),
        ("bad.jsonl", json.dumps({"problem": "", "answer": "2"}), ":1: no 'problem'"),
        ("bad.jsonl", "\n[1, 2]", r":2: \[1, 2\] is no object; each problem is one with 'problem' and 'answer'"),
        ("bad.jsonl", "7", ":1: 7 is no object"),
        ("bad.jsonl", '{"problem": ["1+1?"], "answer": "2"}', r":1: 'problem' is \['1\+1\?'\]; it must be text"),
        ("bad.jsonl", '{"problem": "1+1?", "answer": {"a": 1}}', ":1: 'answer' is .*; it must be text or a number"),
        ("bad.jsonl", '{"problem": "a", "answer": 1}\n{"id": 1, "problem": "b", "answer": 1}',
         ":2: its id '1' is that of .*bad.jsonl:1 too; give each its own"),
        ("bad.jsonl", "", ": there are no problems in it"),
        ("bad.json", '[{"problem": "a", "answer": 1},', ": not JSON .*; give a list of objects"),
        ("bad.json", '[{"problem": "a", "answer": 1}, 3]', " row 2: 3 is no object"),
        ("bad.json", '{"data": [1]}', ":1: no 'problem'"),
        ("bad.csv", "problem,answer\na,1\nb,2,3\n", ":3: more fields than the header; quote"),
        ("bad.csv", 'problem,answer\na,"1\n', ":2: not CSV .unexpected end of data"),
        ("bad.csv", "question,answer\na,1\n", " row 1: no 'problem'; .* this one has 'question', 'answer'"),
        ("bad.parquet", "PAR", ": not Parquet "),
        ("bad.tsv", "problem\tanswer\n", ": files that end in .tsv are not read; give a file "),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_its_row(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(AttnPOError, match=f"{name}{message}") as caught:
        load_problems(str(path), "any")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["latin.jsonl", "latin.json", "latin.csv"])
def test_another_encoding_than_utf_8_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes('{"problem": "a", "answer": "1"}\n{"problem": "é", "answer": "1"}\n'.encode("latin-1"))
    with pytest.raises(AttnPOError, match=rf"{name}:2: not UTF-8 \(byte 0xe9\); save it as UTF-8"):
        load_problems(str(path), "any")


def test_folders_and_paths_never_go_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "set").mkdir(parents=True)
    (tmp_path / "some" / "file").touch()
    for source, message in (
        ("some/set", "some/set: a folder, no data file; give a file"),
        (str(tmp_path), "a folder, no data file"),
        ("some/file", "some/file: files that end in nothing are not read"),
        ("./other", "other: no such data file"),
        ("a/b/c", "a/b/c: no such data file"),
        ("none.parquet", "none.parquet: no such data file"),
        ("none.txt", "none.txt: no such data file"),
    ):
        assert not on_hub(source)
        with pytest.raises(AttnPOError, match=message):
            load_problems(source, "train")
    assert on_hub("owner/Set-1.5B")


def test_a_missing_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="no such data file; check its path"):
        load_problems(str(tmp_path / "none.jsonl"), "any")


def test_a_data_set_out_of_reach_names_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    message = "'nobody/nothing', split 'train', revision 'abc' could not be loaded .*or give a file"
    with pytest.raises(AttnPOError, match=message):
        load_problems("nobody/nothing", "train", "abc")


def test_a_hub_data_set_is_loaded_at_its_revision(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def answer(name: str, split: str, revision: str | None) -> list[dict[str, str]]:
        asked.append((name, split, revision))
        return [{"problem": "1+1?", "answer": "2"}]

    monkeypatch.setattr("datasets.load_dataset", answer)
    assert load_problems("some/set", "train", "abc") == [Problem("0", "1+1?", "2")]
    assert not caplog.records
    load_problems("some/set", "train")
    assert asked == [("some/set", "train", "abc"), ("some/set", "train", None)]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "some/set has no revision" in record.message
    assert "`data_revision` in the profile" in record.message


def test_the_oracle_labels_testbed_problems_alone() -> None:
    problem = load_problems("testbed", "validation")[0]
    assert isinstance(problem, ChainProblem)
    first = f"{problem.values[0]} {problem.ops[0][0]} {problem.ops[0][1]} = {problem.values[1]}"
    assert oracle_labels(problem, [f"First, {first}.", f"Wait, {first}, yes."]) == [True, False]
    with pytest.raises(AttnPOError, match="'x' is not of the testbed"):
        oracle_labels(Problem("x", "1+1?", "2"), ["So 2."])
