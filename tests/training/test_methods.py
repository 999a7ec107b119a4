"""Every method trains on the embedded model, with what it needs beside a reward; the trainer's parts, each alone."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from fakes import correctness
from small_rewards import SMALL
from small_training import TWO_STEPS
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from attnpo.errors import AttnPOError
from attnpo.method.advantages import batch_whitened, grpo_advantages, rloo_advantages
from attnpo.method.credit import oracle_scores
from attnpo.method.selection import paragraph_of_token
from attnpo.method.steps import split_at_think_end, token_bytes_table
from attnpo.probing.labels import oracle_labels
from attnpo.rewards import REWARDS, LengthReward, Shaped
from attnpo.rewards.vsrm import step_rewards
from attnpo.testbed import MODEL_DIR, problems
from attnpo.training.answers import accuracies, as_table, split_places
from attnpo.training.exits import exit_places
from attnpo.training.measured import Rollouts, measured
from attnpo.training.openings import opening_of
from attnpo.training.reference import add_reference, trained_on
from attnpo.training.settings import AnswerConfig
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

ITEMS = {p.id: p for p in problems.load("train") if p.chain <= 2}
BY_LENGTH = sorted(list(ITEMS.values())[:40], key=lambda item: len(item.text))
ROWS = [  # prompts of different lengths
    {
        "prompt": [{"role": "user", "content": item.text}],
        "answer": item.answer,
        "id": item.id,
        "target_length": 40,
        "reference": 0.25,
    }
    for item in [*BY_LENGTH[:4], *BY_LENGTH[-4:]]
]
SETTINGS: dict[str, Any] = {
    **TWO_STEPS,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 48,
    "attnpo": False,
    "heads": [[1, 5], [1, 4]],
    "min_step_chars": 1,
    "lone_trigger_chars": 1,
    "credit": {"warmup_steps": 0},
}


def every_other(completions: list[Any], **_: Any) -> list[float]:
    """Correctness made up: half of each group."""
    return [float(i % 2 == 0) for i in range(len(completions))]


def made(folder: Path, reward: Any = correctness, **changes: Any) -> AttnPOTrainer:
    labels = changes.pop("step_labels", None)
    return AttnPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        reward_funcs=reward,
        args=AttnPOConfig(output_dir=str(folder), **SETTINGS | changes),
        train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
        step_labels=labels,
    )


def watched(trainer: AttnPOTrainer) -> list[dict[str, Any]]:
    """What the trainer hands to the loss, a generation each, with the shaped rewards and the credit before it."""
    seen: list[dict[str, Any]] = []
    generate, shape, calculate = (
        trainer._generate_and_score_completions,
        trainer._shape,
        trainer._calculate_rewards,
    )

    def spy_shape(*arguments: Any) -> Shaped:
        seen.append({"shaped": shape(*arguments)})
        return seen[-1]["shaped"]

    def spy_calculate(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        rewards = calculate(inputs, prompts, completions, ids)
        seen[-1] |= {"credit": trainer._credit, "inputs": inputs, "ids": ids}
        return rewards

    def spy(inputs: Any) -> Any:
        output = generate(inputs)
        seen[-1] |= output
        return output

    trainer._shape = spy_shape  # type: ignore[method-assign]
    trainer._calculate_rewards = spy_calculate  # type: ignore[method-assign]
    trainer._generate_and_score_completions = spy  # type: ignore[method-assign]
    return seen


CASES = [(name, False) for name in REWARDS]
CASES += [(name, True) for name in ("dler", "dot", "diet", "vsrm", "adaptthink")]


@pytest.mark.parametrize(("name", "attnpo"), CASES)
def test_every_method_trains(tmp_path: Path, name: str, attnpo: bool) -> None:
    small = SMALL.get(name, {}) | ({"limit": 120} if name == "dler" else {})
    room: dict[str, Any] = {"exits": {}} if REWARDS[name].exits else {}
    if REWARDS[name].splits:
        room = {"answers": {"samples": 2, "max_tokens": 32}}
    if REWARDS[name].openings:
        room = {"openings": {"</think>": 0.5, "First,": 0.5}}
    if name in ("dler", "autothink"):  # what is cut is wrong or has no answer, and all cut teaches nothing
        room = {"max_completion_length": 160}
    trainer = made(tmp_path, every_other, length_reward=name, length_reward_args=small, attnpo=attnpo, **room)
    seen = watched(trainer)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "reward" in entry] == [1, 2]
    assert len(seen) == 2
    for output in seen:
        assert output["advantages"].isfinite().all()
        in_loss = output["completion_mask"] * output.get("tool_mask", 1)
        assert output["num_items_in_batch"] == in_loss.sum()
    after = trainer.model.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert any(not torch.equal(before[key], after[key]) for key in before)


def with_reward(monkeypatch: pytest.MonkeyPatch, shaped: Any, estimator: str = "rloo") -> None:
    """A made-up reward under the name `made_up`."""
    monkeypatch.setitem(REWARDS, "made_up", LengthReward(shaped, estimator))


def test_cut_and_dropped_tokens_leave_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_group_cut_at_ten(lengths: torch.Tensor, correct: torch.Tensor, group_size: int) -> Shaped:
        first = torch.arange(len(lengths)) < group_size
        return Shaped(
            correct.double() * ~first,
            keep=torch.tensor([True] * 4 + [False] * 4),
            truncate_at=torch.where(first, 10, lengths),
        )

    with_reward(monkeypatch, first_group_cut_at_ten)
    trainer = made(tmp_path, length_reward="made_up", max_steps=1, loss_type="dapo")
    seen = watched(trainer)
    losses = []
    compute = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: losses.append(compute(model, inputs)) or losses[-1]  # type: ignore
    trainer.train()
    output = seen[0]
    mask = output["completion_mask"]
    assert mask[:4].sum(1).tolist() == [10] * 4
    assert mask[:4, :10].all()
    assert not mask[4:].any()
    assert output["num_items_in_batch"] == 40
    assert not output["advantages"][4:].any()
    assert not output["credit"].correct[:4].any()  # cut, so wrong, whatever the grader said
    assert output["credit"].accuracy[:4].tolist() == [0] * 4
    entry = trainer.state.log_history[0]
    assert (entry["rollouts/cut_share"], entry["rollouts/kept_share"]) == (0.5, 0.5)
    # On policy: minus the mean of the advantages over the tokens that are left.
    assert losses[0].item() == pytest.approx(-(output["advantages"] * mask).sum().item() / 40, abs=1e-6)


def test_a_second_advantage_is_normalised_alone_and_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second, weight = torch.arange(8.0, dtype=torch.float64) ** 2, torch.full((8,), 0.25, dtype=torch.float64)

    def with_second(lengths: torch.Tensor, correct: torch.Tensor, group_size: int) -> Shaped:
        return Shaped(correct.double(), auxiliary=second, auxiliary_weight=weight)

    with_reward(monkeypatch, with_second, "grpo")
    trainer = made(tmp_path, every_other, length_reward="made_up", max_steps=1)
    seen = watched(trainer)
    trainer.train()
    correct = torch.tensor([1.0, 0.0] * 4)
    expected = grpo_advantages(correct, 4) + 0.25 * grpo_advantages(second, 4)
    assert torch.equal(seen[0]["advantages"][:, 0], expected.float())
    assert trainer.args.scale_rewards == "group"


def test_batch_whitening_is_over_the_tokens_that_are_kept(tmp_path: Path) -> None:
    limit = 40
    trainer = made(tmp_path, every_other, length_reward="dler", length_reward_args={"limit": limit}, max_steps=1)
    seen = watched(trainer)
    trainer.train()
    output = seen[0]
    assert (trainer.args.advantage_estimator, trainer.args.scale_rewards) == ("batch", "none")
    lengths = torch.tensor([len(ids) for ids in output["ids"]])
    weights = lengths.clamp(max=limit) * output["shaped"].keep
    rewards = output["shaped"].rewards
    centred = rewards - rewards.view(-1, 4).mean(1).repeat_interleave(4)
    expected = batch_whitened(centred, weights).float()
    assert torch.allclose(output["advantages"][:, 0], expected)
    tokens = output["completion_mask"].double()
    assert tokens.sum(1).tolist() == weights.tolist()
    if tokens.any():  # mean 0 and variance 1 over the tokens in the loss
        assert (output["advantages"] * tokens).sum().item() == pytest.approx(0, abs=1e-4)


def test_the_target_length_reaches_the_reward(tmp_path: Path) -> None:
    trainer = made(tmp_path, every_other, length_reward="l1_exact", length_reward_args={"alpha": 0.01}, max_steps=1)
    seen = watched(trainer)
    trainer.train()
    distance = torch.tensor([abs(len(ids) - 40) for ids in seen[0]["ids"]], dtype=torch.float64)
    correct = torch.tensor([1.0, 0.0] * 4, dtype=torch.float64)
    assert torch.allclose(seen[0]["shaped"].rewards, correct - 0.01 * distance)
    for row in seen[0]["inputs"]:
        row["target_length"] = None
    with pytest.raises(AttnPOError, match="l1_exact needs the length told in each prompt"):
        trainer._shape(distance, correct, seen[0]["inputs"], seen[0]["ids"])


def test_a_state_is_carried_by_checkpoints_and_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counting(lengths, correct, group_size, *, step=1, state=None):  # type: ignore[no-untyped-def]
        count, total = (state or {}).get("count", 0) + 1, (state or {}).get("total", 0.0) + float(lengths.sum()) / 3
        return Shaped(correct.double() + total / 1000 * lengths, state={"count": count, "total": total, "step": step})

    with_reward(monkeypatch, counting)
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "length_reward": "made_up"}
    straight = made(tmp_path / "run", **saving)
    straight.train()
    assert straight.reward_state["count"] == straight.reward_state["step"] == 4
    stored = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert stored["stateful_callbacks"]["RewardState"]["attributes"]["reward_state"]["count"] == 2
    resumed = made(tmp_path / "run", **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.reward_state == straight.reward_state
    one, other = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_evaluation_changes_no_state_and_cuts_nothing(tmp_path: Path) -> None:
    trainer = made(
        tmp_path,
        length_reward="laser_d",
        length_reward_args=SMALL["laser_d"],
        num_generations_eval=2,
        per_device_eval_batch_size=4,
    )
    trainer.evaluate(datasets.Dataset.from_list(ROWS[:2]))
    assert trainer.reward_state == {}
    cutting = made(tmp_path, length_reward="thinkprune", length_reward_args={"limits": [5]}, num_generations_eval=2)
    seen = watched(cutting)
    metrics = cutting.evaluate(datasets.Dataset.from_list(ROWS[:4]))
    assert metrics["eval_rollouts/cut_share"] == 0
    assert seen[0]["completion_mask"].sum(1).min() > 5


def test_rounding_chooses_neither_pa_nor_na(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float32 the mean of 3 times .9 is not .9, and GRPO's small std blows the difference up.
    values = torch.full((3,), 0.9)
    assert (values - values.mean()).abs().max() > 0

    def all_equal(lengths: torch.Tensor, correct: torch.Tensor, group_size: int) -> torch.Tensor:
        return torch.full((len(lengths),), 0.9, dtype=torch.float64)

    def all_right(completions: list[Any], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    with_reward(monkeypatch, all_equal, "grpo")
    shape = {"num_generations": 3, "per_device_train_batch_size": 6}
    trainer = made(tmp_path, all_right, length_reward="made_up", attnpo=True, max_steps=1, **shape)
    seen = watched(trainer)
    of_trl: list[torch.Tensor] = []
    generate = GRPOTrainer._generate_and_score_completions

    def noted(self: GRPOTrainer, inputs: Any) -> Any:
        output = generate(self, inputs)
        of_trl.append(output["advantages"].clone())
        return output

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", noted)
    trainer.train()
    assert of_trl[0].abs().max() > 1e-5
    assert not seen[0]["advantages"].any()
    entry = trainer.state.log_history[0]
    assert (entry["attnpo/mean_gamma"], entry["attnpo/pa_token_share"], entry["attnpo/na_token_share"]) == (1, 0, 0)


def test_oracle_labels_take_the_place_of_attention(tmp_path: Path) -> None:
    assert oracle_scores([True, False]).tolist() == [1, 0]
    with pytest.raises(AttnPOError, match="there are no labels; pass step_labels"):
        made(tmp_path, attnpo=True, heads=None, step_scores="labels")

    def labels(row: Any, texts: Any) -> list[bool]:
        return oracle_labels(ITEMS[row["id"]], texts)

    def by_length(lengths: torch.Tensor, correct: torch.Tensor, group_size: int) -> torch.Tensor:
        return -lengths / 100.0  # so that the advantages of correct responses have both signs, whoever is right

    with pytest.MonkeyPatch.context() as patch:
        with_reward(patch, by_length)
        trainer = made(
            tmp_path,
            length_reward="made_up",
            attnpo=True,
            heads=None,
            step_scores="labels",
            step_labels=labels,
            max_steps=1,
            max_completion_length=160,
        )
        seen = watched(trainer)
        trainer.train()
    output = seen[0]
    spared = 0
    for row, ids in enumerate(output["ids"]):
        steps, plain = trainer_steps(trainer, ids), output["credit"].advantages[row]
        if steps is None or not output["credit"].correct[row] or len(steps.steps) < 2:
            continue
        essential = labels(output["inputs"][row], [steps.text[s.start : s.end] for s in steps.steps])
        p = float(output["credit"].accuracy[row])
        for place, step in enumerate(steps.step_of_token):
            gamma = 1.0
            if step >= 0 and plain > 0 and not essential[step]:
                gamma = 1 - p**2
            elif step >= 0 and plain < 0 and essential[step]:
                gamma, spared = 0.0, spared + 1
            assert output["advantages"][row, place].item() == pytest.approx(gamma * plain.item(), abs=1e-6)
    assert spared > 0


def test_length_acts_on_redundant_steps_alone_where_that_is_chosen(tmp_path: Path) -> None:
    """By the oracle's labels: a redundant step of a correct response keeps `1 - p**2` of a positive advantage and the
    whole of a negative one; every other token has the advantage of correctness."""
    trainer = made(
        tmp_path,
        length_reward="tlmre",
        length_reward_args={"alpha": 0.8},
        attnpo=True,
        heads=None,
        step_scores="labels",
        step_labels=lambda row, texts: oracle_labels(ITEMS[row["id"]], texts),
        credit={"warmup_steps": 0, "length_credit": "redundant"},
        max_steps=1,
        max_completion_length=160,
    )
    seen = watched(trainer)
    trainer.train()
    output, found = seen[0], 0
    alone = rloo_advantages(output["credit"].correct.double(), 4)
    for row, ids in enumerate(output["ids"]):
        expected = torch.full((len(ids),), alone[row].item())
        steps, plain = trainer_steps(trainer, ids), output["credit"].advantages[row].item()
        if steps is not None and output["credit"].correct[row] and len(steps.steps) > 1 and plain:
            essential = oracle_labels(ITEMS[output["inputs"][row]["id"]], steps.texts)
            depth = float(output["credit"].accuracy[row]) ** 2 if plain > 0 else 0.0
            for place, step in enumerate(steps.step_of_token):
                if step >= 0 and not essential[step]:
                    expected[place], found = (1 - depth) * plain, found + 1
        assert output["advantages"][row, : len(ids)].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert found > 0


def trainer_steps(trainer: AttnPOTrainer, ids: list[int]) -> Any:
    from attnpo.method.steps import align_steps

    return align_steps(ids, trainer._bytes_table, "corrected", 1, 1)


def test_dot_with_its_defaults_evaluates_small_groups(tmp_path: Path) -> None:
    shape = {"num_generations": 12, "per_device_train_batch_size": 12, "per_device_eval_batch_size": 4}
    trainer = made(tmp_path, length_reward="dot", num_generations_eval=2, **shape)
    metrics = trainer.evaluate(datasets.Dataset.from_list(ROWS[:2]))
    assert 0 <= metrics["eval_reward"] <= 1
    with pytest.raises(AttnPOError, match="std_multiplier 3.0 can cut nothing in groups of 4"):
        made(tmp_path, length_reward="dot")


def test_evaluation_scores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a scoring pass in evaluation")

    trainer = made(tmp_path, every_other, attnpo=True, num_generations_eval=2)
    monkeypatch.setattr("attnpo.training.trainer.score_batch", refuse)
    monkeypatch.setattr("attnpo.training.trainer.align_steps", refuse)
    metrics = trainer.evaluate(datasets.Dataset.from_list(ROWS[:4]))
    assert metrics["eval_attnpo/mean_gamma"] == 1
    assert metrics["eval_attnpo/group_accuracy"] == 0.5


def test_an_evaluation_batch_larger_than_a_generation_batch_is_evaluated(tmp_path: Path) -> None:
    trainer = made(tmp_path, every_other, num_generations_eval=2, per_device_eval_batch_size=16)
    assert trainer.args.generation_batch_size == 8
    metrics = trainer.evaluate(datasets.Dataset.from_list(ROWS))
    assert metrics["eval_attnpo/group_accuracy"] == 0.5
    assert len(trainer._logs["advantages"]) == 8  # TRL keeps a generation batch


def test_the_logged_baseline_is_the_one_that_is_used(tmp_path: Path) -> None:
    def all_but_one(completions: list[Any], **_: Any) -> list[float]:
        return [float(i % 4 != 0) for i in range(len(completions))]

    logged = {}
    for difficulty in (True, False):
        credit = {"warmup_steps": 0, "difficulty": difficulty}
        more = {"attnpo": True, "max_steps": 1, "max_completion_length": 160, "credit": credit}
        trainer = made(tmp_path / str(difficulty), all_but_one, **more)
        trainer.train()
        logged[difficulty] = trainer.state.log_history[0]["attnpo/baseline_score"]
    assert logged[True] == pytest.approx(0.75**2 * logged[False])


def test_rewards_of_several_functions_are_weighted_and_summed(tmp_path: Path) -> None:
    def brevity(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        return [None if i == 1 else len(ids) / 100 for i, ids in enumerate(completion_ids)]

    trainer = made(tmp_path, [every_other, brevity], length_reward="rloo", reward_weights=[2.0, 0.5], max_steps=1)
    seen = watched(trainer)
    trainer.train()
    rewards = torch.tensor(
        [2.0 * (i % 2 == 0) + (0 if i == 1 else 0.5 * len(ids) / 100) for i, ids in enumerate(seen[0]["ids"])]
    )
    # TRL holds the rewards of functions in float32
    assert torch.allclose(seen[0]["credit"].advantages, rloo_advantages(rewards.double(), 4), atol=1e-6)
    with pytest.raises(AttnPOError, match="multi_objective_aggregation is 'normalize_then_sum'"):
        made(tmp_path, multi_objective_aggregation="normalize_then_sum")


@pytest.mark.parametrize("attnpo", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
def test_the_least_confident_steps_lose_their_advantage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attnpo: bool, passes: int
) -> None:
    """Against one forward pass a response, whether TRL computes log-probabilities (two optimizer steps) or not."""
    settings = {"length_reward": "rloo", "attnpo": attnpo, "max_completion_length": 120}
    if passes == 2:
        settings |= {"steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 2, "save_steps": 2}
    seen = {}
    for name, more in (("plain", {}), ("chosen", {"selection": {"share": 0.4, "separator": "\n"}})):
        trainer = made(tmp_path / name, every_other, **settings, **more)  # which sets the seed, so both sample alike
        seen[name] = watched(trainer)
        monkeypatch.setattr(trainer, "compute_loss", lambda model, *_, **__: 0 * next(model.parameters()).sum())
        trainer.train()
    (without, *_), (found, *_) = seen["plain"], seen["chosen"]
    assert ("old_per_token_logps" in found) == (passes == 2)
    model, table = trainer.model.eval(), token_bytes_table(trainer.processing_class)
    n_lost = 0
    for row, (before, after) in enumerate(zip(without["advantages"], found["advantages"], strict=True)):
        prompt, ids = (
            found[f"{part}_ids"][row][found[f"{part}_mask"][row].bool()] for part in ("prompt", "completion")
        )
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1]
        logps = (logits / trainer.args.temperature).log_softmax(-1).gather(1, ids[:, None])[:, 0]
        steps = torch.tensor(paragraph_of_token(ids.tolist(), table, "\n"))
        confidence = [logps[steps == k].mean().item() for k in range(int(steps.max()) + 1)]
        order = sorted(range(len(confidence)), key=confidence.__getitem__, reverse=row % 2 == 1)
        lost = order[: math.ceil(0.4 * len(order))]
        expected = before[: len(ids)].masked_fill(torch.isin(steps, torch.tensor(lost)), 0.0)
        assert torch.equal(after[: len(ids)], expected)
        n_lost += int(((before != 0) & (after == 0)).sum())
    assert n_lost > 0
    share = [entry["selection/token_share"] for entry in trainer.state.log_history if "selection/token_share" in entry]
    assert 0 < share[0] < 1


def trained_on_long_responses(folder: Path, reward: str) -> tuple[AttnPOTrainer, list[dict[str, Any]]]:
    """A trainer at its end, and what it handed to the loss; the responses are long enough to go on behind an answer."""
    settings = {"max_completion_length": 160, "per_device_train_batch_size": 16, "temperature": 0.7}
    trainer = made(folder, length_reward=reward, length_reward_args={"max_length": 160}, **settings)
    seen = watched(trainer)
    trainer.train()
    return trainer, seen


def test_tokens_behind_the_first_answer_have_an_advantage_of_their_own(tmp_path: Path) -> None:
    trainer, seen = trained_on_long_responses(tmp_path, "decs")
    n_other = 0
    for output in seen:
        credit, shaped, size = output["credit"], output["shaped"], trainer.num_generations
        for first in range(0, len(shaped.rewards), size):
            rows = range(first, first + size)
            for place in range(output["advantages"].shape[1]):
                there = shaped.rewards[first : first + size].clone()
                for i, row in enumerate(rows):
                    there[i] += sum(value for start, end, value in shaped.spans[row] if start <= place < end)
                expected = grpo_advantages(there, size) * credit.keep[first : first + size]
                assert output["advantages"][first : first + size, place] == pytest.approx(expected.float(), abs=1e-5)
            n_other += sum(len(shaped.spans[row]) for row in rows)
    assert n_other > 0
    with pytest.raises(AttnPOError, match="decs needs the gold answer of each problem; give the data set a column"):
        measured({"necessary"}, Rollouts("decs", [{}], [[1]], trainer.processing_class, []))


def test_tokens_of_the_tail_keep_a_share_of_the_advantage(tmp_path: Path) -> None:
    _, seen = trained_on_long_responses(tmp_path, "depo")
    n_lowered = 0
    for output in seen:
        for row, factors in enumerate(output["shaped"].factors):
            advantage = output["credit"].advantages[row].item()
            expected = torch.full_like(output["advantages"][row], advantage)
            for start, end, share in factors:
                expected[start:end] *= share
                n_lowered += advantage != 0
            torch.testing.assert_close(output["advantages"][row], expected)
            assert advantage <= 0 or output["credit"].correct[row]
    assert n_lowered > 0


@pytest.mark.parametrize("passes", [1, 2])
def test_cropped_responses_reach_the_loss_as_if_they_had_been_written_so(tmp_path: Path, passes: int) -> None:
    settings = {"length_reward": "lc_r1", "max_completion_length": 160, "temperature": 0.7}
    if passes == 2:
        settings |= {"steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 2, "save_steps": 2}
    trainer = made(tmp_path, every_other, **settings)
    seen = watched(trainer)
    trainer.train()
    output, crops = seen[0], seen[0]["credit"].crops
    assert ("old_per_token_logps" in output) == (passes == 2)
    lost = 0
    for row, (ids, (start, end)) in enumerate(zip(output["ids"], crops.tolist(), strict=True)):
        left = [*ids[:start], *ids[end:]]
        assert output["completion_ids"][row][output["completion_mask"][row].bool()].tolist() == left
        lost += end - start
        bonus = torch.zeros(len(ids), dtype=torch.float64)
        for first, last, value in output["shaped"].bonus[row]:
            bonus[first:last] += value
        expected = torch.cat([bonus[:start], bonus[end:]]) + output["credit"].advantages[row]
        assert output["advantages"][row, : len(left)].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert lost > 0
    assert output["num_items_in_batch"] == sum(map(len, output["ids"])) - lost
    if passes == 2:  # of the cropped text, under the policy that sampled
        row = int((crops[:, 1] - crops[:, 0]).argmax())
        prompt, ids = (
            output[f"{part}_ids"][row][output[f"{part}_mask"][row].bool()] for part in ("prompt", "completion")
        )
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1] / 0.7
        logps = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        torch.testing.assert_close(output["old_per_token_logps"][row, : len(ids)], logps, atol=1e-4, rtol=0)
    with pytest.raises(AttnPOError, match="lc_r1 crops responses, but beta is 0.1"):
        AttnPOConfig(output_dir=str(tmp_path), **SETTINGS | {"length_reward": "lc_r1", "beta": 0.1})


@pytest.mark.parametrize("loss", ["answer", "all"])
def test_early_exits_share_the_thinking_of_the_whole_response(tmp_path: Path, loss: str) -> None:
    words = "Time is limited, stop thinking and start answering.\n</think>\n"
    settings = {"length_reward": "s_grpo", "max_completion_length": 160, "max_steps": 1}
    trainer = made(tmp_path, **settings, exits={"loss": loss, "words": words})
    seen = watched(trainer)
    trainer.train()
    (output,), size = seen, trainer.num_generations
    tokenizer = trainer.processing_class
    forced = tokenizer(words, add_special_tokens=False)["input_ids"]
    n_right = n_sampled = 0
    for first in range(0, len(output["ids"]), size):
        *early, whole = output["ids"][first : first + size]
        thinking = split_at_think_end(whole, trainer._bytes_table).thinking
        places = []
        for row, ids in enumerate(early, start=first):
            place = next(i for i in range(len(ids)) if ids[i : i + len(forced)] == forced)
            places.append(place)
            assert 1 <= place <= thinking and ids[:place] == whole[:place]
            given = place + len(forced)
            assert len(ids) > given  # and then the model answers
            n_sampled += len(ids) - given
            mask = output["tool_mask"][row][: len(ids)].tolist()
            assert mask == [int(loss == "all")] * given + [1] * (len(ids) - given)
        assert places == sorted(places)
        n_sampled += len(whole)
        assert output["tool_mask"][first + size - 1].all()
        rewards, right = [], 0
        for correct in output["credit"].correct[first : first + size].tolist():
            right += correct
            rewards.append(correct * 0.5 ** (right - 1))
        n_right += right
        mean = sum(rewards) / size
        expected = [reward - mean for reward in rewards]
        assert output["credit"].advantages[first : first + size].tolist() == pytest.approx(expected, abs=1e-12)
    assert n_right > 0
    assert trainer.state.log_history[0]["rollouts/sampled_tokens"] == n_sampled  # what was given cost nothing
    assert output["num_items_in_batch"] == (output["completion_mask"] * output["tool_mask"]).sum()
    metrics = trainer.evaluate(datasets.Dataset.from_list(ROWS[:2]))  # whole responses alone
    assert 0 <= metrics["eval_reward"] <= 1


def test_early_exits_are_the_same_again_and_need_whole_groups(tmp_path: Path) -> None:
    draws = [exit_places(100, 7, random.Random(f"{seed}")) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(1 <= place <= 100 for place in draws[0]) and len(draws[0]) == 7
    assert exit_places(0, 2, random.Random(0)) == [0, 0]
    trainer = made(tmp_path, length_reward="s_grpo", exits={})
    assert trainer.rollout_func is not None
    trainer.model.train()
    with pytest.raises(AttnPOError, match="a process samples 3 responses, but early exits need whole groups of 4"):
        trainer.rollout_func([row["prompt"] for row in ROWS[:3]], trainer)


def test_early_exits_hand_on_the_log_probabilities_that_a_backend_gives(tmp_path: Path) -> None:
    """As vLLM does; here each token's is its id, negative, so that whose it is can be seen."""
    trainer = made(tmp_path, length_reward="s_grpo", exits={})
    generate = trainer._generate_single_turn

    def with_logps(*arguments: Any) -> Any:
        ids, _ = generate(*arguments)
        return ids, [[-float(token) for token in response] for response in ids]

    trainer._generate_single_turn = with_logps  # type: ignore[method-assign]
    trainer.model.train()
    assert trainer.rollout_func is not None
    found = trainer.rollout_func([row["prompt"] for row in ROWS[:2] for _ in range(4)], trainer)
    assert len(found["completion_ids"]) == 8
    for ids, logps, mask in zip(found["completion_ids"], found["logprobs"], found["env_mask"], strict=True):
        assert len(ids) == len(logps) == len(mask)
        assert all(logp == -token for token, logp, mine in zip(ids, logps, mask, strict=True) if mine)


def test_answers_behind_beginnings_are_sampled_and_graded_as_they_are_asked_for(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def every_third(completions: list[Any], **columns: Any) -> list[float]:
        asked.update(columns, completions=completions)
        columns["log_metric"]("never", 1.0)
        return [float(i % 3 == 0) for i in range(len(completions))]

    trainer = made(tmp_path, every_third)
    tokenizer = trainer.processing_class
    begun = [tokenizer("First, 3 + 4 = 7.\n", add_special_tokens=False)["input_ids"], [], [5, 6]]
    config = AnswerConfig(words="</think>\n", samples=4, temperature=0.01, top_p=0.9, max_tokens=12, batch_size=5)
    before = trainer.generation_config.to_dict()
    found = accuracies(trainer, [ROWS[0], ROWS[1], ROWS[0]], begun, config)
    assert found == [0.5, 0.25, 0.25]  # of twelve answers the numbers 0, 3, then 6, then 9
    assert trainer.generation_config.to_dict() == before
    assert "never" not in trainer._metrics["train"]
    assert asked["answer"] == [ROWS[row]["answer"] for row in (0, 1, 0) for _ in range(4)]
    words = tokenizer("</think>\n", add_special_tokens=False)["input_ids"]
    for i, start in enumerate(begun):
        of_start = asked["completion_ids"][4 * i : 4 * i + 4]
        assert all(ids == of_start[0] for ids in of_start)  # at this temperature
        given = [*start, *words]
        assert of_start[0][: len(given)] == given and 1 <= len(of_start[0]) - len(given) <= 12
        assert asked["completions"][4 * i][0]["content"] == tokenizer.decode(of_start[0], skip_special_tokens=True)
    assert accuracies(trainer, [], [], config) == []
    trainer.reward_funcs = [lambda completions, **_: [0.5] * len(completions)]
    with pytest.raises(AttnPOError, match="must return correctness, 0 or 1, but returned 0.5"):
        accuracies(trainer, ROWS[:1], [[]], config)
    trainer.reward_funcs = [torch.nn.Identity()]
    with pytest.raises(AttnPOError, match="make the first reward function a plain one"):
        accuracies(trainer, ROWS[:1], [[]], config)


def test_splits_of_a_thinking_are_places_between_its_tokens() -> None:
    table = [b"ab", b"c", "\u00e9d".encode(), b"</think>", b"e"]
    ids = [0, 1, 2, 0, 3, 4]  # abc\u00e9dab, then the answer; the places are 0, 2, 3, 5 and 7 characters
    assert split_places(ids, table, lambda text: [0, 1, 2, 3, 4, 5, 7]) == [0, 1, 2, 3, 4]
    assert split_places(ids, table, lambda text: [7]) == []  # nothing is behind it
    assert split_places(ids[:4], table, lambda text: [len(text) - 2]) == [3, 4]
    found = as_table([[2, 4], [], [3]], [0.5, 1.0, 0.25], 2).tolist()
    assert found[0] == [[2, 0.5], [4, 1]] and found[2][0] == [3, 0.25]
    assert all(math.isnan(value) for row in (*found[1], found[2][1]) for value in row)


def test_vsrm_credits_what_stands_before_a_step_that_changes_the_answer(tmp_path: Path) -> None:
    settings = {"length_reward": "vsrm", "max_completion_length": 160, "max_steps": 1, "temperature": 0.7}
    arguments = {"first": 20, "apart": 20}
    answers = {"words": "</think>\n", "samples": 4, "temperature": 1.5, "top_p": 1.0, "max_tokens": 64}
    trainer = made(tmp_path, length_reward_args=arguments, answers=answers, **settings)
    seen = watched(trainer)
    prefixes: list[torch.Tensor] = []
    ask = trainer._prefixes
    trainer._prefixes = lambda *args: prefixes.append(ask(*args)) or prefixes[-1]  # type: ignore
    trainer.train()
    (output,) = seen
    n_answers = 4 * int((~prefixes[0].isnan()).any(2).sum())
    sampled = trainer.state.log_history[0]["rollouts/sampled_tokens"] - sum(map(len, output["ids"]))
    assert n_answers <= sampled <= 64 * n_answers  # each answer has from 1 to 64 tokens
    assert trainer.args.advantage_estimator == "reinforce_pp"
    returns = torch.zeros_like(output["advantages"], dtype=torch.float64)
    n_changes = 0
    for row, ids in enumerate(output["ids"]):
        known = [(int(place), acc) for place, acc in prefixes[0][row].tolist() if not math.isnan(acc)]
        thinking = split_at_think_end(ids, trainer._bytes_table)
        assert not known or known[-1][0] == thinking.thinking
        for place, accuracy in known:
            assert accuracy in (0, 0.25, 0.5, 0.75, 1)
            if place != thinking.thinking:  # a line begins there
                assert trainer.processing_class.decode(ids[:place]).endswith("\n")
        returns[row] += output["credit"].correct[row]
        for (place, _), reward in zip(known, step_rewards([a for _, a in known], 0.7, 4), strict=False):
            returns[row, : place + 1] += reward
            n_changes += reward != 0
    assert n_changes > 0
    tokens = output["completion_mask"].bool()
    expected = (returns - returns[tokens].mean()) / returns[tokens].std()
    torch.testing.assert_close(output["advantages"][tokens], expected[tokens].float(), rtol=1e-4, atol=1e-5)
    metrics = trainer.evaluate(datasets.Dataset.from_list(ROWS[:2]))  # nothing is asked
    assert len(prefixes) == 1 and 0 <= metrics["eval_reward"] <= 1
    for wrong, message in (
        (
            {"length_reward": "tlmre", "answers": {}},
            "answers go with length_reward vsrm, or with attnpo and .*, but length_reward is 'tlmre'",
        ),
        ({"length_reward": "vsrm", "answers": {"samples": 0}}, "answers.samples"),
        ({"length_reward": "vsrm", "answers": {"n": 3}}, "answers has no field 'n'"),
    ):
        with pytest.raises(AttnPOError, match=message):
            AttnPOConfig(output_dir=str(tmp_path), **SETTINGS | wrong)


def test_the_gain_of_a_step_takes_the_place_of_attention(tmp_path: Path) -> None:
    trainer = made(
        tmp_path,
        attnpo=True,
        heads=None,
        step_scores="prefix_gain",
        answers={"words": "</think>\n", "samples": 4, "temperature": 1.5, "top_p": 1.0, "max_tokens": 64},
        max_steps=1,
        max_completion_length=120,
    )
    seen = watched(trainer)
    asked: list[tuple[dict[int, list[int]], list[float]]] = []
    answered = trainer._answered

    def spy(inputs: Any, ids: Any, places: Any) -> list[float]:
        asked.append((places, answered(inputs, ids, places)))
        return asked[-1][1]

    trainer._answered = spy  # type: ignore[method-assign]
    trainer.train()
    (output,), ((places, found),) = seen, asked
    values, factors = iter(found), set()
    for row, ids in enumerate(output["ids"]):
        plain, steps = output["credit"].advantages[row].item(), trainer_steps(trainer, ids)
        assert (row in places) == bool(output["credit"].correct[row] and plain and steps and len(steps.steps) > 1)
        gammas = [1.0] * len(ids)
        if row in places:
            assert places[row][0] == 0 and places[row][-1] == steps.thinking[1]
            assert len(places[row]) == len(steps.steps) + 1
            for line in steps.texts:
                assert line.endswith("\n")
            behind = [next(values) for _ in places[row]]
            p = float(output["credit"].accuracy[row])
            for place, step in enumerate(steps.step_of_token):
                if step >= 0:
                    share = max(behind[step + 1] - behind[step], 0) / 0.2 / p**2
                    low = 1 - p**2 + p**2 * share if share < 1 else 1.0
                    gammas[place] = low if plain > 0 else float(share <= 1)
            factors |= set(gammas)
        expected = [gamma * plain for gamma in gammas]
        assert output["advantages"][row, : len(ids)].tolist() == pytest.approx(expected, abs=1e-6)
    assert len(factors) > 1


@pytest.mark.parametrize("passes", [1, 2])
def test_openings_are_in_the_loss_as_if_they_had_been_drawn(tmp_path: Path, passes: int) -> None:
    openings = {"</think>": 0.25, "First,": 0.75}
    settings = {"importance_sampling_level": "sequence", "loss_type": "grpo", "max_completion_length": 120}
    if passes == 2:
        settings |= {"steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 2}
    trainer = made(tmp_path, length_reward="adaptthink", openings=openings, **{"max_steps": 1, **settings})
    seen = watched(trainer)
    losses = []
    compute = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: losses.append(compute(model, inputs)) or losses[-1]  # type: ignore
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    trainer.train()
    (output,) = seen
    assert trainer.args.advantage_estimator == "reward"
    expected = []
    for row, ids in enumerate(output["ids"]):
        text = "</think>" if row % 4 == 0 else "First,"
        given = trainer.processing_class(text, add_special_tokens=False)["input_ids"]
        assert output["inputs"][row]["opening"] == text
        assert ids[: len(given)] == given and len(ids) > len(given)
        advantage = float(output["credit"].correct[row]) - 0.25 + 0.05 * (row % 4 == 0)
        assert output["advantages"][row, : len(ids)].tolist() == pytest.approx([advantage] * len(ids), abs=1e-6)
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, torch.tensor(ids)])[None]).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        drawn = logps.clone()
        drawn[: len(given)] = 0
        drawn[0] = math.log(openings[text])
        torch.testing.assert_close(output["old_per_token_logps"][row, : len(ids)], drawn, atol=1e-4, rtol=0)
        ratio = (logps - drawn).mean().exp().item()
        expected.append(-min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
    if passes == 1:
        assert losses[0].item() == pytest.approx(sum(expected) / 8, abs=1e-4)
    metrics = trainer.evaluate(datasets.Dataset.from_list(ROWS[:2]))  # nothing is given
    assert -1 <= metrics["eval_reward"] <= 1


def test_openings_have_their_shares_of_a_group() -> None:
    halves = {"a": 0.5, "b": 0.5}
    assert [opening_of(halves, place, 5) for place in range(5)] == ["a", "a", "b", "b", "b"]
    thirds = {"a": 0.25, "b": 0.25, "c": 0.5}
    assert [opening_of(thirds, place, 8) for place in range(8)] == ["a", "a", "b", "b", "c", "c", "c", "c"]
    tenths = {str(i): 0.1 for i in range(10)}  # whose sum is a little less than 1
    assert [opening_of(tenths, place, 10) for place in range(10)] == list(tenths)


def test_openings_hand_on_the_log_probabilities_that_a_backend_gives(tmp_path: Path) -> None:
    trainer = made(tmp_path, length_reward="adaptthink", openings={"</think>": 0.5, "First,": 0.5})
    generate = trainer._generate_single_turn
    trainer._generate_single_turn = lambda *a: ((ids := generate(*a)[0]), [[-1.0] * len(row) for row in ids])  # type: ignore
    trainer.model.train()
    assert trainer.rollout_func is not None
    found = trainer.rollout_func([row["prompt"] for row in ROWS[:1] for _ in range(4)], trainer)
    words = trainer.processing_class("First,", add_special_tokens=False)["input_ids"]
    for row, (ids, logps) in enumerate(zip(found["completion_ids"], found["logprobs"], strict=True)):
        given = [math.log(0.5), *([] if row < 2 else [0.0] * (len(words) - 1))]
        assert logps == [*given, *[-1.0] * (len(ids) - len(given))]


def test_the_untrained_model_is_asked_once_about_what_is_trained_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def by_problem(completions: list[Any], id: list[str], **_: Any) -> list[float]:
        asked.extend(id)
        return [float(name == ROWS[0]["id"] or i % 2 == 0) for i, name in enumerate(id)]

    def added(**changes: Any) -> list[float | None]:
        trainer = made(tmp_path, by_problem, length_reward="adaptthink", openings={"</think>": 1.0}, **changes)
        trainer.train_dataset = trainer.train_dataset.remove_columns("reference")
        before = torch.get_rng_state()
        add_reference(trainer, tmp_path / "reference.json", 2, part=3)
        assert torch.equal(torch.get_rng_state(), before)
        met = {row["id"] for batch in trainer.get_train_dataloader() for row in batch}
        column = trainer.train_dataset["reference"]
        assert all(value is not None or row["id"] not in met for row, value in zip(ROWS, column, strict=True))
        return list(column)

    whole = added(max_steps=4)  # one epoch of 8 problems, two a step
    assert whole == [1.0, *[0.5] * 7]
    assert sorted(asked) == sorted(row["id"] for row in ROWS for _ in range(2))
    stored = json.loads((tmp_path / "reference.json").read_text())
    assert stored["samples"] == 2 and len(stored["accuracy"]) == 8
    asked.clear()
    assert added(max_steps=4) == whole and not asked
    # As if it had been killed in the last part.
    gone = list(stored["accuracy"])[6:]
    for name in gone:
        del stored["accuracy"][name]
    (tmp_path / "reference.json").write_text(json.dumps(stored))
    assert added(max_steps=4) == whole and sorted(asked) == sorted(gone * 2)
    # Of two steps without a stored file: four problems.
    asked.clear()
    (tmp_path / "reference.json").unlink()
    trainer = made(tmp_path, by_problem, length_reward="adaptthink", openings={"</think>": 1.0}, max_steps=2)
    few = trained_on(trainer)
    assert len(few) == 4
    trainer.train_dataset = trainer.train_dataset.remove_columns("reference")
    add_reference(trainer, tmp_path / "reference.json", 1)
    assert sorted(asked) == sorted(ROWS[index]["id"] for index in few)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length_reward": "adaptthink"}, "were made to begin in several ways, but openings is not set"),
        ({"openings": {"a": 0.5, "b": 0.4}}, "have shares of 0.9 in all; make them 1"),
        ({"openings": {"a": 1.5, "b": -0.5}}, "openings"),
        ({"openings": {"": 1.0}}, "openings"),
        ({"openings": {"a": 1.0}, "length_reward": "lc_r1"}, "openings do not go with that, but length_reward 'lc_r1'"),
        ({"openings": {"a": 1.0}, "length_reward": "s_grpo", "exits": {}}, "openings do not go with that, but exits"),
        ({"openings": {"a": 1.0}, "use_vllm": True}, "openings under vLLM need"),
    ],
)
def test_wrong_openings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=re.escape(message)):
        AttnPOConfig(output_dir=str(tmp_path), **SETTINGS | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length_reward": "s_grpo"}, "'s_grpo' goes by the order of early exits, but exits is not set"),
        ({"length_reward": "tlmre", "exits": {}}, "exits go with length_reward 's_grpo', not 'tlmre'"),
        ({"length_reward": "s_grpo", "exits": {"loss": "none"}}, "exits.loss: 'none' is not 'answer' or 'all'"),
        ({"length_reward": "s_grpo", "exits": {"words": "Stop."}}, "words 'Stop.' must have one </think>"),
        ({"length_reward": "s_grpo", "exits": {"word": "x"}}, "exits has no field 'word'"),
        ({"length_reward": "s_grpo", "exits": {"loss": "all"}, "use_vllm": True}, "loss 'all' under vLLM needs"),
    ],
)
def test_wrong_exits_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=re.escape(message)):
        AttnPOConfig(output_dir=str(tmp_path), **SETTINGS | changes)


def test_a_wrong_selection_is_refused_before_training(tmp_path: Path) -> None:
    for wrong, message in (({"share": 2}, "share"), ({"shares": 0.2}, "selection has no field 'shares'")):
        with pytest.raises(AttnPOError, match=message):
            AttnPOConfig(output_dir=str(tmp_path), **SETTINGS | {"selection": wrong})
