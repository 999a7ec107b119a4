"""Decoding with grouped-query attention, without a copy of keys and values for every query head.

Where there is a mask, as in every batch of prompts of unlike length, transformers' `sdpa` repeats the keys and values
of the whole cache for each query head of a group, at each token. In a decoding step a sequence has one query a head, so
the heads of a group can stand where several queries of one head stand in a prefill: all of them see the same keys. It
is the same sum, taken in another order, so outputs are equal up to rounding. `benchmarks/decoding.py` measures the time
saved.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from attnpo.sampling.until_removed import UntilRemoved, decoder_in

_NAME = "attnpo_grouped"
_STOCK = "sdpa"
_ONE_GROUP = nn.Module()  # stands for an attention layer whose keys need no repeating


class GroupedDecoding(UntilRemoved):
    """While in force, decoding steps of `model` read each key and value once a group of heads.

    It acts on decoders that were loaded with transformers' `sdpa` and have fewer key-value heads than query heads;
    others are left as they are. Prefill and training call transformers' function with what they were given.

    Args:
        model: the model whose `generate` is called, or a wrapper around it (PEFT, DDP).
    """

    def __init__(self, model: nn.Module) -> None:
        decoder = decoder_in(model)
        self._decoder = decoder if isinstance(decoder, PreTrainedModel) and _gains(decoder.config) else None
        if self._decoder is not None:
            self._decoder.set_attn_implementation(_NAME)

    def remove(self) -> None:
        """Leave the model as it was."""
        if self._decoder is not None:
            self._decoder.set_attn_implementation(_STOCK)


def _gains(config: Any) -> bool:
    queries, keys = (getattr(config, f"num_{kind}_heads", None) or 0 for kind in ("attention", "key_value"))
    # A model of several parts (vision and text) may have more than one implementation to go back to.
    return bool(config._attn_implementation == _STOCK and not config.sub_configs and 0 < keys < queries)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function. query (B, H, T, D), key and value (B, K, N, D); returns (B, T, H, D)."""
    stock = AttentionInterface()[_STOCK]
    (batch, heads, n_queries, size), groups = query.shape, key.shape[1]
    # Masks and biases of single heads would have to be laid out anew.
    by_head = attention_mask is None or attention_mask.shape[1] != 1 or kwargs.get("position_bias") is not None
    if n_queries != 1 or groups == heads or by_head:
        return stock(module, query, key, value, attention_mask, **kwargs)
    together = query.reshape(batch, groups, heads // groups, size)
    output, weights = stock(_ONE_GROUP, together, key, value, attention_mask, **kwargs)
    return output.transpose(1, 2).reshape(batch, 1, heads, -1), weights


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, AttentionMaskInterface()[_STOCK])
