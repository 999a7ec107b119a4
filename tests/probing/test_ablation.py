"""Labels by step ablation: the order of the removals, and the log-probabilities that decide them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.method.scores import Response
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.ablation import ablation_labels, log_probabilities
from attnpo.probing.removal import greedy_removal
from attnpo.problems.problem import Problem
from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import prompt_ids
from attnpo.testbed import EMBEDDED

ALLOWED = math.log(1 / 0.8)
"""In nats."""


def removed_by(steps: list[int], value: Callable[[Collection[int]], float]) -> tuple[dict[int, bool | None], int]:
    """The labels that greedy removal gives under a log-probability of what is removed, and the number of questions."""
    going = greedy_removal(steps, math.log(0.5), ALLOWED)
    asked, questions = next(going), 0
    while True:
        questions += len(asked)
        try:
            asked = going.send([value(removed) for removed in asked])
        except StopIteration as stop:
            return stop.value, questions


def test_what_the_answer_needs_is_essential_and_what_it_does_not_is_redundant() -> None:
    needed = {1, 4}
    labels, questions = removed_by([0, 1, 2, 4], lambda removed: -9.0 * len(needed & set(removed)) - 0.01)
    assert labels == {0: False, 1: True, 2: False, 4: True}
    assert questions == 2 * 4 + 1


def test_of_two_steps_that_say_the_same_one_must_stay() -> None:
    def value(removed: Collection[int]) -> float:
        return -5.0 if {0, 2} <= set(removed) else -0.1

    assert removed_by([0, 1, 2], value)[0] == {0: False, 1: False, 2: True}


def test_a_step_that_goes_after_a_refusal_is_unlabelled() -> None:
    def value(removed: Collection[int]) -> float:
        return -5.0 if {0, 1} <= set(removed) else -0.05 * (1 in removed) - 0.1 * (2 in removed)

    assert removed_by([0, 1, 2], value)[0] == {0: False, 1: True, 2: None}


def test_where_the_whole_thinking_does_not_lead_to_the_answer_nothing_is_labelled() -> None:
    assert removed_by([0, 1], lambda removed: -0.8) == ({0: None, 1: None}, 1)


def test_a_response_without_steps_has_no_labels() -> None:
    assert removed_by([], lambda removed: -1.0) == ({}, 1)


@pytest.fixture(scope="module")
def embedded() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model(EMBEDDED)


def test_log_probabilities_are_those_of_one_response_at_a_time(
    embedded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, _ = embedded
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> list[int]:
        return torch.randint(20, 200, (n,), generator=generator).tolist()

    prefixes = [some(5), some(40), some(17)]
    answers = [(some(2), some(3)), (some(2), some(1)), ([], some(4))]
    expected = []
    for prefix, (given, judged) in zip(prefixes, answers, strict=True):
        ids = torch.tensor([[*prefix, *given, *judged]])
        with torch.no_grad():
            chances = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        expected.append(chances.gather(1, ids[0, 1:, None])[-len(judged) :].sum().item())
    for tokens in (10, 60, 1000):  # alone, and with others in a batch
        assert log_probabilities(model, prefixes, answers, tokens) == pytest.approx(expected, abs=1e-4)


def test_steps_are_labelled_by_what_the_model_says(
    embedded: tuple[PreTrainedModel, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = embedded
    problem = Problem("x", "Start with 3. Add 4. Add 5.", "12")
    text = "First, 3 + 4 = 7.\nWait, 4 + 3 = 7, yes.\nThen 7 + 5 = 12.\n</think>\n3 + 4 = 7.\n\\boxed{12}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    steps = align_steps(ids, token_bytes_table(tokenizer), "corrected", 1)
    assert steps is not None and len(steps.steps) == 3
    response = Response(prompt_ids(tokenizer, [problem.text])[0], ids, steps)

    def by_text(model, prefixes, answers, batch_tokens):  # type: ignore[no-untyped-def]
        texts = [tokenizer.decode(prefix) for prefix in prefixes]
        assert all(tokenizer.decode(judged) == "12}" for _, judged in answers)
        assert all(tokenizer.decode(given) == "\n\\boxed{" for given, _ in answers)
        assert all(text.rstrip().endswith("</think>") and "\\boxed" not in text for text in texts)
        return [-3.0 * ("First" not in text) - 4.0 * ("Then" not in text) for text in texts]

    monkeypatch.setattr("attnpo.probing.ablation.log_probabilities", by_text)
    assert ablation_labels([(problem, response)] * 2, model, tokenizer, "\n\\boxed{") == [[True, False, True]] * 2
