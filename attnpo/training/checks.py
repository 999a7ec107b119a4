"""What a trainer is given, checked before its first step."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from torch import nn
from trl.trainer.grpo_trainer import is_async_callable

from attnpo.errors import AttnPOError
from attnpo.method.steps import THINK_END

logger = logging.getLogger(__name__)


def warn_without_think_end(tokenizer: Any, table: Sequence[bytes]) -> None:
    """Warn of a tokenizer that cannot write `</think>`: without it a response has no steps.

    Args:
        tokenizer: of the model.
        table: see `attnpo.method.steps.token_bytes_table`.
    """
    ids = tokenizer.encode(THINK_END, add_special_tokens=False)
    if THINK_END.encode() not in b"".join(table[id] for id in ids):
        logger.warning(
            "the tokenizer cannot write %s, so no response has steps and NOTHING WILL BE RESCALED; train a model that "
            "thinks between tags, or set attnpo=False",
            THINK_END,
        )


def check_data_set(data: Any, prompts: int) -> None:
    """Check that a data set holds the prompts of one generation: TRL trains no step on fewer.

    Raises:
        AttnPOError: it does not.
    """
    if hasattr(data, "__len__") and len(data) < prompts:
        raise AttnPOError(
            f"the data set has {len(data)} prompts, but rollouts are generated for {prompts} at once; add some, or "
            "lower prompts_per_step (in TRL, per_device_train_batch_size)"
        )


def checked_reward(function: Any) -> Any:
    """A reward function whose result is checked: a number or None for each completion. Modules stay as they are.

    Raises:
        AttnPOError: when it is called, and returns anything else.
    """
    if isinstance(function, nn.Module) or not callable(function) or is_async_callable(function):
        return function
    name = getattr(function, "__name__", type(function).__name__)

    @functools.wraps(function)
    def call(*args: Any, completions: Sequence[Any], **kwargs: Any) -> Any:
        found = function(*args, completions=completions, **kwargs)
        values = found.tolist() if hasattr(found, "tolist") else found
        if not isinstance(values, list | tuple) or len(values) != len(completions):
            count = f"{len(values)} values" if isinstance(values, list | tuple) else repr(values)[:80]
            raise AttnPOError(
                f"reward function {name!r} returned {count} for {len(completions)} completions; return a list with a "
                "number for each"
            )
        for value in values:
            if value is not None and not _is_number(value):
                raise AttnPOError(f"reward function {name!r} returned {value!r:.80} for a completion; return a number")
        return found

    return call


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (hasattr(value, "__float__") and getattr(value, "shape", None) == ())
