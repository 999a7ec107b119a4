from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import PROFILE, fake_profile, write_profile

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.runs.profile import load_profile
from attnpo.schema import merge


def changed(folder: Path, section: str | None, key: str, value: object) -> str:
    """A profile file with one key set; a value of `...` removes it."""
    mapping = yaml.safe_load(yaml.safe_dump(PROFILE))
    target = mapping if section is None else mapping[section]
    if value is ...:
        del target[key]
    else:
        target[key] = value
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return str(path)


def test_values_and_defaults_are_read(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path)
    assert profile.train.steps == 4
    assert profile.train.group_size == 8
    assert list(profile.methods) == ["rloo", "tlmre", "attnpo"]
    assert profile.method("tlmre").reward_args == {"alpha": 0.2}
    assert [name for name, method in profile.methods.items() if method.needs_probe] == ["attnpo"]


def test_a_revision_of_data_that_is_not_on_the_hub_is_refused(tmp_path: Path) -> None:
    assert fake_profile(tmp_path, data="some/set", data_revision="abc").source.data_revision == "abc"
    for data in ("testbed", "problems.jsonl"):
        with pytest.raises(AttnPOError, match=f"fake.yaml: data_revision: 'abc' .* data is '{data}'; remove it"):
            fake_profile(tmp_path, data=data, data_revision="abc")


def test_quick_is_merged_key_by_key_and_kept_apart(tmp_path: Path) -> None:
    quick = fake_profile(tmp_path, quick=True)
    assert (quick.train.steps, quick.seeds) == (2, [0])
    assert quick.train.learning_rate == 1e-3
    assert quick.results_name == "fake-quick"
    assert fake_profile(tmp_path).results_name == "fake"


def test_the_seeds_of_quick_are_those_of_every_method_and_artefact(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "method_seeds": {"rloo": [0, 1, 2, 3]},
        "artefacts": {"table3": {"methods": ["rloo"], "seeds": [1, 2]}},
    }
    whole = fake_profile(tmp_path, **changes).narrowed("table3")
    assert (whole.seeds, whole.seeds_of("rloo")) == ([1, 2], [0, 1, 2, 3])
    quick = fake_profile(tmp_path, quick=True, **changes).narrowed("table3")
    assert (quick.seeds, quick.seeds_of("rloo")) == ([0], [0])


def test_merge_changes_neither_side() -> None:
    base, overlay = {"a": {"b": 1, "c": 2}, "d": [1, 2]}, {"a": {"b": 3}, "d": [4]}
    assert merge(base, overlay) == {"a": {"b": 3, "c": 2}, "d": [4]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1, 2]}


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "learning_rat", 1.0, r"changed\.yaml: train\.learning_rat: unknown .* 'learning_rate'\?"),
        (None, "metods", {}, r"changed\.yaml: metods: unknown key, did you mean 'methods'\?"),
        (None, "path", "x", r"path: unknown key"),
        ("train", "steps", ..., r"train\.steps: missing"),
        ("train", "steps", 4.5, r"train\.steps: 4\.5 is not a whole number"),
        ("train", "steps", True, r"train\.steps: True is not a whole number"),
        ("train", "learning_rate", "3e-4", r"train\.learning_rate: '3e-4' is not a number; .* 3\.0e-4"),
        ("evaluate", "tasks", "attnpo_testbed", r"evaluate\.tasks: 'attnpo_testbed' is not a list"),
        ("evaluate", "limit", "all", r"evaluate\.limit: 'all' is not a whole number or null"),
        (None, "train", 3, r"train: 3 is not a mapping"),
        ("train", "steps", 0, r"train\.steps: 0 must be at least 1"),
        ("train", "learning_rate", 0.0, r"train\.learning_rate: 0\.0 must be above 0"),
        ("probe", "temperature", 0, r"probe\.temperature: 0 must be above 0"),
        ("evaluate", "temperature", -0.1, r"evaluate\.temperature: -0\.1 must be at least 0"),
        ("evaluate", "top_p", 0, r"evaluate\.top_p: 0 must be above 0"),
        ("evaluate", "tasks", [], r"evaluate\.tasks: \[\] must have a length of at least 1"),
        (None, "seeds", [1, 1], r"seeds: \[1, 1\] must be different"),
        (None, "seeds", ["a"], r"seeds\[0\]: 'a' is not a whole number"),
        (None, "methods", {"base": {"label": "b", "reward": "rloo"}}, r"methods\.base: .* untrained"),
        (None, "methods", {"m": {"label": "b", "reward": "r", "heads": "best"}}, r"m\.heads: 'best'"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named(
    tmp_path: Path, section: str | None, key: str, value: object, message: str
) -> None:
    with pytest.raises(AttnPOError, match=message) as caught:
        load_profile(changed(tmp_path, section, key, value))
    assert "\n" not in str(caught.value)


def test_all_missing_keys_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text("train: {steps: 1, max_completion_tokens: 8}\n")
    with pytest.raises(AttnPOError, match=r"short\.yaml: name, train\.learning_rate, train\.save_steps: missing; add"):
        load_profile(str(tmp_path / "short.yaml"))


def test_explicit_heads_are_pairs(tmp_path: Path) -> None:
    method = {"label": "A", "reward": "tlmre", "attnpo": True, "heads": [[16, 2], [20, 9]]}
    profile = fake_profile(tmp_path, methods={"a": method})
    assert profile.method("a").heads == [(16, 2), (20, 9)]
    assert not profile.method("a").needs_probe


def test_missing_profiles_and_methods_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="no profile 'tinny', did you mean 'tiny'"):
        load_profile("tinny")
    with pytest.raises(AttnPOError, match="no such profile file"):
        load_profile(str(tmp_path / "none.yaml"))
    with pytest.raises(AttnPOError, match="no method 'atnpo', did you mean 'attnpo'"):
        fake_profile(tmp_path).method("atnpo")


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("train: [1,\n", encoding="utf-8")
    with pytest.raises(AttnPOError, match=r"broken\.yaml: not valid YAML") as caught:
        load_profile(str(tmp_path / "broken.yaml"))
    assert "\n" not in str(caught.value)


def test_earlier_names_of_keys_are_answered_with_those_of_now(tmp_path: Path) -> None:
    method = PROFILE["methods"]["attnpo"]
    for changes, message in (
        ({"tell": {}}, r"methods\.a\.tell: unknown key; it is called 'target_length' now"),
        ({"tune": [{"tell": {}}]}, r"methods\.a\.tune\[0\]\.tell: unknown key; it is called 'target_length' now"),
        ({"credit": {"reading": "summary"}}, r"methods\.a\.credit: 'reading' is called 'variant' now"),
    ):
        with pytest.raises(AttnPOError, match=rf"fake\.yaml: {message}"):
            fake_profile(tmp_path, methods={"a": {**method, **changes}})
    with pytest.raises(AttnPOError, match=r"fake\.yaml: credit: 'reading' is called 'variant' now"):
        fake_profile(tmp_path, credit={"reading": "summary"})


def test_quick_without_a_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AttnPOError, match="needs a section 'quick'"):
        load_profile(changed(tmp_path, None, "quick", ...), quick=True)


@pytest.mark.parametrize("quick", [False, True])
def test_the_repository_s_profiles_load(quick: bool) -> None:
    profiles = sorted((checkout_root() / "reproduce" / "profiles").glob("*.yaml"))
    assert profiles
    for path in profiles:
        profile = load_profile(path.stem, quick)
        assert profile.name == path.stem


TRIALS = {
    "kimi": {
        "label": "Kimi",
        "reward": "kimi",
        "reward_args": {"weight": 0.4},
        "grpo": {"epsilon_high": 0.28},
        "credit": {"floor": 0.1},
        "tune": [{"reward_args": {"weight": 0.2}}, {"credit": {"floor": 0.2}}],
    },
    "attnpo": {"label": "AttnPO", "reward": "tlmre", "attnpo": True},
}
TUNING = {"tasks": ["attnpo_testbed_validation"], "seeds": [7]}


def test_attnpo_goes_on_top_of_any_method(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path, methods=TRIALS, credit={"warmup_steps": 5, "floor": 0.5})
    section = profile.method("kimi+attnpo")
    assert (section.attnpo, section.needs_probe, section.label) == (True, True, "Kimi + AttnPO")
    assert section.reward_args == {"weight": 0.4}
    assert section.credit == {"warmup_steps": 5, "floor": 0.1}  # the method's own over the profile's
    assert profile.method("attnpo").credit == {"warmup_steps": 5, "floor": 0.5}
    assert not profile.method("kimi").attnpo
    for name, message in (
        ("attnpo+attnpo", "'attnpo' is rescaled by AttnPO already"),
        ("kimi+attnp", "no method 'kimi.attnp', did you mean 'attnpo'"),
        ("kimi+attnpo+attnpo", "no method"),
        ("kimi@3", "'kimi' has trials 1 to 2, not '3'"),
        ("kimi@0", "has trials 1 to 2, not '0'"),
        ("kimi@x", "not 'x'"),
    ):
        with pytest.raises(AttnPOError, match=message):
            profile.method(name)


def test_trials_are_merged_and_evaluated_on_validation_alone(tmp_path: Path) -> None:
    profile = fake_profile(tmp_path, methods=TRIALS, tuning=TUNING)
    first, second = profile.method("kimi@1"), profile.method("kimi@2+attnpo")
    assert (first.reward_args, first.credit, first.grpo) == ({"weight": 0.2}, {"floor": 0.1}, {"epsilon_high": 0.28})
    assert (second.reward_args, second.credit, second.attnpo) == ({"weight": 0.4}, {"floor": 0.2}, True)
    trials = profile.trials()
    assert (list(trials.methods), trials.seeds) == (["kimi@1", "kimi@2"], [7])
    assert trials.method("kimi@1").reward_args == {"weight": 0.2}
    for name in ("kimi@1", "kimi@2+attnpo", "base@"):
        assert profile.evaluation_of(name).tasks == ["attnpo_testbed_validation"]
    assert profile.evaluation_of("kimi+attnpo").tasks == profile.evaluation_of("base").tasks == ["attnpo_testbed"]
    with pytest.raises(AttnPOError, match="no method with trials: attnpo"):
        profile.trials(["attnpo"])
    untuned = fake_profile(tmp_path, methods=TRIALS)
    with pytest.raises(AttnPOError, match="no section 'tuning'"):
        untuned.trials()
    with pytest.raises(AttnPOError, match="'kimi@1' is a trial, but there is no section 'tuning'"):
        untuned.evaluation_of("kimi@1")
    wrong = {**TRIALS["kimi"], "tune": [{"reward_arg": {}}]}
    with pytest.raises(AttnPOError, match=r"fake\.yaml: methods\.kimi\.tune\[0\]\.reward_arg: unknown key"):
        fake_profile(tmp_path, methods={"kimi": wrong}, tuning=TUNING)


def test_an_artefact_names_its_methods_and_seeds(tmp_path: Path) -> None:
    artefacts = {"table3": {"methods": ["kimi+attnpo", "kimi"], "seeds": [4]}}
    profile = fake_profile(tmp_path, methods=TRIALS, artefacts=artefacts, method_seeds={"kimi": [0, 1, 2, 3, 4]})
    narrowed = profile.narrowed("table3")
    assert (list(narrowed.methods), narrowed.seeds) == (["kimi+attnpo", "kimi"], [4])
    assert narrowed.method("kimi+attnpo").attnpo
    assert (narrowed.seeds_of("kimi"), narrowed.seeds_of("kimi+attnpo")) == ([0, 1, 2, 3, 4], [4])
    assert narrowed.seeds_of("base") == [0, 1, 2, 3, 4]
    assert profile.narrowed("table1") is profile


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artefacts": {"table3": {"methods": ["kim"]}}}, "no method 'kim', did you mean 'kimi'"),
        ({"method_seeds": {"kimi": []}}, r"method_seeds\.kimi: \[\] must be different"),
        ({"method_seeds": {"kim": [1]}}, "no method 'kim'"),
        ({"methods": {"a@1": TRIALS["attnpo"]}}, r"methods\.a@1: .* have a meaning; rename it"),
        ({"methods": {"a+attnpo": TRIALS["attnpo"]}}, "have a meaning; rename it"),
        ({"methods": {"a": {**TRIALS["attnpo"], "n_heads": 0}}}, r"methods\.a\.n_heads: 0 must be at least 1"),
        (
            {"methods": {"a": {**TRIALS["attnpo"], "n_heads": 2, "heads": "all"}}},
            "heads top, worst or random, not 'all'",
        ),
        ({"methods": {"a": {**TRIALS["attnpo"], "estimator": "gae"}}}, r"methods\.a\.estimator: 'gae' is not"),
        ({"methods": {"a": {**TRIALS["attnpo"], "phrases": "mine"}}}, r"methods\.a\.phrases: 'mine'"),
        (
            {
                "methods": {
                    "a": {
                        **TRIALS["attnpo"],
                        "target_length": {"text": "Be short.", "low": 1, "high": 2, "evaluate": 1},
                    }
                }
            },
            r"methods\.a\.target_length: needs {n} in its text",
        ),
    ],
)
def test_wrong_compositions_are_named_when_the_file_is_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AttnPOError, match=message) as caught:
        fake_profile(tmp_path, **{"methods": TRIALS, **changes})
    assert "\n" not in str(caught.value)


def test_a_profile_extends_another_beside_it(tmp_path: Path) -> None:
    write_profile(tmp_path)
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: fake.yaml\nname: child\ntrain: {steps: 9}\nmethods: {tlmre: {reward_args: {alpha: 0.4}}}\n"
    )
    profile, parent = load_profile(str(child)), load_profile(str(tmp_path / "fake.yaml"))
    assert (profile.name, profile.train.steps) == ("child", 9)
    assert profile.train.save_steps == parent.train.save_steps
    assert profile.method("tlmre").reward_args == {"alpha": 0.4}
    assert profile.methods["rloo"] == parent.methods["rloo"]
    for name in ("child.yaml", "nowhere.yaml"):
        child.write_text(f"extends: {name}\nname: child\n")
        with pytest.raises(AttnPOError, match=f"child.yaml: extends: '{name}' is no other file beside it"):
            load_profile(str(child))


def test_profiles_that_extend_each_other_are_one_line(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {other}.yaml\n")
    circle = "a.yaml extends b.yaml extends c.yaml extends a.yaml"
    with pytest.raises(AttnPOError, match=f"c.yaml: extends: a circle, {circle}"):
        load_profile(str(tmp_path / "a.yaml"))


def test_an_artefact_may_have_blocks_and_an_evaluation_of_its_own(tmp_path: Path) -> None:
    artefacts = {
        "fig_passk": {"methods": ["tlmre"], "seeds": [7], "evaluate": {"samples": 64}, "blocks": {"x": "X"}},
        "table2": {"methods": ["tlmre"]},
    }
    profile = fake_profile(tmp_path, artefacts=artefacts, method_seeds={"tlmre": [0, 1]})
    own, shared = profile.narrowed("fig_passk"), profile.narrowed("table2")
    assert (own.evaluate.samples, own.report.blocks, own.artefact) == (64, {"x": "X"}, "fig_passk")
    assert own.evaluate.tasks == profile.evaluate.tasks
    assert own.seeds_of("tlmre") == [7]
    assert (shared.evaluate, shared.report, shared.artefact) == (profile.evaluate, profile.report, None)
    assert profile.makes() == ["table1", "fig_passk", "table2"]
    artefacts["fig_passk"]["method_seeds"] = artefacts["table2"]["method_seeds"] = {"tlmre": [3, 4]}
    profile = fake_profile(tmp_path, artefacts=artefacts, method_seeds={"tlmre": [0, 1]})
    assert {profile.narrowed(name).seeds_of("tlmre")[0] for name in artefacts} == {3}  # the nearest wins
    assert profile.narrowed("fig_passk").seeds_of("base") == [3, 4, 7]
    artefacts["table2"]["method_seeds"] = {"tlmre": [3, 3]}
    with pytest.raises(AttnPOError, match=r"artefacts\.table2\.method_seeds\.tlmre: \[3, 3\] must be different"):
        fake_profile(tmp_path, artefacts=artefacts)
    with pytest.raises(AttnPOError, match=r"artefacts\.fig_passk\.evaluate\.sample: unknown key"):
        fake_profile(tmp_path, artefacts={"fig_passk": {"methods": [], "evaluate": {"sample": 1}}})
