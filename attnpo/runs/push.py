"""A trained model on the hub, with the results of its evaluations on its card: `attnpo push`.

Whatever can be found wrong without the hub is found first, and nothing is uploaded before all else is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from attnpo.errors import AttnPOError, first_line
from attnpo.evaluation.tasks import task_groups
from attnpo.files import atomic_write_text
from attnpo.runs.store import Run
from attnpo.statistics.bootstrap import Estimate
from attnpo.statistics.estimates import Wanted, estimate_table
from attnpo.training.settings import CARD

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCard

    from attnpo.training.card import Result

LEVEL = 0.95
"""Of the intervals on a card."""
KEPT_BACK = ("training_args.bin",)
"""Files of a model's folder that are not uploaded: they hold paths of this machine."""
_GIVE = "give that of a training, results/PROFILE/raw/train-…"


@dataclass(frozen=True)
class Pushed:
    """What is to be uploaded: the files of a model's folder, of which one is the card."""

    folder: Path
    card: ModelCard

    @property
    def files(self) -> list[str]:
        """Their names in the folder."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return sorted(name for name in found if name not in KEPT_BACK)


def trained_run(folder: Path) -> Run:
    """The finished training in a run's folder, its model as it was made.

    Raises:
        AttnPOError: there is none.
    """
    folder = folder.absolute()
    run = _run(folder)
    if (kind := run.spec.get("kind")) != "train":
        raise AttnPOError(f"{folder}: a run of kind {kind!r}, which has no model; {_GIVE}")
    manifest = run.manifest()
    assert manifest is not None  # the spec is from there
    if run.state() != "finished":
        raise AttnPOError(f"{folder}: its model is not here; make it: {manifest.get('command', 'attnpo train')}")
    run.check("model")
    if not (folder / "model" / CARD).is_file():
        raise AttnPOError(f"{folder / 'model'}: no {CARD}, as an earlier version trained it; write a model card there")
    return run


def _run(folder: Path) -> Run:
    """The run in a folder, which must have been finished once."""
    try:
        spec = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["spec"]
        return Run(folder, dict(spec))
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = "no manifest.json" if isinstance(error, FileNotFoundError) else f"manifest.json: {first_line(error)}"
        raise AttnPOError(f"{folder}: no folder of a finished run ({why}); {_GIVE}") from error


def to_push(run: Run) -> Pushed:
    """The model of a training, its card with the results of all evaluations of it beside it.

    Raises:
        AttnPOError: the card or a record cannot be read.
    """
    from huggingface_hub import ModelCard

    from attnpo.training.card import put_results

    path = run.folder / "model" / CARD
    try:
        card: Any = ModelCard.load(path)
    except (ValueError, yaml.YAMLError) as error:  # what stands between the first two --- is no YAML, or no mapping
        raise AttnPOError(f"{path}: no model card ({first_line(error)}); mend what is between its --- lines") from error
    if card.data.model_name is None:
        card.data.model_name = run.id
    put_results(card, results_of(run), LEVEL)
    return Pushed(path.parent, card)


def results_of(run: Run) -> list[Result]:
    """What a trained model reaches, from the records of its evaluations in the same folder of results."""
    from attnpo.training.card import Result

    several = {name: tasks for name, tasks in task_groups().items() if len(tasks) > 1}
    found: list[Result] = []
    for path in sorted(run.folder.parent.glob("eval-*/manifest.json")):
        evaluation = _run(path.parent)
        if evaluation.spec.get("train") != run.id:
            continue
        if damage := evaluation.damage():
            raise AttnPOError(f"{damage}; restore it, or delete {path.parent} and evaluate again")
        if not evaluation.done():
            continue
        table = estimate_table(evaluation.record(), [Wanted()], several, level=LEVEL)
        rows: dict[tuple[str, str], dict[Any, Any]] = {
            (row["task"], row["measure"]): row for row in table.to_dict("records") if not row["slice"]
        }
        how = _conditions(evaluation.spec["evaluate"])
        for task in dict.fromkeys(task for task, _ in rows):
            accuracy, tokens = rows[task, "accuracy"], rows[task, "tokens"]
            shares, lengths = ([row[end] for end in ("value", "low", "high")] for row in (accuracy, tokens))
            percent = Estimate(*(100 * share for share in shares))
            counts = int(accuracy["problems"]), int(accuracy["n"])
            found.append(Result(task, how, *counts, percent, Estimate(*lengths)))
    return found


def _conditions(evaluate: Mapping[str, Any]) -> str:
    known = {
        "at most {} tokens": evaluate.get("max_completion_tokens"),
        "temperature {:g}": evaluate.get("temperature"),
        "top_p {:g}": evaluate.get("top_p"),
        "samples a problem: {}": evaluate.get("samples"),
        "the first {} problems": evaluate.get("limit"),
    }
    return ", ".join(words.format(value) for words, value in known.items() if value is not None)


def check_repo(repo: str) -> None:
    """Check the name of a repository on the hub.

    Raises:
        AttnPOError: it is not OWNER/NAME.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise AttnPOError(f"repository {repo!r}: {first_line(error)}; give OWNER/NAME") from error
    if "/" not in repo:
        raise AttnPOError(f"repository {repo!r} has no owner; give OWNER/NAME")


def push(what: Pushed, repo: str, *, private: bool, overwrite: bool) -> str:
    """Write the card into the model's folder and upload that; the address of the commit.

    Args:
        what: to be uploaded.
        repo: OWNER/NAME, see `check_repo`; it is made if it is not there.
        private: make it private.
        overwrite: replace files that the repository has.

    Raises:
        AttnPOError: the hub cannot be used, or would have files replaced without `overwrite`, or has a public
            repository where a private one is wanted.
    """
    import huggingface_hub

    if huggingface_hub.is_offline_mode():
        raise AttnPOError("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so nothing can be uploaded; unset it")
    api = huggingface_hub.HfApi()
    with _refusals(repo):
        api.whoami()
        if api.repo_exists(repo):
            _check_there(api, what, repo, private, overwrite)
        else:
            api.create_repo(repo, private=private or None)  # None: what is the owner's default
        atomic_write_text(what.folder / CARD, str(what.card))
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=what.folder,
            ignore_patterns=list(KEPT_BACK),
            commit_message="Upload a model with its card, by attnpo push",
        )
    return str(commit.commit_url)


def _check_there(api: HfApi, what: Pushed, repo: str, private: bool, overwrite: bool) -> None:
    if private and not api.model_info(repo).private:
        raise AttnPOError(f"{repo} is public; make it private in its settings first, or leave out --private")
    there = sorted(set(what.files) & set(api.list_repo_files(repo)))
    if there and not overwrite:
        raise AttnPOError(
            f"{repo} has {', '.join(there)}; pass --overwrite to replace them, or name another repository"
        )


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """What the hub or the way to it refuses, as one line."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise AttnPOError("no login to the hub; run `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        remedy = "run `hf auth login` with a token that may write there" if status in (401, 403) else "try again later"
        raise AttnPOError(f"{repo}: the hub refuses ({first_line(error)}); {remedy}") from error
    except HTTPError as error:
        raise AttnPOError(f"{repo}: the hub cannot be reached ({first_line(error)}); check the network") from error
