"""Rows that have ended cost nothing, and change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_sampling import generate
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from attnpo.sampling.decoding import SkipFinishedRows
from attnpo.testbed import MODEL_DIR


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


class Lora(nn.Module):
    """A linear layer with a low-rank addition."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, generator = base, torch.Generator().manual_seed(1)
        self.down = nn.Parameter(0.1 * torch.randn(2, base.in_features, generator=generator))
        self.up = nn.Parameter(0.1 * torch.randn(base.out_features, 2, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


class Tuner(nn.Module):
    """As peft's tuners: `forward` is the model's own, past its hooks, and all else is found on the model."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        for layer in model.model.layers:
            layer.self_attn.q_proj = Lora(layer.self_attn.q_proj)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)


class Wrapper(nn.Module):
    """As peft's PeftModel: its `generate` is the inner model's."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.base_model = Tuner(model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.base_model.generate(*args, **kwargs)

    def get_base_model(self) -> PreTrainedModel:
        return self.base_model.model


def test_rows_leave_the_batch_under_a_lora_wrapper(batch: dict[str, torch.Tensor]) -> None:
    wrapped: Any = Wrapper(AutoModelForCausalLM.from_pretrained(MODEL_DIR)).eval()
    base = wrapped.get_base_model()
    with Rows(base) as plainly:
        plain = generate(wrapped, batch)
    with SkipFinishedRows(wrapped, 2), Rows(base) as counts:
        assert torch.equal(plain, generate(wrapped, batch))
    assert counts[0] == 16 and counts[-1] <= 2 and sum(counts) < 0.9 * sum(plainly)
    with Rows(base) as counts:  # it is removed from the module that it was put on
        generate(wrapped, batch)
    assert set(counts) == {16}


def test_rows_leave_the_batch_under_peft(batch: dict[str, torch.Tensor]) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL_DIR), config).eval()
    plain = generate(wrapped, batch)
    with SkipFinishedRows(wrapped, 2), Rows(wrapped.get_base_model()) as counts:
        assert torch.equal(plain, generate(wrapped, batch))
    assert counts[0] == 16 and counts[-1] <= 2


def test_what_it_cannot_act_on_is_said_once(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with SkipFinishedRows(model, 2):
        generate(model, batch)
    with SkipFinishedRows(model, None):
        generate(model, batch, cache_implementation="static", disable_compile=True)
    assert not caplog.records  # it acts, or there is nothing to do
    with SkipFinishedRows(model, 2):
        for _ in range(2):
            generate(model, batch, cache_implementation="static", disable_compile=True)
    with SkipFinishedRows(nn.Linear(1, 1), 2):
        pass
    assert [record.getMessage() for record in caplog.records] == [
        "rows that have ended stay in the batch: the key-value cache is a StaticCache, not a DynamicCache",
        "rows that have ended stay in the batch: Linear holds no model of transformers that generates",
    ]
