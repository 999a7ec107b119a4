"""Studies of the heads: the pure parts by hand, the runs on the embedded model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import fake_profile

from attnpo.errors import AttnPOError
from attnpo.method.scores import Response
from attnpo.method.steps import Step, TokenSteps
from attnpo.probing import studies
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.probing.removal import kept_ids
from attnpo.runs.profile import Profile
from attnpo.sampling.models import load_model
from attnpo.testbed import MODEL_DIR

NAN = float("nan")


def test_dropped_steps_by_hand() -> None:
    scores = torch.tensor([0.3, 0.1, NAN, 0.9, 0.2])
    draw = random.Random(0)
    drop = {c: studies.dropped_steps(scores, c, 0.5, draw) for c in studies.CONDITIONS}
    assert drop["whole"] == set()
    assert drop["lowest"] == {1, 4}
    assert drop["highest"] == {0, 3}
    assert len(drop["random"]) == 2
    assert 2 not in drop["random"]  # it has no tokens
    assert studies.dropped_steps(scores, "highest", 0.3, draw) == {0, 3}  # rounded up
    assert studies.dropped_steps(scores, "lowest", 1.0, draw) == {0, 1, 4}  # one is left


def test_kept_ids_leaves_out_the_steps_and_the_answer() -> None:
    step = Step(0, 1, 1, None)
    steps = TokenSteps([0, 0, 1, 2, -1, -1, -1], [step] * 3, (0, 4), (5, 7), "")
    response = Response([9], [10, 11, 12, 13, 14, 15, 16], steps)
    assert kept_ids(response, {0}) == [12, 13, 14]
    assert kept_ids(response, {1, 2}) == [10, 11, 14]
    assert kept_ids(response, set()) == [10, 11, 12, 13, 14]


def test_correlation_against_numpy_s() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(3, 400, generator=generator)
    other = one * torch.tensor([[1.0], [0.5], [-1.0]]) + torch.randn(3, 400, generator=generator)
    problems = [f"p{i // 4}" for i in range(400)]
    found = studies.correlation(one, other, problems, draws=500)
    for estimate, a, b in zip(found, one, other, strict=True):
        r = float(np.corrcoef(a, b)[0, 1])
        assert estimate.value == pytest.approx(r)
        width = 2 * 1.96 * (1 - r * r) / 400**0.5  # of 400 independent pairs
        assert estimate.high - estimate.low == pytest.approx(width, rel=0.25)
    assert all(e.low == pytest.approx(1) for e in studies.correlation(one, 3 * one + 2, problems, draws=50))
    copies = studies.correlation(one.repeat(1, 4), other.repeat(1, 4), problems * 4, draws=500)
    for single, copied in zip(found, copies, strict=True):  # more steps of the same problems are no more evidence
        assert copied == pytest.approx(single)
    with pytest.raises(AttnPOError, match="undefined"):
        studies.correlation(one, torch.ones(3, 400), problems)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Path, Path]:
    """A profile, its sampled responses and a ranking made up."""
    folder = tmp_path_factory.mktemp("study")
    study = {"problems": 3, "samples": 2, "max_completion_tokens": 192, "ensemble": 3, "answer_tokens": 96}
    steps = {"phrases": "corrected", "min_chars": 1}
    probe = {"problems": 1, "samples": 1, "max_completion_tokens": 8, "bootstrap": 10}
    profile = fake_profile(folder, study=study, steps=steps, probe=probe)
    torch.manual_seed(0)
    responses = studies.run_responses(profile.source, profile.studied(), folder)
    heads = tuple(RankedHead(la, h, 0.5 + h / 100, 0.4, 0.7) for la in range(4) for h in range(8))
    about = {"model": "testbed", "revision": None, "phrase_set": "corrected", "min_chars": 1, "label_source": "-"}
    HeadRanking(**about, n_responses=1, n_pairs=1, heads=heads, greedy=((0, 1), (0, 2), (0, 3))).save(
        folder / "heads.json"
    )  # type: ignore[arg-type]
    return profile, responses, folder / "heads.json"


@pytest.mark.slow
def test_intervention_answers_to_what_is_left(studied: tuple[Profile, Path, Path], tmp_path: Path) -> None:
    profile, responses, heads_file = studied
    study = profile.studied()
    heads = studies.key_focus_heads(study, heads_file, profile.probe.heads)
    path = studies.run_intervention(profile.source, profile.steps, study, heads, responses, tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["condition"] for row in rows[:4]] == list(studies.CONDITIONS)
    numbers = {row["response"] for row in rows}
    assert len(rows) == 4 * len(numbers)
    for row in rows:
        assert (row["dropped"] == 0) == (row["condition"] == "whole")
        assert row["dropped"] < row["steps"]
        assert 0 <= row["dropped_essential"] <= row["dropped"]
    whole = [row for row in rows if row["condition"] == "whole"]
    # to its own whole thinking the model mostly gives the answer that it gave before
    assert sum(row["correct"] == row["was_correct"] for row in whole) >= len(whole) - 2
    path.unlink()
    answers = tmp_path / "answers.jsonl"
    stamp = answers.stat().st_mtime_ns
    again = studies.run_intervention(profile.source, profile.steps, study, heads, responses, tmp_path)
    assert [json.loads(line) for line in again.read_text().splitlines()] == rows
    assert answers.stat().st_mtime_ns == stamp  # what is there is not sampled again


@pytest.mark.slow
def test_ensemble_and_stability_on_the_embedded_model(studied: tuple[Profile, Path, Path], tmp_path: Path) -> None:
    profile, responses, heads_file = studied
    source, steps, study = profile.source, profile.steps, profile.studied()
    ensemble = studies.run_ensemble(source, steps, study, profile.probed(), responses, heads_file, tmp_path)
    rows = json.loads(ensemble.read_text())
    orders = ("best", "greedy", "random")
    assert [(row["order"], row["n"]) for row in rows] == [(order, n) for order in orders for n in (1, 2, 3)]
    assert rows[5]["heads"] == [[0, 1], [0, 2], [0, 3]]
    assert rows[2]["heads"] == [[0, 7], [1, 7], [2, 7]]
    assert all(0 <= row["low"] <= row["sra"] <= row["high"] <= 1 for row in rows)
    model, tokenizer = load_model("testbed")
    with torch.no_grad():
        for parameter in model.model.layers[0].parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    models = {2: MODEL_DIR, 4: tmp_path / "other"}
    heads = studies.key_focus_heads(study, heads_file, profile.probe.heads)
    rows = json.loads(studies.run_stability(source, steps, study, heads, responses, models, tmp_path).read_text())
    assert len(rows) == 2 * 32
    assert all(row["r"] == pytest.approx(1, abs=1e-6) for row in rows if row["step"] == 2)
    assert all(row["low"] <= row["r"] <= row["high"] for row in rows)
    changed = [row["r"] for row in rows if row["step"] == 4]
    assert -1 <= min(changed) < 0.99
    assert {(row["layer"], row["head"]) for row in rows if row["key_focus"]} == {(0, 7), (1, 7), (2, 7)}


def test_what_cannot_be_studied_is_said(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="no section 'study'"):
        fake_profile(tmp_path).studied()
    study = {"problems": 1, "samples": 1, "max_completion_tokens": 8}
    with pytest.raises(AttnPOError, match="run `attnpo probe` first"):
        studies.key_focus_heads(fake_profile(tmp_path, study=study).studied(), None, 3)
    listed = fake_profile(tmp_path, study={**study, "heads": [[1, 2]]})
    assert studies.key_focus_heads(listed.studied(), None, 3) == [(1, 2)]
