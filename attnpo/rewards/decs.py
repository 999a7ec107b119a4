"""`decs`: thinking behind the first right answer earns less, token by token (DECS, arXiv 2509.25827)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.rewards.groups import Shaped, at_least, both_as_groups


def decs_rewards(
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    high: float = 1.1,
    low: float = 1.0,
    slope: float = 0.1,
    max_length: float = 16384,
    pace: float = 0.2,
    *,
    necessary: Tensor | None = None,
    training: bool = True,
    state: dict[str, Any] | None = None,
) -> Shaped:
    """A reward for each token, whose advantage is taken at each position over the group; and a curriculum.

    Formula: tokens of a correct response earn `high`; those of its thinking behind the necessary prefix
    `low + slope * (1 - L / max_length)`; tokens of a wrong one 0. A correct response that never states the gold answer
    in its thinking earns `high` everywhere. Curriculum: groups without a correct response are dropped; groups of
    correct responses alone are kept up to `floor(k * m / (1 - k))`, the first ones, m the number of mixed groups. k
    starts at 0 and moves by `pace * (ratio - the step's before)`, within 0 and .99, where ratio is the mean over
    correct responses of (number of the chunk that ends the prefix) / (number of chunks).
    Defaults: high 1.1, low 1, slope .1, pace .2, max_length 16,384, as in the published scripts [C].
    Source: pixas/DECS, commit 0d12e53 [C]. Deviations: the prefix ends where `attnpo.grading.stated` finds the answer,
    not where a trained judge does; dropped groups are not replaced by sampling more; the paper clips k to an upper
    bound that is not given, the code does not clip.
    lengths (N,) response tokens; correct (N,), 0 or 1; necessary (N, 4), each row an
    `attnpo.grading.necessary.NecessaryPrefix`; groups of `group_size` lie one after the other. Nothing is dropped and
    no state is kept unless `training`.
    Raises AttnPOError for shapes that do not match, missing prefixes, a correct that is not 0 or 1, and constants out
    of range.
    """
    if necessary is None or necessary.shape != (len(lengths), 4):
        raise AttnPOError("decs needs `necessary`, four numbers a response: attnpo.grading.necessary.necessary_prefix")
    at_least(0, low=low, slope=slope, pace=pace)
    at_least(low + slope, high=high)
    at_least(1, max_length=max_length)
    length_PG, correct_PG = both_as_groups(lengths, correct, group_size)
    tokens, thinking, chunk, chunks = necessary.double().T
    reward = (low + slope * (1 - length_PG.flatten().clamp(max=max_length) / max_length)) - high
    redundant = (correct_PG.flatten() == 1) & (chunk > 0) & (tokens < thinking)
    rows = zip(tokens.tolist(), thinking.tolist(), reward.tolist(), redundant.tolist(), strict=True)
    spans = [[(int(start), int(end), less)] if some else [] for start, end, less, some in rows]
    rewards = high * correct_PG.flatten()
    if not training:
        return Shaped(rewards, spans=spans)
    n_correct_P = correct_PG.sum(1)
    mixed_P, solved_P = (n_correct_P > 0) & (n_correct_P < group_size), n_correct_P == group_size
    share = (state or {}).get("share", 0.0)
    allowed = int(share * int(mixed_P.sum()) / (1 - share) + 1e-9)
    kept_P = mixed_P | (solved_P & (solved_P.cumsum(0) <= allowed))
    found = (correct_PG.flatten() == 1) & (chunk > 0)
    ratio = float((chunk / chunks)[found].mean()) if bool(found.any()) else None
    before = (state or {}).get("ratio")
    if ratio is not None and before is not None:
        share = min(max(share + pace * (ratio - before), 0.0), 0.99)
    state = {"share": share, "ratio": before if ratio is None else ratio}
    return Shaped(rewards, keep=kept_P.repeat_interleave(group_size), spans=spans, state=state)
