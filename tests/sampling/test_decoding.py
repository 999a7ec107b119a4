"""Rows that have ended cost nothing, and change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from attnpo.sampling.decoding import SkipFinishedRows
from attnpo.testbed import MODEL_DIR, problems


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR).eval()


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR, padding_side="left")
    conversations = [[{"role": "user", "content": p.text}] for p in problems.load("test")[:16]]
    return tokenizer.apply_chat_template(
        conversations, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )


def generate(model: PreTrainedModel, batch: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    torch.manual_seed(0)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 200, "pad_token_id": 0} | options
    return model.generate(**batch, **options)  # type: ignore[operator]


class Rows:
    """Counts the rows that the decoder layers see, pass by pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.counts: list[int] = []
        self.hook = model.model.layers[0].register_forward_pre_hook(
            lambda module, args: self.counts.append(len(args[0]))
        )

    def __enter__(self) -> list[int]:
        return self.counts

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()


@pytest.mark.parametrize("options", [{}, {"do_sample": False}, {"top_p": 0.9}, {"num_return_sequences": 2}])
def test_same_tokens_with_less_work(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], options: dict[str, Any]
) -> None:
    with Rows(model) as plainly:
        plain = generate(model, batch, **options)
    with SkipFinishedRows(model, 2), Rows(model) as counts:
        skipping = generate(model, batch, **options)
    assert torch.equal(plain, skipping)
    assert len(counts) == len(plainly) and sorted(counts, reverse=True) == counts
    # All 16 (or 32) rows at first, few at the end; the work is the lengths' sum and what an eighth of leftovers adds.
    lengths = (plain[:, batch["input_ids"].shape[1] :] != 0).sum()
    assert counts[0] == plainly[0] and counts[-1] <= 2
    assert lengths <= sum(counts) <= 1.25 * lengths < 0.9 * sum(plainly)


def test_logits_of_live_rows_are_right(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    options = {"return_dict_in_generate": True, "output_logits": True}
    plain = generate(model, batch, **options)
    with SkipFinishedRows(model, [2]):
        skipping = generate(model, batch, **options)
    width = batch["input_ids"].shape[1]
    live = (plain.sequences[:, width:] != 0).T  # (T, B): tokens that were sampled, not padded
    difference = torch.stack(plain.logits)[live] - torch.stack(skipping.logits)[live]
    assert difference.abs().max() < 1e-4  # float32, logits of about 10: rounding of a smaller batch


def test_only_the_end_tokens_named_end_a_row(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    # `generate` never stops here, so each row goes on behind its end-of-sequence token.
    plain = generate(model, batch, eos_token_id=297, max_new_tokens=150)
    with SkipFinishedRows(model, 297), Rows(model) as counts:
        assert torch.equal(plain, generate(model, batch, eos_token_id=297, max_new_tokens=150))
    assert set(counts) == {16} and bool((plain == 2).any())


def test_one_call_knows_nothing_of_the_last(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    plain = generate(model, batch)
    with SkipFinishedRows(model, 2), Rows(model) as counts:
        for _ in range(2):
            assert torch.equal(plain, generate(model, batch))
    assert counts.count(16) >= 2 and counts[: len(counts) // 2] == counts[len(counts) // 2 :]


def test_removed_or_not_applicable_it_leaves_all_rows(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> None:
    with SkipFinishedRows(model, 2):
        pass
    with Rows(model) as counts:
        plain = generate(model, batch)
    assert set(counts) == {16}
    with SkipFinishedRows(model, 2), Rows(model) as counts:
        more = generate(model, batch, return_dict_in_generate=True, output_hidden_states=True)
    assert set(counts) == {16} and torch.equal(plain, more.sequences)
    with SkipFinishedRows(model, 2), Rows(model) as counts:
        generate(model, batch, cache_implementation="static", disable_compile=True)
    assert set(counts) == {16}
    with SkipFinishedRows(model, None), Rows(model) as counts:
        assert torch.equal(plain, generate(model, batch))
    assert set(counts) == {16}
