"""Profiles: YAML files that hold every hyperparameter of a reproduction.

A profile is read strictly (`attnpo.schema`): an unknown key, a missing one or a value that cannot be is an error that
names file and key. `extends: FILE` starts from another profile beside it. The section `quick` is a partial profile,
merged over the rest by `--quick`. Nothing here imports torch, so that a finished reproduction is recognised at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any, cast

from pydantic.dataclasses import dataclass

from attnpo.environment import shipped
from attnpo.errors import AttnPOError
from attnpo.evaluation.settings import EvaluateSection
from attnpo.probing.settings import ProbeSection, Source, StepsSection, StudySection
from attnpo.problems.training_sets import STANDARD, Columns
from attnpo.runs.settings import BASE, BASES, ArtefactSection, LaunchSection, ReportSection, TuningSection
from attnpo.schema import STRICT, NotNegative, Seeds, build, listed, merge, nearest, read_yaml
from attnpo.testbed import EMBEDDED, on_hub
from attnpo.training.settings import CreditOptions, MethodSection, TrainSection

COMPOSED = "+attnpo"
"""Behind a method's name: the method with AttnPO on top."""

PROFILES = "reproduce/profiles"
"""Folder of the profiles that come with the package, see `attnpo.environment.shipped`."""

TEMPLATE = Path(__file__).with_name("template.yaml")
"""A profile to start from, with a word on each key."""

_FILE_NAME = re.compile(r"\w([^/\\\x00-\x1f\x7f]*[^\s/\\\x00-\x1f\x7f])?")
_NOT_IN_FILES = ("path", "artefact")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Profile:
    """A whole reproduction; `base`, the untrained model, is always evaluated beside `methods`.

    The sections that only some commands use are null where a file lacks them; see `need`.
    """

    name: str
    model: str = EMBEDDED
    """One of `attnpo.testbed.MODELS`, such as `testbed`, the embedded one; otherwise a hub id or a folder."""
    revision: str | None = None
    """Hub revision, if `model` is a hub id."""
    data: str = EMBEDDED
    """Problems to probe and train on: `testbed`, `testbed-large`, a file or a hub data set. A file is JSON lines
    (.jsonl), a JSON list of objects (.json), CSV with a header, or Parquet, and its path is relative to the current
    folder. Each row has `problem` and `answer` and may have an `id` of its own."""
    data_revision: str | None = None
    """Hub revision, if `data` is a hub data set; null: what the hub has when a run loads it, with a warning."""
    data_columns: Columns = STANDARD
    """What the columns of a file or a hub data set are called, such as `{problem: question, answer: solution}`."""
    seeds: Seeds = field(default_factory=lambda: [0])
    """Seeds of every method, see `seeds_of`."""
    steps: StepsSection = field(default_factory=StepsSection)
    method_seeds: dict[str, Seeds] = field(default_factory=dict)
    """Seeds of single methods, see `seeds_of`."""
    probe: ProbeSection | None = None
    """How Key-Focus Heads are found, if methods take the probe's."""
    train: TrainSection | None = None
    """What training has in common for all methods."""
    credit: CreditOptions = field(default_factory=dict)
    """Fields of `attnpo.method.credit.CreditConfig` for all methods with `attnpo`."""
    methods: dict[str, MethodSection] = field(default_factory=dict)
    """Name to what is trained."""
    artefacts: dict[str, ArtefactSection] = field(default_factory=dict)
    """Which methods and seeds a table or figure takes; one that is not named here takes all."""
    evaluate: EvaluateSection | None = None
    """How models are evaluated."""
    tuning: TuningSection | None = None
    """How the trials of `tune` are compared; needed where a method has some."""
    study: StudySection | None = None
    """How the heads are studied: ensemble curve, intervention, stability."""
    launch: LaunchSection = field(default_factory=LaunchSection)
    seconds: dict[str, NotNegative] = field(default_factory=dict)
    """Kind of run to the seconds that one takes, for estimates while none of the kind has been measured."""
    report: ReportSection = field(default_factory=ReportSection)
    quick: bool = False
    """Whether the section `quick` of the file was merged in; never written in the file itself."""
    path: Path = Path()
    """The file it was read from; never written in the file."""
    artefact: str | None = None
    """Set by `narrowed` where the artefact has an evaluation of its own; never written in the file."""

    @property
    def source(self) -> Source:
        """Model and problems."""
        return Source(
            model=self.model,
            revision=self.revision,
            data=self.data,
            data_revision=self.data_revision,
            data_columns=self.data_columns,
        )

    def method(self, name: str) -> MethodSection:
        """The method's section, the profile's `credit` merged under its own.

        `NAME+attnpo` is NAME with the advantages rescaled too; `NAME@2` is NAME with its second trial of `tune`.

        Raises:
            AttnPOError: no such method or trial, or `+attnpo` on a method that has it.
        """
        if name in self.methods:
            section = self.methods[name]
            return replace(section, credit=merge(self.credit, section.credit))
        rest, plus, surplus = name.partition(COMPOSED)
        stem, at, trial = rest.partition("@")
        if stem not in self.methods or surplus:
            close, names = nearest(name, self.methods), listed(self.methods)
            raise AttnPOError(f"profile {self.name}: no method {name!r}{close}; it has {names}")
        section = self.methods[stem]
        if at:
            if not trial.isdecimal() or not 1 <= int(trial) <= len(section.tune):
                raise AttnPOError(f"profile {self.name}: {stem!r} has trials 1 to {len(section.tune)}, not {trial!r}")
            where = f"methods.{stem}.tune[{int(trial) - 1}]"
            plain = {**asdict(section), "tune": [], "label": f"{section.label}, trial {trial}"}
            section = build(MethodSection, merge(plain, section.tune[int(trial) - 1]), self.path.name, where)
        if plus:
            if section.attnpo:
                raise AttnPOError(
                    f"profile {self.name}: {stem!r} is rescaled by AttnPO already; leave out {COMPOSED!r}"
                )
            section = replace(section, attnpo=True, label=f"{section.label} + AttnPO")
        return replace(section, credit=merge(self.credit, section.credit))

    def need(self, *sections: str) -> None:
        """Check that the file has these sections.

        Raises:
            AttnPOError: some are missing; the line names all of them.
        """
        if missing := [section for section in dict.fromkeys(sections) if not getattr(self, section)]:
            names = f"section{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
            raise AttnPOError(f"profile {self.name}: no {names}, which this needs; `attnpo template` shows them all")

    def _section(self, name: str) -> Any:
        self.need(name)
        return getattr(self, name)

    def probed(self) -> ProbeSection:
        """The section `probe`; raises as `need`."""
        return cast(ProbeSection, self._section("probe"))

    def trained(self) -> TrainSection:
        """The section `train`; raises as `need`."""
        return cast(TrainSection, self._section("train"))

    def evaluated(self) -> EvaluateSection:
        """The section `evaluate`; raises as `need`."""
        return cast(EvaluateSection, self._section("evaluate"))

    def studied(self) -> StudySection:
        """The section `study`; raises as `need`."""
        return cast(StudySection, self._section("study"))

    @property
    def n_heads(self) -> int:
        """How many Key-Focus Heads a method has that does not say it: `probe.heads`, or that field's default."""
        return ProbeSection.heads if self.probe is None else self.probe.heads

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
        for name in sorted(set(section.core.methods if section.core else ()) - set(methods)):
            where = f"artefacts.{artefact}.core.methods"
            raise AttnPOError(f"profile {self.name}: {where} has {name!r}, which its methods have not; add it")
        report = self.report if section.blocks is None else replace(self.report, blocks=section.blocks)
        method_seeds = {} if section.evaluate and section.seeds else self.method_seeds  # see `seeds_of`
        narrowed = replace(
            self,
            methods=methods,
            seeds=section.seeds or self.seeds,
            method_seeds={**method_seeds, **section.method_seeds},
            report=report,
        )
        if not section.evaluate:
            return narrowed
        where = f"artefacts.{artefact}.evaluate"
        mapping = merge({} if self.evaluate is None else asdict(self.evaluate), section.evaluate)
        evaluate = build(EvaluateSection, mapping, self.path.name, where)
        return replace(narrowed, evaluate=evaluate, artefact=artefact)

    def evaluated_by(self, changes: Mapping[str, Any]) -> Profile:
        """The profile with changes to its section `evaluate`."""
        evaluate = build(EvaluateSection, {**asdict(self.evaluated()), **changes}, self.path.name, "evaluate")
        return replace(self, evaluate=evaluate)

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
            what = "no section 'tuning'" if self.tuning is None else f"no method with trials: {listed(stems)}"
            raise AttnPOError(f"profile {self.name}: {what}; add one to compare hyperparameters")
        methods = {name: self.method(name) for name in names}
        return replace(self, methods=methods, seeds=self.tuning.seeds, method_seeds={})

    def evaluation_of(self, method: str) -> EvaluateSection:
        """How a method is evaluated: trials, and the base that they are compared with (`base@`), on validation alone.

        Raises:
            AttnPOError: a trial in a profile without a section `tuning`.
        """
        if "@" not in method:
            return self.evaluated()
        if self.tuning is None:
            raise AttnPOError(f"profile {self.name}: {method!r} is a trial, but there is no section 'tuning'; add one")
        return replace(self.evaluated(), tasks=self.tuning.tasks, samples=self.tuning.samples)

    def seeds_of(self, method: str) -> list[int]:
        """The seeds that a method runs with.

        The first of these that is set: `method_seeds` of the artefact, `method_seeds` of the profile, `seeds` of the
        artefact, `seeds` of the profile. An artefact that has both `seeds` and an evaluation of its own does not look
        at the profile's `method_seeds`. Those of the artefact count in `narrowed` profiles. Trials (`trials`) run with
        `tuning.seeds`. With `--quick`, the `seeds` of the section `quick` replace all others but those. `base` and
        `base@`, the untrained model, have the seeds of all methods together.
        """
        if method in BASES:
            return sorted({seed for name in self.methods for seed in self.seeds_of(name)} | set(self.seeds))
        return self.method_seeds.get(method, self.seeds)

    def without_attnpo(self, method: str) -> list[str]:
        """The profile's methods with the same length reward and no rescaling, first those with the same arguments."""
        of = self.method(method)
        plain = {name: m for name, m in self.methods.items() if m.reward == of.reward and not m.attnpo}
        return sorted(plain, key=lambda name: plain[name].reward_args != of.reward_args)

    @property
    def option(self) -> str:
        """`--profile …` as one would type it: the profile's name, or its file's without the folders above it."""
        known = self.path.resolve().parent == shipped(PROFILES)
        return f"--profile {self.path.stem if known else self.path.name}{' --quick' if self.quick else ''}"

    @property
    def results_name(self) -> str:
        """Folder under results/: quick runs never mix with full ones."""
        return f"{self.name}-quick" if self.quick else self.name


def find_profile(name_or_path: str) -> Path:
    """A profile's file: a path, or the name of one that comes with the package (reproduce/profiles).

    Raises:
        AttnPOError: there is no such file.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise AttnPOError(f"{path}: no such profile file; check the path, or give a name in reproduce/profiles")
        return path
    folder = shipped(PROFILES)
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name_or_path not in known:
        raise AttnPOError(
            f"no profile {name_or_path!r}{nearest(name_or_path, known)}; reproduce/profiles has "
            f"{listed(known)}, or give a path that ends in .yaml"
        )
    return folder / f"{name_or_path}.yaml"


def load_profile(name_or_path: str, quick: bool = False) -> Profile:
    """Read a profile strictly.

    Args:
        name_or_path: a name in reproduce/profiles, or the path of a YAML file.
        quick: merge the file's section `quick` over the rest.

    Raises:
        AttnPOError: no such file, not YAML, an unknown or missing key, a value of the wrong type or out of its range,
            `quick` asked of a file without that section, or a `data_revision` without a hub data set. The line names
            file and key.
    """
    path = find_profile(name_or_path)
    mapping = _read(path, ())
    overlay = mapping.pop("quick", None)
    if quick:
        mapping = _with_quick(mapping, overlay, path.name)
    for key in _NOT_IN_FILES:
        if key in mapping:
            raise AttnPOError(f"{path.name}: {key}: unknown key; remove it")
    if mapping.get("methods", True) == {}:
        raise AttnPOError(f"{path.name}: methods: {{}} is empty; add a method, or leave the key out")
    profile = replace(build(Profile, mapping, path.name), quick=quick, path=path)
    if profile.data_revision is not None and not on_hub(profile.data):
        raise AttnPOError(
            f"{path.name}: data_revision: {profile.data_revision!r} is a hub data set's, but data is {profile.data!r}; "
            "remove it, or set it to null if it comes from `extends`"
        )
    _check_names(profile)
    return profile


def _read(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """The file's mapping; with `extends`, merged over that of another file beside it."""
    mapping = read_yaml(path)
    if not isinstance(mapping, dict):
        what = "empty" if mapping is None else f"{type(mapping).__name__} {mapping!r:.60}"
        raise AttnPOError(f"{path.name}: a profile is a mapping of sections, this is {what}")
    if "extends" not in mapping:
        return mapping
    name = str(mapping.pop("extends"))
    other = path.parent / name
    if Path(name).name != name or other == path or not other.is_file():
        raise AttnPOError(f"{path.name}: extends: {name!r} is no other file beside it; name one")
    if other in extended_by:
        circle = " extends ".join(file.name for file in (*extended_by, path, other))
        raise AttnPOError(f"{path.name}: extends: a circle, {circle}; take one of them out")
    return merge(_read(other, (*extended_by, path)), mapping)


def _with_quick(mapping: dict[str, Any], overlay: Any, file: str) -> dict[str, Any]:
    if not isinstance(overlay, dict):
        raise AttnPOError(f"{file}: --quick needs a section 'quick'; add one, or run without --quick")
    merged = merge(mapping, overlay)
    if "seeds" in overlay:  # they are those of all methods and artefacts
        merged.pop("method_seeds", None)
        artefacts = merged.get("artefacts")
        for name, section in artefacts.items() if isinstance(artefacts, dict) else ():
            if isinstance(section, dict):
                own = {key: value for key, value in section.items() if key not in ("seeds", "method_seeds")}
                merged["artefacts"] = {**merged["artefacts"], name: own}
    return merged


def _check_names(profile: Profile) -> None:
    """That methods have names that can be theirs, that their trials can be read, and that what else names a method
    names one of them."""
    file = profile.path.name
    folders = {"name": [profile.name], "methods": profile.methods, "artefacts": profile.artefacts}
    for key, names in folders.items():
        for name in names:
            if not _FILE_NAME.fullmatch(name):
                raise AttnPOError(
                    f"{file}: {key}: {name!r} names files and folders; let it begin with a letter or digit, without "
                    "slashes and control characters"
                )
    for name, method in profile.methods.items():
        if COMPOSED in name or "@" in name:
            raise AttnPOError(f"{file}: methods.{name}: '@' and {COMPOSED!r} in a name have a meaning; rename it")
        for trial in range(len(method.tune)):
            profile.method(f"{name}@{trial + 1}")
    if BASE in profile.methods:
        raise AttnPOError(f"{file}: methods.{BASE}: {BASE!r} is the untrained model and always there; rename it")
    for artefact in profile.artefacts:
        profile.narrowed(artefact)
    for seeds in (profile.method_seeds, *(section.method_seeds for section in profile.artefacts.values())):
        for name in seeds:
            profile.method(name)
