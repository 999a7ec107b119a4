"""The testbed: chained-arithmetic problems, R1-like traces, an oracle of essential steps, models trained on them.

Everything here runs without a hub. `problems` makes the problems, `traces` writes reasoning traces for training,
`oracle` labels each step of any trace, and `build` makes tokenizer and model. The tiny model comes with the package,
the large one is made by `reproduce/small.sh`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.files import sha256_files
from attnpo.problems import training_sets
from attnpo.problems.problem import Problem
from attnpo.problems.training_sets import STANDARD, Columns
from attnpo.testbed import problems

EMBEDDED = problems.TINY.data
"""The name of the embedded model and its problems in a profile."""

MODEL_DIR = Path(__file__).parent / "model"
"""Tokenizer, configuration and weights of the embedded model (Qwen3 architecture)."""


class Model(NamedTuple):
    """A model that is trained on the testbed's traces."""

    label: str
    """Its name in reports."""
    folder: Path
    script: str
    """The command that makes it."""


MODELS = {
    EMBEDDED: Model("the embedded testbed model", MODEL_DIR, "bash reproduce/testbed.sh"),
    problems.LARGE.data: Model(
        "the large testbed model", checkout_root() / "models" / problems.LARGE.data, "bash reproduce/small.sh"
    ),
}
"""By the name in a profile's `model`, which is that of their problems."""


def missing_model(model: str) -> str | None:
    """That a profile's `model` is one of `MODELS` and has not been made, with the remedy; else None."""
    if model in MODELS and not (MODELS[model].folder / "model.safetensors").is_file():
        return f"{MODELS[model].label} is missing from {MODELS[model].folder}; make it: {MODELS[model].script}"
    return None


def check_model(model: str) -> None:
    """Check that a profile's `model` has been made, if it is one of `MODELS`.

    Raises:
        AttnPOError: it has not.
    """
    if missing := missing_model(model):
        raise AttnPOError(missing)


def model_path(model: str) -> str:
    """The folder or hub id of a profile's `model`, which may be one of `MODELS`.

    A folder may be given relative to the checkout, if there is one.

    Raises:
        AttnPOError: as `check_model`.
    """
    check_model(model)
    folder = MODELS[model].folder if model in MODELS else checkout_root() / model
    return str(folder) if folder.is_dir() else model


def model_identity(model: str, revision: str | None) -> dict[str, Any]:
    """What identifies a profile's model: a hash of the files of its folder, or its hub id and revision.

    One of `MODELS` that is not there yet has no hash, so nothing that is planned with it is found again later.
    """
    if missing_model(model):
        return {"name": model, "sha256": None}
    folder = Path(model_path(model))
    if folder.is_dir():
        files = [p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"}]
        return {"name": model if model in MODELS else folder.name, "sha256": sha256_files(files)}
    return {"name": model, "revision": revision}


def on_hub(data: str) -> bool:
    """Whether a profile's `data` is a hub data set, not the testbed's problems and no file or folder."""
    return data not in problems.SCALES and not training_sets.is_local(data)


def load_problems(source: str, split: str, revision: str | None = None, columns: Columns = STANDARD) -> list[Problem]:
    """The problems of one split of a profile's `data`: the testbed's, or those of a file or a hub data set.

    `revision` is that of a hub data set, `columns` the names that a file or a hub data set has for its columns; see
    `attnpo.problems.training_sets.load`.

    Raises:
        AttnPOError: as `attnpo.problems.training_sets.load`, or the testbed has no such split, or columns are named for
            it.
    """
    if source in problems.SCALES:
        if columns != STANDARD:
            raise AttnPOError(f"data_columns: data {source!r} has no columns; leave them out, or name a file")
        return list(problems.load(split, problems.SCALES[source]))
    return training_sets.load(source, split, revision, columns)
