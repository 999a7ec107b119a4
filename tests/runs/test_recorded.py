"""Recorded runs stay valid: the ids that the profiles plan are those under results/."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fakes import fake_profile
from places import ROOT
from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError
from attnpo.runs import plan
from attnpo.runs.plan import Job, plan_artefacts, plan_runs, probe_spec, study_spec, train_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.settings import BASE_OF_TRIALS
from attnpo.schema import STRICT
from attnpo.training.settings import TrainSection


def planned(name: str) -> dict[str, list[Job]]:
    profile = load_profile(name)
    results = ROOT / "results" / name
    plans = plan_artefacts(profile, results, profile.makes())
    trials = plan_runs(profile.trials(), results, BASE_OF_TRIALS)
    return {
        artefact: jobs for artefact, jobs in [*plans.items(), ("tune", trials)] if not isinstance(jobs, AttnPOError)
    }


def test_every_run_that_was_recorded_is_planned_and_taken() -> None:
    plans = planned("tiny")
    ids = {job.run.id for jobs in plans.values() for job in jobs}
    recorded = {path.parent.name for path in (ROOT / "results" / "tiny" / "raw").glob("*/manifest.json")}
    if not recorded:
        pytest.skip("no run of profile tiny is recorded on its present base yet")
    assert recorded <= ids


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LongerSection(TrainSection):
    new: int = 3


def test_a_new_setting_changes_no_id_of_a_run_that_does_not_set_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan._ALWAYS, LongerSection, plan._ALWAYS[TrainSection])
    profile = fake_profile(tmp_path)
    values = dataclasses.asdict(profile.train)
    before = train_spec(profile, "rloo", 0)
    assert train_spec(dataclasses.replace(profile, train=LongerSection(**values)), "rloo", 0) == before
    changed = train_spec(dataclasses.replace(profile, train=LongerSection(**values, new=4)), "rloo", 0)
    assert changed["train"] == {**before["train"], "new": 4}


def test_a_revision_of_the_data_is_in_an_id_where_it_is_set(tmp_path: Path) -> None:
    study = {"problems": 1, "samples": 1, "max_completion_tokens": 8, "heads": [[0, 0]]}
    identities = []
    for more in ({}, {"data_revision": None}, {"data_revision": "abc"}):
        profile = fake_profile(tmp_path, data="some/set", study=study, **more)
        specs = [probe_spec(profile), train_spec(profile, "rloo", 0), study_spec(profile, "responses")]
        identities.append({spec["problems"] for spec in specs})
    assert identities == [{"some/set"}, {"some/set"}, {"some/set@abc"}]


def test_what_samples_is_in_an_id_unless_it_is_transformers(tmp_path: Path) -> None:
    study = {"problems": 1, "samples": 1, "max_completion_tokens": 8, "heads": [[0, 0]]}
    probe = {"problems": 2, "samples": 1, "max_completion_tokens": 8}
    specs = []
    for more in ({}, {"backend": "hf"}, {"backend": "vllm"}):
        profile = fake_profile(tmp_path, study=study | more, probe=probe | more)
        kinds = [study_spec(profile, kind) for kind in ("responses", "intervention")]
        specs.append([probe_spec(profile)["probe"], *(spec["study"] for spec in kinds)])
    assert specs[0] == specs[1]
    assert all("backend" not in spec for spec in specs[0])
    assert all(vllm == {**hf, "backend": "vllm"} for hf, vllm in zip(specs[0], specs[2], strict=True))


def test_specs_keep_the_names_that_settings_had(tmp_path: Path) -> None:
    target = {"text": "Think for {n} tokens.", "low": 1, "high": 2, "evaluate": 1}
    method = {"label": "A", "reward": "tlmre", "attnpo": True, "credit": {"variant": "summary"}}
    profile = fake_profile(tmp_path, methods={"a": {**method, "target_length": target}}, credit={"warmup_steps": 5})
    settings = train_spec(profile, "a", 0)["settings"]
    assert settings["tell"] == target
    assert settings["credit"] == {"warmup_steps": 5, "reading": "summary"}
    assert set(settings) == {"reward", "reward_args", "attnpo", "credit", "heads", "tell"}
