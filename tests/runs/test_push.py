"""`attnpo push`: the card of a trained model, with its results, and what goes to a hub that is made up here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from fakes import fake_samples
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError
from places import ROOT

from attnpo.cli import main
from attnpo.files import atomic_write_jsonl
from attnpo.runs.plan import eval_spec, train_spec
from attnpo.runs.profile import Profile, load_profile
from attnpo.runs.store import Run

TRAIN = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "max_completion_tokens": 16, "save_steps": 1}
ATTNPO = {"reward": "tlmre", "reward_args": {"alpha": 0.3}, "attnpo": True, "heads": [[1, 5], [3, 0]]}
PROFILE = {
    "name": "p",
    "steps": {"min_chars": 1},
    "train": {**TRAIN, "learning_rate": 1.0e-4},
    "methods": {"attnpo": {"label": "AttnPO, alpha = .3", **ATTNPO}, "rloo": {"label": "RLOO", "reward": "rloo"}},
    "evaluate": {"tasks": ["attnpo_testbed"], "samples": 2, "max_completion_tokens": 448, "batch_size": 8},
}


def evaluated(profile: Profile, results: Path, method: str, problems: int = 12) -> Run:
    """A finished evaluation of made-up samples."""
    run = Run.at(results, eval_spec(profile, method, 0))

    def work(folder: Path) -> Iterable[Path]:
        atomic_write_jsonl(folder / "samples.jsonl", fake_samples(method, 0, problems))
        return [folder / "samples.jsonl"]

    run.compute("attnpo eval", work, {})
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the profile and, under `p/raw`, one training with AttnPO, evaluated, and an evaluation of RLOO."""
    folder = tmp_path_factory.mktemp("push")
    (folder / "p.yaml").write_text(yaml.safe_dump(PROFILE))
    words = ["--profile", str(folder / "p.yaml"), "--method", "attnpo", "--results", str(folder)]
    assert main(["train", *words]) == 0
    profile = load_profile(str(folder / "p.yaml"))
    evaluated(profile, folder / "p", "attnpo")
    evaluated(profile, folder / "p", "rloo")
    return folder


@pytest.fixture
def trained(made: Path, tmp_path: Path) -> Run:
    """The training, in a copy of all of it."""
    shutil.copytree(made / "p", tmp_path / "p")
    return Run.at(tmp_path / "p", train_spec(load_profile(str(made / "p.yaml")), "attnpo", 0))


class Hub:
    """What stands in for HfApi: one repository, owner/there, with a configuration and a license in it."""

    def __init__(self) -> None:
        self.files = {"owner/there": {".gitattributes", "config.json", "LICENSE"}}
        self.private = {"owner/there": False}
        self.uploaded: dict[str, str] = {}
        self.token = True

    def whoami(self) -> dict[str, str]:
        if not self.token:
            raise LocalTokenNotFoundError("Token is required, but no token found.")
        return {"name": "owner"}

    def repo_exists(self, repo_id: str) -> bool:
        return repo_id in self.files

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repo_id])

    def list_repo_files(self, repo_id: str) -> list[str]:
        return sorted(self.files[repo_id])

    def create_repo(self, repo_id: str, *, private: bool | None) -> None:
        self.files[repo_id], self.private[repo_id] = {".gitattributes"}, bool(private)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, ignore_patterns: list[str], commit_message: str
    ) -> SimpleNamespace:
        names = {path.name for path in Path(folder_path).iterdir()} - set(ignore_patterns)
        self.files[repo_id] |= names
        self.uploaded[repo_id] = (Path(folder_path) / "README.md").read_text()
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made_up = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made_up)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    return made_up


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of `attnpo push WORDS`, which ends with exit code 2."""
    capsys.readouterr()
    assert main(["push", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("attnpo: ") and err.count("\n") == 1, err
    return err.removeprefix("attnpo: ")


def test_a_training_leaves_a_card_beside_its_model(trained: Run) -> None:
    card: Any = ModelCard.load(trained.folder / "model" / "README.md")
    assert card.data.model_name == trained.id
    assert (card.data.base_model, card.data.datasets, card.data.license) == (None, None, None)
    assert card.data.tags == ["generated_from_trainer", "trl", "attnpo"]
    for line in (
        "the embedded testbed model, trained further by reinforcement learning with AttnPO, alpha = .3, by",
        "(ACL 2026): the attention of a few heads",
        "- base model: the embedded testbed model\n- data: the testbed's problems\n- method: AttnPO, alpha = .3\n",
        '- length reward: `tlmre` with `{"alpha": 0.3}`\n',
        "- heads as (layer, head), both from 0: (1, 5), (3, 0)\n",
        "- optimizer steps: 1\n- rollouts: 2 for each of 2 problems, sampled anew every step\n",
        "- seed: 0\n",
        "## Results\n\nNone yet.\n\n## License\n",
        "(https://huggingface.co/papers/2602.09953)",
    ):
        assert line in card.text, line
    for wrong in (str(trained.folder.parents[2]), str(ROOT), str(Path.home()), "None\n", "None,"):
        assert wrong not in str(card), wrong


def test_a_card_is_no_output_so_people_may_edit_it(trained: Run) -> None:
    assert "model/config.json" in trained.manifest()["outputs"]  # type: ignore[index]
    (trained.folder / "model" / "README.md").write_text("mine")
    assert trained.state() == "finished"
    trained.check("model")


def test_a_dry_run_shows_the_card_with_results_and_touches_nothing(
    trained: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("asked the hub"))
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    assert main(["push", str(trained.folder), "owner/new", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == (
        "to owner/new: README.md, chat_template.jinja, config.json, generation_config.json, model.safetensors, "
        "tokenizer.json, tokenizer_config.json\n"
    )
    card: Any = ModelCard(out)
    record = evaluation_of(trained).record()
    assert {result.dataset_type for result in card.data.eval_results} >= {"attnpo_testbed_test"}
    for result in card.data.eval_results:
        rows = record[record["task"] == result.dataset_type]
        if len(rows):
            column = {"accuracy": 100 * rows["correct"], "tokens": rows["tokens"]}[result.metric_type]
            assert result.metric_value == pytest.approx(column.sum() / rows["n"].sum(), abs=0.005)  # two decimals
            assert result.dataset_config == "at most 448 tokens, temperature 0.6, top_p 0.95, samples a problem: 2"
    (line,) = [line for line in out.splitlines() if line.startswith("| attnpo_testbed_test | ")]
    accuracy, tokens = line.split(" | ")[4:6]
    value, low, high = (float(word) for word in accuracy.replace("(", "").replace(")", "").split() if word != "to")
    assert low < value < high
    assert " to " in tokens
    assert {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()} == before


def evaluation_of(trained: Run) -> Run:
    (manifest,) = trained.folder.parent.glob("eval-attnpo-*/manifest.json")
    return Run(manifest.parent, json.loads(manifest.read_text())["spec"])


def test_only_a_model_s_own_evaluations_count_and_a_lost_record_is_named(
    trained: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluation_of(trained).folder / "record.csv"
    record.write_text(record.read_text() + "more\n")
    message = said(capsys, str(trained.folder), "owner/new", "--dry-run")
    assert message.startswith(f"{record} has ") and "restore it, or delete" in message
    shutil.rmtree(record.parent)
    assert main(["push", str(trained.folder), "owner/new", "--dry-run"]) == 0  # RLOO's is still there
    assert "## Results\n\nNone yet.\n\n## License" in capsys.readouterr().out


def test_a_push_makes_the_repository_and_a_second_one_asks_before_it_replaces(
    trained: Run, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(trained.folder), "owner/new", "--private"]
    assert main(["push", *words]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/owner/new/commit/1\n"
    assert hub.private["owner/new"]
    assert {"README.md", "config.json", "model.safetensors"} <= hub.files["owner/new"]
    assert "training_args.bin" not in hub.files["owner/new"]
    path = trained.folder / "model" / "README.md"
    assert hub.uploaded["owner/new"] == path.read_text()
    assert said(capsys, *words).startswith("owner/new has README.md, chat_template.jinja, config.json, ")
    card: Any = ModelCard.load(path)
    card.data.license = "apache-2.0"
    card.text = card.text.replace("## Use", "## For whom\n\nFor me.\n\n## Use")
    card.save(path)
    assert main(["push", *words, "--overwrite"]) == 0
    card = ModelCard(hub.uploaded["owner/new"])
    assert card.data.license == "apache-2.0" and "## For whom\n\nFor me.\n" in card.text
    assert card.text.count("## Results") == card.text.count("| attnpo_testbed_test |") == 1
    assert trained.state() == "finished"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("owner/there", "owner/there has config.json; pass --overwrite to replace them"),
        ("owner/there --overwrite --private", "owner/there is public; make it private in its settings first"),
        ("new", "repository 'new' has no owner; give OWNER/NAME"),
        ("owner/a/b", "repository 'owner/a/b': "),
    ],
)
def test_what_the_hub_has_is_not_replaced_unasked(
    trained: Run, hub: Hub, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    before = (trained.folder / "model" / "README.md").read_bytes()
    assert said(capsys, str(trained.folder), *words.split()).startswith(message)
    assert not hub.uploaded and set(hub.files) == {"owner/there"}
    assert (trained.folder / "model" / "README.md").read_bytes() == before


def test_without_a_login_or_offline_nothing_is_tried(
    trained: Run, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = False
    message = "no login to the hub; run `hf auth login`, or set HF_TOKEN\n"
    assert said(capsys, str(trained.folder), "owner/new") == message
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    assert said(capsys, str(trained.folder), "owner/new").startswith("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")
    assert not hub.uploaded and set(hub.files) == {"owner/there"}


def test_a_folder_without_a_model_is_refused(
    trained: Run, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said(capsys, str(tmp_path / "nothing"), "owner/new")
    assert "no folder of a finished run (no manifest.json); give that of a training" in message
    message = said(capsys, str(evaluation_of(trained).folder), "owner/new")
    assert "a run of kind 'eval', which has no model" in message
    card, weights = (trained.folder / "model" / name for name in ("README.md", "model.safetensors"))
    text = card.read_text()
    card.write_text("---\nlicense: [\n---\n")
    assert "no model card (" in said(capsys, str(trained.folder), "owner/new")
    card.unlink()
    assert "no README.md, as an earlier version trained it" in said(capsys, str(trained.folder), "owner/new")
    card.write_text(text)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "has other bytes than those whose hash" in said(capsys, str(trained.folder), "owner/new")
    weights.unlink()
    message = said(capsys, str(trained.folder), "owner/new")
    assert message.endswith("its model is not here; make it: attnpo train --profile p.yaml --method attnpo --seed 0\n")
    assert not hub.uploaded
