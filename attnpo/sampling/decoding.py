"""Decoding without work for rows that have ended.

`generate` of transformers runs every row of a batch until the longest one ends. Responses of reasoning models differ
much in length, so on a CPU half of the time goes into padding. The hooks here take rows that have sampled an end token
out of the forward pass and out of the key-value cache, and put logits of 0 where `generate` expects theirs, which it
throws away. It draws as many random numbers as before, so the tokens are the same ones but for the rounding of a
smaller batch. `benchmarks/decoding.py` measures what that saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import DynamicCache

SHARE = 1 / 8
"""The cache is copied once at least this share of its rows has ended: each copy then pays for itself."""
_BY_ROW = ("input_ids", "attention_mask", "position_ids")


class SkipFinishedRows:
    """While in force, `model.generate` spends nothing on rows that have sampled an end token.

    A context manager; without `with`, it holds until `remove`. Only decoding with a `DynamicCache` and one new token a
    row is touched: prefill, training, static caches and continuous batching pass through as they are, and so do rows
    that end by other criteria than an end token.

    Args:
        model: the one whose `generate` is called, not a wrapper around it.
        eos_token_id: the end tokens that `generate` is given, one or several; None: no row ends.
    """

    def __init__(self, model: nn.Module, eos_token_id: int | Sequence[int] | None) -> None:
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
        self._eos = torch.tensor(ends, dtype=torch.long)
        self._cache: DynamicCache | None = None
        self._rows = self._ended = torch.empty(0)
        self._batch: int | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        self._cache = None

    def _before(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        self._batch = None
        decoding = _ids_and_cache(kwargs)
        if decoding is None:
            self._cache = None
            return None
        ids, cache = decoding
        if cache is not self._cache:
            self._cache = cache
            self._rows = torch.arange(len(ids), device=ids.device)  # of the batch, in the order of the cache
            self._ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        self._ended |= torch.isin(ids[:, 0], self._eos.to(ids.device))
        live = ~self._ended[self._rows]
        if 0 < int(live.sum()) <= (1 - SHARE) * len(live):
            cache.batch_select_indices(live.nonzero()[:, 0])
            self._rows = self._rows[live]
        if len(self._rows) == len(ids):
            return None
        self._batch = len(ids)
        return args, kwargs | {name: kwargs[name][self._rows] for name in _BY_ROW if kwargs.get(name) is not None}

    def _after(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self._batch is not None:
            logits: Tensor = output.logits
            output.logits = logits.new_zeros(self._batch, *logits.shape[1:]).index_copy(0, self._rows, logits)
        return output


def _ids_and_cache(kwargs: dict[str, Any]) -> tuple[Tensor, DynamicCache] | None:
    """What a forward pass decodes, one token a row, and behind what; None where not all that is a row's is known."""
    ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
    if ids is None or ids.shape[1] != 1 or type(cache) is not DynamicCache or cache.get_seq_length() == 0:
        return None
    tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor) and value.dim() > 1}
    known = set(tensors) <= set(_BY_ROW) and all(len(tensor) == len(ids) for tensor in tensors.values())
    known = known and all(hasattr(layer, "batch_select_indices") for layer in cache.layers)
    returns_more = kwargs.get("output_attentions") or kwargs.get("output_hidden_states")
    return (ids, cache) if known and not returns_more else None
