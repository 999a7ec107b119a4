from __future__ import annotations

import hashlib
import json
import re
import runpy
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest
from places import ROOT, SHARED

from attnpo.errors import AttnPOError
from attnpo.evaluation.sources import compare
from attnpo.grading.math import Grader
from attnpo.problems import benchmarks
from attnpo.problems.benchmarks import BENCHMARKS, Published
from attnpo.problems.problem import Problem

LOCAL = SHARED / "benchmarks"
needs_shared = pytest.mark.skipif(not LOCAL.is_dir(), reason="no folder shared/benchmarks beside the checkout")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches the network, the user's cache or the user's data."""
    monkeypatch.delenv("ATTNPO_DATA", raising=False)
    monkeypatch.setenv("ATTNPO_CACHE", str(tmp_path / "cache"))

    def unreachable(url: str, timeout: float) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


MATH = [name for name, benchmark in BENCHMARKS.items() if not benchmark.choices]
CHOICES = [name for name, benchmark in BENCHMARKS.items() if benchmark.choices]


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
    changed = BENCHMARKS["aime2024"]._replace(published=Published("aime2024_16.parquet", sha256))
    monkeypatch.setitem(BENCHMARKS, "aime2024", changed)
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
    assert found == [Problem(row["id"], row["problem"], row["answer"]) for row in rows(30)]


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
    expected = [Problem(row["id"], row["problem"], row["answer"]) for row in rows(30)]
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


@pytest.mark.parametrize("name", MATH)
def test_without_network_one_line_names_the_set_and_two_remedies(name: str) -> None:
    with pytest.raises(AttnPOError) as caught:
        benchmarks.load(name)
    message = str(caught.value)
    assert message.startswith(f"{name} is neither here nor within reach")
    assert "no network" in message
    assert f"set ATTNPO_DATA to a folder with {name}.jsonl" in message
    published = BENCHMARKS[name].published
    assert published is not None
    assert f"put the published file at {benchmarks.cache_folder() / 'benchmarks' / published.file}" in message
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
    path = tmp_path / "x.parquet"
    parquet(path, verl_rows(1, prompt=prompt, reward_model={"ground_truth": 27.0, "style": "rule"}))
    assert benchmarks.read_published("amc23", path) == [Problem("amc23/0", "y", "27.0")]


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


# --- the hub


class FakeHub:
    """Serves files from a folder laid out like the hub's cache; notes what is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str, str]] = []
        self.error: Exception | None = None

    def put(self, name: str, content: list[dict[str, Any]]) -> None:
        hub = BENCHMARKS[name].hub
        assert hub is not None
        path = self.folder / "snapshots" / hub.revision / hub.file
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(content)
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        elif path.suffix == ".csv":
            frame.to_csv(path, index=False)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")

    def download(self, repository: str, file: str, *, repo_type: str, revision: str) -> str:
        assert repo_type == "dataset"
        self.asked.append((repository, file, revision))
        if self.error:
            raise self.error
        return str(next(self.folder.glob(f"snapshots/*/{file}")))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake.download)
    return fake


# A row as each set has it, by the columns that its users name.
LAYOUTS: dict[str, Any] = {
    "gsm8k": lambda i: {"question": f"What is  {i}?", "answer": f"It is <<{i}>>.\n#### {i * 1000:,}"},
    "math500": lambda i: {
        "problem": f"What is  {i}?",
        "solution": "x",
        "answer": f"{i * 1000:,}",
        "subject": "Algebra",
        "level": 1,
        "unique_id": f"test/algebra/{i}.json",
    },
    "amc23": lambda i: {"id": i, "answer": float(i * 1000), "url": "x", "question": f"What is  {i}?"},
    "aime2024": lambda i: {"ID": f"2024-I-{i}", "Problem": f"What is  {i}?", "Solution": "x", "Answer": i * 1000},
    "aime2025": lambda i: {"problem": f"What is  {i}?", "answer": f"{i * 1000}", "id": f"{i}"},
}


def reference(name: str, folder: Path, n: int) -> list[dict[str, str]]:
    """The same problems as those of `LAYOUTS`, written a little differently."""
    lines = [{"id": f"{name}/{i}", "problem": f"What is {i}?\n", "answer": f"{i * 1000}"} for i in range(n)]
    write_jsonl(folder, lines).rename(folder / f"{name}.jsonl")
    return lines


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_math_set_from_the_hub(name: str, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNPO_DATA", str(tmp_path / "not asked"))
    pinned, number = BENCHMARKS[name].hub, BENCHMARKS[name].problems
    assert pinned is not None
    hub.put(name, [LAYOUTS[name](i) for i in range(number)])
    problems = benchmarks.load(name, source="hub")
    assert [p.id for p in problems] == [f"{name}/hub/{i}" for i in range(number)]
    assert {p.text for p in problems} == {f"What is  {i}?" for i in range(number)}
    assert problems[1].answer == {"gsm8k": "1,000", "math500": "1,000", "amc23": "1000.0"}.get(name, "1000")
    assert hub.asked == [(pinned.repository, pinned.file, pinned.revision)]
    benchmarks.load(name, source="hub", revision="main")
    assert hub.asked[1] == (pinned.repository, pinned.file, "main")


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_compare(name: str, hub: FakeHub, tmp_path: Path) -> None:
    number = BENCHMARKS[name].problems
    rows = [LAYOUTS[name](i) for i in range(number)]
    hub.put(name, rows)
    reference(name, tmp_path / "data", number)
    assert compare(name, tmp_path / "data") == (number, [])
    hub.put(name, [*rows[:-2], LAYOUTS[name](number - 2), LAYOUTS[name](7000)])
    found = compare(name, tmp_path / "data")
    assert found.same == number - 1
    assert found.differences == [
        f"{name}/{number - 1}: only in the reference: What is {number - 1}?",
        f"{name}/hub/{number - 1}: only on the hub: What is 7000?",
    ]


def test_compare_sees_another_answer(hub: FakeHub, tmp_path: Path) -> None:
    hub.put("aime2024", [{**LAYOUTS["aime2024"](i), "Answer": i * 1000 + (i == 3)} for i in range(30)])
    reference("aime2024", tmp_path / "data", 30)
    found = compare("aime2024", tmp_path / "data")
    assert found == (29, ["aime2024/3: the answer is 3000, on the hub 3001"])


def test_the_script_that_compares(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "reproduce" / "check_data.py"
    main = runpy.run_path(str(path))["main"]
    reference("aime2024", tmp_path / "data", 30)
    rows = [LAYOUTS["aime2024"](i) for i in range(30)]
    arguments = ["check_data.py", "aime2024", "--data-dir", str(tmp_path / "data")]
    monkeypatch.setattr("sys.argv", arguments)
    hub.put("aime2024", rows)
    assert main() == 0
    assert capsys.readouterr().out == "aime2024: 30 of 30 problems the same, 0 differences\n"
    hub.put("aime2024", [{**rows[0], "Answer": 1}, *rows[1:]])
    assert main() == 1
    assert capsys.readouterr().out == (
        "aime2024: 29 of 30 problems the same, 1 differences\n  aime2024/0: the answer is 0, on the hub 1\n"
    )
    hub.error = FileNotFoundError("no network")
    assert main() == 1
    assert "error: aime2024: Maxwell-Jia/AIME_2024" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["olympiadbench", "mmlu"])
def test_compare_needs_two_sources(name: str) -> None:
    with pytest.raises(AttnPOError, match=f"{name} has one source only"):
        compare(name)


def gpqa_rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "Record ID": f"rec{i}",
            "Question": f"Which, {i}?\n",
            "Correct Answer": f"right {i}\n",
            "Incorrect Answer 1": "NA",
            "Incorrect Answer 2": "None",
            "Incorrect Answer 3": "zero",
            "High-level domain": "Physics",
        }
        for i in range(n)
    ]


def test_gpqa_from_the_hub(hub: FakeHub) -> None:
    hub.put("gpqa_diamond", gpqa_rows(198))
    problems = benchmarks.load("gpqa_diamond")
    assert {p.id for p in problems} == {f"gpqa_diamond/rec{i}" for i in range(198)}
    for p in problems:
        i = p.id.removeprefix("gpqa_diamond/rec")
        # By the alphabet: the place tells nothing of the right one. "NA" and "None" are texts.
        choices = ("NA", "None", f"right {i}", "zero")
        assert p == Problem(p.id, f"Which, {i}?", "C", choices=choices, subject="Physics")


def mmlu_rows(n: int) -> list[dict[str, Any]]:
    return [
        {"question": f"Which {i}?", "subject": f"subject_{i * 57 // n}", "choices": list("wxyz"), "answer": i % 4}
        for i in range(n)
    ]


def test_mmlu_from_the_hub(hub: FakeHub) -> None:
    rows = mmlu_rows(14041)
    hub.put("mmlu", [*rows, rows[5]])  # a question asked twice
    problems = benchmarks.load("mmlu")
    assert len({p.id for p in problems}) == 14042
    by_text = {p.text: p for p in problems}
    for i in (0, 5, 14040):
        p = by_text[f"Which {i}?"]
        subject = f"subject_{i * 57 // 14041}"
        assert p == Problem(p.id, p.text, "ABCD"[i % 4], choices=tuple("wxyz"), subject=subject)
        assert p.id.startswith(f"mmlu/{p.subject}/")
    # A slice from the start holds all subjects, and ids and order do not depend on the file's order.
    assert len({p.subject for p in problems[:1000]}) == 57
    hub.put("mmlu", [rows[5], *rows[::-1]])
    assert benchmarks.load("mmlu") == problems


@pytest.mark.parametrize("name", CHOICES)
def test_gated_data_says_how_to_get_access(name: str, hub: FakeHub) -> None:
    from huggingface_hub.errors import GatedRepoError

    hub.error = GatedRepoError("Cannot access gated repo\nfor url x", response=MagicMock())
    pinned = BENCHMARKS[name].hub
    assert pinned is not None
    with pytest.raises(AttnPOError) as caught:
        benchmarks.load(name)
    assert str(caught.value) == (
        f"{name}: {pinned.repository} is gated: accept its terms at https://huggingface.co/datasets/"
        f"{pinned.repository}, then run `hf auth login` or set HF_TOKEN; or set ATTNPO_DATA to a folder with "
        f"{name}.jsonl (id, problem, choices, answer)"
    )


@pytest.mark.parametrize("name", [*LAYOUTS, *CHOICES])
def test_without_the_hub_one_line_names_the_set_and_two_remedies(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The hub's own library, offline, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AttnPOError) as caught:
        benchmarks.load(name, source="hub")
    message, pinned = str(caught.value), BENCHMARKS[name].hub
    assert pinned is not None
    assert message.startswith(f"{name}: {pinned.repository} (revision {pinned.revision}, {pinned.file}) is neither in")
    assert f"set ATTNPO_DATA to a folder with {name}.jsonl" in message
    assert message.endswith("or run once where the hub is within reach")
    assert "\n" not in message


def test_the_commit_that_the_hub_resolves_is_logged(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    hub.put("gsm8k", [LAYOUTS["gsm8k"](i) for i in range(1319)])
    pinned = BENCHMARKS["gsm8k"].hub
    assert pinned is not None
    with caplog.at_level("INFO"):
        benchmarks.load("gsm8k", source="hub", revision="main")
    assert f"gsm8k: openai/gsm8k at commit {pinned.revision}" in caplog.text


def test_revisions_are_commits() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.hub is None or re.fullmatch("[0-9a-f]{40}", benchmark.hub.revision), name


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "gsm8k",
            [{"question": "x", "answer": "5"}],
            r"gsm8k: row 0 of openai/gsm8k .* has another layout \(ValueError",
        ),
        ("math500", [{"question": "x"}], r"another layout \(KeyError: 'problem'\); take the pinned revision 6e4ed1a"),
        ("math500", ["x"], r"another layout \(TypeError"),
        ("gpqa_diamond", [{"Question": "x"}], r"another layout \(KeyError: 'Correct Answer'"),
        ("mmlu", [{**mmlu_rows(1)[0], "answer": 10}], r"another layout \(IndexError"),
        ("aime2025", [LAYOUTS["aime2025"](1)], "holds 1 problems, but aime2025 has 30"),
    ],
)
def test_another_layout_on_the_hub_is_refused(name: str, rows: list[Any], message: str, hub: FakeHub) -> None:
    hub.put(name, rows)
    with pytest.raises(AttnPOError, match=message):
        benchmarks.load(name, source="hub")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("olympiadbench", None, "hub"), "olympiadbench has no counterpart on the hub: .*; leave out source=hub, or"),
        (("mmlu", None, "published"), "mmlu is not among the authors' files; take source=hub"),
        (("mmlu", None, "web"), "there is no source 'web'; take published or hub"),
        (("mmlu", "here", "hub"), r"both data_dir \(here\) and source \(hub\) are given; give one"),
    ],
)
def test_sources_that_make_no_sense(arguments: tuple[str, str | None, str], message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        benchmarks.load(*arguments)


# --- choices in a local folder


def choice_rows(n: int) -> list[dict[str, Any]]:
    return [
        {"id": f"g/{i}", "problem": f"Which {i}?", "choices": ["w", "x", "y", "z"], "answer": "ABCD"[i % 4]}
        for i in range(n)
    ]


def write_gpqa(folder: Path, lines: list[dict[str, Any]]) -> Path:
    write_jsonl(folder, lines).rename(folder / "gpqa_diamond.jsonl")
    return folder


def test_choices_from_a_local_folder(tmp_path: Path) -> None:
    lines = choice_rows(198)
    lines[7]["subject"] = "Physics"
    problems = benchmarks.load("gpqa_diamond", write_gpqa(tmp_path / "data", lines))
    found = {p.id: p for p in problems}
    assert found["g/7"] == Problem("g/7", "Which 7?", "D", choices=("w", "x", "y", "z"), subject="Physics")
    assert found["g/8"] == Problem("g/8", "Which 8?", "A", choices=("w", "x", "y", "z"))
    assert benchmarks.load("gpqa_diamond", write_gpqa(tmp_path / "other", lines[::-1])) == problems


@pytest.mark.parametrize(
    "change",
    [
        {"choices": None},
        {"choices": "wxyz"},
        {"choices": ["w"]},
        {"choices": ["w", 2]},
        {"choices": ["w", ""]},
        {"choices": list("abcdefghijk")},
        {"answer": "E"},
        {"answer": "AB"},
        {"answer": "a"},
        {"subject": 3},
    ],
)
def test_choices_that_are_wrong_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_gpqa(tmp_path / "data", [{**choice_rows(1)[0], **change}])
    with pytest.raises(AttnPOError, match=r"gpqa_diamond\.jsonl:1: needs choices, 2 to 10 strings, the letter of one"):
        benchmarks.load("gpqa_diamond", folder)


def test_a_missing_file_of_choices_is_named_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(
        AttnPOError, match=r"mmlu\.jsonl cannot be read .* \(id, problem, choices, answer\), or name no"
    ):
        benchmarks.load("mmlu", tmp_path)


# --- the reference sets


@needs_shared
@pytest.mark.parametrize("name", MATH)
def test_the_reference_sets(name: str) -> None:
    problems = benchmarks.load(name, LOCAL)
    assert [problem.id for problem in problems] == [f"{name}/{i}" for i in range(BENCHMARKS[name].problems)]
    # Dropping the repeats of the published file drops no problem.
    assert len({replace(problem, id="") for problem in problems}) == len(problems)
    table = (LOCAL / "README.md").read_text(encoding="utf-8")
    published = BENCHMARKS[name].published
    assert published is not None
    assert f"| {name}.jsonl | {len(problems)} | {published.file} | {published.sha256} |" in table
    assert benchmarks.COMMIT in table


@needs_shared
@pytest.mark.parametrize("name", MATH)
def test_every_gold_answer_in_a_box_is_correct(name: str) -> None:
    golds = [problem.answer for problem in benchmarks.load(name, LOCAL)]
    with Grader() as grader:
        grades = grader.grade([f"x</think>\\boxed{{{gold}}}" for gold in golds], golds)
    assert [gold for gold, grade in zip(golds, grades, strict=True) if not grade.correct] == []
