"""All that makes decoding with transformers faster and leaves the sampled tokens as they are, up to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from torch import nn

from attnpo.sampling.decoding import SkipFinishedRows
from attnpo.sampling.grouped import GroupedDecoding
from attnpo.sampling.reserved import ReservedCache


def fast_decoding(model: nn.Module, eos_token_id: int | Sequence[int] | None) -> ExitStack:
    """`SkipFinishedRows`, `GroupedDecoding` and `ReservedCache` of a model, in force until the stack is closed.

    Args:
        model, eos_token_id: as for `SkipFinishedRows`.
    """
    stack = ExitStack()
    stack.enter_context(SkipFinishedRows(model, eos_token_id))
    stack.enter_context(GroupedDecoding(model))
    stack.enter_context(ReservedCache(model))
    return stack
