"""Who says which steps are essential: the oracle, and the first step that states the gold answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import attnpo.probing.probe
from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.method.scores import Response
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.probing.labels import BY_TEXT, Labels, check_labels, first_answer_labels
from attnpo.probing.probe import labeler_for
from attnpo.probing.settings import LabelSource, ProbeSection, Source
from attnpo.problems.problem import Problem
from attnpo.sampling.models import load_tokenizer
from attnpo.schema import build
from attnpo.testbed import EMBEDDED, load_problems
from attnpo.testbed.problems import ChainProblem

PROBLEM = Problem("x", "What is 6 * 7?", "42")
STEPS = ["First, 6 * 7 is needed.", "Then 6 * 7 = 42.", "Wait, 7 * 6 = 42, yes.", "So 42."]


def test_steps_behind_the_first_answer_are_redundant() -> None:
    assert first_answer_labels(PROBLEM, STEPS) == [True, True, False, False]


@pytest.mark.parametrize("steps", [STEPS[:2], ["Hm.", "Hm?"], [], ["So 42."]])
def test_a_response_that_states_it_last_or_never_is_unlabelled(steps: list[str]) -> None:
    assert first_answer_labels(PROBLEM, steps) == [None] * len(steps)


def test_the_oracle_knows_the_testbed_alone() -> None:
    check_labels(list(BY_TEXT), EMBEDDED)
    check_labels(["first_answer", "ablation"], "mine.jsonl")
    with pytest.raises(AttnPOError, match="'oracle' are known for testbed.* not for data 'mine.jsonl'; .*first_answer"):
        check_labels(["first_answer", "oracle"], "mine.jsonl")


def ranking(**changes: Any) -> HeadRanking:
    about: dict[str, Any] = {
        "model": "m",
        "revision": None,
        "phrase_set": "corrected",
        "min_chars": 80,
        "label_source": "first_answer",
        "n_responses": 100,
        "n_pairs": 900,
        "heads": (RankedHead(0, 0, 0.8, 0.75, 0.85), RankedHead(0, 1, 0.55, 0.48, 0.62)),
    }
    return HeadRanking(**{**about, **changes})


def test_thin_evidence_is_named() -> None:
    assert ranking().doubts(1) == []
    assert ranking().doubts(2) == ["not clearly above chance, .5: (0, 1) at 0.550"]
    assert ranking(n_responses=7).doubts(1) == ["only 7 responses have steps of both kinds, 30 are wanted"]
    wide = ranking(heads=(RankedHead(0, 0, 0.8, 0.6, 0.95),))
    assert wide.doubts(3) == ["an interval of Step Ranking Accuracy is 0.35 wide, at most 0.2 is wanted"]


@pytest.fixture
def own_problems(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl"
    rows = [{"id": p.id, "problem": p.text, "answer": p.answer} for p in load_problems(EMBEDDED, "validation")[:64]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def probe(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `attnpo probe`."""
    code = main(["probe", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_heads_are_found_for_problems_of_one_s_own_without_a_profile(
    own_problems: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "probe"
    asked = ["--model", EMBEDDED, "--data", str(own_problems), "--labels", "first_answer", "--results", str(results)]
    small = ["--samples", "1", "--max-tokens", "256", "--min-chars", "1", "--batch-size", "64"]
    code, out, err = probe(capsys, *asked, *small)
    assert code == 0, err
    path = Path(out.splitlines()[-1])
    found = HeadRanking.load(path)
    assert found.label_source == "first_answer" and found.n_responses >= 20
    assert (path.parent / "figures" / "heads.png").is_file()
    best = [[head.layer, head.head] for head in found.best(3)]
    doubts = found.doubts(3)
    assert out.splitlines()[0] == (
        f"the evidence is too thin to name heads: {'; '.join(doubts)}; raise --problems or --samples"
        if doubts
        else f"heads: {best}"
    )
    before = path.read_bytes()
    assert probe(capsys, *asked, *small)[:2] == (0, out)  # done already
    assert path.read_bytes() == before
    code, out, _ = probe(capsys, *asked, *small, "--problems", "8")
    assert code == 0 and "too thin" in out and not out.startswith("heads")

    # other steps and labels ask for no other responses, another temperature does
    def sample(*_: Any, **__: Any) -> None:
        raise ConnectionError("it samples")

    monkeypatch.setattr(attnpo.probing.probe, "make_sampler", sample)
    small[small.index("--min-chars") + 1] = "2"
    code, out, err = probe(capsys, *asked, *small)
    assert code == 0, err
    assert Path(out.splitlines()[-1]).parent != path.parent
    assert (
        Path(out.splitlines()[-1]).with_name("samples.jsonl").read_bytes()
        == path.with_name("samples.jsonl").read_bytes()
    )
    assert "it samples" in probe(capsys, *asked, *small, "--temperature", "0.5")[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "give either --profile NAME, or --model MODEL, --data FILE and --labels SOURCE"),
        (["--model", EMBEDDED, "--data", "x.jsonl"], "give either --profile"),
        (["--profile", "tiny", "--max-tokens", "7"], "--max-tokens is the profile's business"),
        (["--model", EMBEDDED, "--data", "x.jsonl", "--labels", "first_answer"], "no such data file"),
        (["--model", EMBEDDED, "--data", EMBEDDED, "--labels", "oracle", "--samples", "0"], "samples"),
    ],
)
def test_a_wrong_call_says_so_in_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = probe(capsys, *words)
    assert code != 0 and line in err and len(err.splitlines()) == 1 and not out


def test_of_several_sources_the_labels_on_which_all_agree_count() -> None:
    tokenizer = load_tokenizer(EMBEDDED)
    problem = load_problems(EMBEDDED, "train")[0]
    assert isinstance(problem, ChainProblem)
    lines = []
    for (op, n), value, result in zip(problem.ops, problem.values, problem.values[1:], strict=False):
        lines += [f"Then {value} {op} {n} = {result}.", f"Wait, {value} {op} {n} = {result}, yes."]
    text = "\n".join([*lines, "</think>", f"\\boxed{{{problem.answer}}}"])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    row = (problem, Response([1], ids, align_steps(ids, token_bytes_table(tokenizer), "corrected", 1)))

    def labels(*sources: LabelSource) -> Labels:
        about: dict[str, Any] = {"problems": 1, "samples": 1, "max_completion_tokens": 8}
        section = ProbeSection(labels=sources[0] if len(sources) == 1 else list(sources), **about)
        source = Source(model=EMBEDDED, revision=None, data=EMBEDDED)
        (found,) = labeler_for(section, source, tokenizer, Path("unused"))([row])
        return found

    exact, first = labels("oracle"), labels("first_answer")
    assert exact == [True, False] * len(problem.ops)
    assert labels("oracle", "first_answer") == [a if a == b else None for a, b in zip(exact, first, strict=True)]


@pytest.mark.parametrize("wrong", ["opinion", ["oracle"], ["oracle", "oracle"], ["oracle", "opinion"], []])
def test_unknown_sources_are_refused(wrong: Any) -> None:
    with pytest.raises(AttnPOError, match=r"^x: labels"):
        build(ProbeSection, {"problems": 1, "samples": 1, "max_completion_tokens": 8, "labels": wrong}, "x")
