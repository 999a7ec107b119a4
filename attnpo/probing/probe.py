"""The probe's errand: sample responses, label their steps, score them with every head, rank the heads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from attnpo.probing.labels import LABELERS
from attnpo.probing.settings import ProbeSection, StudySection
from attnpo.problems.problem import Problem
from attnpo.sampling.generation import load_model, sample, text_of
from attnpo.testbed import load_problems

if TYPE_CHECKING:
    from attnpo.runs.profile import Profile

logger = logging.getLogger(__name__)

SCORING_BATCH = 16
"""Responses a forward pass of the scoring takes."""


def run_probe(profile: Profile, out_dir: Path, seed: int = 0) -> Path:
    """Rank every head of the profile's model by Step Ranking Accuracy over correct sampled responses.

    Args:
        profile: its sections `model`, `data`, `steps` and `probe`.
        out_dir: gets `heads.json` and `samples/*.jsonl` (a file a batch; a killed probe goes on after the last one).
        seed: of the sampling.

    Returns:
        the path of heads.json.

    Raises:
        AttnPOError: no labels for the profile's data, or no correct response with steps of both kinds.
    """
    if profile.data not in LABELERS:
        raise AttnPOError(f"no step labels for data {profile.data!r}; labels are known for {', '.join(LABELERS)}")
    model, tokenizer = load_model(profile.model, profile.revision)
    items = load_problems(profile.data, profile.probe.split)[: profile.probe.problems]
    by_id = {item.id: item for item in items}
    samples = sample_responses(profile.probe, model, tokenizer, items, out_dir / "samples", seed)
    correct = [(by_id[s["problem_id"]], s["prompt_ids"], s["response_ids"]) for s in samples if s["correct"]]
    logger.info("%d of %d responses are correct", len(correct), len(samples))
    scores, labels = score_responses(profile, model, tokenizer, correct)
    if not scores:
        raise AttnPOError(
            f"none of {len(correct)} correct responses has essential and redundant steps; raise probe.problems or "
            "probe.samples, or check steps.phrases and steps.min_chars"
        )
    ranking = HeadRanking.of(
        step_ranking_accuracy(scores, labels, n_resamples=profile.probe.bootstrap, seed=seed),
        all_heads(model),
        model=profile.model,
        revision=profile.revision,
        phrase_set=profile.steps.phrases,
        min_chars=profile.steps.min_chars,
        label_source=f"{profile.data} oracle",
    )
    ranking.save(out_dir / "heads.json")
    best = ", ".join(f"({h.layer}, {h.head}) {h.sra:.3f} [{h.low:.3f}, {h.high:.3f}]" for h in ranking.best(5))
    logger.info("Step Ranking Accuracy over %d pairs, best heads: %s", ranking.n_pairs, best)
    return out_dir / "heads.json"


def sample_responses(
    settings: ProbeSection | StudySection,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: list[Problem],
    folder: Path,
    seed: int,
) -> list[dict[str, Any]]:
    """`settings.samples` graded responses to each item, a file a batch in `folder`; files that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = [item for item in items for _ in range(settings.samples)]
    size = settings.batch_size
    rows: list[dict[str, Any]] = []
    with Grader() as grader:
        for start in track(range(0, len(turns), size), description="sampling"):
            path = folder / f"{start // size:05d}.jsonl"
            if not path.is_file():
                batch = turns[start : start + size]
                torch.manual_seed(seed * 1_000_003 + start)
                prompts, responses = sample(
                    model,
                    tokenizer,
                    [item.text for item in batch],
                    temperature=settings.temperature,
                    max_new_tokens=settings.max_completion_tokens,
                )
                grades = grader.grade([text_of(ids, tokenizer) for ids in responses], [i.answer for i in batch])
                atomic_write_jsonl(
                    path,
                    [
                        {"problem_id": item.id, "correct": g.correct, "prompt_ids": p, "response_ids": r}
                        for item, g, p, r in zip(batch, grades, prompts, responses, strict=True)
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
    profile: Profile, tokenizer: PreTrainedTokenizerBase, responses: Iterable[tuple[Problem, list[int], list[int]]]
) -> list[Labelled]:
    """Those of the (item, prompt ids, response ids) that have essential and redundant steps, shortest first."""
    table, settings = token_bytes_table(tokenizer), profile.steps
    chosen = []
    for item, prompt, ids in responses:
        steps = align_steps(ids, table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
        if steps is None:
            continue
        essential = torch.tensor(LABELERS[profile.data](item, [steps.text[s.start : s.end] for s in steps.steps]))
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
    profile: Profile,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    responses: list[tuple[Problem, list[int], list[int]]],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Scores and labels of the responses that have both essential and redundant steps.

    Args:
        responses: (item, prompt ids, response ids) each.

    Returns:
        step scores of every head, (H, K) each, and whether each step is essential, (K,) bool; steps without tokens
        are left out.
    """
    labelled = label_responses(profile, tokenizer, responses)
    scores, labels = [], []
    for per_step, row in zip(score_all(model, [row.response for row in labelled]), labelled, strict=True):
        has_tokens = ~per_step[0].isnan()
        scores.append(per_step[:, has_tokens])
        labels.append(row.essential[has_tokens])
    return scores, labels
