"""Step scores that are read in the pass which TRL makes for its old log-probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from test_methods import ROWS, SETTINGS
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from attnpo.method.scores import Response
from attnpo.testbed import MODEL_DIR
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

LONG = {"max_completion_length": 128, "attnpo": True, "max_steps": 1}
OFF_POLICY = {"num_iterations": 2}
"""Rollouts are used for two steps, so TRL computes the old log-probabilities."""


def all_but_one(completions: list[Any], **_: Any) -> list[float]:
    """Correctness made up: three in a group of four, so that the longer of them have a negative advantage."""
    return [float(i % 4 != 0) for i in range(len(completions))]


def made(folder: Path, **changes: Any) -> AttnPOTrainer:
    dropout, rollout_func = changes.pop("dropout", 0.0), changes.pop("rollout_func", None)
    return AttnPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR, attention_dropout=dropout),
        reward_funcs=all_but_one,
        rollout_func=rollout_func,
        args=AttnPOConfig(output_dir=str(folder), **SETTINGS | LONG | changes),
        train_dataset=datasets.Dataset.from_list([ROWS[0], ROWS[-1]]),  # the shortest and the longest prompt
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a scoring pass of its own")


@pytest.mark.parametrize("rows_a_pass", [16, 3])
def test_the_scores_are_those_of_a_pass_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_a_pass: int
) -> None:
    monkeypatch.setattr("attnpo.training.trainer.LOSS_ROWS", rows_a_pass)
    trainer = made(tmp_path, **OFF_POLICY)
    compared = 0
    generate = trainer._generate_and_score_completions

    def spy(inputs: Any) -> Any:
        nonlocal compared
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("attnpo.training.trainer.score_batch", refuse)
            output = generate(inputs)
        prompts, ids = (
            [row[mask.bool()].tolist() for row, mask in zip(output[f"{of}_ids"], output[f"{of}_mask"], strict=True)]
            for of in ("prompt", "completion")
        )
        assert len({len(prompt) for prompt in prompts}) > 1  # some are padded on the left
        assert len({len(response) for response in ids}) > 1  # and some on the right
        read = trainer._read
        assert read is not None
        assert read.keys() == trainer._aligned(dict(enumerate(ids))).keys()
        own = trainer._attention_scores({row: Response(prompts[row], ids[row], s.steps) for row, s in read.items()})
        for row, scored in read.items():
            assert scored.prompt_tokens == len(prompts[row])
            # float32; rotary angles of positions that count the padding round otherwise
            torch.testing.assert_close(scored.scores, own[row], rtol=1e-4, atol=1e-6, equal_nan=True)
            compared += 1
        return output

    trainer._generate_and_score_completions = spy  # type: ignore[method-assign]
    trainer.train()
    assert compared >= 4
    assert trainer.state.log_history[0]["attnpo/mean_gamma"] < 1


def test_a_shared_pass_changes_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = made(tmp_path / "shared", **OFF_POLICY)
    shared.train()
    monkeypatch.setattr(AttnPOTrainer, "_shares_pass", lambda self: False)
    apart = made(tmp_path / "apart", **OFF_POLICY)
    apart.train()
    assert (shared._read is None, apart._read is None) == (False, True)
    one, other = shared.state.log_history[0], apart.state.log_history[0]
    for name in ("mean_gamma", "pa_token_share", "na_token_share", "baseline_score"):
        assert one[f"attnpo/{name}"] == pytest.approx(other[f"attnpo/{name}"], rel=1e-4)  # float32 scores
    assert one["attnpo/mean_gamma"] < 1


CASES = {
    "aligned": ({}, False),
    "two iterations": (OFF_POLICY, True),
    "generations longer than a step": ({"per_device_train_batch_size": 4, "steps_per_generation": 2}, True),
    "accumulated": ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_pass_is_shared_just_where_trl_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    changes, expected = CASES[case]
    outputs: list[dict[str, Any]] = []
    generate = GRPOTrainer._generate_and_score_completions

    def noted(self: GRPOTrainer, inputs: Any) -> Any:
        outputs.append(generate(self, inputs))
        return outputs[-1]

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", noted)
    trainer = made(tmp_path, **changes)
    trainer.train()
    assert ["old_per_token_logps" in output for output in outputs] == [expected]
    assert (trainer._read is not None) == expected
    assert trainer._read_next is False


def test_neither_a_reference_model_nor_the_loss_is_read(tmp_path: Path) -> None:
    trainer = made(tmp_path, beta=0.1, **OFF_POLICY)
    passes: list[tuple[bool, bool]] = []
    score = trainer._get_per_token_logps_and_entropies

    def spy(model: Any, *arguments: Any, **more: Any) -> Any:
        before = trainer._read
        values = score(model, *arguments, **more)
        passes.append((model is trainer.ref_model, trainer._read is not before))
        return values

    trainer._get_per_token_logps_and_entropies = spy  # type: ignore[method-assign]
    trainer.train()
    assert passes == [(False, True), (True, False), (False, False)]  # the old ones, the reference's, the loss


def test_dropout_takes_a_pass_of_its_own(tmp_path: Path) -> None:
    trainer = made(tmp_path, dropout=0.1, **OFF_POLICY)
    trainer.train()
    assert trainer._read is None
    assert trainer.state.log_history[0]["attnpo/mean_gamma"] < 1


def test_rollouts_of_vllm_share_the_pass(tmp_path: Path) -> None:
    """TRL's way with vLLM, on policy; transformers samples in its place, as there is none here."""

    def sampled(prompts: list[Any], trainer: AttnPOTrainer) -> dict[str, Any]:
        trainer.use_vllm = False
        ids, *_ = trainer._tokenize_prompts(prompts)
        completions, _ = trainer._generate_single_turn(ids, None, {}, 4)
        trainer.use_vllm = True
        logprobs = [[0.0] * len(completion) for completion in completions]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": logprobs}

    trainer = made(tmp_path, rollout_func=sampled)
    assert not trainer._shares_pass()
    trainer.use_vllm = True
    trainer._last_loaded_step = 0  # the engine has the weights
    seen: list[dict[str, Any]] = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: seen.append(generate(inputs)) or seen[-1]  # type: ignore
    trainer.train()
    assert "importance_sampling_ratio" in seen[0]
    assert trainer._read
    assert trainer.state.log_history[0]["attnpo/mean_gamma"] < 1
    trainer.vllm_importance_sampling_correction = False
    assert not trainer._shares_pass()
