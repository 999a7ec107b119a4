"""Decoding with room in the key-value cache for the tokens to come.

transformers' `DynamicCache` copies all keys and values of a layer into new tensors at each token. With room behind them
they are copied only where the room ends: so many times less as it has places. `benchmarks/decoding.py` measures the
time saved.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from attnpo.sampling.until_removed import UntilRemoved, decoder_in

PLACES = 64
"""Tokens that there is room for at least, and a quarter of those that are there."""


class ReservedCache(UntilRemoved):
    """While in force, the caches that `model.generate` decodes with have room.

    It acts on the layers of a `DynamicCache` that keep all tokens; those with a sliding window, and other caches, are
    left as they are.

    Args:
        model: the model whose `generate` is called, or a wrapper around it (PEFT, DDP).
    """

    def __init__(self, model: nn.Module) -> None:
        decoder = decoder_in(model)
        hook = self._before
        self._hook = decoder.register_forward_pre_hook(hook, with_kwargs=True) if decoder is not None else None

    def remove(self) -> None:
        """Leave the model as it was."""
        if self._hook is not None:
            self._hook.remove()

    @staticmethod
    def _before(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if ids is None or ids.shape[1] != 1 or type(cache) is not DynamicCache:
            return
        for number, layer in enumerate(cache.layers):
            if type(layer) is DynamicLayer and layer.is_initialized:
                cache.layers[number] = RoomyLayer(layer)


class RoomyLayer(DynamicLayer):
    """A layer of a `DynamicCache` whose keys and values are the beginning of larger tensors.

    Whoever replaces `keys` or `values`, as a choice of rows does, only makes it copy them once more.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values
        self._room: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put tokens behind those that are there. (B, heads, tokens, size) each; returns all of them."""
        assert self.keys is not None and self.values is not None
        self.keys = self._extended("keys", self.keys, key_states)
        self.values = self._extended("values", self.values, value_states)
        return self.keys, self.values

    def _extended(self, name: str, old: Tensor, new: Tensor) -> Tensor:
        there = old.shape[-2]
        wanted, room = there + new.shape[-2], self._room.get(name)
        if room is None or room.shape[-2] < wanted or not _is_beginning(old, room):
            room = old.new_empty(*old.shape[:-2], wanted + max(PLACES, wanted // 4), old.shape[-1])
            room[..., :there, :] = old
            self._room[name] = room
        room[..., there:wanted, :] = new
        return room[..., :wanted, :]


def _is_beginning(part: Tensor, room: Tensor) -> bool:
    alike = part.shape[:-2] == room.shape[:-2] and part.stride() == room.stride()
    return alike and part.data_ptr() == room.data_ptr() and part.dtype == room.dtype
