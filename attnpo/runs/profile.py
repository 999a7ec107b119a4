"""Profiles: YAML files that hold every hyperparameter of a reproduction.

A profile is read strictly: an unknown key, a missing one or a value of the wrong type is an error that names
file and key. `extends: FILE` starts from another profile beside it. The section `quick` is a partial profile, merged
over the rest when `--quick` is asked for. Nothing here imports torch, so that a finished reproduction is recognised at
once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.evaluation.settings import EvaluateSection
from attnpo.probing.settings import ProbeSection, Source, StepsSection, StudySection
from attnpo.runs.settings import ArtefactSection, LaunchSection, ReportSection, TuningSection
from attnpo.schema import _kind, _names, _nearest, build, merge
from attnpo.training.settings import MethodSection, TrainSection

BASES = ("base", "base@")
"""The untrained model: in the tables, and on the validation problems beside the trials."""
COMPOSED = "+attnpo"
"""Behind a method's name: the method with AttnPO on top."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A whole reproduction; `base`, the untrained model, is always evaluated beside `methods`."""

    name: str
    model: str = "testbed"
    """`testbed` for the embedded model, otherwise a hub id or a folder."""
    revision: str | None = None
    """Hub revision, if `model` is a hub id."""
    data: str = "testbed"
    """Problems to probe and train on: `testbed`, a JSON-lines file with `problem` and `answer` on each line,
    or a hub data set."""
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: StepsSection = field(default_factory=StepsSection)
    method_seeds: dict[str, list[int]] = field(default_factory=dict)
    """Seeds of single methods, in place of `seeds`."""
    probe: ProbeSection
    train: TrainSection
    credit: dict[str, Any] = field(default_factory=dict)
    """Fields of `attnpo.method.credit.CreditConfig` for all methods with `attnpo`."""
    methods: dict[str, MethodSection]
    artefacts: dict[str, ArtefactSection] = field(default_factory=dict)
    """Which methods and seeds a table or figure takes; one that is not named here takes all."""
    evaluate: EvaluateSection
    tuning: TuningSection | None = None
    """How the trials of `tune` are compared; needed where a method has some."""
    study: StudySection | None = None
    """How the heads are studied: ensemble curve, intervention, stability."""
    launch: LaunchSection = field(default_factory=LaunchSection)
    seconds: dict[str, float] = field(default_factory=dict)
    """Kind of run to what one takes, for the time estimate of a plan while none of the kind has been measured."""
    report: ReportSection = field(default_factory=ReportSection)
    quick: bool = False
    """Whether the section `quick` of the file was merged in; never written in the file itself."""
    path: Path = Path()
    """The file it was read from."""
    artefact: str | None = None
    """Set by `narrowed` where the artefact has an evaluation of its own; never written in the file."""

    @property
    def source(self) -> Source:
        """Model and problems."""
        return Source(model=self.model, revision=self.revision, data=self.data)

    def method(self, name: str) -> MethodSection:
        """The method's section, the profile's `credit` merged under its own.

        `NAME+attnpo` is NAME with the advantages rescaled too; `NAME@2` is NAME with its second trial of `tune`.

        Raises:
            AttnPOError: no such method or trial, or `+attnpo` on a method that has it.
        """
        if name in self.methods:
            section = self.methods[name]
            return dataclasses.replace(section, credit=merge(self.credit, section.credit))
        rest, plus, surplus = name.partition(COMPOSED)
        stem, at, trial = rest.partition("@")
        if stem not in self.methods or surplus:
            nearest, names = _nearest(name, self.methods), _names(self.methods)
            raise AttnPOError(f"profile {self.name}: no method {name!r}{nearest}; it has {names}")
        section = self.methods[stem]
        if at:
            if not trial.isdecimal() or not 1 <= int(trial) <= len(section.tune):
                raise AttnPOError(f"profile {self.name}: {stem!r} has trials 1 to {len(section.tune)}, not {trial!r}")
            where = f"methods.{stem}.tune[{int(trial) - 1}]"
            plain = {**dataclasses.asdict(section), "tune": [], "label": f"{section.label}, trial {trial}"}
            section = build(MethodSection, merge(plain, section.tune[int(trial) - 1]), self.path.name, where)
        if plus:
            if section.attnpo:
                raise AttnPOError(
                    f"profile {self.name}: {stem!r} is rescaled by AttnPO already; leave out {COMPOSED!r}"
                )
            section = dataclasses.replace(section, attnpo=True, label=f"{section.label} + AttnPO")
        return dataclasses.replace(section, credit=merge(self.credit, section.credit))

    def studied(self) -> StudySection:
        """The section `study`.

        Raises:
            AttnPOError: the profile has none.
        """
        if self.study is None:
            raise AttnPOError(f"profile {self.name}: no section 'study'; add one to study the heads")
        return self.study

    def narrowed(self, artefact: str) -> Profile:
        """The profile with just the methods and seeds of one artefact.

        Raises:
            AttnPOError: it names a method that the profile does not have.
        """
        if artefact not in self.artefacts:
            return self
        section = self.artefacts[artefact]
        methods = {name: self.method(name) for name in section.methods}
        for title, names in section.groups.items():
            for name in sorted(set(names) - set(methods)):
                where = f"artefacts.{artefact}.groups[{title!r}]"
                raise AttnPOError(f"profile {self.name}: {where} has {name!r}, which its methods have not; add it")
        report = self.report if section.blocks is None else dataclasses.replace(self.report, blocks=section.blocks)
        method_seeds = {} if section.evaluate and section.seeds else self.method_seeds
        narrowed = dataclasses.replace(
            self,
            methods=methods,
            seeds=section.seeds or self.seeds,
            method_seeds={**method_seeds, **section.method_seeds},
            report=report,
        )
        if not section.evaluate:
            return narrowed
        where = f"artefacts.{artefact}.evaluate"
        mapping = merge(dataclasses.asdict(self.evaluate), section.evaluate)
        evaluate = build(EvaluateSection, mapping, self.path.name, where)
        return dataclasses.replace(narrowed, evaluate=evaluate, artefact=artefact)

    def makes(self) -> list[str]:
        """The artefacts that the profile makes: those it names, and `table1` in any case."""
        return list(dict.fromkeys(["table1", *self.artefacts]))

    def trials(self, only: Iterable[str] | None = None) -> Profile:
        """The profile with just the trials of all methods, or of `only` these, and the seeds that they run with.

        Raises:
            AttnPOError: nothing to try, or no section `tuning`.
        """
        stems = list(self.methods if only is None else only)
        names = [f"{stem}@{k + 1}" for stem in stems for k in range(len(self.method(stem).tune))]
        if self.tuning is None or not names:
            what = "no section 'tuning'" if self.tuning is None else f"no method with trials: {_names(stems)}"
            raise AttnPOError(f"profile {self.name}: {what}; add one to compare hyperparameters")
        methods = {name: self.method(name) for name in names}
        return dataclasses.replace(self, methods=methods, seeds=self.tuning.seeds, method_seeds={})

    def evaluation_of(self, method: str) -> EvaluateSection:
        """How a method is evaluated: trials, and the base that they are compared with (`base@`), on validation alone.

        Raises:
            AttnPOError: a trial in a profile without a section `tuning`.
        """
        if "@" not in method:
            return self.evaluate
        if self.tuning is None:
            raise AttnPOError(f"profile {self.name}: {method!r} is a trial, but there is no section 'tuning'; add one")
        return dataclasses.replace(self.evaluate, tasks=self.tuning.tasks, samples=self.tuning.samples)

    def seeds_of(self, method: str) -> list[int]:
        """The seeds that a method runs with; `base` has all of them."""
        if method in BASES:
            return sorted({seed for name in self.methods for seed in self.seeds_of(name)} | set(self.seeds))
        return self.method_seeds.get(method, self.seeds)

    def without_attnpo(self, method: str) -> list[str]:
        """The profile's methods with the same length reward and no rescaling."""
        reward = self.method(method).reward
        return [name for name, section in self.methods.items() if section.reward == reward and not section.attnpo]

    @property
    def results_name(self) -> str:
        """Folder under results/: quick runs never mix with full ones."""
        return f"{self.name}-quick" if self.quick else self.name


def find_profile(name_or_path: str) -> Path:
    """A profile's file: a path, or a name in the checkout's reproduce/profiles.

    Raises:
        AttnPOError: there is no such file.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise AttnPOError(f"{path}: no such profile file; check the path, or give a name in reproduce/profiles")
        return path
    folder = checkout_root() / "reproduce" / "profiles"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name_or_path not in known:
        raise AttnPOError(
            f"no profile {name_or_path!r}{_nearest(name_or_path, known)}; reproduce/profiles has "
            f"{_names(known)}, or give a path that ends in .yaml"
        )
    return folder / f"{name_or_path}.yaml"


def load_profile(name_or_path: str, quick: bool = False) -> Profile:
    """Read a profile strictly.

    Args:
        name_or_path: a name in reproduce/profiles, or the path of a YAML file.
        quick: merge the file's section `quick` over the rest.

    Raises:
        AttnPOError: no such file, not YAML, an unknown or missing key, a value of the wrong type, or `quick`
            asked of a file without that section. The line names file and key.
    """
    path = find_profile(name_or_path)
    mapping = _read(path)
    overlay = mapping.pop("quick", None)
    if quick:
        if not isinstance(overlay, dict):
            raise AttnPOError(f"{path.name}: --quick needs a section 'quick'; add one, or run without --quick")
        mapping = merge(mapping, overlay)
        if "seeds" in overlay:  # of all methods and artefacts
            mapping.pop("method_seeds", None)
            artefacts = mapping.get("artefacts") or {}
            own = ("seeds", "method_seeds")
            mapping["artefacts"] = {name: {k: v for k, v in a.items() if k not in own} for name, a in artefacts.items()}
    for key in ("path", "artefact"):
        if key in mapping:
            raise AttnPOError(f"{path.name}: {key}: unknown key; remove it")
    profile = build(Profile, {**mapping, "quick": quick, "path": path}, path.name)
    if not profile.seeds or len(set(profile.seeds)) != len(profile.seeds):
        raise AttnPOError(f"{path.name}: seeds: {profile.seeds} must be different whole numbers, at least one")
    of_methods = {"method_seeds": profile.method_seeds}
    for artefact, section in profile.artefacts.items():
        profile.narrowed(artefact)
        of_methods[f"artefacts.{artefact}.method_seeds"] = section.method_seeds
    for where, seeds_of in of_methods.items():
        for name, seeds in seeds_of.items():
            profile.method(name)
            if not seeds or len(set(seeds)) != len(seeds):
                raise AttnPOError(f"{path.name}: {where}.{name}: {seeds} must be different whole numbers, at least one")
    for name in profile.methods:
        if COMPOSED in name or "@" in name:
            raise AttnPOError(f"{path.name}: methods.{name}: '@' and {COMPOSED!r} in a name have a meaning; rename it")
    if "base" in profile.methods:
        raise AttnPOError(f"{path.name}: methods.base: 'base' is the untrained model and always there; rename it")
    return profile


def _read(path: Path) -> dict[str, Any]:
    """The file's mapping; with `extends`, merged over that of another file beside it."""
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise AttnPOError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(mapping, dict):
        raise AttnPOError(f"{path.name}: a profile is a mapping of sections, this is {_kind(mapping)}")
    if "extends" not in mapping:
        return mapping
    other = path.with_name(str(mapping.pop("extends")))
    if other == path or not other.is_file():
        raise AttnPOError(f"{path.name}: extends: {other.name!r} is no other file beside it; name one")
    return merge(_read(other), mapping)
