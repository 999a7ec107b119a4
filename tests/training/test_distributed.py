"""Group statistics on two processes (gloo), with gradient accumulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_worker import LIMIT
from places import TESTS

from attnpo.method.advantages import batch_whitened, rloo_advantages
from attnpo.rewards import tlmre_rewards
from attnpo.rewards.dler import dler_rewards

WORKER = Path(__file__).with_name("distributed_worker.py")


LEAVES = """
import torch
import torch.distributed as dist
from attnpo.training.run import leave_process_group


class Held(torch.Tensor):  # with a Python object to let go of
    pass


dist.init_process_group("gloo")
trainer = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
trainer.itself = trainer.__dict__  # in a cycle, as the trainer is
for _ in range(50):
    dist.all_reduce(torch.ones(20_000).as_subclass(Held), async_op=True)
del trainer
leave_process_group()
"""


def launch(script: Path, *arguments: str, limit: float = 300) -> None:
    """Run a script in two processes, to a good end within `limit` seconds."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    process = subprocess.Popen(
        [*launcher, str(script), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its processes
        _, errors = process.communicate(timeout=60)
        pytest.fail(
            f"{script.name} did not end in {limit:.0f} s: does a process wait for a forward pass that the other does "
            f"not make?\n{errors[-3000:]}"
        )
    assert process.returncode == 0, errors[-3000:]


def run_on_two_processes(tmp_path: Path, forward: str, reward: str) -> list[dict[str, Any]]:
    """What the worker saw on each rank."""
    launch(WORKER, str(tmp_path), forward, reward)
    return [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_a_process_exits_in_peace_with_tensors_under_way(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    launch(script)


def test_cuts_drops_and_whitening_are_over_all_processes(tmp_path: Path) -> None:
    ranks = run_on_two_processes(tmp_path, "short", "dler")
    lengths, right, kept_tokens, found = (
        torch.tensor(ranks[0][key] + ranks[1][key])
        for key in ("lengths", "correct", "loss_tokens", "last_token_advantage")
    )
    shaped = dler_rewards(lengths, right, 8, LIMIT)
    assert torch.equal(shaped.rewards, right.double())  # a response that was cut is wrong already
    assert (lengths > LIMIT).any() and shaped.keep is not None and shaped.keep.any()
    weights = lengths.clamp(max=LIMIT) * shaped.keep
    assert torch.equal(kept_tokens, weights)
    assert ranks[0]["items"] == ranks[1]["items"] == int(weights.sum())
    centred = shaped.rewards - shaped.rewards.view(2, 8).mean(1).repeat_interleave(8)
    assert torch.allclose(found.double(), batch_whitened(centred, weights), atol=1e-5)  # float32 advantages


def test_processes_ask_for_as_many_answers_as_they_need(tmp_path: Path) -> None:
    launch(Path(__file__).with_name("answers_worker.py"), str(tmp_path))
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["uneven"] for rank in ranks] == [[3, 0, 0], [1, 2, 0]]
    # The group of eight lies on both, and begins with the texts in order.
    assert [rank["openings"] for rank in ranks] == [[["</think>"] * 4] * 3, [["First,"] * 4] * 3]
    assert ranks[0]["prefixes"] == ranks[1]["prefixes"]
    for of_step in ranks[0]["prefixes"]:
        assert len(of_step) == 8
        assert all(value == -1 for of_row in of_step[:4] for place in of_row for value in place)  # they do not think
    assert any(value != -1 for of_step in ranks[0]["prefixes"] for of_row in of_step[4:] for p in of_row for value in p)
    # Of three steps the three problems, answered by one process or the other.
    known = json.loads((tmp_path / "reference.json").read_text())["accuracy"]
    assert len(known) == 3 and set(known.values()) <= {0, 0.5, 1}
    assert ranks[0]["reference"] == ranks[1]["reference"]
    assert sorted(value for value in ranks[0]["reference"] if value is not None) == sorted(known.values())
    assert ranks[0]["steps"] == ranks[1]["steps"] == 3


@pytest.mark.parametrize("forward", ["short", "full"])
def test_groups_that_lie_on_two_processes_are_rewarded_as_one(tmp_path: Path, forward: str) -> None:
    ranks = run_on_two_processes(tmp_path, forward, "tlmre")

    def joined(key: str) -> list:
        return ranks[0][key] + ranks[1][key]

    prompts = joined("prompts")
    assert len(prompts) == 16
    for group in range(2):
        assert len(set(prompts[8 * group : 8 * group + 8])) == 1
    lengths, correct = torch.tensor(joined("lengths")), torch.tensor(joined("correct"))
    assert 0 < correct.sum() < 16  # or the test would see nothing
    expected = rloo_advantages(tlmre_rewards(lengths, correct, 8), 8)
    # `</think>` and the answer keep gamma = 1, so the last token shows the plain advantage; float32 rewards
    found = torch.tensor(joined("last_token_advantage"), dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-6)
    accuracy = correct.double().view(2, 8).mean(1).repeat_interleave(8)
    assert torch.equal(torch.tensor(joined("group_accuracy"), dtype=torch.float64), accuracy)
    assert min(rank["least_gamma"] for rank in ranks) < 1
    assert ranks[0]["logged_advantages"] == ranks[1]["logged_advantages"]
    assert len(ranks[0]["logged_advantages"]) == 16
    assert ranks[0]["log"]["attnpo/mean_gamma"] < 1
