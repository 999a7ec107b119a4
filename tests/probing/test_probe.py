"""The probe on the embedded model: it finds heads that tell essential from redundant steps, and goes on when killed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import attnpo.probing.probe
from attnpo.errors import AttnPOError
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import run_probe
from attnpo.runs.profile import Profile, load_profile


@pytest.fixture
def profile() -> Profile:
    tiny = load_profile("tiny")
    probe = dataclasses.replace(tiny.probe, problems=32, samples=2, batch_size=32, bootstrap=100)
    return dataclasses.replace(tiny, probe=probe)


def test_it_finds_three_key_focus_heads_and_recomputes_no_sample(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = HeadRanking.load(run_probe(profile, tmp_path))
    assert len(ranking.heads) == 32
    # The card's top three are at .8 and above; 64 responses leave a standard error of about .03.
    assert all(head.sra > 0.74 for head in ranking.best(3))
    middle = sorted(head.sra for head in ranking.heads)[16]
    assert middle < 0.7
    rows = [json.loads(line) for path in (tmp_path / "samples").iterdir() for line in path.read_text().splitlines()]
    assert len(rows) == 64

    # a killed probe samples what is missing, nothing else, and ends with the same ranking
    before = (tmp_path / "heads.json").read_bytes()
    (tmp_path / "heads.json").unlink()
    (tmp_path / "samples" / "00001.jsonl").unlink()
    sampled = []
    original = attnpo.probing.probe.sample

    def counting(model, tokenizer, texts, **options):  # type: ignore[no-untyped-def]
        sampled.append(len(texts))
        return original(model, tokenizer, texts, **options)

    monkeypatch.setattr(attnpo.probing.probe, "sample", counting)
    run_probe(profile, tmp_path)
    assert sampled == [32]
    assert (tmp_path / "heads.json").read_bytes() == before


def test_data_without_labels_is_refused(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match=r"no step labels for data 'some.jsonl'; labels are known for testbed"):
        run_probe(dataclasses.replace(profile, data="some.jsonl"), tmp_path)


def test_no_pair_of_steps_is_an_error_with_the_remedies(profile: Profile, tmp_path: Path) -> None:
    cut_short = dataclasses.replace(profile.probe, max_completion_tokens=3)
    with pytest.raises(AttnPOError, match="none of 0 correct responses.*raise probe.problems"):
        run_probe(dataclasses.replace(profile, probe=cut_short), tmp_path)
