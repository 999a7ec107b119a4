"""Split problems into training, validation and test problems.

Where a problem goes follows from a hash of its text, without regard to white space, and of the seed. So equal texts
stay together, and problems that are added later move none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_jsonl
from attnpo.problems.problem import Problem
from attnpo.schema import STRICT, Seed, Share

NAMES = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Shares:
    """How much goes where; training gets the rest. A share is expected, not exact: it is that of the hashes."""

    validation: Share = 0.1
    test: Share = 0.1
    seed: Seed = 0
    """Of the hash: another one gives another split."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 < self.validation + self.test <= 1:
            both = f"validation {self.validation:g} and test {self.test:g}"
            raise ValueError(f"{both} are {self.validation + self.test:g} together; give shares above 0, at most 1")
        return self

    def of(self, name: str) -> float:
        """The expected share of one of `NAMES`."""
        rest = 1 - self.validation - self.test
        return {"train": rest if rest > 1e-9 else 0.0, "validation": self.validation, "test": self.test}[name]


def split(problems: Iterable[Problem], shares: Shares) -> dict[str, list[Problem]]:
    """One of `NAMES` -> its problems, in their order; those whose share is 0 are left out.

    Raises:
        AttnPOError: one has a share and gets no problem.
    """
    parts: dict[str, list[Problem]] = {name: [] for name in NAMES if shares.of(name)}
    for problem in problems:
        parts[_part(problem.text, shares)].append(problem)
    for name, of_part in parts.items():
        if not of_part:
            number = sum(map(len, parts.values()))
            raise AttnPOError(
                f"none of the {number} problems went to {name}, whose share is {shares.of(name):g}; give it a larger "
                "share or none, take another seed, or more problems"
            )
    return parts


def _plain(text: str) -> str:
    return " ".join(text.split())


def _part(text: str, shares: Shares) -> str:
    digest = hashlib.sha256(f"{shares.seed}\n{_plain(text)}".encode()).digest()
    place = int.from_bytes(digest[:6], "big") / 2**48  # exact, and below 1
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"


def repeated(problems: Iterable[Problem]) -> list[list[Problem]]:
    """The problems whose text stands more than once, without regard to white space: those of one text together."""
    by_text: dict[str, list[Problem]] = {}
    for problem in problems:
        by_text.setdefault(_plain(problem.text), []).append(problem)
    return [alike for alike in by_text.values() if len(alike) > 1]


def files_in(folder: Path) -> dict[str, Path]:
    """The file of each of `NAMES`.

    Raises:
        AttnPOError: one is there already, or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise AttnPOError(f"{folder} is a file; name a folder, there or not yet")
    files = {name: folder / f"{name}.jsonl" for name in NAMES}
    for path in files.values():
        if path.exists():
            raise AttnPOError(f"{path} is there already and is not overwritten; name another folder, or delete it")
    return files


def write(parts: Mapping[str, Sequence[Problem]], files: Mapping[str, Path]) -> None:
    """Write the problems of each part to its file, one JSON object with id, problem and answer a line."""
    for name, problems in parts.items():
        atomic_write_jsonl(files[name], ({"id": p.id, "problem": p.text, "answer": p.answer} for p in problems))
