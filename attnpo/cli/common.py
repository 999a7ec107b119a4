"""What the commands share: where results are, what is needed first, and a computation under its lock."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.problems.training_sets import Columns
from attnpo.runs.free import given
from attnpo.runs.plan import probe_spec, train_spec
from attnpo.runs.profile import Profile
from attnpo.runs.store import Run
from attnpo.schema import build

ProfileName = Annotated[str, tyro.conf.arg(metavar="NAME|FILE.yaml")]
ColumnNames = Annotated[list[str] | None, tyro.conf.arg(metavar="problem=NAME answer=NAME")]
Results = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def results_dir_of(profile: Profile, results: Path | None) -> Path:
    """Where the runs of a profile are: under `results`, or the checkout's results/."""
    return (results or checkout_root() / "results").absolute() / profile.results_name


def refuse_beside_profile(profile: str | None, options: Mapping[str, Any]) -> None:
    """Refuse options that a profile decides, where one is named.

    Raises:
        AttnPOError: one is set.
    """
    if profile is not None and (found := given(options)):
        name = next(iter(found)).replace("_", "-")
        raise AttnPOError(f"--{name} is the profile's business; leave it or --profile out")


def need(run: Run, name: str, command: str) -> Path:
    """A file of a run that must be done; of one in a folder, the whole folder must be as the run has made it.

    Raises:
        AttnPOError: it is not done, with the command that does it, or its files are not those that it has made.
    """
    if not (run.done() if name == "heads.json" else run.state() == "finished"):
        damage = run.damage()
        raise AttnPOError(f"{damage or f'{run.id} is not there yet'}; first: {command}")
    run.check(name.partition("/")[0])
    return run.folder / name


def heads_file_of(profile: Profile, results_dir: Path) -> Path:
    """The profile's heads.json, of a probe that must be done."""
    return need(Run.at(results_dir, probe_spec(profile)), "heads.json", f"attnpo probe {profile.option}")


def trained_model(profile: Profile, results_dir: Path, method: str, seed: int) -> Path:
    """The folder of a trained model, of a training that must be done."""
    command = f"attnpo train {profile.option} --method {method} --seed {seed}"
    return need(Run.at(results_dir, train_spec(profile, method, seed)), "model/config.json", command).parent


def about(profile: Profile) -> dict[str, Any]:
    """What a manifest says of the profile."""
    return {"profile": profile.name, "quick": profile.quick}


def compute(run: Run, command: str, work: Callable[[Path], Iterable[Path]], context: dict[str, Any]) -> None:
    """Do a run unless it is finished, see `Run.compute`; on the first process of several."""
    if int(os.environ.get("RANK", "0")) > 0:  # one process of several: the first keeps lock and manifest
        if run.state() != "finished":
            list(work(run.folder))
        return
    done = run.compute(command, work, context)
    logging.getLogger(__name__).info("%s %s", run.folder, "finished" if done else "was finished already")


def columns_of(words: list[str] | None) -> Columns:
    """The columns that words such as `problem=question` name.

    Raises:
        AttnPOError: a word of another form, or what no problem has.
    """
    pairs = [word.partition("=") for word in words or []]
    for (name, equals, column), word in zip(pairs, words or [], strict=True):
        if not (equals and column):
            raise AttnPOError(f"--columns {word}: give problem=NAME, answer=NAME or id=NAME")
        if sum(other == name for other, _, _ in pairs) > 1:
            raise AttnPOError(f"--columns {word}: {name} is named twice; leave one out")
    return build(Columns, {name: column for name, _, column in pairs}, "--columns")
