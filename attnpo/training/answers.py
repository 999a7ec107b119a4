"""Answers behind the beginnings of responses: how often the model that is trained is right from there.

What a method asks is its own affair: VSRM (2508.10293) the parts of a thinking, AdaptThink (2505.13417) the bare
problem. The answers are sampled by TRL's own generation and graded by the trainer's first reward function.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trl.data_utils import is_conversational
from trl.trainer.grpo_trainer import is_async_callable

from attnpo.errors import AttnPOError
from attnpo.method.steps import TokenSteps, split_at_think_end
from attnpo.training.settings import AnswerConfig


def accuracies(
    trainer: Any, rows: Sequence[Mapping[str, Any]], begun: Sequence[Sequence[int]], config: AnswerConfig
) -> list[float]:
    """The share of right answers behind each of N beginnings. Every process calls it, also with none.

    Args:
        trainer: TRL's; its weights as they are now answer, and its first reward function grades.
        rows: of the data set, that of each beginning.
        begun: token ids of the response so far; empty for the bare prompt.
        config: how answers are sampled.

    Raises:
        AttnPOError: the first reward function is a model or asynchronous, or returns something else than 0 or 1.
    """
    prompts = trainer._tokenize_prompts([row["prompt"] for row in rows])[0] if rows else []
    words = trainer._tokenizer(config.words, add_special_tokens=False)["input_ids"]
    turns = [turn for turn in range(len(rows)) for _ in range(config.samples)]
    answers = _sampled(trainer, [[*prompts[turn], *begun[turn], *words] for turn in turns], config)
    responses = [[*begun[turn], *words, *answer] for turn, answer in zip(turns, answers, strict=True)]
    right = graded(trainer, [rows[turn] for turn in turns], responses)
    starts = range(0, len(right), config.samples)
    return [sum(right[start : start + config.samples]) / config.samples for start in starts]


def _sampled(trainer: Any, asked: list[list[int]], config: AnswerConfig) -> list[list[int]]:
    """What the model writes behind each of the token sequences, in their order.

    All processes generate as often and as much, as sharded weights and vLLM's server need it: who has less to ask asks
    something twice.
    """
    counts = trainer.accelerator.gather(torch.tensor([len(asked)], device=trainer.accelerator.device))
    idle = asked[0] if asked else [trainer._tokenizer.eos_token_id]
    filled = asked + [idle] * (int(counts.max()) - len(asked))
    by_length = sorted(range(len(filled)), key=lambda turn: len(filled[turn]))  # so that little is padded
    size = max(len(filled), 1) if trainer.use_vllm else config.batch_size
    answers: dict[int, list[int]] = {}
    with _decoding(trainer, config):
        for start in range(0, len(filled), size):
            batch = by_length[start : start + size]
            found, _ = trainer._generate_single_turn([filled[turn] for turn in batch], None, {}, 1)
            answers.update(zip(batch, found, strict=True))
    return [answers[turn] for turn in range(len(asked))]


@contextmanager
def _decoding(trainer: Any, config: AnswerConfig) -> Iterator[None]:
    """While in force, TRL's generation decodes as `config` says."""
    holder = trainer.vllm_generation if trainer.use_vllm else trainer.generation_config
    budget = "max_completion_length" if trainer.use_vllm else "max_new_tokens"
    wanted = {"temperature": config.temperature, "top_p": config.top_p, budget: config.max_tokens}
    before = {name: getattr(holder, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(holder, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)


def graded(trainer: Any, rows: Sequence[Mapping[str, Any]], responses: Sequence[Sequence[int]]) -> list[float]:
    """Correctness, 0 or 1, of responses to the prompts of `rows` by the first reward function, which logs nothing.

    Raises:
        AttnPOError: as `accuracies`.
    """
    function = trainer.reward_funcs[0]
    if isinstance(function, nn.Module) or is_async_callable(function):
        raise AttnPOError(
            f"reward function {trainer.reward_func_names[0]!r} is a model or asynchronous, but answers behind a part "
            "of a response are graded too; make the first reward function a plain one"
        )
    if not rows:
        return []
    texts = trainer.processing_class.batch_decode(responses, skip_special_tokens=True)
    in_turns = is_conversational({"prompt": rows[0]["prompt"]})
    completions = [[{"role": "assistant", "content": text}] for text in texts] if in_turns else texts
    columns = [name for name in rows[0] if name not in ("prompt", "completion", "completion_ids")]
    found = function(
        prompts=[row["prompt"] for row in rows],
        completions=completions,
        completion_ids=[list(ids) for ids in responses],
        **{name: [row[name] for row in rows] for name in columns},
        trainer_state=trainer.state,
        log_extra=_unlogged,
        log_metric=_unlogged,
        rollouts=False,  # nor are they to be kept as such
    )
    if wrong := [value for value in found if value not in (0, 1)]:
        raise not_correctness(wrong[0])
    return [float(value) for value in found]


def _unlogged(name: str, value: Any) -> None:
    """Where TRL would log: what reward functions say of answers is not about the rollouts."""


def not_correctness(value: Any) -> AttnPOError:
    """The error for what the first reward function returned in place of 0 or 1."""
    return AttnPOError(
        f"the first reward function must return correctness, 0 or 1, but returned {value}; put others after it"
    )


# Parts of a thinking.


def split_places(ids: Sequence[int], table: Sequence[bytes], splits: Callable[[str], Sequence[int]]) -> list[int]:
    """How many tokens of a response lie before each split of its thinking, last those of all of it; none: no split.

    A token that reaches over a split lies behind it. A response without `</think>` is all thinking.

    Args:
        ids: of a response, without padding.
        table: `attnpo.method.steps.token_bytes_table` of its tokenizer.
        splits: from the text of a thinking to characters in it, ascending.
    """
    parts = split_at_think_end(ids, table)
    text = parts.raw[: parts.tag_start].decode("utf-8", "surrogateescape")
    places: list[int] = []
    for split in splits(text):
        end = len(text[:split].encode("utf-8", "surrogateescape"))
        place = bisect_right(parts.ends, end, hi=parts.thinking)
        if place not in (*places[-1:], parts.thinking):
            places.append(place)
    return [*places, parts.thinking] if places else []


def step_places(steps: TokenSteps) -> list[int]:
    """How many tokens of a response lie before each of its K steps, last those of the whole thinking: K + 1 of them."""
    counts = [steps.step_of_token.count(step) for step in range(len(steps.steps))]
    return list(itertools.accumulate(counts, initial=0))


def as_table(places: Sequence[Sequence[int]], values: Sequence[float], width: int) -> Tensor:
    """(B, `width`, 2) float64: the places of each of B responses with the value there, NaN behind the last one.

    Args:
        places: of each response.
        values: one for each place, those of a response side by side.
        width: the largest number of places, or more.
    """
    table = torch.full((len(places), width, 2), torch.nan, dtype=torch.float64)
    rest = iter(values)
    for row, of_row in enumerate(places):
        for column, place in enumerate(of_row):
            table[row, column] = torch.tensor([place, next(rest)], dtype=torch.float64)
    return table
