"""Problems from the testbed, files and the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnpo.errors import AttnPOError
from attnpo.probing.labels import oracle_labels
from attnpo.problems.problem import Problem
from attnpo.testbed import load_problems
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "1+1?", "answer": "2"}\n{"problem": "2', ":2: not JSON"),
        (json.dumps({"problem": "1+1?"}), ":1: no 'answer'"),
        (json.dumps({"problem": "", "answer": "2"}), ":1: no 'problem'"),
        ("", "the data file is empty"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(AttnPOError, match=f"bad.jsonl.*{message}"):
        load_problems(str(path), "any")


def test_a_missing_file_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="no such data file; check `data` in the profile"):
        load_problems(str(tmp_path / "none.jsonl"), "any")


def test_a_data_set_out_of_reach_names_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    message = "'nobody/nothing', split 'train', revision 'abc' could not be loaded .*or give a JSON-lines file"
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
    assert "set `data_revision` in the profile" in record.message


def test_the_oracle_labels_testbed_problems_alone() -> None:
    problem = load_problems("testbed", "validation")[0]
    assert isinstance(problem, ChainProblem)
    first = f"{problem.values[0]} {problem.ops[0][0]} {problem.ops[0][1]} = {problem.values[1]}"
    assert oracle_labels(problem, [f"First, {first}.", f"Wait, {first}, yes."]) == [True, False]
    with pytest.raises(AttnPOError, match="'x' is not of the testbed"):
        oracle_labels(Problem("x", "1+1?", "2"), ["So 2."])
