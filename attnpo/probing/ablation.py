"""Labels by step ablation: what can be removed from the thinking while the gold answer stays likely?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.method.scores import Response, in_batches
from attnpo.probing.removal import Question, Removal, greedy_removal, kept_ids, labels_by_removal
from attnpo.problems.problem import Problem

KEPT_PROBABILITY = 0.8
"""A removal is kept if the gold answer keeps this share of its probability (2604.18307: a sufficiency of .8)."""
ENOUGH = 0.5
"""Probability of the gold answer behind the whole thinking below which a response tells nothing."""
BATCH_TOKENS = 16_384
"""Tokens in one forward pass, padding included."""


def ablation_labels(
    rows: Sequence[tuple[Problem, Response]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forced: str,
    batch_tokens: int = BATCH_TOKENS,
) -> list[list[bool | None]]:
    """Label the steps of responses by greedy removal: `attnpo.probing.removal.greedy_removal`.

    It takes 2 K forward passes for a response of K steps, and samples nothing. A step without tokens is unlabelled.

    Args:
        rows: each problem and a correct response to it, with its steps.
        model: the model that gave the responses.
        tokenizer: its tokenizer.
        forced: what is put behind `</think>`; the gold answer and a closing brace follow.
        batch_tokens: tokens in one forward pass, padding included.

    Returns:
        for each response a label for each step.
    """

    def judge(asked: Sequence[Question]) -> list[float]:
        prefixes = [[*rows[number][1].prompt_ids, *kept_ids(rows[number][1], removed)] for number, removed in asked]
        answers = [_forced_answer(tokenizer, forced, rows[number][0].answer) for number, _ in asked]
        return log_probabilities(model, prefixes, answers, batch_tokens)

    def removal(steps: Sequence[int]) -> Removal:
        return greedy_removal(steps, math.log(ENOUGH), lambda whole: whole + math.log(KEPT_PROBABILITY))

    return labels_by_removal([response for _, response in rows], removal, judge, lambda k: max(1, 2 * k))


def _forced_answer(tokenizer: PreTrainedTokenizerBase, forced: str, gold: str) -> tuple[list[int], list[int]]:
    """Token ids of what is put behind `</think>`, and of the answer that is judged."""
    given = tokenizer(forced, add_special_tokens=False)["input_ids"]
    judged = tokenizer(f"{gold}}}", add_special_tokens=False)["input_ids"]
    return list(given), list(judged)


def log_probabilities(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    answers: Sequence[tuple[Sequence[int], Sequence[int]]],
    batch_tokens: int = BATCH_TOKENS,
) -> list[float]:
    """Log-probability of each answer behind its prefix, in nats.

    Args:
        model: a decoder.
        prefixes: token ids of N prompts with what is kept of the thinking.
        answers: for each, the ids that are given behind the prefix and the ids whose log-probabilities are summed.
        batch_tokens: tokens in one forward pass, padding included.
    """
    rows = [[*prefix, *given, *judged] for prefix, (given, judged) in zip(prefixes, answers, strict=True)]
    values = [0.0] * len(rows)
    device = next(model.parameters()).device
    for places in in_batches([len(row) for row in rows], batch_tokens):
        width = max(len(rows[place]) for place in places)
        kept = max(len(answers[place][1]) for place in places)
        ids, mask = torch.zeros(2, len(places), width, dtype=torch.long)
        for i, place in enumerate(places):  # padded on the left: all answers end at the same place
            ids[i, width - len(rows[place]) :] = torch.tensor(rows[place])
            mask[i, width - len(rows[place]) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=False,
                logits_to_keep=kept + 1,
            ).logits[:, :-1]
        chances = logits.float().log_softmax(-1).cpu()
        of_target = chances.gather(2, ids[:, width - kept :, None])[..., 0]
        for i, place in enumerate(places):
            values[place] = of_target[i, kept - len(answers[place][1]) :].sum().item()
    return values
