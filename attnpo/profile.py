"""Profiles: YAML files that hold every hyperparameter of a reproduction.

A profile is read strictly: an unknown key, a missing one or a value of the wrong type is an error that names
file and key. `extends: FILE` starts from another profile beside it. The section `quick` is a partial profile, merged
over the rest when `--quick` is asked for. Nothing here imports torch, so that a finished reproduction is recognised at
once.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from attnpo.errors import AttnPOError

T = TypeVar("T")
BASES = ("base", "base@")
"""The untrained model: in the tables, and on the validation problems beside the trials."""
COMPOSED = "+attnpo"
"""Behind a method's name: the method with AttnPO on top."""
PACKAGE_PARENT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class StepsSection:
    """How the thinking is cut into steps: the arguments of `attnpo.steps.split_steps`."""

    phrases: str = "corrected"
    """Phrase set: `published` or `corrected`."""
    min_chars: int = 80
    """Steps shorter than this many characters merge into a neighbour; 1 merges none."""
    lone_trigger_chars: int = 15
    """A summary step with at most this many characters beside its trigger merges to the right."""


@dataclass(frozen=True, kw_only=True)
class ProbeSection:
    """Finding Key-Focus Heads: sample, label, score, rank."""

    split: str = "train"
    problems: int
    """Problems sampled from `split`."""
    samples: int
    """Responses per problem."""
    temperature: float = 1.0
    max_completion_tokens: int
    batch_size: int = 128
    """Responses generated at once."""
    heads: int = 3
    """Key-Focus Heads that training uses: the best this many by Step Ranking Accuracy."""
    bootstrap: int = 1000
    """Draws (responses) for the interval of each head's Step Ranking Accuracy."""


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Reinforcement learning with TRL's GRPOTrainer, shared by all methods."""

    split: str = "train"
    steps: int
    """Optimizer steps."""
    prompts_per_step: int = 16
    group_size: int = 8
    """Rollouts per prompt, G."""
    learning_rate: float
    temperature: float = 1.0
    max_completion_tokens: int
    save_steps: int
    """Checkpoint interval in optimizer steps."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig, passed as they are."""


@dataclass(frozen=True, kw_only=True)
class TellSection:
    """A length told in the prompt, in training and in evaluation."""

    text: str
    """Put behind the problem and a space; `{n}` stands for the number of tokens, as in `Think for {n} tokens.`"""
    low: int
    high: int
    """In training each problem is told its own n, drawn uniformly from low to high by the run's seed."""
    evaluate: int
    """The n of all problems in evaluation."""

    def instruct(self, problem: str, n: int) -> str:
        """The problem with the length told."""
        return f"{problem} {self.text.replace('{n}', str(n))}"


@dataclass(frozen=True, kw_only=True)
class MethodSection:
    """One trained row of the table."""

    label: str
    """Name in tables and figures."""
    reward: str
    """A name in `attnpo.rewards.REWARDS`."""
    reward_args: dict[str, Any] = field(default_factory=dict)
    estimator: Literal["rloo", "grpo", "batch"] | None = None
    """How rewards become advantages, see `attnpo.rewards.ESTIMATORS`; none: the one that the reward comes with."""
    grpo: dict[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's GRPOConfig for this method alone, over those of `train.grpo`."""
    tell: TellSection | None = None
    """Tell a length in the prompt."""
    attnpo: bool = False
    """Rescale the advantages step by step by the attention of Key-Focus Heads."""
    credit: dict[str, Any] = field(default_factory=dict)
    """Fields of `attnpo.credit.CreditConfig`, over the profile's `credit`; used if `attnpo`."""
    heads: Literal["top", "worst", "random", "all", "oracle"] | list[tuple[int, int]] = "top"
    """`top`, `worst`: the probe's best or worst heads; `random`: drawn by the run's seed; `all`: every head of the
    model; `oracle`: labels in place of attention (`attnpo.credit.oracle_scores`); or a list of [layer, head], both
    from 0."""
    n_heads: int | None = None
    """How many heads, for `top`, `worst` and `random`; none: `probe.heads`."""
    phrases: Literal["published", "corrected"] | None = None
    """Phrase set that cuts the steps; none: that of `steps`."""
    snapshots: int | None = None
    """Keep the weights every this many optimizer steps, as `snapshots/STEP` of the run; none: only the last."""
    tune: list[dict[str, Any]] = field(default_factory=list)
    """Trials: partial method sections, each merged over this one as the method `NAME@1`, `NAME@2`, ..."""

    def __post_init__(self) -> None:
        if self.n_heads is not None and (self.n_heads < 1 or self.heads not in ("top", "worst", "random")):
            raise AttnPOError(
                f"method {self.label!r}: n_heads {self.n_heads} must be at least 1 and goes with heads top, worst or "
                f"random, not {self.heads!r}"
            )
        if self.tell is not None and ("{n}" not in self.tell.text or not 0 < self.tell.low <= self.tell.high):
            raise AttnPOError(f"method {self.label!r}: tell needs {{n}} in its text and 0 < low <= high")

    @property
    def needs_probe(self) -> bool:
        """Whether training waits for the probe's heads.json."""
        return self.attnpo and self.heads in ("top", "worst")


@dataclass(frozen=True, kw_only=True)
class ArtefactSection:
    """What one table or figure is made of."""

    methods: list[str]
    """Names as `Profile.method` takes them, in the order of the rows."""
    seeds: list[int] | None = None
    """None: the profile's. Those of the profile's `method_seeds` win, but not where the artefact has an evaluation of
    its own."""
    method_seeds: dict[str, list[int]] = field(default_factory=dict)
    """Seeds of single methods in this artefact; they win over all others."""
    blocks: dict[str, str] | None = None
    """Task to title, as `report.blocks`; None: those."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Fields of `evaluate` for this artefact alone: its evaluations are runs of their own."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """For `fig_curves`, `fig_phrases`, `fig_passk` and `fig_budget`: a title, which names the file too, to the methods
    of one figure; empty: one figure of all. For `fig_strength`: a method, whose name and look a line has, to the
    methods along that line."""
    chains: dict[str, list[int]] = field(default_factory=dict)
    """For `fig_passk` and `fig_budget` on the testbed: a title, which names the file too, to the lengths of the chains
    in a figure; empty: all problems in one."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Sampling through lm-eval."""

    tasks: list[str]
    samples: int | None
    """Responses per problem, k; null: each task's own."""
    temperature: float = 0.6
    top_p: float = 0.95
    max_completion_tokens: int
    batch_size: int
    limit: int | None = None
    """Only the first this many problems of each task; none: all of them."""


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """Studies of the heads of the untrained model, on responses of its own: see `attnpo.studies`."""

    split: str = "validation"
    """Problems to sample; better not those of the probe, which chose the heads."""
    problems: int
    samples: int
    """Responses per problem."""
    temperature: float = 1.0
    max_completion_tokens: int
    batch_size: int = 128
    heads: Literal["top"] | list[tuple[int, int]] = "top"
    """Key-Focus Heads: `top`, the probe's best `probe.heads`, or a list of [layer, head], both from 0."""
    ensemble: int = 8
    """The ensemble curve goes from one head to this many."""
    dropped: float = 0.3
    """Intervention: share of the steps that are dropped from the thinking, rounded up."""
    answer_tokens: int = 64
    """Intervention: budget of the answer that follows."""
    answer_temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LaunchSection:
    """How jobs are started on machines with accelerators."""

    train: list[str] = field(default_factory=list)
    """Words before `-m attnpo.cli train ...` in place of the Python interpreter, such as `accelerate launch
    --config_file reproduce/accelerate/8gpus-zero3.yaml`; paths are relative to the checkout. None: one process. The
    processes of a launcher end with `attnpo run` when that is interrupted, but not when it is killed (SIGKILL)."""
    workers: int | None = None
    """Runs side by side unless `--jobs` says otherwise; None: one a usable core."""


@dataclass(frozen=True, kw_only=True)
class TuningSection:
    """`attnpo run tune`: the trial of each method with the best Accuracy-Efficiency Score on validation problems."""

    tasks: list[str]
    """lm-eval tasks of validation problems. A trial is never evaluated on anything else."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """The score is taken of the means over these; better none that the tables use."""
    samples: int = 4
    """Responses per problem."""


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """How derived numbers become table and figure."""

    blocks: dict[str, str] = field(default_factory=dict)
    """Task to title, in the order of the table's blocks; empty: every evaluated task under its own name."""
    base_label: str = "base"
    """Name of the untrained model in tables and figures."""
    reference: str | None = None
    """Method from which every other one's difference is shown, paired over the problems."""
    accuracy_margin: float = 0.02
    """Non-inferiority margin (share of responses), declared before the runs: 'equal accuracy' needs the
    interval of the accuracy difference to stay above minus this."""
    confidence: float = 0.95
    bootstrap: int = 2000
    """Draws (seeds and problems) for the intervals."""
    bootstrap_seed: int = 0
    paper_model: str = "1.5B"
    """Model size whose published values stand beside ours."""


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
    steps: StepsSection = StepsSection()
    method_seeds: dict[str, list[int]] = field(default_factory=dict)
    """Seeds of single methods, in place of `seeds`."""
    probe: ProbeSection
    train: TrainSection
    credit: dict[str, Any] = field(default_factory=dict)
    """Fields of `attnpo.credit.CreditConfig` for all methods with `attnpo`."""
    methods: dict[str, MethodSection]
    artefacts: dict[str, ArtefactSection] = field(default_factory=dict)
    """Which methods and seeds a table or figure takes; one that is not named here takes all."""
    evaluate: EvaluateSection
    tuning: TuningSection | None = None
    """How the trials of `tune` are compared; needed where a method has some."""
    study: StudySection | None = None
    """How the heads are studied: ensemble curve, intervention, stability."""
    launch: LaunchSection = LaunchSection()
    seconds: dict[str, float] = field(default_factory=dict)
    """Kind of run to what one takes, for the time estimate of a plan while none of the kind has been measured."""
    report: ReportSection = ReportSection()
    quick: bool = False
    """Whether the section `quick` of the file was merged in; never written in the file itself."""
    path: Path = Path()
    """The file it was read from."""
    artefact: str | None = None
    """Set by `narrowed` where the artefact has an evaluation of its own; never written in the file."""

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


def checkout_root() -> Path:
    """The checkout if attnpo is installed from one (editable), else the current folder."""
    return PACKAGE_PARENT if (PACKAGE_PARENT / "reproduce").is_dir() else Path.cwd()


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


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`: mappings merge key by key, anything else is replaced. Neither is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def build(cls: type[T], mapping: dict[str, Any], file: str, section: str = "") -> T:
    """A dataclass from a mapping, nested dataclasses included, strictly.

    Args:
        cls: a dataclass; its annotations may use str, int, float, bool, None, Any, Path, Literal, unions,
            list, tuple, dict with str keys, and dataclasses.
        mapping: field name to value; a whole number is accepted for a float.
        file: what to call the mapping's origin in an error, e.g. `tiny.yaml`.
        section: the keys that lead to this mapping, e.g. `methods.attnpo`; empty at the top.

    Raises:
        AttnPOError: an unknown key, a missing one, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    at = f"{file}: {section}." if section else f"{file}: "
    for key in mapping:
        if key not in fields:
            raise AttnPOError(f"{at}{key}: unknown key{_nearest(key, fields)}; valid keys are {_names(fields)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, f in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], file, f"{section}.{name}" if section else name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise AttnPOError(f"{at}{name}: missing; add it")
    return cls(**values)


def _convert(hint: Any, value: Any, file: str, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, value, file, key)
    if origin in (Union, types.UnionType):
        errors = []
        for option in args:
            try:
                return _convert(option, value, file, key)
            except AttnPOError as error:
                errors.append(error)
        expected = " or ".join(_describe(option) for option in args)
        raise AttnPOError(f"{file}: {key}: {value!r} is not {expected}") from errors[-1]
    if origin is Literal and value in args:
        return value
    if origin is list and isinstance(value, list):
        return [_convert(args[0], item, file, f"{key}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(args):
        pairs = enumerate(zip(args, value, strict=True))
        return tuple(_convert(arg, item, file, f"{key}[{i}]") for i, (arg, item) in pairs)
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], item, file, f"{key}.{k}") for k, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    remedy = ""
    if hint is float and isinstance(value, str) and "e" in value.lower():
        remedy = "; YAML reads an exponent only after a decimal point, as in 3.0e-4"
    raise AttnPOError(f"{file}: {key}: {value!r} is not {_describe(hint)}{remedy}")


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is list:
        return "a list"
    if origin is tuple:
        return f"a list of {len(args)}"
    return "a mapping" if origin is dict or dataclasses.is_dataclass(hint) else str(hint)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _nearest(name: object, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _names(known: typing.Iterable[object]) -> str:
    return ", ".join(str(k) for k in known) or "none"
