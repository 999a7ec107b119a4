"""The one table of estimates: every number that a table, figure or sentence shows, with its interval.

A row is a value (`reference` empty) or a paired difference from `reference`:

    method, task            task or group of tasks; a group's value is the plain mean of its tasks'
    slice                   chain lengths, as in `5 6`; empty: all problems
    measure                 see `attnpo.statistics.measures`
    value, low, high        of the measure, or of the difference
    n, problems, truncated  responses of the method, their problems, share of them cut off (empty: not known)
    seeds                   of the method's training
    reference, reference_seeds

What is undefined has no row. No files here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.statistics.bootstrap import Drawn, Estimate, draw_problems, estimates_of
from attnpo.statistics.measures import AES, MEASURES, REDUNDANT_SHARE, REG, TOKENS_RELATIVE, Measure, measures_of
from attnpo.statistics.metrics import Array, aes_unchecked, difference_at_equal_length, efficiency_gap
from attnpo.statistics.samples import Sample, check_same_problems, compared_lines, samples_by_method, shared_seeds

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["method", "task", "slice", "measure", "value", "low", "high", "n", "problems", "truncated"]
COLUMNS += ["seeds", "reference", "reference_seeds"]

AT_EQUAL_TOKENS = {name: f"{name}_at_equal_tokens" for name in ("accuracy", "redundant_steps", "worked_links")}
"""Measure -> measure of a line of `Wanted.lines`: its value less that of the reference's line at the same tokens."""

_STEPS = ("steps_redundant", "steps_essential")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one table or figure needs of the estimates."""

    seeds: Mapping[str, Collection[int]] | None = None
    """Method -> training seeds to take, of those that were evaluated. None: all methods with all of theirs."""
    tasks: Sequence[str] = ()
    """Tasks and groups; empty: all tasks and all groups."""
    comparisons: Sequence[tuple[str, str]] = ()
    """(method, reference): paired differences, on the seeds that both have or, if they share none, as they are."""
    differences: Collection[str] | None = None
    """Measures whose differences are wanted; None: all. AES and the relative tokens are always there."""
    untrained: Collection[str] = ()
    """Methods that were not trained: in a comparison they keep all of their seeds."""
    each_chain: bool = False
    """Accuracy for each chain length too."""
    chains: Sequence[Sequence[int]] = ()
    """Accuracy, pass@k and accuracy@B for the problems with chains of these lengths together."""
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name -> methods along a line, from the weakest length penalty to the strongest. Each line is compared with the
    last one at equal tokens, on the seeds that all methods of the two have."""
    frontier: bool = False
    """Each method's gap to the best of all at each budget (REG)."""
    known: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Task -> tokens -> accuracy that is known to be reached within them, for the frontier; a share."""


class Question(NamedTuple):
    """What is estimated at once: the measures of one method, or its differences from another."""

    task: str
    chains: tuple[int, ...]
    method: str
    seeds: tuple[int, ...]
    reference: str = ""
    reference_seeds: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    reference_methods: tuple[str, ...] = ()
    """Of lines."""
    frontier: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The methods, with their seeds, whose best accuracy at each budget is the frontier."""
    known: tuple[tuple[int, float], ...] = ()
    """Tokens and accuracy, beside them."""


def estimate_table(
    problems: pd.DataFrame,
    wanted: Iterable[Wanted] = (Wanted(),),
    groups: Mapping[str, Sequence[str]] | None = None,
    track: Callable[[Sequence[Question]], Iterable[Question]] = iter,
    **options: Any,
) -> pd.DataFrame:
    """The table of estimates, each wanted one once.

    Args:
        problems: see `attnpo.statistics.tables.problem_table`.
        wanted: what is needed.
        groups: name -> its tasks; a group is reported for the methods that were evaluated on all of them.
        track: passes on what is to be estimated, one after the other, to show the progress.
        options: draws, level and seed, as in `attnpo.statistics.bootstrap.bootstrap`.

    Raises:
        AttnPOError: two methods that are compared, or two seeds of one, did not answer the same problems.
    """
    import pandas as pd

    by_method = samples_by_method(problems)
    members = {task: [task] for task in dict.fromkeys(task for own in by_method.values() for task in own)}
    members |= {name: list(tasks) for name, tasks in (groups or {}).items()}
    questions: dict[Question, set[str] | None] = {}
    for want in wanted:
        for question, measures in _questions(by_method, members, want):
            asked = questions.get(question, set())
            questions[question] = None if measures is None or asked is None else asked | set(measures)
    order = list(members)
    ordered = sorted(questions, key=lambda q: order.index(q.task))  # what is kept of one task is used while it is kept
    rows: list[list[Any]] = []
    answers = _Answers(by_method, members, options)
    for question in track(ordered):
        rows += answers.rows(question, questions[question])
    return pd.DataFrame(rows, columns=COLUMNS)


def compared_seeds(
    one: str, seeds: Sequence[int], other: str, other_seeds: Sequence[int], untrained: Collection[str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The seeds on which two methods are compared.

    Those that both were trained with, see `shared_seeds`; all where they share none, or one was not trained.
    """
    both = shared_seeds([seeds, other_seeds])
    if not both or {one, other} & set(untrained):
        return tuple(seeds), tuple(other_seeds)
    return both, both


def _questions(
    by_method: Mapping[str, Mapping[str, Sample]], members: Mapping[str, Sequence[str]], want: Wanted
) -> Iterable[tuple[Question, Collection[str] | None]]:
    """The questions, each with the measures that are asked for; None: all."""
    methods = by_method if want.seeds is None else {m: by_method[m] for m in want.seeds if m in by_method}
    for task in want.tasks or members:
        seeds: dict[str, tuple[int, ...]] = {}
        for method, own in methods.items():
            if task not in members or not set(members[task]) <= set(own):
                continue
            found = own[members[task][0]].seeds
            kept = tuple(s for s in found if want.seeds is None or s in want.seeds[method])
            if kept:
                seeds[method] = kept
        slices: list[tuple[tuple[int, ...], Collection[str] | None]] = [((), None)]
        slices += [(tuple(chains), None) for chains in want.chains]
        if want.each_chain and task == members.get(task, [""])[0]:
            lengths = {int(c) for m in seeds for c in by_method[m][task].chains if not np.isnan(c)}
            slices += [((chain,), ["accuracy"]) for chain in sorted(lengths)]
        for method in seeds:
            for chains, measures in slices:
                yield Question(task, chains, method, seeds[method]), measures
        known = tuple(sorted(want.known.get(task, {}).items()))
        if want.frontier and len(seeds) + len(known) > 1:
            for method in seeds:
                yield Question(task, (), method, seeds[method], frontier=tuple(seeds.items()), known=known), None
        for one, other in want.comparisons:
            if one in seeds and other in seeds:
                mine, theirs = compared_seeds(one, seeds[one], other, seeds[other], want.untrained)
                yield Question(task, (), one, mine, other, theirs), want.differences
        for question in _line_questions(task, seeds, want.lines):
            yield question, None


def _line_questions(
    task: str, seeds: Mapping[str, tuple[int, ...]], lines: Mapping[str, Sequence[str]]
) -> Iterable[Question]:
    for name, reference, both in compared_lines(lines, seeds):
        one, other = (tuple(m for m in lines[line] if m in seeds) for line in (name, reference))
        for method in (*one, *other):
            yield Question(task, (), method, both)
        yield Question(task, (), name, both, reference, both, one, other)


class _Answers:
    """Answers questions; of the last task it keeps the samples and what was drawn of them."""

    def __init__(
        self,
        by_method: Mapping[str, Mapping[str, Sample]],
        members: Mapping[str, Sequence[str]],
        options: Mapping[str, Any],
    ) -> None:
        self.by_method = by_method
        self.members = members
        self.options = {"draws": 2000, "level": 0.95, "seed": 0, **options}
        self.task = ""
        self.drawn: dict[tuple[str, tuple[int, ...], bool], _DrawnRun] = {}

    def rows(self, question: Question, measures: Collection[str] | None) -> list[list[Any]]:
        if question.task != self.task:
            self.task, self.drawn = question.task, {}
        accuracy_alone = bool(question.chains) and measures is not None
        runs = [self._run(m, question.chains, accuracy_alone) for m in question.methods or [question.method]]
        others = [self._run(m, question.chains) for m in question.reference_methods or [question.reference] if m]
        if not all((*runs, *others)):
            return []  # no problems with such chains
        mine = [run.on_seeds(question.seeds) for run in runs if run]
        theirs = [run.on_seeds(question.reference_seeds) for run in others if run]
        if question.methods:
            found = self._line(mine, theirs)
        elif question.frontier:
            found = self._gap(mine[0], question)
        elif not theirs:
            found = self._values(mine[0])
        elif question.method == question.reference:
            found = {AES.name: Estimate(0.0, 0.0, 0.0)}  # against itself, by definition
        else:
            found = self._differences(mine[0], theirs[0], measures)
        n = sum(run.responses for run in (*mine, *(theirs if question.methods else ())))
        problems, truncated = mine[0].problems, float(np.mean([run.truncated for run in mine]))
        seeds, reference_seeds = (" ".join(map(str, s)) for s in (question.seeds, question.reference_seeds))
        where = [question.method, question.task, " ".join(map(str, question.chains))]
        return [
            [*where, name, *estimate, n, problems, truncated, seeds, question.reference, reference_seeds]
            for name, estimate in found.items()
            if estimate is not None
        ]

    def _run(self, method: str, chains: tuple[int, ...], accuracy_alone: bool = False) -> _DrawnRun | None:
        key = method, chains, accuracy_alone
        if key not in self.drawn:
            own = [self.by_method[method][task] for task in self.members[self.task]]
            found = [sample.on_chains(chains) if chains else sample for sample in own]
            samples = [sample for sample in found if sample is not None]
            if len(samples) < len(own):
                return None
            columns = [c for c in samples[0].columns if all(c in sample.columns for sample in samples)]
            if accuracy_alone:
                columns = ["correct"]
            elif chains:
                columns = [c for c in columns if c == "correct" or c.startswith(("pass@", "correct_at_"))]
            self.drawn[key] = _DrawnRun.of(samples, columns, self.options)
        return self.drawn[key]

    def _estimate(self, statistic: Callable[..., Any], runs: Sequence[Sequence[Drawn]]) -> list[Estimate | None]:
        return estimates_of(statistic, runs, **self.options)[0]

    def _values(self, run: _DrawnRun) -> dict[str, Estimate | None]:
        measures = measures_of(run.columns)
        found = self._estimate(_statistic(run.columns, measures), [run.drawn])
        return dict(zip(measures, found, strict=True))

    def _differences(
        self, run: _DrawnRun, other: _DrawnRun, names: Collection[str] | None
    ) -> dict[str, Estimate | None]:
        for one_sample, other_sample in zip(run.samples, other.samples, strict=True):
            check_same_problems(one_sample, other_sample)
        columns = [c for c in run.columns if c in set(other.columns)]
        measures = {name: m for name, m in measures_of(columns).items() if names is None or name in names}
        labelled = set(_STEPS) <= set(columns)
        one = _statistic(columns, measures)
        place = {column: i for i, column in enumerate(columns)}

        def statistic(mine: Array, theirs: Array) -> Array:
            a, b = (mean.mean(axis=0) for mean in (mine, theirs))  # macro means over the tasks
            accuracy, tokens = ((a[..., place[c]], b[..., place[c]]) for c in ("correct", "tokens"))
            more = [tokens[0] / tokens[1] - 1, aes_unchecked(accuracy[0], tokens[0], accuracy[1], tokens[1])]
            if labelled:
                more.append(_redundant_share(*(mean[..., [place[c] for c in _STEPS]] for mean in (a, b))))
            return np.concatenate([one(mine) - one(theirs), np.stack(more, axis=-1)], axis=-1)

        runs = [part.on_columns(columns) for part in (run, other)]
        more = [TOKENS_RELATIVE.name, AES.name, *([REDUNDANT_SHARE.name] if labelled else [])]
        return dict(zip([*measures, *more], self._estimate(statistic, runs), strict=True))

    def _gap(self, run: _DrawnRun, question: Question) -> dict[str, Estimate | None]:
        runs = [run]
        for method, seeds in question.frontier:
            other = self._run(method, ())
            if method != question.method and other is not None:
                runs.append(other.on_seeds(seeds))
        named = set.intersection(*({c for c in r.columns if c.startswith("correct_at_")} for r in runs))
        budgets = sorted(int(column.removeprefix("correct_at_")) for column in named)
        if not budgets:
            return {}
        columns = [f"correct_at_{budget}" for budget in budgets]
        known = np.interp(budgets, *np.array([(0, 0.0), *question.known]).T)

        def statistic(*means: Array) -> Array:
            curves = np.stack([mean.mean(axis=0) for mean in means])
            best = np.maximum(curves.max(axis=0), known)
            return efficiency_gap(curves[0], best, budgets)[..., None]

        return {REG.name: self._estimate(statistic, [r.on_columns(columns) for r in runs])[0]}

    def _line(self, points: Sequence[_DrawnRun], curve: Sequence[_DrawnRun]) -> dict[str, Estimate | None]:
        common = set.intersection(*(set(run.columns) for run in (*points, *curve)))
        measures = {name: MEASURES[name] for name in AT_EQUAL_TOKENS if set(MEASURES[name].columns) <= common}
        columns = list(dict.fromkeys(["tokens", *(c for m in measures.values() for c in m.columns)]))
        heights, tokens = _statistic(columns, measures), _statistic(columns, {"tokens": MEASURES["tokens"]})

        def above(*means: Array) -> Array:
            places = [np.stack([of(mean) for mean in means], axis=-2) for of in (heights, tokens)]
            beside = [np.stack([places[0][..., i], places[1][..., 0]], axis=-1) for i in range(len(measures))]
            found = [difference_at_equal_length(p[..., : len(points), :], p[..., len(points) :, :]) for p in beside]
            return np.stack(found, axis=-1)

        drawn = [run.on_columns(columns) for run in (*points, *curve)]
        return dict(zip((AT_EQUAL_TOKENS[name] for name in measures), self._estimate(above, drawn), strict=True))


class _DrawnRun(NamedTuple):
    """The samples of a method, one a task, and what was drawn of the columns that all have."""

    samples: list[Sample]
    columns: list[str]
    drawn: list[Drawn]

    @classmethod
    def of(cls, samples: list[Sample], columns: list[str], options: Mapping[str, Any]) -> _DrawnRun:
        if len({s.seeds for s in samples}) > 1:
            raise AttnPOError(f"{samples[0].method!r}: its tasks have different seeds; evaluate the missing ones")
        tables = [np.stack([s.means(c) for c in columns]) for s in samples]
        return cls(samples, columns, draw_problems(tables, options["draws"], options["seed"]))

    def on_seeds(self, seeds: tuple[int, ...]) -> _DrawnRun:
        known = self.samples[0].seeds
        if seeds == known:
            return self
        places = [known.index(seed) for seed in seeds]
        samples = [sample.on_seeds(seeds) for sample in self.samples]
        return _DrawnRun(samples, self.columns, [task.on_seeds(places) for task in self.drawn])

    def on_columns(self, columns: Sequence[str]) -> list[Drawn]:
        if columns == self.columns:
            return self.drawn
        places = [self.columns.index(column) for column in columns]
        return [task.of_columns(places) for task in self.drawn]

    @property
    def responses(self) -> int:
        return sum(s.responses for s in self.samples)

    @property
    def problems(self) -> int:
        return sum(len(s.problems) for s in self.samples)

    @property
    def truncated(self) -> float:
        """Share of the responses cut off, mean over the tasks."""
        return float(np.mean([s.truncated for s in self.samples]))


def _redundant_share(mean: Array, other_mean: Array) -> Array:
    """Cut redundant steps / (cut redundant + cut essential), of (..., 2) means; steps that rose count as not cut."""
    cut = np.maximum(0.0, other_mean - mean)
    return cut[..., 0] / cut.sum(axis=-1)


def _statistic(columns: Sequence[str], measures: Mapping[str, Measure]) -> Callable[[Array], Array]:
    """(T, M) or (T, B, M) means -> (Q,) or (B, Q): each measure for each task, then the macro mean."""
    place = {column: i for i, column in enumerate(columns)}

    def statistic(means: Array) -> Array:
        values = [m.of(*(means[..., place[c]] for c in m.columns)).mean(axis=0) for m in measures.values()]
        return np.stack(values, axis=-1)

    return statistic
