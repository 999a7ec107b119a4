"""`attnpo split`: the same text never in two files, the same place for good, and nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnpo.cli import main
from attnpo.problems import training_sets
from attnpo.problems.problem import Problem
from attnpo.problems.splits import NAMES, Shares, split

PROBLEMS = [Problem(str(i), f"What is {i} + {i}?", str(2 * i)) for i in range(400)]


def places(problems: list[Problem], **shares: float) -> dict[str, str]:
    """Text -> the part that it is in."""
    return {p.text: name for name, part in split(problems, Shares(**shares)).items() for p in part}  # type: ignore[arg-type]


def write(path: Path, problems: list[Problem]) -> str:
    rows = [{"id": p.id, "problem": p.text, "answer": p.answer} for p in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_each_problem_has_one_place_which_follows_from_text_and_seed() -> None:
    found = places(PROBLEMS)
    assert len(found) == len(PROBLEMS)
    assert found == places(list(reversed(PROBLEMS)))
    assert found != places(PROBLEMS, seed=1)
    numbers = [list(found.values()).count(name) for name in NAMES]
    # Of 400 at a share of .1, the number is within 40 ± 24, four standard deviations.
    assert all(16 <= number <= 64 for number in numbers[1:]) and sum(numbers) == 400


def test_places_are_those_of_other_machines_and_times() -> None:
    # The second letter of each name: the first is the same for two of them.
    assert "".join(places(PROBLEMS)[p.text][1] for p in PROBLEMS[:40]) == "rrerrrrrrrerrarerrerrrarrrrrrrrrrarrrrrr"


def test_problems_that_are_added_move_none() -> None:
    few = places(PROBLEMS[::2])
    assert few.items() <= places(PROBLEMS).items()


def test_a_larger_share_takes_and_gives_nothing_back() -> None:
    small, large = (
        {text for text, name in places(PROBLEMS, test=share).items() if name == "test"} for share in (0.1, 0.3)
    )
    assert small < large


def test_white_space_does_not_part_equal_problems() -> None:
    spaced = [Problem(f"s{p.id}", f"  {p.text.replace(' ', chr(10) + ' ')}\t", p.answer) for p in PROBLEMS]
    parts = split([*PROBLEMS, *spaced], Shares(validation=0.3, test=0.3))
    for part in parts.values():
        assert {p.id for p in part if p.id[0] != "s"} == {p.id[1:] for p in part if p.id[0] == "s"}


def test_the_command_writes_files_that_are_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [Problem("a", "What is  3 + 3?", "6"), Problem("b", "What is 5 + 5?", "11")]
    source = write(tmp_path / "mine.jsonl", [*PROBLEMS, *more])
    assert main(["split", source, "--out", str(tmp_path / "data")]) == 0
    said = capsys.readouterr()
    parts = {name: training_sets.load(str(tmp_path / "data" / f"{name}.jsonl"), "") for name in NAMES}
    assert sorted(p.id for part in parts.values() for p in part) == sorted(p.id for p in [*PROBLEMS, *more])
    assert {p.text: name for name, part in parts.items() for p in part}.items() >= places(PROBLEMS).items()
    for line, (name, part) in zip(said.out.splitlines(), parts.items(), strict=True):
        assert line == f"{tmp_path}/data/{name}.jsonl: {len(part)} of 402 problems"
    alike, different = said.err.splitlines()
    assert alike == "4 problems share their text with others of the same file, 2 texts"
    assert different.startswith("one text with different answers: '10' (5), '11' (b); correct ")
    assert different.endswith("mine.jsonl: 'What is 5 + 5?'")


def test_a_share_of_nothing_makes_no_file(tmp_path: Path) -> None:
    source = write(tmp_path / "mine.jsonl", PROBLEMS)
    assert main(["split", source, "--out", str(tmp_path / "a"), "--validation", "0"]) == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["test.jsonl", "train.jsonl"]
    assert main(["split", source, "--out", str(tmp_path / "b"), "--validation", "0", "--test", "1"]) == 0
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["test.jsonl"]
    assert training_sets.load(str(tmp_path / "b" / "test.jsonl"), "") == PROBLEMS


def test_a_hub_data_set_becomes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(name: str, split: str, revision: str | None) -> list[dict[str, str]]:
        asked.append((name, split, revision))
        return [{"problem": p.text, "answer": p.answer} for p in PROBLEMS]

    monkeypatch.setattr("datasets.load_dataset", answer)
    words = ["split", "some/set", "--hub-split", "test", "--revision", "abc", "--out", str(tmp_path / "data")]
    assert main(words) == 0
    assert asked == [("some/set", "test", "abc")]
    assert len(list((tmp_path / "data").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none.jsonl", "none.jsonl: no such data file; check its path"),
        ("bad.jsonl", "bad.jsonl:2: no 'answer'; each problem needs"),
        ("some.txt", "some.txt: files that end in .txt are not read; give a file"),
        ("few.jsonl", "none of the 1 problems went to "),
        ("few.jsonl --test 1.5", "split: test: 1.5 must be at most 1"),
        ("few.jsonl --test nan", "split: test: nan is not a finite number"),
        ("few.jsonl --validation -.1", "split: validation: -0.1 must be at least 0"),
        ("few.jsonl --validation .6 --test .6", "validation 0.6 and test 0.6 are 1.2 together; give shares above 0"),
        ("few.jsonl --validation 0 --test 0", "validation 0 and test 0 are 0 together; give shares above 0"),
        ("few.jsonl --seed -1", "split: seed: -1 must be at least 0"),
        ("few.jsonl --revision abc", "--revision abc: goes with a hub data set, and few.jsonl is a file"),
        ("few.jsonl --columns question", "--columns question: give problem=NAME, answer=NAME or id=NAME"),
        ("few.jsonl --columns problem=", "--columns problem=: give problem=NAME, answer=NAME or id=NAME"),
        ("few.jsonl --columns id=a id=b", "--columns id=a: id is named twice; leave one out"),
        ("few.jsonl --columns text=a", "--columns: text: unknown key"),
        ("few.jsonl --columns problem=question", "few.jsonl:1: no 'question'; each problem needs 'question' and"),
        ("few.jsonl --hub-split test", "--hub-split test: goes with a hub data set, and few.jsonl is a file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "few.jsonl", PROBLEMS[:1])
    (tmp_path / "bad.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n{"problem": "2 + 2"}\n')
    (tmp_path / "some.txt").touch()
    assert main(["split", *words.split(), "--out", "data"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_columns_of_other_names_become_ours(tmp_path: Path) -> None:
    rows = [{"question": p.text, "solution": p.answer, "number": f"n{i}"} for i, p in enumerate(PROBLEMS)]
    source = tmp_path / "theirs.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    words = ["--columns", "problem=question", "answer=solution", "id=number", "--out", str(tmp_path / "data")]
    assert main(["split", str(source), *words]) == 0
    found = [p for name in NAMES for p in training_sets.load(str(tmp_path / "data" / f"{name}.jsonl"), "")]
    assert sorted((p.id, p.text, p.answer) for p in found) == sorted(
        (f"n{i}", p.text, p.answer) for i, p in enumerate(PROBLEMS)
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    source = write(tmp_path / "mine.jsonl", PROBLEMS)
    (tmp_path / f"{name}.jsonl").write_text("mine")
    assert main(["split", source, "--out", str(tmp_path)]) == 2
    assert f"{name}.jsonl is there already and is not overwritten; name another folder" in capsys.readouterr().err
    assert (tmp_path / f"{name}.jsonl").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "mine.jsonl", PROBLEMS)
    assert main(["split", source, "--out", source]) == 2
    assert "mine.jsonl is a file; name a folder" in capsys.readouterr().err
