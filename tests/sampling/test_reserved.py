"""Room in the cache changes no token, is used, and survives what `generate` does to caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_sampling import generate
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, MistralConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from attnpo.sampling.fast import fast_decoding
from attnpo.sampling.reserved import PLACES, ReservedCache, RoomyLayer


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": False, "num_beams": 3, "max_new_tokens": 40}, {"top_p": 0.9, "num_return_sequences": 2}],
    ids=["sampling", "beams", "several"],
)
def test_same_tokens(model: PreTrainedModel, batch: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    plain = generate(model, batch, **options)
    with ReservedCache(model):
        assert torch.equal(generate(model, batch, **options), plain)
    with fast_decoding(model, 2):
        assert torch.equal(generate(model, batch, **options), plain)


def test_keys_are_copied_where_the_room_ends_and_not_at_each_token(
    model: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> None:
    exactly: dict[str, Any] = {"return_dict_in_generate": True, "min_new_tokens": 200, "max_new_tokens": 200}
    with ReservedCache(model):
        output = generate(model, batch, **exactly)
    layers = output.past_key_values.layers
    assert {type(layer) for layer in layers} == {RoomyLayer}
    prompt, length = batch["input_ids"].shape[1], layers[0].keys.shape[2]
    assert length == prompt + 199  # the last token's are not needed any more
    plain = generate(model, batch, **exactly).past_key_values.layers
    for layer, other in zip(layers, plain, strict=True):
        assert type(other) is DynamicLayer
        torch.testing.assert_close(layer.keys, other.keys)
        torch.testing.assert_close(layer.values, other.values)


def filled(rows: int, tokens: int) -> RoomyLayer:
    layer = DynamicLayer()
    layer.update(torch.zeros(rows, 2, tokens, 3), torch.zeros(rows, 2, tokens, 3))
    return RoomyLayer(layer)


def states(rows: int, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((rows, 2, 1, 3), value), torch.full((rows, 2, 1, 3), -value)


def test_tokens_stand_behind_those_that_are_there() -> None:
    layer = filled(2, 5)
    places = []
    for number in range(1, PLACES + 20):
        keys, values = layer.update(*states(2, number))
        places.append(keys.data_ptr())
        assert keys.shape == values.shape == (2, 2, 5 + number, 3) and layer.get_seq_length() == 5 + number
    assert keys[0, 0, 5:, 0].tolist() == [*range(1, PLACES + 20)]
    assert (values == -keys).all()
    assert len(set(places)) == 2  # a first room, and one more where it ended


def test_what_replaces_the_keys_is_gone_on_from() -> None:
    layer = filled(3, 4)
    layer.update(*states(3, 1))
    layer.batch_select_indices(torch.tensor([2, 0]))
    assert layer.update(*states(2, 2))[0][:, 0, :, 0].tolist() == [[0, 0, 0, 0, 1, 2]] * 2
    layer.crop(4)
    assert layer.update(*states(2, 3))[0][:, 0, :, 0].tolist() == [[0, 0, 0, 0, 3]] * 2
    layer.batch_repeat_interleave(2)
    assert layer.update(*states(4, 4))[1][:, 1, :, 2].tolist() == [[0, 0, 0, 0, -3, -4]] * 4
    layer.reorder_cache(torch.tensor([3, 2, 1, 0]))
    assert layer.update(*states(4, 5))[0].shape == (4, 2, 7, 3)


def test_windows_other_caches_and_other_modules_are_left_alone(batch: dict[str, torch.Tensor]) -> None:
    config = MistralConfig(
        vocab_size=61, hidden_size=24, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    windowed = AutoModelForCausalLM.from_config(config).eval()
    ids = {"input_ids": torch.arange(3, 9)[None], "attention_mask": torch.ones(1, 6).long()}
    plain = generate(windowed, ids, max_new_tokens=6)
    with ReservedCache(windowed):
        output = generate(windowed, ids, max_new_tokens=6, return_dict_in_generate=True)
    assert torch.equal(output.sequences, plain)
    assert {type(layer) for layer in output.past_key_values.layers} == {DynamicSlidingWindowLayer}
    with ReservedCache(nn.Linear(1, 1)):
        pass
    assert not DynamicCache().layers
