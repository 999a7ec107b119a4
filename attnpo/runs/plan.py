"""The jobs behind tables and figures, what determines each, and what each waits for.

    probe ─┬─ train (method × seed) ─┬─ eval
           │                         └─ stability
           └─ ensemble, intervention
    responses ── ensemble, intervention, stability        (of the untrained model, for the studies of its heads)
    eval of the untrained model (seed)

A run's id is a hash of its spec: everything that determines it. The ids chain: a training run's spec contains the
probe's id, an evaluation's the training run's. So the whole plan is known before anything has run, and a changed
profile gives new ids to just what it changes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import attnpo
from attnpo.errors import AttnPOError
from attnpo.evaluation.settings import EvaluateSection
from attnpo.evaluation.tasks import task_names, tasks_identity
from attnpo.probing.settings import ProbeSection, Source, StepsSection
from attnpo.problems.problem import problems_digest
from attnpo.problems.training_sets import STANDARD, Columns
from attnpo.runs.profile import Profile
from attnpo.runs.settings import BASE, BASE_OF_TRIALS, BASES, CoreSection
from attnpo.runs.store import Run, run_id
from attnpo.schema import build, check_seed
from attnpo.testbed import load_problems, model_identity, on_hub
from attnpo.testbed.problems import SCALES
from attnpo.training.settings import KEPT, REPORTING, MethodSection, TrainSection

Kind = Literal["probe", "train", "eval", "responses", "ensemble", "intervention", "stability"]
STUDIES: tuple[Kind, ...] = ("responses", "ensemble", "intervention", "stability")
"""Kinds of run that study the heads: `attnpo study`."""

RUNS_OF: dict[str, tuple[Kind, ...]] = {
    "fig_curves": ("train",),
    "fig_phrases": ("train",),
    "fig_heads": ("probe", "ensemble", "intervention"),
    "fig_stability": ("stability",),
}
"""Artefact to the kinds of run that it is made of; all others: evaluations."""

_ALWAYS = {
    StepsSection: "phrases min_chars lone_trigger_chars",
    ProbeSection: "split problems samples temperature max_completion_tokens batch_size heads bootstrap",
    TrainSection: "split steps prompts_per_step group_size learning_rate temperature max_completion_tokens save_steps "
    "grpo",
    EvaluateSection: "tasks samples temperature top_p max_completion_tokens batch_size limit",
    MethodSection: "reward reward_args attnpo credit heads",
}
"""Fields that are in a spec in any case; a new field is not to be added here, see `_in_spec`."""
_SPEC_NAMES = {"target_length": "tell", "variant": "reading"}
"""Fields whose names in specs are older than their names now."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run of the plan with the runs it waits for."""

    kind: Kind
    method: str | None
    seed: int
    run: Run
    needs: tuple[Run, ...] = ()
    artefact: str | None = None
    """The artefact whose own evaluation it is."""

    @property
    def title(self) -> str:
        """For people, e.g. `train attnpo seed 0`."""
        words = (self.kind, self.method, f"seed {self.seed}", self.artefact and f"({self.artefact})")
        return " ".join(str(w) for w in words if w is not None)

    def arguments(self, profile: Profile, results_dir: Path, consent: bool = False) -> list[str]:
        """What follows `attnpo` on the command line; consent: to run what the model writes."""
        words = ["study", self.kind] if self.kind in STUDIES else [self.kind]
        words += ["--profile", str(profile.path), "--results", str(results_dir.parent)]
        words += ["--method", self.method] if self.method is not None else []
        words += ["--seed", str(self.seed)] if self.method is not None else []
        words += ["--artefact", self.artefact] if self.artefact is not None else []
        words += ["--confirm-run-unsafe-code"] if consent and self.kind == "eval" else []
        return [*words, "--quick"] if profile.quick else words


def titles(jobs: list[Job]) -> str:
    """The first dozen jobs for people, and how many more there are."""
    more = f" and {len(jobs) - 12} more" if len(jobs) > 12 else ""
    return ", ".join(job.title for job in jobs[:12]) + more


Plans = Mapping[str, list[Job] | AttnPOError]
"""Artefact to its jobs, or to why the profile cannot make it."""


# what determines a run


def _in_spec(section: Any) -> dict[str, Any]:
    """The settings of a section that determine a run.

    For a method these are reward, reward_args, attnpo, and credit and heads where attnpo is on (`train_spec`), always;
    for the other sections the fields of `_ALWAYS`. Every other setting is in the spec where it is set to something
    else than its default, but for where a training is shown (`REPORTING`) and what of it is kept to be looked at
    (`KEPT`). So a setting that is new to profiles changes no id of a run that does not set it.
    """
    values, always = asdict(section), _ALWAYS[type(section)].split()
    if "grpo" in values:
        values["grpo"] = {name: value for name, value in values["grpo"].items() if name not in REPORTING}
    for field in dataclasses.fields(section):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in KEPT or (field.name not in always and values[field.name] == default):
            del values[field.name]
    return _with_spec_names(values)


def _with_spec_names(settings: dict[str, Any]) -> dict[str, Any]:
    return {_SPEC_NAMES.get(name, name): value for name, value in settings.items()}


@functools.cache
def problems_identity(data: str, split: str, revision: str | None = None, columns: Columns = STANDARD) -> str:
    """SHA-256 of a split's problems and answers; a hub data set goes by its name and, if they are set, its revision and
    the names of its columns."""
    if on_hub(data):
        named = "" if columns == STANDARD else f" {columns.problem}, {columns.answer}, {columns.id}"
        return (data if revision is None else f"{data}@{revision}") + named
    return problems_digest(load_problems(data, split, columns=columns))


def _problems(source: Source, split: str) -> str:
    return problems_identity(source.data, split, source.data_revision, source.data_columns)


def probe_spec(profile: Profile) -> dict[str, Any]:
    """What determines the probe."""
    return spec_of_probe(profile.source, profile.steps, profile.probed())


def spec_of_probe(source: Source, steps: StepsSection, settings: ProbeSection, seed: int = 0) -> dict[str, Any]:
    """What determines a probe, of a profile or not."""
    return {
        **_common(source, "probe", seed),
        "steps": _in_spec(steps),
        "probe": _in_spec(settings),
        "problems": _problems(source, settings.split),
    }


def train_spec(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What determines a training run; the method's label and its other trials do not."""
    section = profile.method(method)
    settings = _in_spec(dataclasses.replace(section, tune=[]))
    del settings["label"]
    settings["credit"] = _with_spec_names(section.credit)
    if not section.attnpo:
        settings = {k: v for k, v in settings.items() if k not in ("credit", "heads", "n_heads", "phrases")}
    elif section.heads == "random":
        settings["n_heads"] = section.n_heads or profile.n_heads
    return {
        **_common(profile, "train", seed),
        "method": method,
        "settings": settings,
        "steps": _in_spec(profile.steps) if section.attnpo else None,
        "train": _in_spec(profile.trained()),
        "problems": _problems(profile.source, profile.trained().split),
        "probe": run_id(probe_spec(profile)) if section.needs_probe else None,
    }


def eval_spec(profile: Profile, method: str, seed: int) -> dict[str, Any]:
    """What determines an evaluation of a method's model, or of the untrained one (`base`)."""
    section = profile.evaluation_of(method)
    testbeds = [scale for scale in SCALES.values() if not set(scale.tasks).isdisjoint(section.tasks)]
    others = [task for task in section.tasks if not any(task in scale.tasks for scale in testbeds)]
    splits = ("validation",) if "@" in method else ("test", "shifted")
    return {
        **_common(profile, "eval", seed),
        "method": method,
        "evaluate": {**_in_spec(section), "tasks": task_names(section.tasks)},
        "problems": [problems_identity(scale.data, split) for scale in testbeds for split in splits] or None,
        **({"tasks": tasks_identity(others)} if others else {}),
        "train": None if method in BASES else run_id(train_spec(profile, method, seed)),
    }


def study_spec(profile: Profile, kind: Kind, method: str | None = None, seed: int = 0) -> dict[str, Any]:
    """What determines a study of the heads, see `STUDIES`; only `stability` has a method and its seed.

    Raises:
        AttnPOError: the profile cannot make it.
    """
    study = profile.studied()
    sampling = ["split", "problems", "samples", "temperature", "max_completion_tokens", "batch_size"]
    more = {
        "responses": sampling,
        "ensemble": ["ensemble"],
        "intervention": ["heads", "dropped", "answer_tokens", "answer_temperature"],
        "stability": ["heads"],
    }[kind]
    settings = {key: value for key, value in asdict(study).items() if key in more}
    if kind in ("responses", "intervention") and study.backend != "hf":
        settings["backend"] = study.backend
    spec: dict[str, Any] = {**_common(profile, kind, seed), "study": settings}
    if kind == "responses":
        return {**spec, "problems": _problems(profile.source, study.split)}
    spec |= {"responses": run_id(study_spec(profile, "responses")), "steps": _in_spec(profile.steps)}
    if kind == "stability":
        assert method is not None
        spec |= {"method": method, "train": run_id(train_spec(profile, method, seed))}
    if kind == "ensemble" or study.heads == "top":
        spec |= {"probe": run_id(probe_spec(profile)), "heads": profile.probed().heads}
    return spec


def _common(of: Profile | Source, kind: Kind, seed: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "seed": check_seed(seed),
        "model": model_identity(of.model, of.revision),
        "attnpo": attnpo.__version__,
    }


# the plan


_SECTIONS: dict[str, tuple[str, ...]] = {
    "probe": ("probe",),
    "train": ("train", "methods"),
    "eval": ("evaluate",),
    "responses": ("study",),
    "ensemble": ("study", "probe"),
    "intervention": ("study",),
    "stability": ("study", "train", "methods"),
}
"""Kind of run to the sections of a profile that it uses."""


def check_sections(profile: Profile, kinds: Collection[str], methods: Iterable[str] = ()) -> None:
    """Check that a profile has the sections which runs of these kinds use, trained on these methods.

    Raises:
        AttnPOError: some are missing; the line names all of them. Or there is no such method.
    """
    wanted = [section for kind in kinds for section in _SECTIONS[kind]]
    named = list(methods)
    if "eval" in kinds and any("@" in name for name in named):
        wanted.append("tuning")
    trained = [name for name in named if name not in BASES] if profile.methods else []
    if any(profile.method(name).needs_probe for name in trained):
        wanted.append("probe")
    if {"intervention", "stability"} & set(kinds) and profile.study is not None and profile.study.heads == "top":
        wanted.append("probe")
    profile.need(*wanted)


def plan_runs(profile: Profile, results_dir: Path, base: str = BASE, kinds: Collection[str] = ("eval",)) -> list[Job]:
    """The runs of `kinds` and what they wait for, for all methods of the profile (see `Profile.narrowed`).

    Each job comes after the ones it needs, and a seed to its end before the next one: a stopped plan shows whole seeds.

    Raises:
        AttnPOError: a study that the profile cannot make.
    """
    probe = None if profile.probe is None else Run.at(results_dir, probe_spec(profile))
    jobs: list[Job] = []
    trained = set(kinds) & {"train", "eval", "stability"}
    studied = [kind for kind in STUDIES if kind in kinds]
    if studied:
        responses = Run.at(results_dir, study_spec(profile, "responses"))
        jobs.append(Job("responses", None, 0, responses))

    def study(kind: Kind, needs: tuple[Run, ...], method: str | None = None, seed: int = 0) -> Job:
        spec = study_spec(profile, kind, method, seed)
        more = (probe,) if probe is not None and "probe" in spec else ()
        return Job(kind, method, seed, Run.at(results_dir, spec), (*needs, *more))

    jobs += [study(kind, (responses,)) for kind in studied if kind in ("ensemble", "intervention")]
    for seed in profile.seeds_of(base) if trained else []:
        after: list[Job] = []
        if "eval" in kinds:
            run = Run.at(results_dir, eval_spec(profile, base, seed))
            after.append(Job("eval", base, seed, run, (), profile.artefact))
        for name, method in profile.methods.items():
            if seed not in profile.seeds_of(name):
                continue
            train = Run.at(results_dir, train_spec(profile, name, seed))
            jobs.append(Job("train", name, seed, train, (probe,) if probe and method.needs_probe else ()))
            if "eval" in kinds:
                run = Run.at(results_dir, eval_spec(profile, name, seed))
                after.append(Job("eval", name, seed, run, (train,), profile.artefact))
            if "stability" in kinds:
                after.append(study("stability", (responses, train), name, seed))
        jobs += after
    if probe is not None and ("probe" in kinds or any(probe in job.needs for job in jobs)):
        jobs.insert(0, Job("probe", None, 0, probe))
    return jobs


def plan_artefacts(profile: Profile, results_dir: Path, names: Iterable[str]) -> Plans:
    """The jobs of each artefact, or why the profile cannot make it."""
    plans: dict[str, list[Job] | AttnPOError] = {}
    for name in names:
        kinds = RUNS_OF.get(name, ("eval",))
        trained = ("train", *kinds) if {"eval", "stability"} & set(kinds) else kinds
        try:
            check_sections(profile, trained, profile.narrowed(name).methods)
            if {"probe", "ensemble"} & set(kinds):
                _check_labels(profile)
            plans[name] = plan_runs(profile.narrowed(name), results_dir, kinds=kinds)
        except AttnPOError as error:
            plans[name] = error
    return plans


def plan_command(
    profile: Profile, artefact: str, methods: list[str] | None, results_dir: Path
) -> tuple[Profile, Plans]:
    """What `attnpo run ARTEFACT` and `attnpo table` are about.

    Args:
        profile: the whole profile.
        artefact: one that the profile makes, `all` of them, or `tune`.
        methods: for `tune`, those whose trials are run; None: all.
        results_dir: results/<profile>.

    Returns:
        The profile with just the methods that are run, and the jobs of each artefact.

    Raises:
        AttnPOError: the profile does not make it, or cannot.
    """
    if artefact == "tune":
        profile.need("train", "methods", "evaluate", "tuning")
        trials = profile.trials(methods)
        return trials, {"tune": plan_runs(trials, results_dir, BASE_OF_TRIALS)}
    known = profile.makes()
    if artefact not in [*known, "all"]:
        names = ", ".join(["table1", "tune", *(name for name in known if name != "table1")])
        raise AttnPOError(f"nothing to make under {artefact!r}; profile {profile.name} has {names}")
    if artefact != "all":
        plan = plan_artefacts(profile, results_dir, [artefact])[artefact]
        if isinstance(plan, AttnPOError):
            raise plan
        return profile.narrowed(artefact), {artefact: plan}
    all_methods = {name: section for made in known for name, section in profile.narrowed(made).methods.items()}
    return dataclasses.replace(profile, methods=all_methods), plan_artefacts(profile, results_dir, known)


def only_methods(plan: list[Job], methods: list[str] | None, artefact: str) -> list[Job]:
    """The jobs of a plan that belong to these methods, to no method or to the untrained model; None: all.

    Raises:
        AttnPOError: the plan has no such method.
    """
    if methods is None:
        return plan
    known = {job.method for job in plan if job.method is not None} - set(BASES)
    if unknown := [name for name in methods if name not in known]:
        raise AttnPOError(f"--method {unknown[0]}: {artefact} has {', '.join(sorted(known)) or 'no methods'}")
    return [job for job in plan if job.method is None or job.method in {*BASES, *methods}]


def only_core(plan: list[Job], profile: Profile, core: CoreSection) -> list[Job]:
    """The jobs of a plan that make the core rows of its table, and the untrained model's with one seed: it differs by
    the draws of its samples alone.

    Args:
        plan: of the artefact.
        profile: narrowed to it.
        core: its section.
    """
    seeds = {name: profile.seeds_of(name)[: core.seeds] for name in core.methods}
    seeds[BASE] = seeds[core.methods[0]][:1]
    return [job for job in plan if job.method is None or job.seed in seeds.get(job.method, [])]


def all_jobs(plans: Iterable[list[Job] | AttnPOError]) -> list[Job]:
    """The jobs of several plans, each run once."""
    jobs: dict[str, Job] = {}
    for plan in plans:
        for job in [] if isinstance(plan, AttnPOError) else plan:
            jobs.setdefault(job.run.id, job)
    return list(jobs.values())


def left_to_do(plan: list[Job], recorded: bool = False) -> list[Job]:
    """The jobs of a plan that are to be run.

    Args:
        plan: each job behind those it needs.
        recorded: leave out the runs that are recorded, and those that only such runs need.
    """
    left: list[Job] = []
    needed: set[str] = set()
    for job in reversed(plan):
        # Other jobs need the model or the samples of a run, which a record has not; the probe's record is all of it.
        takes = recorded and (job.kind == "probe" or job.run.id not in needed)
        if job.run.state() not in ("finished", *(["recorded"] if takes else [])):
            left.insert(0, job)
            needed |= {run.id for run in job.needs}
    return left


def _check_labels(profile: Profile) -> None:
    from attnpo.probing.labels import check_labels

    try:
        check_labels(profile.probed().sources, profile.data)
    except AttnPOError as error:
        raise AttnPOError(f"profile {profile.name}: {error}") from error


def check_launcher(words: list[str]) -> None:
    """Check that the program which starts trainings is installed, beside the interpreter or on the path.

    Raises:
        AttnPOError: it is not.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if words and shutil.which(words[0], path=places) is None:
        raise AttnPOError(f"launch.train: no program {words[0]!r} is installed; install it, or change launch.train")


def check_methods(profile: Profile) -> None:
    """Find wrong rewards, reward arguments and credit settings now, which a job would find only after minutes.

    It loads torch, so it is to be called only where there is something to run.

    Raises:
        AttnPOError: the first setting that is wrong.
    """
    from attnpo.method.credit import CreditConfig
    from attnpo.method.selection import SelectionConfig
    from attnpo.probing.labels import EXACT, has_oracle
    from attnpo.rewards import REWARDS, check_reward
    from attnpo.training.exits import ExitConfig
    from attnpo.training.settings import AnswerConfig

    for name in profile.methods:
        method, at = profile.method(name), f"{profile.path.name}: methods.{name}"
        try:
            train = profile.trained()
            group_size = method.grpo_over(train).get("num_generations", train.group_size)
            check_reward(method.reward, method.reward_args, group_size)
        except AttnPOError as error:
            key = "reward" if method.reward not in REWARDS else "reward_args"
            raise AttnPOError(f"{at}.{key}: {error}") from error
        build(CreditConfig, method.credit, profile.path.name, f"methods.{name}.credit")
        for key, config in (("selection", SelectionConfig), ("exits", ExitConfig), ("answers", AnswerConfig)):
            if getattr(method, key) is not None:
                build(config, getattr(method, key), profile.path.name, f"methods.{name}.{key}")
        if method.attnpo and method.heads == "oracle" and not has_oracle(profile.data):
            raise AttnPOError(f"{at}.heads: oracle labels are known for {', '.join(EXACT)}, not {profile.data!r}")
