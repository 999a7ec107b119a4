"""The probe: sample responses, label their steps, score the steps with every head, rank the heads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_jsonl, read_jsonl
from attnpo.grading.math import Grader
from attnpo.method.attention import all_heads
from attnpo.method.ranking import step_ranking_accuracy
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import TokenSteps, align_steps, token_bytes_table
from attnpo.probing.heads import HeadRanking
from attnpo.probing.labels import Labeler, labeler_for
from attnpo.probing.settings import ProbeSection, Source, StepsSection, StudySection
from attnpo.problems.problem import Problem
from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import prompt_ids, sample, text_of
from attnpo.testbed import load_problems

logger = logging.getLogger(__name__)

SCORING_BATCH = 16
"""Responses in one forward pass of the scoring."""


def run_probe(
    source: Source,
    steps: StepsSection,
    settings: ProbeSection,
    out_dir: Path,
    seed: int = 0,
    *,
    heads_file: Path | None = None,
) -> Path:
    """Rank every head of a model by Step Ranking Accuracy over correct sampled responses.

    Args:
        source: the model and the problems.
        steps: how the thinking is cut into steps.
        settings: the profile's section `probe`.
        out_dir: gets `samples/*.jsonl`, one file a batch. A killed probe goes on after the last one.
        seed: of the sampling and of the bootstrap.
        heads_file: where the ranking is written; None: `heads.json` in out_dir.

    Returns:
        the path of the ranking.

    Raises:
        AttnPOError: no labels for the source's data, or no correct response with steps of both kinds.
    """
    label = labeler_for(source.data)
    model, tokenizer = load_model(source.model, source.revision)
    problems = load_problems(source.data, settings.split)[: settings.problems]
    by_id = {problem.id: problem for problem in problems}
    samples = sample_responses(settings, model, tokenizer, problems, out_dir / "samples", seed)
    correct = [(by_id[s["problem_id"]], s["prompt_ids"], s["response_ids"]) for s in samples if s["correct"]]
    logger.info("%d of %d responses are correct", len(correct), len(samples))
    scores, labels = score_responses(label, steps, model, tokenizer, correct)
    if not scores:
        raise AttnPOError(
            f"none of {len(correct)} correct responses has essential and redundant steps; raise probe.problems or "
            "probe.samples, or check steps.phrases and steps.min_chars"
        )
    ranking = HeadRanking.of(
        step_ranking_accuracy(scores, labels, n_resamples=settings.bootstrap, seed=seed),
        all_heads(model),
        model=source.model,
        revision=source.revision,
        phrase_set=steps.phrases,
        min_chars=steps.min_chars,
        label_source=f"{source.data} oracle",
    )
    path = heads_file or out_dir / "heads.json"
    ranking.save(path)
    best = ", ".join(f"({h.layer}, {h.head}) {h.sra:.3f} [{h.low:.3f}, {h.high:.3f}]" for h in ranking.best(5))
    logger.info("Step Ranking Accuracy over %d pairs, best heads: %s", ranking.n_pairs, best)
    return path


def sample_responses(
    settings: ProbeSection | StudySection,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    folder: Path,
    seed: int,
) -> list[dict[str, Any]]:
    """Sample and grade `settings.samples` responses to each problem.

    Args:
        folder: gets one file a batch; the batches whose files are there are read and not sampled again.
        seed: each batch has a seed of its own, made from this one and the batch's first turn.

    Returns:
        a row for each response, with `problem_id`, `correct`, `prompt_ids` and `response_ids`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    turns = [problem for problem in problems for _ in range(settings.samples)]
    size = settings.batch_size
    rows: list[dict[str, Any]] = []
    with Grader() as grader:
        for start in track(range(0, len(turns), size), description="sampling"):
            path = folder / f"{start // size:05d}.jsonl"
            if not path.is_file():
                batch = turns[start : start + size]
                prompts = prompt_ids(tokenizer, [problem.text for problem in batch])
                samples = sample(
                    model,
                    tokenizer,
                    prompts,
                    temperature=settings.temperature,
                    max_new_tokens=settings.max_completion_tokens,
                    seed=seed * 1_000_003 + start,
                )
                texts = [text_of(one.ids, tokenizer) for one in samples]
                grades = grader.grade(texts, [problem.answer for problem in batch])
                atomic_write_jsonl(
                    path,
                    [
                        {"problem_id": p.id, "correct": g.correct, "prompt_ids": prompt, "response_ids": one.ids}
                        for p, g, prompt, one in zip(batch, grades, prompts, samples, strict=True)
                    ],
                )
            rows.extend(read_jsonl(path))
    return rows


class Labelled(NamedTuple):
    """A response with steps of both kinds."""

    item: Problem
    response: Response
    steps: TokenSteps
    essential: torch.Tensor  # (K,) bool


def label_responses(
    label: Labeler,
    settings: StepsSection,
    tokenizer: PreTrainedTokenizerBase,
    responses: Iterable[tuple[Problem, list[int], list[int]]],
) -> list[Labelled]:
    """The responses (problem, prompt ids, response ids) that have essential and redundant steps, shortest first."""
    table = token_bytes_table(tokenizer)
    chosen = []
    for item, prompt, ids in responses:
        steps = align_steps(ids, table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
        if steps is None:
            continue
        essential = torch.tensor(label(item, [steps.text[s.start : s.end] for s in steps.steps]))
        if essential.any() and not essential.all():
            chosen.append(Labelled(item, Response(prompt, ids, steps), steps, essential))
    return sorted(chosen, key=lambda row: len(row.response.prompt_ids) + len(row.response.ids))


def score_all(model: PreTrainedModel, responses: Sequence[Response]) -> list[torch.Tensor]:
    """Step scores of every head for each response, (H, K) on the CPU, NaN for steps without tokens."""
    heads, scores = all_heads(model), []
    for start in track(range(0, len(responses), SCORING_BATCH), description="scoring"):
        scores += [score.cpu() for score in score_batch(model, heads, responses[start : start + SCORING_BATCH])]
    return scores


def score_responses(
    label: Labeler,
    settings: StepsSection,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    responses: Iterable[tuple[Problem, list[int], list[int]]],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Scores and labels of the responses that have both essential and redundant steps.

    Args:
        responses: (problem, prompt ids, response ids) each.

    Returns:
        step scores of every head, (H, K) each, and whether each step is essential, (K,) bool. Steps without tokens
        are left out.
    """
    labelled = label_responses(label, settings, tokenizer, responses)
    scores, labels = [], []
    for per_step, row in zip(score_all(model, [row.response for row in labelled]), labelled, strict=True):
        has_tokens = ~per_step[0].isnan()
        scores.append(per_step[:, has_tokens])
        labels.append(row.essential[has_tokens])
    return scores, labels
