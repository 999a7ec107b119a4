"""Rollouts whose first tokens are given: a share of each group begins with each of several texts (2505.13417).

TRL calls it as its `rollout_func`. The first tokens are in the loss, so that the model learns which to write. The
policy that sampled wrote each text with the probability of its share: that is what the ratio of the loss is to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from attnpo.training.generation import plain_rollouts


def opening_of(shares: Mapping[str, float], place: int, group_size: int) -> str:
    """The text that the response at `place` of its group, from 0, begins with: the texts in order, by their shares."""
    reached = 0.0
    for text, share in shares.items():
        reached += share
        if place + 0.5 < reached * group_size:
            return text
    return text


class Openings:
    """TRL's `rollout_func`: the responses of a group begin with the texts, one after the other.

    What a response began with is its field `opening`. In evaluation nothing is given.

    Args:
        shares: of each text its share of a group, 1 in all.
        tokenizer: the model's.
    """

    def __init__(self, shares: Mapping[str, float], tokenizer: Any) -> None:
        self._shares = dict(shares)
        self._ids = {text: list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in shares}

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """Sample B responses, in groups that lie one after the other, which may be spread over processes."""
        prompt_ids, *_ = trainer._tokenize_prompts(prompts)
        if not trainer.model.training:
            return plain_rollouts(trainer, prompt_ids, trainer.num_generations_eval)
        first, size = trainer.accelerator.process_index * len(prompts), trainer.num_generations
        texts = [opening_of(self._shares, (first + row) % size, size) for row in range(len(prompts))]
        begun = [self._ids[text] for text in texts]
        asked = [[*prompt, *start] for prompt, start in zip(prompt_ids, begun, strict=True)]
        ids, logprobs = trainer._generate_single_turn(asked, None, {}, 1)
        if logprobs is not None:  # of vLLM
            logprobs = [[*self._logps(text), *of_row] for text, of_row in zip(texts, logprobs, strict=True)]
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": [[*start, *rest] for start, rest in zip(begun, ids, strict=True)],
            "logprobs": logprobs,
            "opening": texts,
        }

    def as_sampled(self, logps: Tensor, texts: Sequence[str]) -> Tensor:
        """Log-probabilities (B, T) under the policy that sampled: a text's first token has that of its share, its
        others 0, as nothing else could follow.

        Args:
            logps: (B, T) under the model.
            texts: that the B responses began with.
        """
        found = logps.clone()
        for row, text in enumerate(texts):
            given = found.new_tensor(self._logps(text))
            found[row, : len(given)] = given
        return found

    def _logps(self, text: str) -> list[float]:
        return [math.log(self._shares[text]), *[0.0] * (len(self._ids[text]) - 1)]
