"""Decoding without work for rows that have ended.

`generate` of transformers runs every row of a batch until the longest one ends. Responses of reasoning models differ
much in length, so on a CPU half of the time goes into padding. The hooks here take rows that have sampled an end token
out of the forward pass and out of the key-value cache. `generate` still expects logits for these rows and throws them
away, so it is given zeros. As many random numbers are drawn as before: the tokens stay the same, up to the rounding of
a smaller batch. `benchmarks/decoding.py` measures the time saved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from attnpo.sampling.until_removed import UntilRemoved, decoder_in

logger = logging.getLogger(__name__)

SHARE = 1 / 8
"""The cache is copied once at least this share of its rows has ended: each copy then pays for itself."""
_BY_ROW = ("input_ids", "attention_mask", "position_ids")


class SkipFinishedRows(UntilRemoved):
    """While in force, `model.generate` spends nothing on rows that have sampled an end token.

    It acts on decoding steps with a `DynamicCache` and one new token a row. Prefill and training pass through as they
    are, and so do rows that end by other criteria than an end token. A decoding step that it cannot act on, with a
    static cache for instance, is left alone too: the first one logs a warning.

    Args:
        model: the model whose `generate` is called, or a wrapper around it (PEFT, DDP).
        eos_token_id: the end tokens that `generate` is given, one or several; None: no row ends.
    """

    def __init__(self, model: nn.Module, eos_token_id: int | Sequence[int] | None) -> None:
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or [])
        self._eos = torch.tensor(ends, dtype=torch.long)
        self._cache: DynamicCache | None = None
        self._rows = self._ended = torch.empty(0)
        self._batch: int | None = None
        self._warned = False
        self._hooks = []
        decoder = decoder_in(model)
        if decoder is None:
            self._warn(f"{type(model).__name__} holds no model of transformers that generates")
        else:
            self._hooks = [
                decoder.register_forward_pre_hook(self._before, with_kwargs=True),
                decoder.register_forward_hook(self._after, with_kwargs=True),
            ]

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()
        self._cache = None

    def _before(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        self._batch = None
        ids: Tensor | None = kwargs.get("input_ids")
        cache: Any = kwargs.get("past_key_values")
        if ids is None or ids.shape[1] != 1 or cache is None or not len(self._eos):
            self._cache = None
            return None
        obstacle = _obstacle(kwargs)
        if obstacle is not None or cache.get_seq_length() == 0:  # an empty cache: the prefill of prompts of one token
            self._cache = None
            if obstacle is not None:
                self._warn(obstacle)
            return None
        if cache is not self._cache:
            self._cache = cache
            self._rows = torch.arange(len(ids), device=ids.device)  # rows of the batch that the cache still holds
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

    def _warn(self, obstacle: str) -> None:
        if not self._warned:
            logger.warning("rows that have ended stay in the batch: %s", obstacle)
        self._warned = True


def _obstacle(kwargs: dict[str, Any]) -> str | None:
    """Why the rows of a decoding step cannot be taken apart; None if they can."""
    ids, cache = kwargs["input_ids"], kwargs["past_key_values"]
    if type(cache) is not DynamicCache:
        return f"the key-value cache is a {type(cache).__name__}, not a DynamicCache"
    if not all(hasattr(layer, "batch_select_indices") for layer in cache.layers):
        return "a layer of the key-value cache cannot select rows"
    if kwargs.get("output_attentions") or kwargs.get("output_hidden_states"):
        return "attentions or hidden states of all rows are asked for"
    tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor) and value.dim() > 1}
    for name, tensor in tensors.items():
        if name not in _BY_ROW or len(tensor) != len(ids):
            return f"the model takes {name} of shape {tuple(tensor.shape)}"
    return None
