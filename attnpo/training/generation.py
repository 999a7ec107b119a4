"""Rollouts as TRL itself samples them, for what takes the place of its sampling (`rollout_func`)."""

from __future__ import annotations

from typing import Any


def plain_rollouts(trainer: Any, prompt_ids: list[list[int]], generations: int) -> dict[str, Any]:
    """What a `rollout_func` returns where it changes nothing, as in evaluation.

    Args:
        trainer: TRL's.
        prompt_ids: of the B prompts.
        generations: how many of them that lie one after the other are the same.
    """
    ids, logprobs = trainer._generate_single_turn(prompt_ids, None, {}, generations)
    return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": logprobs}
