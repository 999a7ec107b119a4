"""Studies of the heads: `attnpo study`. All three use the same responses of the untrained model, sampled once.

- Ensemble: Step Ranking Accuracy of the mean score of the best n heads, on problems that the probe did not see.
- Intervention: drop the highest- or lowest-scored steps from the thinking, let the model answer, grade the answer.
- Stability: how much each head's step scores of the same responses change as the model is trained.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_json, atomic_write_jsonl, read_jsonl
from attnpo.grading.math import Grader
from attnpo.method.attention import Head, all_heads
from attnpo.method.ranking import ensemble_ranking_accuracy
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.heads import HeadRanking
from attnpo.probing.labels import check_labels, has_oracle, oracle_labels
from attnpo.probing.probe import (
    GRADING_BATCH,
    SCORING_BATCH,
    in_batches,
    label_responses,
    labeler_for,
    sample_responses,
    score_all,
    score_labelled,
)
from attnpo.probing.removal import kept_ids
from attnpo.probing.settings import ProbeSection, Source, StepsSection, StudySection
from attnpo.problems.problem import Problem
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import free_memory, load_model, load_tokenizer
from attnpo.sampling.sampler import text_of
from attnpo.sampling.store import Key, SampleFile
from attnpo.statistics.bootstrap import Estimate, bootstrap
from attnpo.testbed import load_problems

logger = logging.getLogger(__name__)

CONDITIONS = ("whole", "lowest", "random", "highest")
"""Which steps the intervention drops. `whole` drops none: the model answers behind all of its own thinking."""


def run_responses(source: Source, study: StudySection, out_dir: Path, seed: int = 0) -> Path:
    """Sample and grade the responses that the studies use.

    Args:
        source: the model and the problems.
        study: the profile's section `study`.
        out_dir: gets `responses.jsonl`, a line a response in order of the problems, and `samples.jsonl`, a line a
            response as they come. A killed run samples what is missing.
        seed: of the sampling.

    Returns:
        the path of responses.jsonl.
    """
    tokenizer = load_tokenizer(source.model, source.revision)
    items = load_problems(source.data, study.split, source.data_revision, source.data_columns)[: study.problems]
    rows = sample_responses(source, study, tokenizer, items, out_dir / "samples.jsonl", seed)
    atomic_write_jsonl(out_dir / "responses.jsonl", rows)
    return out_dir / "responses.jsonl"


def run_ensemble(
    source: Source,
    steps: StepsSection,
    study: StudySection,
    probe: ProbeSection,
    responses: Path,
    heads_file: Path,
    out_dir: Path,
    seed: int = 0,
) -> Path:
    """Step Ranking Accuracy of the mean score of n heads, for n from 1 to `study.ensemble`.

    The heads are taken in three orders: `best`, as the probe ranked them, `greedy`, each time the one that helped the
    mean most on the probe's responses (where the probe kept so many), and `random`.

    Args:
        source, steps, study, probe: the profile's sections; of `probe` the labels and the draws for the intervals.
        responses: the file that `run_responses` wrote; its correct responses are used.
        heads_file: the probe's heads.json.
        out_dir: gets `ensemble.json`, a row for each order and n.
        seed: of the random order and of the bootstrap.

    Returns:
        the path of ensemble.json.

    Raises:
        AttnPOError: no labels for the source's data, fewer heads than `study.ensemble`, or no response with steps of
            both kinds.
    """
    check_labels(probe.sources, source.data)
    tokenizer = load_tokenizer(source.model, source.revision)
    correct = [(item, prompt, ids) for item, prompt, ids, right in _load(source, study, responses) if right]
    label = labeler_for(probe, source, tokenizer, out_dir, seed)
    labelled = label_responses(label, steps, tokenizer, correct)
    model, _ = load_model(source.model, source.revision)
    scores, essential = score_labelled(model, labelled)
    place = {head: row for row, head in enumerate(all_heads(model))}
    ranking = HeadRanking.load(heads_file)
    orders = {"best": ranking.top(study.ensemble)}
    if len(ranking.greedy) >= study.ensemble:
        orders["greedy"] = list(ranking.greedy[: study.ensemble])
    orders["random"] = random.Random(seed).sample(list(place), study.ensemble)
    rows = []
    for name, order in orders.items():
        for n in range(1, study.ensemble + 1):
            chosen = [place[head] for head in order[:n]]
            found = ensemble_ranking_accuracy(scores, essential, chosen, n_resamples=probe.bootstrap, seed=seed)
            ends = {"sra": found.sra.item(), "low": found.low.item(), "high": found.high.item()}
            about = {"n_pairs": found.n_pairs, "n_responses": found.n_responses}
            rows.append({"order": name, "n": n, "heads": [list(h) for h in order[:n]], **ends, **about})
    atomic_write_json(out_dir / "ensemble.json", rows)
    return out_dir / "ensemble.json"


def run_intervention(
    source: Source,
    steps: StepsSection,
    study: StudySection,
    heads: Sequence[Head],
    responses: Path,
    out_dir: Path,
    seed: int = 0,
) -> Path:
    """Drop steps from the thinking, let the model answer behind what is left, and grade its answer.

    A response takes part if it has an answer and at least two steps. Each condition but `whole` drops the same number
    of steps: the share `study.dropped`, rounded up, but never all. The steps that stay keep their sampled ids; the
    model goes on behind `</think>`. All steps are scored first; the model that scored is let go before the one that
    samples is loaded.

    Args:
        source, steps, study: the profile's sections.
        heads: (layer, head), both from 0; the mean of their step scores says which steps are dropped.
        responses: the file that `run_responses` wrote.
        out_dir: gets `samples.jsonl`, a line for each response and condition, and `answers.jsonl`, a line an answer as
            they come. A killed run samples what is missing.
        seed: of the sampling and of the condition `random`. The answers to a response have one seed under all
            conditions; on transformers that of a batch's first response counts.

    Returns:
        the path of samples.jsonl.

    Raises:
        AttnPOError: no response has an answer and two steps.
    """
    tokenizer = load_tokenizer(source.model, source.revision)
    exact = has_oracle(source.data)
    rows = with_steps(steps, tokenizer, _load(source, study, responses))
    shortened = _shortened(source, heads, rows, study.dropped, seed)
    free_memory()
    with SampleFile(out_dir / "answers.jsonl", ("response", "condition")) as file:
        keys: list[Key] = [(row.number, condition) for row, condition, _ in shortened]
        if not all(key in file for key in keys):
            prompts = [[*one.row.response.prompt_ids, *one.kept] for one in shortened]
            with make_sampler(
                study.backend,
                source.model,
                source.revision,
                batch_size=SCORING_BATCH * len(CONDITIONS),
                max_model_len=max(map(len, prompts)) + study.answer_tokens,
            ) as sampler:
                file.fill(
                    sampler,
                    keys,
                    prompts,
                    [seed * 1_000_003 + turn // len(CONDITIONS) for turn in range(len(keys))],
                    temperature=study.answer_temperature,
                    max_new_tokens=study.answer_tokens,
                    description="intervening",
                )
        answers = (row["response_ids"] for row in file.rows(keys))
        atomic_write_jsonl(out_dir / "samples.jsonl", _graded(shortened, answers, tokenizer, exact))
    return out_dir / "samples.jsonl"


def _graded(
    shortened: Sequence[Shortened],
    answers: Iterable[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    exact: bool,
) -> Iterator[dict[str, Any]]:
    """The lines of samples.jsonl: thinking and answer each."""
    with Grader() as grader:
        for pairs in in_batches(zip(shortened, answers, strict=True), GRADING_BATCH):
            texts = [text_of([*one.kept, *answer], tokenizer) for one, answer in pairs]
            grades = grader.grade(texts, [one.row.item.answer for one, _ in pairs])
            for ((row, condition, dropped), answer), grade in zip(pairs, grades, strict=True):
                yield {
                    "problem_id": row.item.id,
                    "response": row.number,
                    "condition": condition,
                    "correct": grade.correct,
                    "was_correct": row.correct,
                    "steps": len(row.texts),
                    "dropped": len(dropped),
                    "dropped_essential": _essential(row, dropped) if exact else None,
                    "answer_tokens": len(answer),
                }


def run_stability(
    source: Source,
    steps: StepsSection,
    study: StudySection,
    heads: Sequence[Head],
    responses: Path,
    models: dict[int, Path],
    out_dir: Path,
) -> Path:
    """Correlation of each head's step scores between the untrained model and what training makes of it.

    Pearson's r over all steps of all responses that have an answer and at least two steps, with its 95 % interval. At
    step 0 it is 1 by definition.

    Args:
        source, steps, study: the profile's sections.
        heads: the Key-Focus Heads, (layer, head), both from 0; they are marked in the output.
        responses: the file that `run_responses` wrote.
        models: optimizer step -> folder of the weights.
        out_dir: gets `stability.json`, a row for each step and head.

    Returns:
        the path of stability.json.

    Raises:
        AttnPOError: no response has an answer and two steps, or a head's scores are constant.
    """
    base, tokenizer = load_model(source.model, source.revision)
    chosen = set(heads)
    rows = with_steps(steps, tokenizer, _load(source, study, responses))
    before, problems = _pooled_scores(base, rows)
    found = []
    for step, folder in sorted(models.items()):
        model, _ = load_model(str(folder))
        after, _ = _pooled_scores(model, rows)
        for (layer, head), r in zip(all_heads(base), correlation(before, after, problems), strict=True):
            about = {"steps": len(problems), "responses": len(rows), "key_focus": (layer, head) in chosen}
            found.append(
                {"step": step, "layer": layer, "head": head, "r": r.value, "low": r.low, "high": r.high} | about
            )
    atomic_write_json(out_dir / "stability.json", found)
    return out_dir / "stability.json"


class Studied(NamedTuple):
    """A response with an answer and at least two steps."""

    number: int  # in responses.jsonl
    item: Problem
    response: Response
    texts: list[str]  # of the steps
    correct: bool


def with_steps(
    settings: StepsSection,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[tuple[Problem, list[int], list[int], bool]],
) -> list[Studied]:
    """The responses (problem, prompt ids, response ids, correct) with an answer and two steps, shortest first.

    Raises:
        AttnPOError: there is none.
    """
    table = token_bytes_table(tokenizer)
    rows = []
    for number, (item, prompt, ids, correct) in enumerate(responses):
        steps = align_steps(ids, table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
        if steps is None or len(steps.steps) < 2 or steps.answer[0] == steps.answer[1]:
            continue
        rows.append(Studied(number, item, Response(prompt, ids, steps), steps.texts, correct))
    if not rows:
        raise AttnPOError(
            f"none of {len(responses)} responses has an answer and two steps; raise study.problems or "
            "study.max_completion_tokens, or check steps.phrases and steps.min_chars"
        )
    return sorted(rows, key=lambda row: row.response.n_tokens)


class Shortened(NamedTuple):
    """The thinking of a response under one condition of the intervention."""

    row: Studied
    condition: str
    dropped: set[int]  # steps

    @property
    def kept(self) -> list[int]:
        """Token ids, up to and including `</think>`."""
        return kept_ids(self.row.response, self.dropped)


def _shortened(
    source: Source, heads: Sequence[Head], rows: Sequence[Studied], share: float, seed: int
) -> list[Shortened]:
    """The thinking of each response under each condition, by the mean step score of the heads."""
    model, _ = load_model(source.model, source.revision)
    shortened = []
    for start in track(range(0, len(rows), SCORING_BATCH), description="scoring", console=Console(stderr=True)):
        batch, draw = rows[start : start + SCORING_BATCH], random.Random(seed * 1_000_003 + start)
        for row, scores in zip(batch, score_batch(model, heads, [row.response for row in batch]), strict=True):
            mean = scores.mean(0).cpu()
            shortened += [Shortened(row, name, dropped_steps(mean, name, share, draw)) for name in CONDITIONS]
    return shortened


def dropped_steps(scores: Tensor, condition: str, share: float, draw: random.Random) -> set[int]:
    """Which of K steps a condition drops.

    Args:
        scores: (K,) step scores; NaN for steps without tokens, which are never dropped.
        condition: one of `CONDITIONS`.
        share: of the steps that have tokens, rounded up; at least one step is left.
        draw: random numbers for the condition `random`.
    """
    order = sorted((k for k, score in enumerate(scores.tolist()) if not math.isnan(score)), key=lambda k: scores[k])
    n = min(math.ceil(share * len(order)), len(order) - 1)
    if condition == "random":
        draw.shuffle(order)
    return {"whole": set(), "highest": set(order[len(order) - n :])}.get(condition, set(order[:n]))


def correlation(one: Tensor, other: Tensor, problems: Sequence[str], **options: Any) -> list[Estimate]:
    """Pearson's r of each row of two tensors, with its interval. A draw takes whole problems, with all of their steps.

    Args:
        one, other: (H, N) step scores of H heads.
        problems: the id of the problem that each of the N steps belongs to.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.

    Raises:
        AttnPOError: a row is constant.
    """
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (one, other))
    places = {problem: i for i, problem in enumerate(dict.fromkeys(problems))}
    problem_of_step = torch.tensor([places[problem] for problem in problems])
    parts = torch.stack([torch.ones_like(a), a, b, a.square(), b.square(), a * b], dim=2)  # (H, N, 6)
    sums = torch.zeros(len(a), len(places), 6, dtype=torch.float64).index_add_(1, problem_of_step, parts)

    def r(mean: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(mean, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))

    return [bootstrap(r, of_head[None].numpy(), **options) for of_head in sums]


def key_focus_heads(study: StudySection, heads_file: Path | None, count: int) -> list[Head]:
    """The heads of section `study`.

    Args:
        heads_file: the probe's heads.json, for `heads: top`.
        count: how many of the probe's heads.

    Raises:
        AttnPOError: the probe's are asked for and heads_file is None.
    """
    if study.heads != "top":
        return [(layer, head) for layer, head in study.heads]
    if heads_file is None:
        raise AttnPOError("study.heads: 'top' takes the probe's heads; run `attnpo probe` first")
    return HeadRanking.load(heads_file).top(count)


def _load(source: Source, study: StudySection, responses: Path) -> list[tuple[Problem, list[int], list[int], bool]]:
    """Problem, prompt ids, response ids and correctness of each line of responses.jsonl."""
    items = {
        item.id: item for item in load_problems(source.data, study.split, source.data_revision, source.data_columns)
    }
    rows = read_jsonl(responses)
    return [(items[r["problem_id"]], r["prompt_ids"], r["response_ids"], r["correct"]) for r in rows]


def _essential(row: Studied, dropped: set[int]) -> int:
    """How many of the dropped steps are essential by the oracle."""
    labels = oracle_labels(row.item, row.texts)
    return sum(labels[k] for k in dropped)


def _pooled_scores(model: PreTrainedModel, rows: Sequence[Studied]) -> tuple[Tensor, list[str]]:
    """Scores (H, N) of every head over all steps that have tokens, and the id of each step's problem."""
    scores = [score[:, ~score[0].isnan()] for score in score_all(model, [row.response for row in rows])]
    problems = [row.item.id for row, score in zip(rows, scores, strict=True) for _ in range(score.shape[1])]
    return torch.cat(scores, dim=1), problems
