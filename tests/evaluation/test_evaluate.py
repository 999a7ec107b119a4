"""An evaluation that is killed goes on where it stood, and what is asked is what the arguments say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from attnpo.errors import AttnPOError
from attnpo.evaluation.questions import Decoding, Question, answers, ask, derive, is_answered
from attnpo.sampling.sampler import Sample
from attnpo.sampling.store import SampleFile

WORDS = ["--model", "testbed", "--tasks", "attnpo_testbed", "--limit", "12", "--samples", "2", "--temperature", "1"]
WORDS += ["--max-tokens", "96", "--batch-size", "4", "--seed", "5"]


def start(results: Path, *more: str) -> subprocess.Popen[bytes]:
    """`attnpo eval` in a process group of its own."""
    results.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "attnpo.cli", "eval", *WORDS, "--results", str(results), *more]
    with (results / "log").open("ab") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def folder_of(results: Path) -> Path:
    (folder,) = (results / "raw").iterdir()
    return folder


@pytest.mark.slow
def test_a_killed_evaluation_ends_as_a_straight_one_on_one_process_or_two(tmp_path: Path) -> None:
    straight = start(tmp_path / "straight")
    assert straight.wait() == 0, (tmp_path / "straight" / "log").read_text()
    killed = start(tmp_path / "killed", "--processes", "2")
    deadline = time.monotonic() + 300
    lines = 0
    while lines < 10:
        assert killed.poll() is None, (tmp_path / "killed" / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
        found = list((tmp_path / "killed").glob("raw/*/responses/samples.jsonl"))
        lines = found[0].read_bytes().count(b"\n") if found else 0
    os.kill(killed.pid, signal.SIGKILL)  # the parent alone: its processes see that it is gone
    assert killed.wait() == -signal.SIGKILL
    stored = folder_of(tmp_path / "killed") / "responses" / "samples.jsonl"
    there = stored.read_bytes().count(b"\n")
    assert 10 <= there < 48, "killed too late: the test shows nothing"
    while _alive(killed.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert start(tmp_path / "killed").wait() == 0, (tmp_path / "killed" / "log").read_text()
    one, other = (folder_of(tmp_path / name) for name in ("straight", "killed"))
    assert one.name == other.name
    assert (one / "samples.jsonl").read_bytes() == (other / "samples.jsonl").read_bytes()
    assert sorted(path.name for path in other.iterdir() if path.name[0] != ".") == [
        "manifest.json",
        "record.csv",
        "samples.jsonl",
    ]
    manifest = json.loads((other / "manifest.json").read_text())
    assert len(manifest["resumed"]) == 1 and manifest["finished"]
    words = manifest["command"].split()
    assert words[:2] == ["attnpo", "eval"] and set(WORDS) - {"1"} <= set(words) and "1.0" in words


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# what is asked


def test_decoding_of_lm_eval_s_arguments() -> None:
    ours = {"until": [], "do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 0, "max_gen_toks": 16384}
    assert Decoding.of(ours, "t") == (0.6, 0.95, 16384, {})
    assert not Decoding.of(ours, "t").greedy
    assert Decoding.of({**ours, "max_new_tokens": 20, "min_p": 0.1, "top_k": 20}, "t") == (
        0.6,
        0.95,
        20,
        {"min_p": 0.1, "top_k": 20},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": True, "temperature": 1},
        {"temperature": 1},
        {"do_sample": False, "temperature": 1},
        {"do_sample": False},
        {"do_sample": True, "temperature": 0},
        {},
    ],
)
def test_greedy_is_what_lm_eval_takes_for_greedy(arguments: dict[str, Any]) -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    normal = normalize_gen_kwargs(dict(arguments))
    expected = not normal["do_sample"] or normal.get("temperature") == 0
    assert Decoding.of({**arguments, "max_gen_toks": 8}, "t").greedy == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"until": ["\n"]}, r"t: until=\['\\n'\]: our tasks read responses to their end"),
        ({"max_gen_toks": None}, "t: max_gen_toks is None; give a number"),
        ({"temperature": "hot"}, "t: temperature is 'hot'; give a number"),
        ({"max_gen_toks": 0.5}, "budget 0.5; take .* at least 1 token"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 1.5}, "top_p 1.5"),
    ],
)
def test_decoding_that_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        Decoding.of({"temperature": 1, "max_gen_toks": 8, **changes}, "t")


class Recorder:
    """A sampler that answers with the seed, and notes how it is asked."""

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.calls: list[dict[str, Any]] = []

    def sample(self, prompts: Any, *, seeds: Any, **how: Any) -> Any:
        self.calls.append({"prompts": list(prompts), "seeds": seeds, **how})
        for i, prompt in enumerate(prompts):
            yield i, 0, Sample([*prompt, seeds[i] % 1000], "length")


class Tokenizer:
    """Decodes ids to their list."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return f"text of {ids}"


def test_what_is_decoded_alike_is_asked_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnpo.evaluation.questions.bytes_table", lambda tokenizer: [b"x"] * 1000)
    hot, cold, other = Decoding(1.0, 0.9, 8), Decoding(0.0, 1.0, 8), Decoding(1.0, 0.9, 8, {"min_p": 0.1})
    questions = [Question("t", f"p{i}", [i], 3, how) for i, how in enumerate((hot, cold, other, hot))]
    sampler: Any = Recorder(unit=4)
    with SampleFile(tmp_path / "s.jsonl", ("task", "problem_id", "k")) as file:
        assert not is_answered(file, questions)
        ask(file, sampler, questions, 7, show=False)
        assert is_answered(file, questions)
        found = [answers(file, one, Tokenizer()) for one in questions]
    assert [call["prompts"] for call in sampler.calls] == [[[0]] * 3 + [[3]] * 3, [[1]], [[2]] * 3]
    assert [call["options"] for call in sampler.calls] == [{}, {}, {"min_p": 0.1}]
    expected = [derive(7, "t", "p0", k) for k in range(3)] + [derive(7, "t", "p3", k) for k in range(3)]
    assert sampler.calls[0]["seeds"] == expected and len(set(expected)) == 6
    # Of each four that share a stream of random numbers, the first one's seed counts.
    assert [r.seed for r in found[0] + found[3]] == [expected[0]] * 4 + [expected[4]] * 2
    assert [r.seed for r in found[1]] == [None] * 3 and len({str(r) for r in found[1]}) == 1
    assert found[2][0] == f"text of {[2, derive(7, 't', 'p2', 0) % 1000]}"
