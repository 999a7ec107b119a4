"""The one way to sample: prompt ids in, ids and finish reason out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attnpo.errors import AttnPOError
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import Sample, check_room, cut_at_end, prompt_ids, text_of
from attnpo.sampling.transformers import TransformersSampler, end_tokens, sample
from attnpo.testbed import EMBEDDED, problems

END = 2


@pytest.fixture(scope="module")
def loaded() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model(EMBEDDED)


@pytest.fixture(scope="module")
def prompts(loaded: Any) -> list[list[int]]:
    return prompt_ids(loaded[1], [problem.text for problem in problems.load("test")[:12]])


def test_prompts_are_the_chat_template_s_ids_without_padding(loaded: Any, prompts: list[list[int]]) -> None:
    _, tokenizer = loaded
    assert len(set(map(len, prompts))) > 1
    for ids, problem in zip(prompts, problems.load("test"), strict=False):
        turn = [{"role": "user", "content": problem.text}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.pad_token_id not in ids


def test_a_response_ends_with_its_end_token_or_with_the_budget(loaded: Any, prompts: list[list[int]]) -> None:
    samples = sample(*loaded, prompts, temperature=1.0, max_new_tokens=70, seed=0)
    assert len(samples) == len(prompts)
    assert {one.finish for one in samples} == {"stop", "length"}
    for one in samples:
        assert one.ids.count(END) == (one.finish == "stop")
        assert one.ids[-1] == END if one.finish == "stop" else len(one.ids) == 70
        assert END not in one.ids[:-1]
    ended = next(one for one in samples if one.finish == "stop")
    # an end token in the last place of the budget is a stop too
    again = sample(*loaded, prompts, temperature=1.0, max_new_tokens=len(ended.ids), seed=0)
    assert ended in again


def test_the_seed_alone_decides_and_none_goes_on(loaded: Any, prompts: list[list[int]]) -> None:
    options = {"temperature": 1.0, "max_new_tokens": 40}
    one = sample(*loaded, prompts, seed=3, **options)
    assert one != sample(*loaded, prompts, **options)
    assert one == sample(*loaded, prompts, seed=3, **options)
    torch.manual_seed(3)
    assert one == sample(*loaded, prompts, **options)
    nucleus = sample(*loaded, prompts, seed=3, top_p=0.2, **options)
    assert nucleus != one


def test_padding_changes_nothing(loaded: Any, prompts: list[list[int]]) -> None:
    longest = max(prompts, key=len)
    shortest = min(prompts, key=len)
    options = {"temperature": 1e-4, "max_new_tokens": 60}  # all but greedy, so that random numbers do not matter
    (alone,) = sample(*loaded, [shortest], **options)
    beside, _ = sample(*loaded, [shortest, longest], **options)
    assert alone == beside


def test_temperature_0_is_greedy(loaded: Any, prompts: list[list[int]]) -> None:
    all_but = sample(*loaded, prompts[:4], temperature=1e-4, max_new_tokens=40)
    assert sample(*loaded, prompts[:4], temperature=0.0, max_new_tokens=40) == all_but


def test_the_sampler_gives_the_batches_of_sample(loaded: Any, prompts: list[list[int]]) -> None:
    sampler = TransformersSampler(*loaded, batch_size=3)
    options = {"temperature": 1.0, "max_new_tokens": 20}
    found = list(sampler.sample(prompts[:4], k=2, seeds=[10, 0, 0, 11, 0, 0, 12, 0], **options))
    assert [(prompt, number) for prompt, number, _ in found] == [(p, k) for p in range(4) for k in range(2)]
    turns = [prompts[p] for p in range(4) for _ in range(2)]
    expected = [sample(*loaded, turns[3 * i : 3 * i + 3], seed=10 + i, **options) for i in range(3)]
    assert [one for *_, one in found] == [one for batch in expected for one in batch]
    sampler.close()
    assert sampler.model is None


def test_a_backend_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttnPOError, match="no sampling backend 'sglang'; there are hf and vllm"):
        make_sampler("sglang", EMBEDDED)  # type: ignore[arg-type]


def test_it_goes_on_behind_a_part_of_a_response(loaded: Any, prompts: list[list[int]]) -> None:
    options = {"temperature": 1e-4, "max_new_tokens": 60}
    (whole,) = sample(*loaded, prompts[:1], **options)
    (rest,) = sample(*loaded, [[*prompts[0], *whole.ids[:20]]], **{**options, "max_new_tokens": 40})
    assert [*whole.ids[:20], *rest.ids] == whole.ids


def test_end_tokens_of_the_model_and_of_the_tokenizer(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    for configured, ends in ((2, [2]), (7, [2, 7]), ([9, 7], [7, 9]), (None, [2])):
        monkeypatch.setattr(model.generation_config, "eos_token_id", configured)
        assert end_tokens(model, tokenizer) == ends


def test_text_keeps_think_tags_and_drops_what_ends_it(loaded: Any) -> None:
    _, tokenizer = loaded
    ids = tokenizer("So 1 + 1 = 2.\n</think>\n2", add_special_tokens=False)["input_ids"]
    assert text_of([*ids, END, tokenizer.pad_token_id, tokenizer.pad_token_id], tokenizer) == text_of(ids, tokenizer)
    assert "</think>" in text_of(ids, tokenizer)


@pytest.mark.parametrize(
    ("row", "ids", "finish"),
    [
        ([1, 2, 9, 0, 0], [1, 2, 9], "stop"),
        ([1, 2, 3], [1, 2, 3], "length"),
        ([9, 9, 9], [9], "stop"),  # padding is the end token itself
        ([1, 8, 9], [1, 8], "stop"),  # a model with two end tokens
        ([0, 1, 9], [0, 1, 9], "stop"),  # a sampled padding token was generated, so it counts
    ],
)
def test_cut_at_end(row: list[int], ids: list[int], finish: str) -> None:
    assert cut_at_end(row, {8, 9}) == Sample(ids, finish)  # type: ignore[arg-type]


def test_options_are_the_backend_s_own(loaded: Any, prompts: list[list[int]]) -> None:
    options = {"temperature": 1.0, "max_new_tokens": 20}
    greedy = sample(*loaded, prompts[:4], temperature=0.0, max_new_tokens=20)
    first_alone = sample(*loaded, prompts[:4], **options, seed=1, options={"top_k": 1})
    assert first_alone == greedy != sample(*loaded, prompts[:4], **options, seed=1)


def test_what_does_not_fit_into_the_context_is_refused(loaded: Any, prompts: list[list[int]]) -> None:
    longest = max(map(len, prompts))
    message = f"a prompt of {longest} tokens and a budget of {1025 - longest} exceed the model's context of 1024 tokens"
    with pytest.raises(AttnPOError, match=message):
        next(TransformersSampler(*loaded, 4).sample(prompts, temperature=1.0, max_new_tokens=1025 - longest))
    check_room(prompts, 10**9, None)
    check_room([], 10, 10)
