"""The probe on the embedded model: it finds heads that tell essential from redundant steps, and goes on when killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import attnpo.probing.probe
import attnpo.sampling.transformers
from attnpo.errors import AttnPOError
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import run_probe
from attnpo.probing.settings import ProbeSection, Source
from attnpo.runs.profile import Profile, load_profile
from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import prompt_ids
from attnpo.sampling.transformers import TransformersSampler
from attnpo.testbed import EMBEDDED, load_problems


@pytest.fixture
def profile() -> Profile:
    return load_profile("tiny")


def run(profile: Profile, folder: Path, **changes: Any) -> Path:
    """The probe of the profile, smaller and with some settings of its section changed."""
    small = {"problems": 32, "samples": 2, "batch_size": 32, "bootstrap": 100}
    return run_probe(profile.source, profile.steps, ProbeSection(**{**vars(profile.probe), **small, **changes}), folder)


def test_it_finds_three_key_focus_heads_and_recomputes_no_sample(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = HeadRanking.load(run(profile, tmp_path))
    assert len(ranking.heads) == 32
    # The card's best is above .9, its second about .8; 64 responses leave a standard error of about .03.
    first, second = ranking.best(2)
    assert first.sra > 0.84 and second.sra > 0.7
    middle = sorted(head.sra for head in ranking.heads)[16]
    assert middle < 0.7
    samples = tmp_path / "samples.jsonl"
    lines = samples.read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    assert len({(row["problem_id"], row["k"]) for row in rows}) == len(rows) == 64

    # a killed probe samples the batch that is not whole, nothing else, and ends with the same samples and ranking
    before = (tmp_path / "heads.json").read_bytes()
    (tmp_path / "heads.json").unlink()
    samples.write_text("".join(lines[:40]) + lines[40][:30])
    sampled = []
    original = attnpo.sampling.transformers.sample

    def counting(model, tokenizer, prompts, **options):  # type: ignore[no-untyped-def]
        sampled.append(len(prompts))
        return original(model, tokenizer, prompts, **options)

    monkeypatch.setattr(attnpo.sampling.transformers, "sample", counting)
    run(profile, tmp_path)
    assert sampled == [32]
    assert samples.read_text() == "".join(lines)
    assert (tmp_path / "heads.json").read_bytes() == before


def test_the_sampler_of_the_backend_is_closed_before_the_model_is_loaded(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    model = load_model(EMBEDDED)

    class Recording(TransformersSampler):
        def close(self) -> None:
            events.append("closed")

    def make(backend: str, name: str, revision: str | None, **options: Any) -> Recording:
        events.append((backend, name, revision, options["max_model_len"]))
        return Recording(*model, options["batch_size"])

    def load(*_: Any) -> Any:
        events.append("loaded")
        return model

    monkeypatch.setattr(attnpo.probing.probe, "make_sampler", make)
    monkeypatch.setattr(attnpo.probing.probe, "load_model", load)
    first = run(profile, tmp_path, problems=8, backend="vllm")
    prompts = prompt_ids(model[1], [problem.text for problem in load_problems(EMBEDDED, "train")[:8]])
    room = max(map(len, prompts)) + profile.probe.max_completion_tokens
    assert events == [("vllm", EMBEDDED, None, room), "closed", "loaded"]
    del events[:]
    assert run(profile, tmp_path, problems=8, backend="vllm") == first
    assert events == ["loaded"]  # nothing is missing


def test_data_without_labels_is_refused(profile: Profile, tmp_path: Path) -> None:
    message = r"labels .oracle. are known for testbed, testbed-large alone, not for data .some.jsonl."
    with pytest.raises(AttnPOError, match=message):
        run_probe(Source(model=EMBEDDED, revision=None, data="some.jsonl"), profile.steps, profile.probe, tmp_path)


def test_no_pair_of_steps_is_an_error_with_the_remedies(profile: Profile, tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="none of 0 correct responses.*raise probe.problems"):
        run(profile, tmp_path, max_completion_tokens=3)
