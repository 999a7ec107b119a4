"""A profile of one's own: the template, and what a command says of the sections that a file lacks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import PROFILE

from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.runs.plan import STUDIES, check_methods, check_sections, eval_spec, train_spec
from attnpo.runs.profile import Profile, load_profile
from attnpo.training.run import training_config

STUDY = {"problems": 1, "samples": 1, "max_completion_tokens": 8}
EXPLICIT = {"a": {"label": "A", "reward": "tlmre", "attnpo": True, "heads": [[0, 1]]}}


@pytest.fixture
def mine(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `attnpo template` prints, beside the problems that it names."""
    monkeypatch.chdir(tmp_path)
    assert main(["template"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    (tmp_path / "problems.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n')
    return path


def test_the_template_is_a_complete_profile(mine: Path) -> None:
    profile = load_profile(str(mine))
    check_sections(profile, ["probe", "train", "eval", *STUDIES], ["tlmre", "attnpo", "tlmre@1"])
    check_methods(profile)
    for method in profile.methods:
        assert train_spec(profile, method, 0)["probe"] is None  # its heads are named: nothing is to be probed first
        assert eval_spec(profile, method, 0)["train"]
        training_config(profile.steps, profile.trained(), profile.method(method), 0, [(16, 2)], mine.parent)
    assert load_profile(str(mine), quick=True).trained().steps == 2
    assert main(["run", "all", "--profile", str(mine), "--dry-run"]) == 0


def test_the_template_takes_the_files_of_a_split(mine: Path) -> None:
    text = mine.read_text()
    assert "attnpo split problems.jsonl --out data " in text
    rows = [json.dumps({"problem": f"{i} + {i}", "answer": 2 * i}) for i in range(60)]
    (mine.parent / "problems.jsonl").write_text("\n".join(rows))
    assert main(["split", "problems.jsonl", "--out", "data"]) == 0
    for old, new in (
        ("data: problems.jsonl", "data: data/train.jsonl"),
        ("[attnpo_math500]", "[data/test.jsonl]"),
        ("[attnpo_gsm8k]", "[data/validation.jsonl]"),
    ):
        assert old in text
        text = text.replace(old, new)
    mine.write_text(text)
    profile = load_profile(str(mine))
    assert list(eval_spec(profile, "attnpo", 0)["tasks"]) == ["test"]
    assert list(eval_spec(profile, "tlmre@1", 100)["tasks"]) == ["validation"]
    for artefact in ("table1", "tune"):
        assert main(["run", artefact, "--profile", str(mine), "--dry-run"]) == 0


def test_every_section_of_a_profile_is_in_the_template_and_every_key_has_a_word(mine: Path) -> None:
    text = mine.read_text()
    everything = re.sub(r"^#(?=( *)\w+:)", "", text, flags=re.MULTILINE)
    assert everything.count("\n#") < text.count("\n#")
    (mine.parent / "other.yaml").write_text(text.replace("name: mine", "name: other"))
    mine.write_text(everything)
    assert load_profile(str(mine)).revision == "main"
    keys = set(yaml.safe_load(everything)) - {"extends", "quick"}
    assert keys == set(Profile.__dataclass_fields__) - {"quick", "path", "artefact"}
    for line in everything.splitlines():
        assert not line.strip() or "#" in line, line


@pytest.mark.parametrize(
    ("sections", "words", "missing"),
    [
        ({}, "probe", "section 'probe'"),
        ({}, "train --method a", "sections 'train', 'methods'"),
        ({"methods": PROFILE["methods"]}, "train --method attnpo", "sections 'train', 'probe'"),
        ({}, "eval", "section 'evaluate'"),
        ({}, "eval --method a", "sections 'evaluate', 'train', 'methods'"),
        ({"methods": PROFILE["methods"]}, "eval --method rloo@1+attnpo", "has trials 1 to 0"),
        ({"methods": EXPLICIT}, "eval --method base@", "sections 'evaluate', 'tuning'"),
        ({}, "study ensemble", "sections 'study', 'probe'"),
        ({"study": STUDY}, "study intervention", "section 'probe'"),
        ({}, "study stability --method a", "sections 'study', 'train', 'methods'"),
        ({}, "run table1", "sections 'train', 'methods', 'evaluate'"),
        ({"methods": PROFILE["methods"]}, "run table1", "sections 'train', 'evaluate', 'probe'"),
        ({}, "run tune", "sections 'train', 'methods', 'evaluate', 'tuning'"),
        ({}, "table", "sections 'train', 'methods', 'evaluate'"),
    ],
)
def test_a_command_names_all_sections_that_it_misses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sections: dict[str, Any], words: str, missing: str
) -> None:
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump({"name": "few", **sections}))
    assert main([*words.split(), "--profile", str(path), "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert missing in err
    assert err.count("\n") == 1
    assert "section" not in missing or err.endswith("which this needs; `attnpo template` shows them all\n")


def test_a_command_asks_for_no_more_than_it_uses(tmp_path: Path) -> None:
    def few(**sections: Any) -> Profile:
        path = tmp_path / "few.yaml"
        path.write_text(yaml.safe_dump({"name": "few", **sections}))
        return load_profile(str(path))

    check_sections(few(probe=PROFILE["probe"]), ["probe"])
    check_sections(few(evaluate=PROFILE["evaluate"]), ["eval"], ["base"])
    check_sections(few(study=STUDY), ["responses"])
    trained = few(train=PROFILE["train"], methods=EXPLICIT)
    check_sections(trained, ["train"], ["a"])
    assert train_spec(trained, "a", 0)["probe"] is None
    assert trained.n_heads == 3
    with pytest.raises(AttnPOError, match="no method 'b'"):
        check_sections(trained, ["train"], ["b"])
