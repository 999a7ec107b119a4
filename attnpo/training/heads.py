"""Which heads rescale the advantages of a training run."""

from __future__ import annotations

import logging
import random
from pathlib import Path

from torch import nn

from attnpo.errors import AttnPOError
from attnpo.method.attention import Head, all_heads
from attnpo.probing.heads import HeadRanking
from attnpo.training.settings import MethodSection

logger = logging.getLogger(__name__)


def choose_heads(
    method: MethodSection, seed: int, heads_file: Path | None, default_heads: int, model: nn.Module
) -> list[Head] | None:
    """The heads that a method asks for as (layer, head), both from 0; None where something takes attention's place.

    Args:
        method: its `heads` and `n_heads` are read.
        seed: draws the heads for `heads: random`.
        heads_file: the probe's heads.json, for `heads: top` and `heads: worst`.
        default_heads: how many heads where the method has no `n_heads`.
        model: the model, for `heads: all` and `heads: random`.

    Raises:
        AttnPOError: the probe's heads are asked for and heads_file is None, or more heads than there are.
    """
    count = method.n_heads or default_heads
    heads: list[Head]
    if method.step_scores != "attention":
        return None
    if not isinstance(method.heads, str):
        heads = [(layer, head) for layer, head in method.heads]
    elif method.heads == "top" or method.heads == "worst":
        if heads_file is None:
            raise AttnPOError(
                f"method {method.label!r} takes the probe's {method.heads} heads; run `attnpo probe` first"
            )
        ranking = HeadRanking.load(heads_file)
        heads = ranking.top(count) if method.heads == "top" else ranking.top(len(ranking.heads))[-count:]
    elif method.heads == "all":
        heads = all_heads(model)
    else:
        heads = all_heads(model)
        if count > len(heads):
            raise AttnPOError(f"method {method.label!r}: n_heads {count}, but the model has {len(heads)}; lower it")
        heads = sorted(random.Random(seed).sample(heads, count))
    logger.info("heads (layer, head): %s", heads)
    return heads
