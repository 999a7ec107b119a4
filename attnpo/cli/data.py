"""`attnpo split`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from attnpo.cli.common import ColumnNames, columns_of
from attnpo.errors import AttnPOError
from attnpo.problems import splits, training_sets
from attnpo.schema import build


def split(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|DATASET")],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    hub_split: str | None = None,
    revision: str | None = None,
    columns: ColumnNames = None,
) -> None:
    """Split problems of your own into DIR/train.jsonl, validation.jsonl and test.jsonl.

    attnpo split problems.csv --out data, then `data: data/train.jsonl` in a profile, and attnpo eval --model MODEL
    --tasks data/test.jsonl. A problem's place follows from a hash of its text and the seed: no text, without regard to
    white space, is in two files, and problems that are added later move none of the others.

    Args:
        source: a file (.jsonl, .json, .csv, .parquet) with problem, answer and perhaps id in each row, or a hub data
            set. The files get these three under these names; other columns are left out.
        out: folder of the three files; those that are there are never overwritten.
        validation: expected share of the problems; 0: no such file.
        test: as validation; training gets the rest.
        seed: of the hash; another one gives another split.
        hub_split: of a hub data set: its split that is read; train if not given.
        revision: of a hub data set: its commit, branch or tag.
        columns: what the source calls them, if otherwise: problem=question answer=solution id=number.
    """
    shares = build(splits.Shares, {"validation": validation, "test": test, "seed": seed}, "split")
    if training_sets.is_local(source):
        for name, value in {"--hub-split": hub_split, "--revision": revision}.items():
            if value is not None:
                raise AttnPOError(f"{name} {value}: goes with a hub data set, and {source} is a file; leave it out")
    files = splits.files_in(out)
    problems = training_sets.load(source, hub_split or "train", revision, columns_of(columns))
    parts = splits.split(problems, shares)
    splits.write(parts, files)
    for name, of_part in parts.items():
        print(f"{files[name]}: {len(of_part)} of {len(problems)} problems")
    alike = splits.repeated(problems)
    several = [group for group in alike if len({problem.answer.strip() for problem in group}) > 1]
    if alike:
        number = sum(map(len, alike))
        print(f"{number} problems share their text with others of the same file, {len(alike)} texts", file=sys.stderr)
    for group in several[:10]:
        said = ", ".join(f"{problem.answer!r:.40} ({problem.id})" for problem in group[:4])
        print(f"one text with different answers: {said}; correct {source}: {group[0].text!r:.80}", file=sys.stderr)
    if len(several) > 10:
        print(f"and {len(several) - 10} more texts with different answers", file=sys.stderr)
