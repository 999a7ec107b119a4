"""What AttnPOTrainer leans on in TRL, run on the embedded model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from fakes import correctness
from small_training import TWO_STEPS
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from attnpo.method.advantages import rloo_advantages
from attnpo.rewards import tlmre_rewards
from attnpo.testbed import MODEL_DIR, problems
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

HEADS = [[1, 5], [1, 4], [1, 0]]
COMMON: dict[str, Any] = {
    **TWO_STEPS,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 96,
    "beta": 0.0,
    "scale_rewards": "none",
    "lr_scheduler_type": "constant",
}


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    short = [p for p in problems.load("train") if p.chain <= 2][:40]
    return datasets.Dataset.from_list(
        [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in short]
    )


def fresh() -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR), AutoTokenizer.from_pretrained(MODEL_DIR)


def attnpo_trainer(
    tmp_path: Path, dataset: datasets.Dataset, other_rewards: Sequence[Any] = (), **changes: Any
) -> AttnPOTrainer:
    model, tokenizer = fresh()
    arguments = COMMON | {"heads": HEADS, "min_step_chars": 1, "lone_trigger_chars": 1} | changes
    return AttnPOTrainer(
        model=model,
        reward_funcs=[correctness, *other_rewards],
        args=AttnPOConfig(output_dir=str(tmp_path), **arguments),
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def weights(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class PlainRLOO(GRPOTrainer):
    """Plain GRPO with the exact leave-one-out advantages of its rewards."""

    def _calculate_rewards(self, *arguments: Any) -> torch.Tensor:
        self.lengths = torch.tensor([len(ids) for ids in arguments[-1]])
        correct = super()._calculate_rewards(*arguments)
        self.exact = rloo_advantages(tlmre_rewards(self.lengths, correct[:, 0], 4), 4)
        correct[:, 0] = tlmre_rewards(self.lengths, correct[:, 0], 4)
        return correct

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        # TRL's own, over the group's mean in float32, times G / (G - 1)
        assert torch.allclose(output["advantages"] * (4 / 3), self.exact.float(), atol=1e-6)
        output["advantages"] = self.exact.float()
        return output


def test_gamma_one_is_plain_grpo_with_leave_one_out_advantages_to_the_bit(
    tmp_path: Path, dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for of_ours in ("_prepare_inputs", "_get_per_token_logps_and_entropies"):  # less padding rounds otherwise
        monkeypatch.delattr(AttnPOTrainer, of_ours)
    ours = attnpo_trainer(tmp_path / "ours", dataset, credit={"positive": False, "negative": False})
    before = weights(ours)
    ours.train()
    model, tokenizer = fresh()
    plain = PlainRLOO(
        model=model,
        reward_funcs=correctness,
        args=GRPOConfig(output_dir=str(tmp_path / "plain"), **COMMON),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    plain.train()
    assert_same_bits(weights(ours), weights(plain))
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights(ours).items())


def test_advantages_of_shape_b_t_reach_the_loss(tmp_path: Path, dataset: datasets.Dataset) -> None:
    trainer = attnpo_trainer(tmp_path, dataset, loss_type="grpo", gradient_accumulation_steps=1)
    seen: list[dict[str, Any]] = []
    compute = trainer._compute_loss

    def spy(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        seen.append({**inputs, "loss": (loss := compute(model, inputs)).detach()})
        return loss

    trainer._compute_loss = spy  # type: ignore[method-assign]
    trainer.train()
    for inputs in seen:
        advantages, mask = inputs["advantages"], inputs["completion_mask"]
        assert advantages.shape == inputs["completion_ids"].shape
        # On policy the ratio is 1, so the loss is minus the mean over responses of the mean over tokens.
        expected = -((advantages * mask).sum(1) / mask.sum(1)).mean()
        assert torch.allclose(inputs["loss"], expected, atol=1e-6)  # float32 sums in another order


def test_each_token_gets_its_own_gradient(tmp_path: Path, dataset: datasets.Dataset) -> None:
    trainer = attnpo_trainer(tmp_path, dataset)
    tokenizer = trainer.processing_class
    ids = tokenizer("First, 7 + 2 = 9.\n</think>\n\\boxed{9}", add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ]
    prompt = torch.tensor([[tokenizer.bos_token_id]])
    batch = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": ids,
        "completion_mask": torch.ones_like(ids),
        "num_items_in_batch": torch.tensor(ids.numel()),
    }

    def gradient(advantages: torch.Tensor) -> torch.Tensor:
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = 1
        trainer._compute_loss(trainer.model, batch | {"advantages": advantages}).backward()
        return trainer.model.get_input_embeddings().weight.grad.clone()

    first, last = torch.zeros(ids.shape), torch.zeros(ids.shape)
    first[0, 0] = last[0, -1] = 1.0
    assert not gradient(torch.zeros(ids.shape)).any()
    # the loss is linear in the advantages: float32 sums in another order
    assert torch.allclose(gradient(first + last), gradient(first) + gradient(last), atol=1e-6)
    assert not torch.allclose(gradient(first), gradient(last), atol=1e-6)


def test_a_resumed_run_equals_the_straight_one_to_the_bit(tmp_path: Path, dataset: datasets.Dataset) -> None:
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "credit": {"warmup_steps": 0}}
    straight = attnpo_trainer(tmp_path / "run", dataset, **saving)
    straight.train()
    resumed = attnpo_trainer(tmp_path / "run", dataset, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert_same_bits(weights(straight), weights(resumed))
    kept = ("loss", "reward", "attnpo/mean_gamma", "completions/mean_length")
    for one, other in zip(straight.state.log_history[2:4], resumed.state.log_history[2:4], strict=True):
        assert {k: one[k] for k in kept} == {k: other[k] for k in kept}


def test_logged_advantages_are_the_rescaled_ones(tmp_path: Path, dataset: datasets.Dataset) -> None:
    trainer = attnpo_trainer(tmp_path, dataset, max_steps=1, credit={"warmup_steps": 0})
    outputs = []
    generate = trainer._generate_and_score_completions

    def spy(inputs: Any) -> Any:
        outputs.append(copy.copy(generate(inputs)))
        return outputs[-1]

    trainer._generate_and_score_completions = spy  # type: ignore[method-assign]
    trainer.train()
    mask = outputs[0]["completion_mask"]
    means = (outputs[0]["advantages"] * mask).sum(1) / mask.sum(1)
    assert list(trainer._logs["advantages"]) == means.tolist()
    entry = trainer.state.log_history[0]
    for key in (
        "pa_token_share",
        "na_token_share",
        "mean_gamma",
        "group_accuracy",
        "baseline_score",
        "scoring_time_share",
    ):
        assert f"attnpo/{key}" in entry
    assert 0 < entry["attnpo/scoring_time_share"] < 1


def test_correctness_and_the_shaped_reward_are_logged_under_their_own_names(
    tmp_path: Path, dataset: datasets.Dataset
) -> None:
    args = {"length_reward_args": {"alpha": 0.4}, "reward_weights": [0.5, 1.0], "max_steps": 2}
    trainer = attnpo_trainer(tmp_path, dataset, other_rewards=[lengths_over_100], **args)
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        accuracy, shaped = entry["rewards/correctness/mean"], entry["rewards/shaped/mean"]
        assert accuracy == pytest.approx(entry["attnpo/group_accuracy"], abs=1e-6)  # means in float32
        assert entry["rewards/correctness/std"] > entry["rewards/shaped/std"] > 0
        assert 0 < shaped < accuracy  # TLMRE takes 0 to .4 off a correct response
        other = entry["rewards/lengths_over_100/mean"]
        assert entry["reward"] == pytest.approx(0.5 * shaped + other, abs=1e-6)
    last = trainer._logs["rewards"]
    assert set(last["correctness"]) <= {0.0, 1.0} and not set(last["shaped"]) <= {0.0, 1.0}
    assert sum(last["correctness"]) / 8 == pytest.approx(accuracy)
    assert sum(last["shaped"]) / 8 == pytest.approx(shaped, abs=1e-6)


def lengths_over_100(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(ids) / 100 for ids in completion_ids]


def test_it_evaluates_single_rollouts(tmp_path: Path, dataset: datasets.Dataset) -> None:
    trainer = attnpo_trainer(tmp_path, dataset, num_generations_eval=1, per_device_eval_batch_size=2)
    metrics = trainer.evaluate(dataset.select(range(4)))
    assert 0 <= metrics["eval_attnpo/group_accuracy"] <= 1
    assert metrics["eval_attnpo/mean_gamma"] == 1  # a single rollout has no advantage to rescale


def test_a_loss_in_parts_of_like_length_is_the_loss_of_all(
    tmp_path: Path, dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = attnpo_trainer(tmp_path, dataset)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 40, 3, 0, 17, 40, 1])  # 0: a group that was dropped
    completion_mask = (torch.arange(48) < lengths[:, None]).long()
    prompt_mask = (torch.arange(6) >= torch.tensor([0, 2, 1, 3, 0, 4, 1])[:, None]).long()  # padded on the left
    mask = torch.cat([prompt_mask, completion_mask], dim=1)
    ids = torch.randint(3, 298, mask.shape, generator=generator) * mask
    weight = torch.randn(completion_mask.shape, generator=generator) * completion_mask
    widths: list[tuple[int, ...]] = []
    hook = trainer.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )

    def logps_and_gradient(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        monkeypatch.setattr("attnpo.training.trainer.LOSS_ROWS", size)
        trainer.model.zero_grad()
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, 48, compute_entropy=True
        )
        (logps * weight).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
        return logps.detach() * completion_mask, entropies.detach() * completion_mask, gradient

    whole, parts = logps_and_gradient(7), logps_and_gradient(3)
    hook.remove()
    assert widths == [(7, 46), (3, 8), (3, 46), (1, 42)]  # the padding of a part's own rows alone
    for one, other in zip(whole, parts, strict=True):
        # float32 sums over 7 rows in another order; gradients of up to several hundred
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    assert whole[0].any() and whole[2].any()
