"""Decoding reads each key once a group of heads, and changes nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from attnpo.sampling.grouped import GroupedDecoding
from attnpo.sampling.transformers import sample
from attnpo.testbed import MODEL_DIR

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "head_dim": 8,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "mistral_window": MistralConfig(**SHAPE, sliding_window=5),
    "olmo2": Olmo2Config(**SHAPE),
    "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
}
LENGTHS = [9, 4, 1]


class KeyHeads:
    """Records the heads of the keys that torch's attention is given, apart for prefills and decoding steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefill: set[int] = set()
        self.decoding: set[int] = set()
        stock = functional.scaled_dot_product_attention

        def record(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            (self.prefill if query.shape[2] == max(LENGTHS) else self.decoding).add(key.shape[1])
            return stock(query, key, value, **kwargs)

        monkeypatch.setattr(functional, "scaled_dot_product_attention", record)


def build(config: PreTrainedConfig, attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention).eval()


def decode(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and logits of eight greedy tokens behind prompts of unlike length."""
    width = max(LENGTHS)
    mask = torch.stack([torch.arange(width) >= width - length for length in LENGTHS]).long()
    ids = torch.randint(3, 61, (len(LENGTHS), width), generator=torch.Generator().manual_seed(0)) * mask
    out = model.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=8, min_new_tokens=8,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return out.sequences, torch.stack(out.logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_same_logits_from_keys_that_are_not_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(CONFIGS[name])
    ids, logits = decode(model)
    with monkeypatch.context() as patch, GroupedDecoding(model):
        seen = KeyHeads(patch)
        grouped_ids, grouped_logits = decode(model)
    assert seen.prefill == {6} and seen.decoding == {2}
    assert torch.equal(grouped_ids, ids)
    torch.testing.assert_close(grouped_logits, logits, rtol=1e-4, atol=1e-5)
    with monkeypatch.context() as patch:  # it is as it was
        seen = KeyHeads(patch)
        assert torch.equal(decode(model)[1], logits)
    assert seen.decoding == {6} and model.config._attn_implementation == "sdpa"


def test_training_is_the_same_to_the_bit() -> None:
    model = build(CONFIGS["qwen3"])
    ids, mask = torch.arange(3, 27).view(2, 12), torch.ones(2, 12).long()
    mask[0, :5] = 0

    def gradient() -> torch.Tensor:
        model.zero_grad()
        model.train()(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        grad = next(model.parameters()).grad
        assert grad is not None
        return grad.clone()

    plain = gradient()
    with GroupedDecoding(model):
        assert torch.equal(gradient(), plain)


@pytest.mark.parametrize(
    "model",
    [
        build(CONFIGS["qwen3"], "eager"),
        build(Qwen3Config(**SHAPE | {"num_key_value_heads": 6})),
        nn.Linear(1, 1),
    ],
    ids=["eager", "a key for each head", "not a decoder"],
)
def test_others_are_left_alone(model: nn.Module) -> None:
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    with GroupedDecoding(model):
        assert getattr(getattr(model, "config", None), "_attn_implementation", None) == before


def test_it_reaches_the_decoder_inside_a_wrapper_and_is_not_saved(tmp_path: Any) -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

    model = build(CONFIGS["llama"])
    GroupedDecoding(Wrapper(model))
    assert model.config._attn_implementation == "attnpo_grouped"
    model.save_pretrained(tmp_path)
    assert "attnpo_grouped" not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation != "attnpo_grouped"


def test_samples_are_drawn_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    groups = model.config.num_key_value_heads
    prompts = [tokenizer("1 + 1 = 2 ; " * n)["input_ids"] for n in (2, 1)]
    seen = KeyHeads(monkeypatch)
    sample(model, tokenizer, prompts, temperature=1.0, max_new_tokens=4, seed=0)
    assert groups in seen.decoding
    assert model.config._attn_implementation == "sdpa"
