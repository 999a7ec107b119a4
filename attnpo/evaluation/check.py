"""Has a model, or the code around it, changed? A small slice is evaluated again and compared with a baseline file.

The baseline holds the settings, a hash of the problems and, for each problem, the means over its k samples. The
check repeats the evaluation with just these settings and compares problem by problem. This is an exact paired
sign-flip test (Fisher, The Design of Experiments, 1935, section 21): if nothing changed, the sign of each problem's
difference is random. The *band* of a figure is the range that the mean difference leaves only in the allowed share of
draws with random signs. No distribution is assumed. The false-alarm rate is split evenly among all figures
(Bonferroni), so it bounds the chance that *any* of them leaves its band.

The same seeds on the same hardware and versions give the same samples, so all differences and bands are 0. Other
hardware or other versions change some samples. Shifts up to the minimum bands never fail the check.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from rich.table import Table

from attnpo.environment import device, git_state, package_versions
from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import check_tasks
from attnpo.files import atomic_write_text, canonical_json, read_jsonl
from attnpo.schema import STRICT, Count, Names, NotNegative, Seed, Share, TopP, build
from attnpo.statistics.tables import sample_counts
from attnpo.testbed import EMBEDDED, model_identity, model_path

SHARES = ("accuracy", "truncated", "missing_think_end")
FIGURES = ("accuracy", "tokens", "thinking_tokens", "answer_tokens", "truncated", "missing_think_end")
"""What is compared, in order. Those in `SHARES` are shares of the responses, the others are in tokens."""
FORMAT: Literal[1] = 1
DRAWS = 20_000
"""Draws of random signs, at least; more where a figure's share of the false-alarm rate is small."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """What determines the evaluation. The defaults are the embedded model's: half a minute on a CPU core."""

    model: str = EMBEDDED
    revision: str | None = None
    tasks: Names
    limit: Count = 64
    """Problems of each task, from its first one."""
    samples: Count = 8
    temperature: NotNegative = 1.0
    top_p: TopP = 1.0
    max_tokens: Count = 256
    batch_size: Count = 128
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bands:
    """How far a figure may move."""

    false_alarm: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Chance that any figure leaves its band though nothing changed."""
    minimum_share: Share = 0.01
    """A share never fails by moving up to this far."""
    minimum_relative: NotNegative = 0.01
    """A number of tokens never fails by moving up to this part of the baseline's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Baseline:
    """A baseline file."""

    settings: Settings
    bands: Bands
    model: dict[str, Any]
    """Identity of the model that was measured; for people, a check may well be of another."""
    data: dict[str, str]
    """Task to SHA-256 of its problems."""
    problems: dict[str, list[str]]
    """Task to the ids of its problems."""
    values: dict[str, dict[str, list[float]]]
    """Task to figure to the mean of each problem."""
    versions: dict[str, Any]
    device: dict[str, Any]
    git: dict[str, Any]
    format: Literal[1] = FORMAT

    @model_validator(mode="after")
    def _check(self) -> Self:
        for task, ids in self.problems.items():
            of_task = self.values.get(task, {})
            if {figure: len(numbers) for figure, numbers in of_task.items()} != dict.fromkeys(FIGURES, len(ids)):
                raise ValueError(f"values of {task} do not fit its problems")
        return self


class Change(NamedTuple):
    """One figure, before and now."""

    task: str
    figure: str
    before: float
    now: float
    errors: float
    """The difference in its standard errors (over problems); 0 where there is no difference."""
    band: float
    """The difference may go this far to either side."""

    @property
    def difference(self) -> float:
        """`now - before`."""
        return self.now - self.before

    @property
    def moved(self) -> bool:
        """Whether the figure left its band; the last digits of a mean do not count."""
        return abs(self.difference) > self.band + 1e-9 * (1 + abs(self.before))


# statistics: plain numpy


def sign_flip_band(differences: Any, false_alarm: float, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(M,) bands: how far the mean of paired differences may go if their signs are random.

    Args:
        differences: (P, M), P problems, M figures.
        false_alarm: chance that the mean of one figure goes beyond its band; above it is never.
        draws: how often P random signs are drawn; raised to the least number that can tell `false_alarm`.
        seed: of the draws.

    Returns:
        The largest mean that a test at level `false_alarm` does not reject; infinite where P problems are too few to
        reject any.
    """
    array = np.asarray(differences, dtype=float)
    draws = max(draws, math.ceil(20 / false_alarm))
    rng = np.random.default_rng(seed)
    flipped = []
    for start in range(0, draws, 1000):
        signs = rng.integers(0, 2, size=(min(1000, draws - start), len(array)), dtype=np.int8) * 2.0 - 1
        flipped.append(np.abs(signs @ array) / len(array))
    # With the observed signs among the draws the test is exact (p = (1 + those at least as far) / (1 + draws)).
    rejected = math.floor(false_alarm * (draws + 1)) - 1
    band = -np.partition(-np.concatenate(flipped), rejected, axis=0)[rejected]
    return np.where(len(array) < problems_needed(false_alarm), np.inf, band)


def problems_needed(false_alarm: float) -> int:
    """The smallest P at which some outcome is rarer than `false_alarm`: all signs equal, 2 of 2**P."""
    return math.ceil(1 - math.log2(false_alarm))


def compare(
    before: Mapping[str, Mapping[str, Sequence[float]]],
    now: Mapping[str, Mapping[str, Sequence[float]]],
    bands: Bands,
    draws: int = DRAWS,
) -> list[Change]:
    """Every figure of every task, paired by problem.

    Args:
        before, now: task to figure to P means, of the same problems in one order.
        bands: how far each may move.
        draws: as in `sign_flip_band`.
    """
    share = bands.false_alarm / (len(before) * len(FIGURES))
    changes = []
    for task, values in before.items():
        old = np.array([values[figure] for figure in FIGURES], dtype=float).T  # (P, M)
        new = np.array([now[task][figure] for figure in FIGURES], dtype=float).T
        difference = new - old
        spread = difference.std(axis=0, ddof=1) / math.sqrt(len(difference))
        limits = sign_flip_band(difference, share, draws)
        for i, figure in enumerate(FIGURES):
            mean, least = old[:, i].mean(), bands.minimum_share
            if figure not in SHARES:
                least = bands.minimum_relative * mean
            step = difference[:, i].mean()
            errors = float(step / spread[i]) if spread[i] else (math.copysign(math.inf, step) if step else 0.0)
            limit = float(max(limits[i], least))
            changes.append(Change(task, figure, float(mean), float(new[:, i].mean()), errors, limit))
    return changes


def problem_means(lines: Iterable[Mapping[str, Any]]) -> tuple[dict[str, list[str]], dict[str, dict[str, list[float]]]]:
    """Problems and their means, task by task, from the lines of a samples.jsonl."""
    sums: dict[str, dict[str, list[list[float]]]] = {}
    for line in lines:
        counts = sample_counts(line)
        # What is not known of a response counts as 0: the same in a baseline and its check.
        row = [np.nan_to_num(counts["correct" if figure == "accuracy" else figure]) for figure in FIGURES]
        sums.setdefault(line["task"], {}).setdefault(str(line["problem_id"]), []).append(row)
    problems = {task: list(rows) for task, rows in sums.items()}
    values = {}
    for task, rows in sums.items():
        means = np.array([np.mean(of_problem, axis=0) for of_problem in rows.values()])
        values[task] = {figure: means[:, i].tolist() for i, figure in enumerate(FIGURES)}
    return problems, values


# measuring and checking


def record(settings: Settings, bands: Bands) -> Baseline:
    """Measure a baseline.

    Raises:
        AttnPOError: as `attnpo.evaluation.evaluate.run_eval`; or too few problems for a figure ever to leave its band.
    """
    data, problems, values = _measure(settings)
    needed = problems_needed(bands.false_alarm / (len(values) * len(FIGURES)))
    for task, ids in problems.items():
        if len(ids) < needed:
            raise AttnPOError(
                f"{task}: {len(ids)} problems can show no change at a false-alarm rate of {bands.false_alarm:g}; "
                f"take at least {needed} (--limit)"
            )
    return Baseline(
        settings=settings,
        bands=bands,
        model={**model_identity(settings.model, settings.revision), "name": settings.model},
        data=data,
        problems=problems,
        values=values,
        versions=package_versions(),
        device=device(),
        git=git_state(),
    )


def check(baseline: Baseline, model: str | None = None, revision: str | None = None) -> list[Change]:
    """Evaluate with the baseline's settings, or another model with them, and compare.

    Raises:
        AttnPOError: as `attnpo.evaluation.evaluate.run_eval`; or the problems are not the baseline's.
    """
    settings = baseline.settings
    if model is not None:
        settings = replace(settings, model=model, revision=revision)
    _, problems, values = _measure(settings, baseline.data)
    if problems != baseline.problems:
        raise AttnPOError("the evaluated problems are not the baseline's; write a new one (--write)")
    return compare(baseline.values, values, baseline.bands)


def _measure(settings: Settings, expected: Mapping[str, str] | None = None) -> tuple[dict[str, str], Any, Any]:
    from attnpo.evaluation.evaluate import SAMPLES_FILE, load_tasks, problems_of, run_eval

    check_tasks(settings.tasks, confirmed=False)
    data = {
        name: hashlib.sha256(canonical_json(problems_of(task, settings.limit)).encode()).hexdigest()
        for name, task in load_tasks(settings.tasks).items()
    }
    if expected is not None and data != expected:
        changed = sorted(name for name in {*data, *expected} if data.get(name) != expected.get(name))
        raise AttnPOError(
            f"the problems of {', '.join(changed)} are not those of the baseline, so nothing can be compared; "
            "restore them, or write a new baseline (--write)"
        )
    with tempfile.TemporaryDirectory(prefix="attnpo-check-") as folder:
        run_eval(
            model_path(settings.model),
            settings.tasks,
            Path(folder),
            samples=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
            batch_size=settings.batch_size,
            seed=settings.seed,
            limit=settings.limit,
            revision=settings.revision,
        )
        problems, values = problem_means(read_jsonl(Path(folder) / SAMPLES_FILE))
    return data, problems, values


# the file


def write(path: Path, baseline: Baseline) -> None:
    """Write a baseline file, a line a list."""
    content = asdict(baseline)
    values = content.pop("values")
    problems = content.pop("problems")
    text = json.dumps(content, indent=2, ensure_ascii=False)[:-2]
    tasks = [
        f'    "{task}": {{\n'
        + ",\n".join(f'      "{figure}": {json.dumps(numbers)}' for figure, numbers in figures.items())
        + "\n    }"
        for task, figures in values.items()
    ]
    ids = ",\n".join(f'    "{task}": {json.dumps(names, ensure_ascii=False)}' for task, names in problems.items())
    text += ',\n  "problems": {\n' + ids + '\n  },\n  "values": {\n' + ",\n".join(tasks) + "\n  }\n}\n"
    atomic_write_text(path, text)


def read(path: Path) -> Baseline:
    """Read a baseline file strictly.

    Raises:
        AttnPOError: no such file, or it is no baseline of this format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AttnPOError(f"{path}: {error.strerror}; write it first: attnpo check --write {path}") from error
    except ValueError as error:
        raise AttnPOError(f"{path}: not JSON ({error}); write it again: attnpo check --write {path}") from error
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise AttnPOError(f"{path}: format {number}, expected {FORMAT}; write it again: attnpo check --write {path}")
    try:
        return build(Baseline, content, path.name)
    except AttnPOError as error:
        raise AttnPOError(f"{error}; write it again: attnpo check --write {path}") from error


def table(changes: Sequence[Change]) -> Table:
    """What moved and by how many standard errors, for the terminal."""
    shown = Table(title="Against the baseline", caption="errors: the difference in its standard errors")
    shown.add_column("figure", no_wrap=True)
    for name in ("baseline", "now", "difference", "errors", "band"):
        shown.add_column(name, justify="right")
    shown.add_column("")
    task = None
    for change in changes:
        if change.task != task:
            task = change.task
            shown.add_section()
            shown.add_row(task)
        digits = 3 if change.figure in SHARES else 1
        shown.add_row(
            f"  {change.figure}",
            f"{change.before:.{digits}f}",
            f"{change.now:.{digits}f}",
            f"{change.difference:+.{digits}f}",
            f"{change.errors:+.1f}",
            f"± {change.band:.{digits}f}",
            "MOVED" if change.moved else "",
            style="bold red" if change.moved else None,
        )
    return shown


def verdict(changes: Sequence[Change], bands: Bands) -> str:
    """How many figures moved, in a line."""
    moved = sum(change.moved for change in changes)
    return f"{moved} of {len(changes)} figures left their band (false alarms of any of them: {bands.false_alarm:.1%})"
