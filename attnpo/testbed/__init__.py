"""The embedded default: chained-arithmetic problems, R1-like traces, an oracle of essential steps, a tiny model.

Everything here runs on a CPU and needs no hub. `problems` makes the problems, `traces` writes reasoning traces for
fine-tuning, `oracle` labels each step of any trace, and `build` makes the tokenizer and the model in `MODEL_DIR`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.files import sha256_files
from attnpo.problems import training_sets
from attnpo.problems.problem import Problem
from attnpo.problems.training_sets import STANDARD, Columns

EMBEDDED = "testbed"
"""The name of the embedded model and its problems in a profile."""

MODEL_DIR = Path(__file__).parent / "model"
"""Tokenizer, configuration and weights of the tiny model (Qwen2 architecture), rebuilt by `reproduce/testbed.sh`."""


def model_path(model: str) -> str:
    """The folder or hub id of a profile's `model`, where `EMBEDDED` is the embedded model.

    A folder may be given relative to the checkout, if there is one.

    Raises:
        AttnPOError: the embedded weights are missing.
    """
    if model != EMBEDDED:
        inside = checkout_root() / model
        return str(inside) if inside.is_dir() else model
    if not (MODEL_DIR / "model.safetensors").is_file():
        raise AttnPOError(f"the embedded model is missing from {MODEL_DIR}; make it with reproduce/testbed.sh")
    return str(MODEL_DIR)


def model_identity(model: str, revision: str | None) -> dict[str, Any]:
    """What identifies a profile's model: a hash of the files of its folder, or its hub id and revision."""
    folder = Path(model_path(model))
    if folder.is_dir():
        files = [p for p in folder.iterdir() if p.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"}]
        return {"name": model if model == EMBEDDED else folder.name, "sha256": sha256_files(files)}
    return {"name": model, "revision": revision}


def on_hub(data: str) -> bool:
    """Whether a profile's `data` is a hub data set, not the embedded problems and no file or folder."""
    return data != EMBEDDED and not training_sets.is_local(data)


def load_problems(source: str, split: str, revision: str | None = None, columns: Columns = STANDARD) -> list[Problem]:
    """The problems of one split of a profile's `data`: the embedded ones, or those of a file or a hub data set.

    `revision` is that of a hub data set, `columns` the names that a file or a hub data set has for its columns; see
    `attnpo.problems.training_sets.load`.

    Raises:
        AttnPOError: as `attnpo.problems.training_sets.load`, or the testbed has no such split, or columns are named for
            it.
    """
    from attnpo.testbed import problems

    if source == EMBEDDED:
        if columns != STANDARD:
            raise AttnPOError(f"data_columns: data {source!r} has no columns; leave them out, or name a file")
        return list(problems.load(split))
    return training_sets.load(source, split, revision, columns)
