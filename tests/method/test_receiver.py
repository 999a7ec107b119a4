"""Receiver heads against eager attention and scipy's kurtosis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from transformers import LlamaConfig, LlamaForCausalLM

from attnpo.errors import AttnPOError
from attnpo.method.attention import all_heads
from attnpo.method.receiver import receiver_kurtosis, step_attention
from attnpo.method.scores import Response
from attnpo.method.steps import Step, StepKind, TokenSteps


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager")
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 1.0 if "norm" in name else 0.3)
    return model


def response(lengths: list[int], seed: int = 1) -> Response:
    """A response with steps of so many tokens, two of `</think>` and three of an answer, behind a prompt of four."""
    generator = torch.Generator().manual_seed(seed)
    step_of_token = [k for k, n in enumerate(lengths) for _ in range(n)] + [-1] * 5
    ids = torch.randint(1, 61, (4 + len(step_of_token),), generator=generator).tolist()
    end = len(step_of_token)
    cut = [Step(k, k + 1, StepKind.FORWARD, None) for k in range(len(lengths))]
    steps = TokenSteps(step_of_token, cut, (0, end - 5), (end - 3, end), "x" * len(lengths))
    return Response(ids[:4], ids[4:], steps)


def reference(model: LlamaForCausalLM, row: Response) -> np.ndarray:
    """(H, K, K), from the whole attention matrices."""
    assert row.steps is not None
    ids = torch.tensor([[*row.prompt_ids, *row.ids]])
    with torch.no_grad():
        attentions = torch.cat(model(input_ids=ids, output_attentions=True).attentions).flatten(0, 1)  # (H, T, T)
    places = np.array([-1] * len(row.prompt_ids) + list(row.steps.step_of_token))
    n = len(row.steps.steps)
    found = np.full((len(attentions), n, n), np.nan)
    for j in range(n):
        for k in range(n):
            if (places == j).any() and (places == k).any():
                found[:, j, k] = attentions.numpy()[:, places == j][:, :, places == k].mean((1, 2))
    return found


@pytest.mark.parametrize("lengths", [[3, 2, 4, 1, 2, 5, 2], [2, 0, 3]])
def test_step_attention_is_the_mean_of_the_attention_matrix(model: LlamaForCausalLM, lengths: list[int]) -> None:
    row = response(lengths)
    got = step_attention(model, all_heads(model), row, batch_size=3).numpy()
    np.testing.assert_allclose(got, reference(model, row), atol=1e-6)


def test_kurtosis_is_that_of_what_steps_receive_from_afar(model: LlamaForCausalLM) -> None:
    rows = [response([3, 2, 4, 1, 2, 5, 2, 3], seed) for seed in (1, 2)]
    expected = []
    for row in rows:
        paid = reference(model, row)
        scores = np.stack([paid[:, k + 2 :, k].mean(1) for k in range(6)], 1)
        expected.append(kurtosis(scores, axis=1))
    short = response([2, 2, 2])
    got = receiver_kurtosis(model, all_heads(model), [*rows, short], apart=2)
    np.testing.assert_allclose(got.numpy(), np.mean(expected, 0), rtol=1e-3)


def test_too_few_steps_are_an_error(model: LlamaForCausalLM) -> None:
    with pytest.raises(AttnPOError, match="none of 1 responses has 4 steps that are 4 or more from another"):
        receiver_kurtosis(model, [(0, 0)], [response([2] * 7)])
