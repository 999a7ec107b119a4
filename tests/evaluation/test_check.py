from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import ROOT

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.evaluation import check, evaluate
from attnpo.evaluation.check import FIGURES, Bands, Settings

P, K = 64, 8
Values = dict[str, dict[str, list[float]]]


def draw(
    rng: np.random.Generator, ease: np.ndarray, accuracy: float = 0.0, longer: float = 1.0, samples: int = K
) -> Values:
    """Means over k samples of P problems: right at random, long-tailed lengths, few of them truncated."""
    solved = rng.random((samples, len(ease))) < np.clip(ease + accuracy, 0, 1)
    thinking = rng.lognormal(4.5 - ease, 0.5, solved.shape) * longer
    answer = rng.integers(8, 14, solved.shape)
    truncated = thinking > 300
    rows = [solved, thinking + answer + 1, thinking, answer, truncated, truncated & ~solved]
    return {"x": {figure: row.mean(axis=0).tolist() for figure, row in zip(FIGURES, rows, strict=True)}}


def failures(runs: int, bands: Bands, **change: Any) -> float:
    """Share of checks that fail; the problems are the same ones in a baseline and its check."""
    rng = np.random.default_rng(1)
    ease = rng.beta(3, 1.5, P)
    failed = 0
    for _ in range(runs):
        changes = check.compare(draw(rng, ease), draw(rng, ease, **change), bands, draws=2000)
        failed += any(c.moved for c in changes)
    return failed / runs


NO_MINIMUM = {"minimum_share": 0.0, "minimum_relative": 0.0}


@pytest.mark.parametrize("false_alarm", [0.05, 0.2])
def test_false_alarms_come_at_the_stated_rate_at_most(false_alarm: float) -> None:
    """Three standard errors of 400 runs above it; and well above nothing, since the six figures go together."""
    rate = failures(400, Bands(false_alarm=false_alarm, **NO_MINIMUM))
    assert false_alarm / 8 < rate < false_alarm + 3 * (false_alarm / 400) ** 0.5


@pytest.mark.parametrize("change", [{"accuracy": -0.2}, {"longer": 1.25}, {"longer": 0.8}])
def test_a_real_shift_is_found(change: dict[str, float]) -> None:
    """At the default rate, with the slice of our own check: 64 problems, 8 samples."""
    assert failures(40, Bands(), **change) > 0.95


def test_a_single_figure_s_test_is_exact() -> None:
    """On symmetric differences of any shape, far-out ones included, the level is met, not only bounded."""
    rng = np.random.default_rng(2)
    level, runs = 0.1, 1000
    data = rng.standard_cauchy((runs, 20, 1))
    moved = [abs(d.mean()) > check.sign_flip_band(d, level, draws=999)[0] for d in data]
    assert np.mean(moved) == pytest.approx(level, abs=3 * (level * (1 - level) / runs) ** 0.5)


def test_the_band_is_that_of_all_sign_patterns() -> None:
    import itertools

    differences = np.random.default_rng(3).normal(size=(10, 2))
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = np.quantile(np.abs(signs @ differences / 10), 0.9, axis=0)
    assert check.sign_flip_band(differences, 0.1, draws=50_000) == pytest.approx(exact, rel=0.02)


@given(arrays(float, st.tuples(st.integers(12, 20), st.just(1)), elements=st.floats(-100, 100, width=32)))
@settings(deadline=None, max_examples=50)
def test_bands_know_no_sign_and_scale_with_the_data(differences: np.ndarray) -> None:
    band = check.sign_flip_band(differences, 0.05, draws=400)
    assert 0 <= band[0] <= np.abs(differences).mean() + 1e-9
    assert check.sign_flip_band(-differences, 0.05, draws=400) == pytest.approx(band)
    assert check.sign_flip_band(4 * differences, 0.05, draws=400) == pytest.approx(4 * band)


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 6), (0.01, 8), (0.01 / 6, 11)])
def test_too_few_problems_can_reject_nothing(rate: float, needed: int) -> None:
    assert check.problems_needed(rate) == needed
    assert 2 / 2**needed <= rate < 2 / 2 ** (needed - 1)
    one_sided = np.ones((needed, 1))
    assert np.isinf(check.sign_flip_band(one_sided[:-1], rate))[0]
    many = check.sign_flip_band(np.ones((needed + 8, 1)), rate)
    assert many[0] < 1


def test_equal_runs_move_nothing_and_small_steps_stay_within_the_minimum() -> None:
    before = draw(np.random.default_rng(0), np.full(P, 0.7))
    changes = check.compare(before, before, Bands(**NO_MINIMUM))
    assert all((c.difference, c.errors, c.band, c.moved) == (0, 0, 0, False) for c in changes)
    assert [c.figure for c in changes] == list(FIGURES)

    def shifted(by: float) -> Values:
        return {"x": {**before["x"], "tokens": [value * by for value in before["x"]["tokens"]]}}

    assert not any(c.moved for c in check.compare(before, shifted(1.009), Bands()))
    moved = [c for c in check.compare(before, shifted(1.02), Bands()) if c.moved]
    assert [c.figure for c in moved] == ["tokens"]
    assert moved[0].errors > 5 and moved[0].difference == pytest.approx(0.02 * moved[0].before)
    assert [c.moved for c in check.compare(before, shifted(0.98), Bands()) if c.figure == "tokens"] == [True]


def test_problem_means() -> None:
    def line(problem: str, correct: bool, total: int, finish: str, tags: int) -> dict[str, Any]:
        tokens = {"total": total, "thinking": total - 3, "answer": 2}
        return {
            "task": "x", "problem_id": problem, "correct": correct, "tokens": tokens, "finish": finish,
            "think_tags": tags, "parse_failed": False, "counted": "generated", "text": "a" + tags * "</think>",
        }  # fmt: skip

    lines = [line("b", True, 10, "stop", 1), line("b", False, 20, "length", 0), line("a", True, 30, "stop", 1)]
    problems, values = check.problem_means(lines)
    assert problems == {"x": ["b", "a"]}
    assert values["x"] == {
        "accuracy": [0.5, 1],
        "tokens": [15, 30],
        "thinking_tokens": [12, 27],
        "answer_tokens": [2, 2],
        "truncated": [0.5, 0],
        "missing_think_end": [0.5, 0],
    }


# the command, with made-up evaluations of the testbed's problems


class Sampler:
    """Stands for `run_eval`: draws made-up samples, as good and as long as it is told, and notes its calls."""

    def __init__(self) -> None:
        self.accuracy, self.longer = 0.8, 1.0
        self.calls: list[dict[str, Any]] = []

    def __call__(self, model: str, tasks: list[str], out: Path, **options: Any) -> None:
        self.calls.append({"model": model, "tasks": tasks, **options})
        rng = np.random.default_rng(options["seed"])
        lines = []
        for name, task in evaluate.load_tasks(tasks).items():
            for doc in evaluate.problems_of(task, options["limit"]):
                for k in range(options["samples"]):
                    thinking = int(rng.lognormal(4, 0.5) * self.longer)
                    tokens = {"total": thinking + 11, "thinking": thinking, "answer": 10}
                    right = bool(rng.random() < self.accuracy)
                    line = {"task": name, "problem_id": doc["id"], "k": k, "correct": right, "tokens": tokens}
                    line |= {"parse_failed": False, "counted": "generated"}
                    lines.append({**line, "finish": "stop", "think_tags": 1, "text": "a</think>b"})
        (out / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch) -> Sampler:
    made = Sampler()
    monkeypatch.setattr(evaluate, "run_eval", made)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_write_then_check(sampler: Sampler, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "baseline.json")
    code, out, _ = run(capsys, "--write", file, "--limit", "20", "--samples", "3", "--seed", "5")
    assert code == 0 and "written" in out
    content = json.loads(Path(file).read_text())
    asked = {"limit": 20, "samples": 3, "seed": 5}
    assert content["settings"] == {**asdict(Settings(tasks=["attnpo_testbed_test"])), **asked}
    assert {len(numbers) for numbers in content["values"]["attnpo_testbed_test"].values()} == {20}
    assert content["versions"]["lm_eval"] and len(content["model"]["sha256"]) == 64

    code, out, err = run(capsys, "--against", file)
    assert (code, err) == (0, "")
    assert "0 of 6 figures left their band" in out and "1.0%" in out and "MOVED" not in out
    assert sampler.calls[0] == sampler.calls[1]

    sampler.accuracy, sampler.longer = 0.3, 1.5
    code, out, _ = run(capsys, "--against", file, "--model", str(tmp_path))
    assert code == 1
    assert sampler.calls[2] == {**sampler.calls[0], "model": str(tmp_path)}
    moved = [line for line in out.splitlines() if "MOVED" in line]
    assert [line.split()[1] for line in moved] == ["accuracy", "tokens", "thinking_tokens"]
    assert "attnpo_testbed_test" in out and "standard" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --against FILE, to check, or --write FILE"),
        (["--against", "a.json", "--write", "b.json"], "give either --against"),
        (
            ["--against", "missing.json"],
            "missing.json: No such file or directory; write it first: attnpo check --write",
        ),
        (["--against", "missing.json", "--seed", "1"], "--seed: missing.json holds the settings"),
        (["--against", "missing.json", "--false-alarm", "0.1"], "--false-alarm: missing.json holds the settings"),
        (
            ["--write", "x.json", "--limit", "4"],
            "4 problems can show no change at a false-alarm rate of 0.01; take at least 11",
        ),
        (["--write", "x.json", "--samples", "0"], "check: samples: 0 must be at least 1"),
        (["--write", "x.json", "--false-alarm", "0"], "check: false_alarm: 0.0 must be above 0"),
        (["--write", "x.json", "--tasks", "attnpo_none"], "there is no task 'attnpo_none'"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    sampler: Sampler, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, _, err = run(capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_an_unforeseen_error_is_not_taken_for_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "run_eval", lambda *_, **__: 1 / 0)
    code, *_ = run(capsys, "--write", str(tmp_path / "x.json"))
    assert code == 2


def test_other_problems_are_refused(sampler: Sampler, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "baseline.json"
    run(capsys, "--write", str(file), "--limit", "12")
    content = json.loads(file.read_text())
    content["data"]["attnpo_testbed_test"] = "0" * 64
    file.write_text(json.dumps(content))
    sampler.calls.clear()
    code, _, err = run(capsys, "--against", str(file))
    assert code == 2 and "the problems of attnpo_testbed_test are not those of the baseline" in err
    assert not sampler.calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, expected 1; write it again"),
        ({"settings": {"tasks": ["x"], "seeds": 1}}, "settings.seeds: unknown key, did you mean 'seed'"),
        ({"problems": {"x": ["a"]}}, "values of x do not fit its problems"),
    ],
)
def test_a_file_that_is_no_baseline(
    sampler: Sampler, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "baseline.json"
    run(capsys, "--write", str(file), "--limit", "12", "--samples", "1")
    assert check.read(file).settings.limit == 12
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(AttnPOError, match=message):
        check.read(file)
    file.write_text("{")
    with pytest.raises(AttnPOError, match="not JSON"):
        check.read(file)


# our own regression check


@pytest.mark.slow
def test_the_embedded_model_is_within_its_band(capsys: pytest.CaptureFixture[str]) -> None:
    """Written by `attnpo check --write results/tiny/baseline.json`; to be renewed with the embedded model."""
    file = ROOT / "results" / "tiny" / "baseline.json"
    code, out, err = run(capsys, "--against", str(file))
    assert code == 0, out + err
