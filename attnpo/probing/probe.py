"""The probe: sample responses, label their steps, score the steps with every head, rank the heads."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.environment import cache_folder
from attnpo.errors import AttnPOError
from attnpo.grading.math import Grader
from attnpo.method.attention import all_heads
from attnpo.method.ranking import greedy_rows, step_ranking_accuracy
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import TokenSteps, align_steps, token_bytes_table
from attnpo.probing.ablation import ablation_labels
from attnpo.probing.answers import answer_labels
from attnpo.probing.heads import HeadRanking
from attnpo.probing.judge import judge_labels
from attnpo.probing.labels import BY_TEXT, Labels, check_labels, voted
from attnpo.probing.settings import LabelSource, ProbeSection, Source, StepsSection
from attnpo.problems.problem import Problem
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import context_of, free_memory, load_model, load_tokenizer, model_config
from attnpo.sampling.sampler import check_room, prompt_ids, text_of
from attnpo.sampling.settings import SamplingSection
from attnpo.sampling.store import SampleFile
from attnpo.testbed import load_problems

logger = logging.getLogger(__name__)

T = TypeVar("T")

GREEDY_HEADS = 12
"""How many heads of the greedy order a ranking holds."""
SCORING_BATCH = 16
"""Responses in one forward pass of the scoring."""
GRADING_BATCH = 64
"""Responses that are read and graded at once."""


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
        out_dir: gets `samples.jsonl`, a line a response as they come. A killed probe samples what is missing.
        seed: of the sampling and of the bootstrap.
        heads_file: where the ranking is written; None: `heads.json` in out_dir.

    Returns:
        the path of the ranking.

    Raises:
        AttnPOError: no labels for the source's data, or no correct response with steps of both kinds.
    """
    check_labels(settings.sources, source.data)
    tokenizer = load_tokenizer(source.model, source.revision)
    problems = load_problems(source.data, settings.split, source.data_revision, source.data_columns)
    problems = problems[: settings.problems]
    by_id = {problem.id: problem for problem in problems}
    rows = sample_responses(source, settings, tokenizer, problems, out_dir / "samples.jsonl", seed)
    graded = [row["correct"] and (by_id[row["problem_id"]], row["prompt_ids"], row["response_ids"]) for row in rows]
    correct = [row for row in graded if row]
    logger.info("%d of %d responses are correct", len(correct), len(graded))
    label = labeler_for(settings, source, tokenizer, out_dir, seed)
    labelled = label_responses(label, steps, tokenizer, correct)
    if not labelled:
        raise AttnPOError(
            f"none of {len(correct)} correct responses has essential and redundant steps by labels "
            f"{' and '.join(settings.sources)}; raise probe.problems or probe.samples, or check steps.phrases and "
            "steps.min_chars"
        )
    model, _ = load_model(source.model, source.revision)
    scores, labels = score_labelled(model, labelled)
    heads = all_heads(model)
    ranking = HeadRanking.of(
        step_ranking_accuracy(scores, labels, n_resamples=settings.bootstrap, seed=seed),
        heads,
        greedy=tuple(heads[row] for row in greedy_rows(scores, labels, min(GREEDY_HEADS, len(heads)))),
        model=source.model,
        revision=source.revision,
        phrase_set=steps.phrases,
        min_chars=steps.min_chars,
        label_source=_who_labels(source, settings),
    )
    path = heads_file or out_dir / "heads.json"
    ranking.save(path)
    best = ", ".join(
        f"({h.layer}, {h.head}) {h.sra:.3f} [{h.low:.3f}, {h.high:.3f}]"
        for h in ranking.best(min(5, len(ranking.heads)))
    )
    logger.info("Step Ranking Accuracy over %d pairs, best heads: %s", ranking.n_pairs, best)
    return path


def _who_labels(source: Source, settings: ProbeSection) -> str:
    models = ", ".join(judge.model for judge in settings.judges)
    more = {"oracle": f"{source.data} oracle", "judge": f"judge ({models}; {settings.vote})"}
    return " and ".join(more.get(name, name) for name in settings.sources)


def sample_responses(
    source: Source,
    settings: SamplingSection,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    path: Path,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Sample `settings.samples` responses to each problem, then read and grade them.

    The model that samples is loaded and let go again before the first row is given, so that its memory is free for the
    model that scores.

    Args:
        path: of the samples; responses that are there are not sampled again.
        seed: response n of all has the seed `seed * 1_000_003 + n`; on transformers that of a batch's first response
            counts.

    Yields:
        a row for each response, in order of problem and number, with `problem_id`, `correct`, `prompt_ids` and
        `response_ids`.
    """
    keys = [(problem.id, k) for problem in problems for k in range(settings.samples)]
    prompts = prompt_ids(tokenizer, [problem.text for problem in problems])
    prompt_of = {problem.id: prompt for problem, prompt in zip(problems, prompts, strict=True)}
    answer_of = {problem.id: problem.answer for problem in problems}
    with SampleFile(path, ("problem_id", "k")) as file:
        if not all(key in file for key in keys):
            if settings.backend == "hf":
                context = context_of(model_config(source.model, source.revision))
                check_room(prompts, settings.max_completion_tokens, context)
            longest = max(map(len, prompts)) + settings.max_completion_tokens
            with make_sampler(
                settings.backend, source.model, source.revision, batch_size=settings.batch_size, max_model_len=longest
            ) as sampler:
                file.fill(
                    sampler,
                    keys,
                    [prompt_of[id] for id, _ in keys],
                    [seed * 1_000_003 + turn for turn in range(len(keys))],
                    temperature=settings.temperature,
                    max_new_tokens=settings.max_completion_tokens,
                )
        with Grader() as grader:
            for rows in in_batches(file.rows(keys), GRADING_BATCH):
                texts = [text_of(row["response_ids"], tokenizer) for row in rows]
                grades = grader.grade(texts, [answer_of[row["problem_id"]] for row in rows])
                for row, grade in zip(rows, grades, strict=True):
                    id = row["problem_id"]
                    about = {"problem_id": id, "correct": grade.correct, "prompt_ids": prompt_of[id]}
                    yield {**about, "response_ids": row["response_ids"]}


def in_batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """The rows in lists of this size; the last one may be shorter."""
    rest = iter(rows)
    while batch := list(itertools.islice(rest, size)):
        yield batch


Labeler = Callable[[Sequence[tuple[Problem, Response]]], list[Labels]]
"""From problems and responses to them, with their K steps, to K labels each."""


def labeler_for(
    settings: ProbeSection, source: Source, tokenizer: PreTrainedTokenizerBase, out_dir: Path, seed: int = 0
) -> Labeler:
    """The labels by the sources that a section `probe` names; of several, those on which all agree.

    A source that asks the model loads it, and gives its memory back.

    Args:
        settings: the section.
        source: the model that gave the responses.
        tokenizer: the model's.
        out_dir: gets `answers.jsonl`, if answers are sampled.
        seed: of these.
    """

    def of_source(name: LabelSource, rows: Sequence[tuple[Problem, Response]]) -> Sequence[Labels]:
        if by_text := BY_TEXT.get(name):
            return [by_text(item, response.steps.texts) for item, response in rows if response.steps]
        if name == "judge":
            return judge_labels(rows, settings.judges, settings.vote, cache_folder() / "judges.sqlite")
        if name == "prefix_gain" or name == "sampled_ablation":
            return answer_labels(rows, name, source, settings, tokenizer, out_dir / "answers.jsonl", seed)
        model, _ = load_model(source.model, source.revision)
        labels = ablation_labels(rows, model, tokenizer, settings.forced_answer)
        del model
        free_memory()
        return labels

    def label(rows: Sequence[tuple[Problem, Response]]) -> list[Labels]:
        of_each = [of_source(name, rows) for name in settings.sources]
        return [voted(labels, "unanimous") for labels in zip(*of_each, strict=True)]

    return label


class Labelled(NamedTuple):
    """A response with steps of both kinds."""

    item: Problem
    response: Response
    steps: TokenSteps
    labels: Labels


def aligned(
    settings: StepsSection,
    tokenizer: PreTrainedTokenizerBase,
    responses: Iterable[tuple[Problem, list[int], list[int]]],
) -> list[tuple[Problem, Response]]:
    """The responses (problem, prompt ids, response ids) that can be cut into steps, with these, shortest first."""
    table = token_bytes_table(tokenizer)
    rows = []
    for item, prompt, ids in responses:
        steps = align_steps(ids, table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
        if steps is not None:
            rows.append((item, Response(prompt, ids, steps)))
    return sorted(rows, key=lambda row: row[1].n_tokens)


def label_responses(
    label: Labeler,
    settings: StepsSection,
    tokenizer: PreTrainedTokenizerBase,
    responses: Iterable[tuple[Problem, list[int], list[int]]],
) -> list[Labelled]:
    """The responses (problem, prompt ids, response ids) that have essential and redundant steps, shortest first."""
    rows = aligned(settings, tokenizer, responses)
    return [
        Labelled(item, response, response.steps, labels)
        for (item, response), labels in zip(rows, label(rows), strict=True)
        if response.steps is not None and has_both(labels)
    ]


def score_all(model: PreTrainedModel, responses: Sequence[Response]) -> list[torch.Tensor]:
    """Step scores of every head for each response, (H, K) on the CPU, NaN for steps without tokens."""
    heads, scores = all_heads(model), []
    for start in track(range(0, len(responses), SCORING_BATCH), description="scoring", console=Console(stderr=True)):
        scores += [score.cpu() for score in score_batch(model, heads, responses[start : start + SCORING_BATCH])]
    return scores


def score_labelled(
    model: PreTrainedModel, labelled: Sequence[Labelled]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Scores and labels of labelled responses.

    Returns:
        step scores of every head, (H, K) each, and whether each step is essential, (K,) bool. Steps without tokens
        and unlabelled ones are left out.
    """
    scores = score_all(model, [row.response for row in labelled])
    counted = [counted_steps(*pair) for pair in zip(scores, (row.labels for row in labelled), strict=True)]
    return [score for score, _ in counted], [essential for _, essential in counted]


def has_both(labels: Labels) -> bool:
    """Whether some steps are essential and some redundant."""
    return {True, False} <= set(labels)


def counted_steps(scores: torch.Tensor, labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (H, K) and labels of K steps without the unlabelled steps and those without tokens."""
    counted = ~scores[0].isnan() & torch.tensor([label is not None for label in labels])
    return scores[:, counted], torch.tensor([label is True for label in labels])[counted]
