from __future__ import annotations

import hashlib
import json
import os
import urllib.error
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attnpo import benchmarks
from attnpo.benchmarks import BENCHMARKS, Benchmark, Problem
from attnpo.errors import AttnPOError
from attnpo.rewards.correctness import Grader

SHARED = Path(os.environ.get("ATTNPO_SHARED") or Path(__file__).parents[1].parent / "shared") / "benchmarks"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no folder shared/benchmarks beside the checkout")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches the network, the user's cache or the user's data."""
    monkeypatch.delenv("ATTNPO_DATA", raising=False)
    monkeypatch.setenv("ATTNPO_CACHE", str(tmp_path / "cache"))

    def unreachable(url: str, timeout: float) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def rows(n: int) -> list[dict[str, str]]:
    return [{"id": f"aime2024/{i}", "problem": f" ${i}^2$?\u2028\n", "answer": f"{i * i:03}"} for i in range(n)]


def write_jsonl(folder: Path, lines: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "aime2024.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def verl_rows(n: int, repeats: int = 16, **changes: Any) -> list[dict[str, Any]]:
    """As verl lays out its data; each problem stands there once for every sample."""
    return [
        {
            "data_source": "aime",
            "prompt": [{"role": "user", "content": row["problem"]}],
            "ability": "math",
            "reward_model": {"ground_truth": row["answer"], "style": "rule"},
            "extra_info": {"index": i, "split": "test"},
            **changes,
        }
        for i, row in enumerate(row for row in rows(n) for _ in range(repeats))
    ]


def parquet(path: Path, content: list[dict[str, Any]]) -> bytes:
    pd.DataFrame(content).to_parquet(path)
    return path.read_bytes()


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes, sha256: str | None = None) -> list[str]:
    """Serve `content` as the published file of aime2024; returns the addresses that are asked for."""
    asked: list[str] = []

    class Answer:
        def __enter__(self) -> Answer:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> bytes:
            return content

    def urlopen(url: str, timeout: float) -> Answer:
        asked.append(url)
        return Answer()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(BENCHMARKS, "aime2024", Benchmark("aime2024_16.parquet", sha256, 30))
    return asked


# --- a local folder


@pytest.mark.parametrize("how", ["variable", "argument"])
def test_a_local_folder_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    folder = write_jsonl(tmp_path / "data", [{**row, "level": 5} for row in rows(30)]).parent
    if how == "variable":
        monkeypatch.setenv("ATTNPO_DATA", str(folder))
        found = benchmarks.load("aime2024")
    else:
        monkeypatch.setenv("ATTNPO_DATA", str(tmp_path / "elsewhere"))
        found = benchmarks.load("aime2024", folder)
    assert found == [Problem(**row) for row in rows(30)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:29], "holds 29 problems, but aime2024 has 30; complete the file"),
        (lambda lines: lines[:29] + lines[:1], "jsonl:30: the id 'aime2024/0' stands there twice"),
        (lambda lines: [{**lines[0], "answer": 0}, *lines[1:]], "jsonl:1: needs id, problem and answer"),
        (lambda lines: [*lines[:4], ["a"], *lines[5:]], "jsonl:5: needs id, problem and answer"),
        (lambda lines: [{**lines[0], "problem": ""}, *lines[1:]], "jsonl:1: needs id, problem and answer"),
    ],
)
def test_a_local_file_that_is_wrong_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = write_jsonl(tmp_path / "data", change(rows(30))).parent
    with pytest.raises(AttnPOError, match=message):
        benchmarks.load("aime2024", folder)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data", rows(30))
    path.write_text(path.read_text(encoding="utf-8") + "{", encoding="utf-8")
    with pytest.raises(AttnPOError, match=r"aime2024\.jsonl:31: not JSON"):
        benchmarks.load("aime2024", path.parent)


def test_a_named_folder_without_the_file_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, parquet(tmp_path / "x", verl_rows(30)))
    with pytest.raises(AttnPOError, match=r"aime2024: .*gone/aime2024\.jsonl cannot be read .*; put the file there"):
        benchmarks.load("aime2024", tmp_path / "gone")


def test_an_unknown_name() -> None:
    with pytest.raises(AttnPOError, match="no benchmark 'aime24'; take one of gsm8k, math500, "):
        benchmarks.load("aime24")


# --- the published files


def test_the_published_file_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = publish(monkeypatch, parquet(tmp_path / "x", verl_rows(30)))
    expected = [Problem(**row) for row in rows(30)]
    assert benchmarks.load("aime2024") == benchmarks.load("aime2024") == expected
    assert asked == [f"{benchmarks.URL}/aime2024_16.parquet"]
    assert benchmarks.COMMIT in benchmarks.URL
    assert [path.name for path in (tmp_path / "cache" / "benchmarks").iterdir()] == ["aime2024_16.parquet"]


def test_another_checksum_is_refused_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = parquet(tmp_path / "x", verl_rows(30))
    publish(monkeypatch, content, sha256="0" * 64)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(AttnPOError, match=f"aime2024: .* has SHA-256 {found}, not {'0' * 64}, and is not used"):
        benchmarks.load("aime2024")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_damaged_cache_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = publish(monkeypatch, parquet(tmp_path / "x", verl_rows(30)))
    cached = tmp_path / "cache" / "benchmarks" / "aime2024_16.parquet"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"PAR1 half of it")
    assert len(benchmarks.load("aime2024")) == 30
    assert len(asked) == 1
    assert cached.read_bytes() == (tmp_path / "x").read_bytes()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, parquet(tmp_path / "x", verl_rows(30)))

    def full(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(AttnPOError, match=r"aime2024_16\.parquet cannot be written \(disk full\); set ATTNPO_CACHE"):
        benchmarks.load("aime2024")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_without_network_one_line_names_the_set_and_two_remedies(name: str) -> None:
    with pytest.raises(AttnPOError) as caught:
        benchmarks.load(name)
    message = str(caught.value)
    assert message.startswith(f"{name} is neither here nor within reach")
    assert "no network" in message
    assert f"set ATTNPO_DATA to a folder with {name}.jsonl" in message
    assert f"put the published file at {benchmarks.cache_folder() / 'benchmarks' / BENCHMARKS[name].file}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (verl_rows(29), "holds 29 problems, but aime2024 has 30"),
        (verl_rows(30, prompt=[{"role": "system", "content": "x"}]), "row 0 of .* has columns data_source, prompt"),
        (verl_rows(30, prompt="x"), "without one user message"),
        (verl_rows(30, reward_model="x"), r"without `reward_model\.ground_truth`"),
        (verl_rows(30, reward_model={"style": "rule"}), r"set ATTNPO_DATA to a folder of JSON lines instead"),
        ([{"question": "x", "answer": "1"}], "has columns question, answer, without one user message"),
    ],
)
def test_another_layout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: list[dict[str, Any]], message: str
) -> None:
    publish(monkeypatch, parquet(tmp_path / "x", content))
    with pytest.raises(AttnPOError, match=message):
        benchmarks.load("aime2024")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(AttnPOError, match=r"aime2024_16\.parquet is no readable parquet file"):
        benchmarks.load("aime2024")


def test_numbers_and_system_messages_are_taken_as_they_stand(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    parquet(tmp_path / "x", verl_rows(1, prompt=prompt, reward_model={"ground_truth": 27.0, "style": "rule"}))
    assert benchmarks.read_published("amc23", tmp_path / "x") == [Problem("amc23/0", "y", "27.0")]


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("/own", "/xdg", "/own"),
        ("", "/xdg", "/xdg/attnpo"),
        ("", "", "/home/me/.cache/attnpo"),
        ("", "relative", "/home/me/.cache/attnpo"),
    ],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, own: str, xdg: str, expected: str) -> None:
    for name, value in (("ATTNPO_CACHE", own), ("XDG_CACHE_HOME", xdg), ("HOME", "/home/me")):
        monkeypatch.setenv(name, value)
    assert benchmarks.cache_folder() == Path(expected)


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, parquet(tmp_path / "x", verl_rows(30)))
    monkeypatch.setenv("ATTNPO_CACHE", str(tmp_path / "x"))
    with pytest.raises(AttnPOError, match=r"x/benchmarks/aime2024_16\.parquet cannot be written .*; set ATTNPO_CACHE"):
        benchmarks.load("aime2024")


# --- the reference sets


@needs_shared
@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_the_reference_sets(name: str) -> None:
    problems = benchmarks.load(name, SHARED)
    assert [problem.id for problem in problems] == [f"{name}/{i}" for i in range(BENCHMARKS[name].problems)]
    # Dropping the repeats of the published file drops no problem.
    assert len({problem[1:] for problem in problems}) == len(problems)
    table = (SHARED / "README.md").read_text(encoding="utf-8")
    file, sha256, number = BENCHMARKS[name]
    assert f"| {name}.jsonl | {number} | {file} | {sha256} |" in table
    assert benchmarks.COMMIT in table


@needs_shared
@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_gold_answer_in_a_box_is_correct(name: str) -> None:
    golds = [problem.answer for problem in benchmarks.load(name, SHARED)]
    with Grader() as grader:
        grades = grader.grade([f"x</think>\\boxed{{{gold}}}" for gold in golds], golds)
    assert [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct] == []
