"""Batches of the scoring pass; the scores themselves: test_attention.py."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from attnpo.errors import AttnPOError
from attnpo.method.scores import Response, answer_attention, in_batches, score_batch
from attnpo.method.steps import Step, TokenSteps


@pytest.mark.parametrize(
    ("lengths", "tokens", "batches"),
    [
        ([], 100, []),
        ([10, 30, 20, 40], 60, [[0, 2], [1], [3]]),
        ([10, 10, 10, 10], 20, [[0, 1], [2, 3]]),
        ([500, 10], 100, [[1], [0]]),
        ([10, 30, 20], 90, [[0, 2, 1]]),
    ],
)
def test_batches_count_tokens_with_their_padding(lengths: list[int], tokens: int, batches: list[list[int]]) -> None:
    assert in_batches(lengths, tokens) == batches


@pytest.mark.parametrize("chunk_rows", [1, 3, 4096])
def test_attention_of_answer_tokens_is_that_of_eager_attention(chunk_rows: int) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    prompt, ids = [3, 4, 5], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    steps = [Step(0, 4, 1, None), Step(4, 8, 1, None), Step(8, 9, 1, None)]  # the second has no token
    aligned = TokenSteps([0, 0, 0, 2, 2, -1, -1, -1, -1, -1], steps, (0, 5), (6, 10), "")
    heads = [(2, 3), (0, 1), (2, 0)]
    response = Response(prompt, ids, aligned)
    found = answer_attention(model, heads, response, chunk_rows=chunk_rows)
    eager = model(torch.tensor([prompt + ids]), output_attentions=True).attentions
    for place, (layer, head) in enumerate(heads):
        rows = eager[layer][0, head, 3 + 6 : 3 + 10]
        want = torch.stack([rows[:, 3:6].sum(1), torch.zeros(4), rows[:, 6:8].sum(1)], 1)
        # Float32, two orders of summation.
        torch.testing.assert_close(found.of_tokens[place], want, atol=1e-6, rtol=0)
    (scores,) = score_batch(model, heads, [response])
    torch.testing.assert_close(found.scores, scores, equal_nan=True)
    summed = found.of_tokens.sum(1) / torch.tensor([3.0, 0.0, 2.0])
    torch.testing.assert_close(found.scores, summed, equal_nan=True)
    with pytest.raises(AttnPOError, match="without steps"):
        answer_attention(model, heads, Response(prompt, ids, None))
