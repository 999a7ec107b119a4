"""Labels by step ablation: the log-probabilities that decide on a removal, and the labels that follow."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.method.scores import Response
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.ablation import ablation_labels, log_probabilities
from attnpo.problems.problem import Problem
from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import prompt_ids
from attnpo.testbed import EMBEDDED


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
