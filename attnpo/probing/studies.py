"""What is asked about the heads: `attnpo study`. Responses of the untrained model, sampled once, serve all three.

- Ensemble: Step Ranking Accuracy of the mean score of the best n heads, on problems that the probe did not see.
- Intervention: drop the highest- or lowest-scored steps from the thinking, let the model answer, grade the answer.
- Stability: how far each head's step scores of the same responses change as the model is trained.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_json, atomic_write_jsonl, read_jsonl
from attnpo.grading.math import Grader
from attnpo.method.attention import all_heads
from attnpo.method.ranking import Head, ensemble_ranking_accuracy
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.heads import HeadRanking
from attnpo.probing.labels import LABELERS
from attnpo.probing.probe import SCORING_BATCH, sample_responses, score_all, score_responses
from attnpo.problems.problem import Problem
from attnpo.sampling.generation import complete, load_model, text_of
from attnpo.statistics.bootstrap import Estimate, bootstrap
from attnpo.testbed import load_problems

if TYPE_CHECKING:
    from attnpo.runs.profile import Profile

logger = logging.getLogger(__name__)

CONDITIONS = ("whole", "lowest", "random", "highest")
"""Steps that the intervention drops; `whole`: none, the model answers to its own thinking again."""


def run_responses(profile: Profile, out_dir: Path, seed: int = 0) -> Path:
    """Sample and grade the responses that are studied: `responses.jsonl`, a batch a file until it is done."""
    study = profile.studied()
    model, tokenizer = load_model(profile.model, profile.revision)
    items = load_problems(profile.data, study.split)[: study.problems]
    rows = sample_responses(study, model, tokenizer, items, out_dir / "samples", seed)
    atomic_write_jsonl(out_dir / "responses.jsonl", rows)
    return out_dir / "responses.jsonl"


def run_ensemble(profile: Profile, responses: Path, heads_file: Path, out_dir: Path, seed: int = 0) -> Path:
    """SRA of the mean score of n heads for n from 1: `ensemble.json`, a row for each order and n.

    Orders: `best`, as the probe ranked them; `random`, drawn by `seed`.

    Raises:
        AttnPOError: the model has fewer heads than `study.ensemble`, or no response has steps of both kinds.
    """
    study = profile.studied()
    model, tokenizer = load_model(profile.model, profile.revision)
    correct = [(item, prompt, ids) for item, prompt, ids, right in _load(profile, responses) if right]
    scores, labels = score_responses(profile, model, tokenizer, correct)
    place = {head: row for row, head in enumerate(all_heads(model))}
    orders = {"best": HeadRanking.load(heads_file).top(study.ensemble)}
    orders["random"] = random.Random(seed).sample(list(place), study.ensemble)
    rows = []
    for name, order in orders.items():
        for n in range(1, study.ensemble + 1):
            chosen = [place[head] for head in order[:n]]
            found = ensemble_ranking_accuracy(scores, labels, chosen, n_resamples=profile.probe.bootstrap, seed=seed)
            ends = {"sra": found.sra.item(), "low": found.low.item(), "high": found.high.item()}
            about = {"n_pairs": found.n_pairs, "n_responses": found.n_responses}
            rows.append({"order": name, "n": n, "heads": [list(h) for h in order[:n]], **ends, **about})
    atomic_write_json(out_dir / "ensemble.json", rows)
    return out_dir / "ensemble.json"


def run_intervention(profile: Profile, responses: Path, heads_file: Path | None, out_dir: Path, seed: int = 0) -> Path:
    """Answers to thinking of which steps were dropped: `samples.jsonl`, a line for each response and condition.

    A response takes part if it has an answer and at least two steps. As many steps are dropped in each condition but
    `whole`: `study.dropped` of them, rounded up, one being left at least. What is left keeps its sampled ids; the model
    goes on behind `</think>`.

    Raises:
        AttnPOError: no response has two steps, or the probe's heads are asked for and heads_file is None.
    """
    study = profile.studied()
    model, tokenizer = load_model(profile.model, profile.revision)
    heads = key_focus_heads(profile, heads_file)
    rows = with_steps(profile, tokenizer, _load(profile, responses))
    folder = out_dir / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    with Grader() as grader:
        for start in track(range(0, len(rows), SCORING_BATCH), description="intervening"):
            path = folder / f"{start // SCORING_BATCH:05d}.jsonl"
            if not path.is_file():
                batch = rows[start : start + SCORING_BATCH]
                scores = [s.mean(0).cpu() for s in score_batch(model, heads, [row.response for row in batch])]
                draw = random.Random(seed * 1_000_003 + start)
                thoughts = [
                    (row, condition, dropped, kept_ids(row.response, dropped))
                    for row, score in zip(batch, scores, strict=True)
                    for condition in CONDITIONS
                    for dropped in [dropped_steps(score, condition, study.dropped, draw)]
                ]
                torch.manual_seed(seed * 1_000_003 + start)
                answers = complete(
                    model,
                    tokenizer,
                    [[*row.response.prompt_ids, *kept] for row, _, _, kept in thoughts],
                    temperature=study.answer_temperature,
                    max_new_tokens=study.answer_tokens,
                )
                texts = [text_of([*t[3], *ids], tokenizer) for t, ids in zip(thoughts, answers, strict=True)]
                grades = grader.grade(texts, [row.item.answer for row, *_ in thoughts])
                atomic_write_jsonl(
                    path,
                    [
                        {
                            "problem_id": row.item.id,
                            "response": row.number,
                            "condition": condition,
                            "correct": grade.correct,
                            "was_correct": row.correct,
                            "steps": len(row.texts),
                            "dropped": len(dropped),
                            "dropped_essential": _essential(profile, row, dropped),
                            "answer_tokens": len(ids),
                        }
                        for (row, condition, dropped, _), grade, ids in zip(thoughts, grades, answers, strict=True)
                    ],
                )
            lines.extend(read_jsonl(path))
    atomic_write_jsonl(out_dir / "samples.jsonl", lines)
    return out_dir / "samples.jsonl"


def run_stability(
    profile: Profile, responses: Path, heads_file: Path | None, models: dict[int, Path], out_dir: Path
) -> Path:
    """Correlation of step scores between the untrained model and others: `stability.json`, a row a step and head.

    Pearson's r over all steps of all responses that have an answer and at least two steps, with its 95 % interval; 1 at
    step 0 by definition.

    Args:
        models: optimizer step -> folder of the weights.
    """
    base, tokenizer = load_model(profile.model, profile.revision)
    chosen = set(key_focus_heads(profile, heads_file))
    rows = with_steps(profile, tokenizer, _load(profile, responses))
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
    profile: Profile,
    tokenizer: PreTrainedTokenizerBase,
    responses: Sequence[tuple[Problem, list[int], list[int], bool]],
) -> list[Studied]:
    """Those of the (item, prompt ids, response ids, correct) with an answer and two steps, shortest first.

    Raises:
        AttnPOError: there is none.
    """
    table, settings = token_bytes_table(tokenizer), profile.steps
    rows = []
    for number, (item, prompt, ids, correct) in enumerate(responses):
        steps = align_steps(ids, table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
        if steps is None or len(steps.steps) < 2 or steps.answer[0] == steps.answer[1]:
            continue
        texts = [steps.text[s.start : s.end] for s in steps.steps]
        rows.append(Studied(number, item, Response(prompt, ids, steps), texts, correct))
    if not rows:
        raise AttnPOError(
            f"none of {len(responses)} responses has an answer and two steps; raise study.problems or "
            "study.max_completion_tokens, or check steps.phrases and steps.min_chars"
        )
    return sorted(rows, key=lambda row: len(row.response.prompt_ids) + len(row.response.ids))


def dropped_steps(scores: Tensor, condition: str, share: float, draw: random.Random) -> set[int]:
    """Which of K steps a condition drops.

    Args:
        scores: (K,) step scores; NaN for steps without tokens, which are never dropped.
        condition: one of `CONDITIONS`.
        share: of the steps that have tokens, rounded up; one is left at least.
        draw: for `random`.
    """
    order = sorted((k for k, score in enumerate(scores.tolist()) if not math.isnan(score)), key=lambda k: scores[k])
    n = min(math.ceil(share * len(order)), len(order) - 1)
    if condition == "random":
        draw.shuffle(order)
    return {"whole": set(), "highest": set(order[len(order) - n :])}.get(condition, set(order[:n]))


def kept_ids(response: Response, dropped: set[int]) -> list[int]:
    """The sampled ids before the answer, `</think>` included, without those of the dropped steps."""
    steps = response.steps
    assert steps is not None
    before = zip(response.ids[: steps.answer[0]], steps.step_of_token, strict=False)
    return [token for token, owner in before if owner not in dropped]


def correlation(one: Tensor, other: Tensor, problems: Sequence[str], **options: Any) -> list[Estimate]:
    """Pearson's r of each row of two tensors, with its interval: problems are drawn, with all of their steps.

    Args:
        one, other: (H, N) step scores of H heads.
        problems: N ids, of the problem that a step belongs to.
        options: as in `attnpo.statistics.bootstrap.bootstrap`.

    Raises:
        AttnPOError: a row is constant.
    """
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (one, other))
    places = {problem: i for i, problem in enumerate(dict.fromkeys(problems))}
    owner = torch.tensor([places[problem] for problem in problems])
    parts = torch.stack([torch.ones_like(a), a, b, a.square(), b.square(), a * b], dim=2)  # (H, N, 6)
    sums = torch.zeros(len(a), len(places), 6, dtype=torch.float64).index_add_(1, owner, parts)

    def r(mean: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(mean, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))

    return [bootstrap(r, of_head[None].numpy(), **options) for of_head in sums]


def key_focus_heads(profile: Profile, heads_file: Path | None) -> list[Head]:
    """The heads of section `study`.

    Raises:
        AttnPOError: the probe's are asked for and heads_file is None.
    """
    study = profile.studied()
    if study.heads != "top":
        return [(layer, head) for layer, head in study.heads]
    if heads_file is None:
        raise AttnPOError("study.heads: 'top' takes the probe's heads; run `attnpo probe` first")
    return HeadRanking.load(heads_file).top(profile.probe.heads)


def _load(profile: Profile, path: Path) -> list[tuple[Problem, list[int], list[int], bool]]:
    items = {item.id: item for item in load_problems(profile.data, profile.studied().split)}
    return [(items[r["problem_id"]], r["prompt_ids"], r["response_ids"], r["correct"]) for r in read_jsonl(path)]


def _essential(profile: Profile, row: Studied, dropped: set[int]) -> int | None:
    """How many of the dropped steps are essential; None where no labels are known."""
    if profile.data not in LABELERS:
        return None
    labels = LABELERS[profile.data](row.item, row.texts)
    return sum(labels[k] for k in dropped)


def _pooled_scores(model: PreTrainedModel, rows: Sequence[Studied]) -> tuple[Tensor, list[str]]:
    """Step scores (H, N) of every head over the N steps of all responses that have tokens, and their problems."""
    scores = [score[:, ~score[0].isnan()] for score in score_all(model, [row.response for row in rows])]
    problems = [row.item.id for row, score in zip(rows, scores, strict=True) for _ in range(score.shape[1])]
    return torch.cat(scores, dim=1), problems
