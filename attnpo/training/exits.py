"""Rollouts that answer early: of a group one is whole, of the others its thinking is stopped (S-GRPO, 2505.07686).

TRL calls it as its `rollout_func`. What is put into a response, and the thinking that an exit shares with the whole
one, can be kept out of the loss by TRL's `env_mask`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attnpo.errors import AttnPOError
from attnpo.method.steps import THINK_END, split_at_think_end
from attnpo.training.generation import plain_rollouts


@dataclass(frozen=True)
class ExitConfig:
    """How a thinking is stopped. Raises AttnPOError for a loss that is unknown and for words without `</think>`."""

    words: str = f"Time is limited, stop thinking and start answering.\n{THINK_END}\n\n"
    """What is put behind the thinking so far; the model goes on with its answer [S]."""
    loss: Literal["answer", "all"] = "answer"
    """What of an early response is in the loss: the tokens of its answer alone, or all of them. The paper's formula
    sums over the response and mentions no mask: not confirmed."""

    def __post_init__(self) -> None:
        if self.loss not in ("answer", "all"):
            raise AttnPOError(f"loss {self.loss!r} is unknown: choose answer or all")
        if self.words.count(THINK_END) != 1:
            raise AttnPOError(f"words {self.words!r} must have one {THINK_END}, behind which the answer begins")


def exit_places(thinking: int, number: int, rng: random.Random) -> list[int]:
    """How many tokens of a thinking each of `number` exits keeps: uniform from 1 to all of them, in order."""
    return sorted(rng.randint(min(1, thinking), thinking) for _ in range(number))


class EarlyExits:
    """TRL's `rollout_func`: of each group the first responses are early exits, from early to late, the last is whole.

    In evaluation all responses are whole.

    Args:
        config: how a thinking is stopped.
        table: `attnpo.method.steps.token_bytes_table` of the tokenizer.
    """

    def __init__(self, config: ExitConfig, table: Sequence[bytes]) -> None:
        self._config = config
        self._table = table

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """Sample B responses, in groups that lie one after the other.

        Raises:
            AttnPOError: a group is spread over several processes.
        """
        prompt_ids, *_ = trainer._tokenize_prompts(prompts)
        if not trainer.model.training:
            return plain_rollouts(trainer, prompt_ids, trainer.num_generations_eval)
        size = trainer.num_generations
        if len(prompts) % size:
            raise AttnPOError(
                f"a process samples {len(prompts)} responses, but early exits need whole groups of {size} on each; "
                "raise train.prompts_per_step, or lower the number of processes or of gradient accumulation steps"
            )
        whole, of_whole = trainer._generate_single_turn(prompt_ids[::size], None, {}, 1)
        words = trainer._tokenizer(self._config.words, add_special_tokens=False)["input_ids"]
        begun = []
        first = trainer.accelerator.process_index * len(whole)
        for group, response in enumerate(whole):
            draw = random.Random(f"{trainer.args.seed} {trainer.state.global_step} {first + group}")
            places = exit_places(split_at_think_end(response, self._table).thinking, size - 1, draw)
            begun += [response[:place] for place in places]
        n = size - 1
        asked = [prompt_ids[size * (i // n)] + start + words for i, start in enumerate(begun)]
        answers, of_answers = trainer._generate_single_turn(asked, None, {}, 1)
        early = []
        for i, (start, answer) in enumerate(zip(begun, answers, strict=True)):
            mask = [int(self._config.loss == "all")] * len(start + words) + [1] * len(answer)
            logps = None
            if of_answers is not None:  # of vLLM; those of the words are never looked at
                logps = [*of_whole[i // n][: len(start)], *[0.0] * len(words), *of_answers[i]]
            early.append((start + words + answer, mask, logps))
        rows = []
        for group, response in enumerate(whole):
            logps = None if of_whole is None else of_whole[group]
            rows += [*early[group * n : (group + 1) * n], (response, [1] * len(response), logps)]
        ids, masks, logprobs = map(list, zip(*rows, strict=True))
        sampled_with = None if of_whole is None else logprobs
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": sampled_with, "env_mask": masks}
