"""Take tokens out of the middle of responses before the loss sees them (LC-R1, arXiv 2506.14755)."""

from __future__ import annotations

from typing import Any

import torch

_OF_TOKENS = (
    *("completion_ids", "completion_mask", "advantages", "tool_mask"),
    *("old_per_token_logps", "sampling_per_token_logps", "importance_sampling_ratio"),
)
"""What TRL's rollouts hold for each of the T tokens of B responses, as far as it is (B, T)."""


def cropped(rollouts: dict[str, Any], crops: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
    """Rollouts without some of their tokens.

    A response that loses tokens is no sample of the policy any more, so no ratio to the one that sampled it is left:
    its `importance_sampling_ratio` is 1, and whoever needs its old log-probabilities takes them anew.

    Args:
        rollouts: what TRL's trainer hands to the loss; tensors of completions are (B, T), padded on the right.
        crops: (B, 2), tokens `start:end` of each response are taken out; none where both are alike.

    Returns:
        rollouts with (B, T') tensors, T' at most T, and (B,) bool, which responses lost tokens.
    """
    ids = rollouts["completion_ids"]
    places = torch.arange(ids.shape[1], device=ids.device)
    start, end = crops.to(ids.device).long().T[..., None]
    stays = (places < start) | (places >= end)
    order = torch.argsort((~stays).int(), dim=1, stable=True)
    shorter = dict(rollouts)
    still = stays & rollouts["completion_mask"].bool()
    width = max(int(still.sum(1).max()), 1)
    for name in _OF_TOKENS:
        value = rollouts.get(name)
        if isinstance(value, torch.Tensor) and value.shape == ids.shape:
            filled = value.masked_fill(~stays, 0)
            shorter[name] = filled.gather(1, order)[:, :width]
    lost = (start < end)[:, 0]
    ratio = shorter.get("importance_sampling_ratio")
    if ratio is not None:
        shorter["importance_sampling_ratio"] = ratio.masked_fill(lost[:, None], 1.0)
    return shorter, lost
