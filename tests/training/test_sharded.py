"""AttnPO on parameters that are spread over processes: the steps of one process, and no process that waits for ever."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sharded_worker
import torch
from safetensors.torch import load_file
from test_distributed import launch

from attnpo.testbed import MODEL_DIR
from attnpo.training.trainer import AttnPOTrainer

WORKER = Path(__file__).with_name("sharded_worker.py")
OF_RANKS = {"entropy", "clip_ratio", "step_time", "attnpo/scoring_time_share", "train_"}
"""Beginnings of what a log says of single processes or micro-batches, or by a clock."""


def seen(out: Path, rank: int) -> dict[str, Any]:
    return json.loads((out / f"rank{rank}.json").read_text())


@pytest.mark.parametrize("iterations", [1, 2])
def test_fsdp2_on_two_processes_trains_as_one_process(tmp_path: Path, iterations: int) -> None:
    """Two steps on given rollouts; with two iterations the heads are read in TRL's own pass.

    accelerate takes FSDP on GPUs alone, so the worker sets its state as a GPU run has it; torch's FSDP2 runs on gloo.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    sharded_worker.main(one, 1, iterations)
    launch(WORKER, str(two), "2", str(iterations), limit=240)
    whole, ranks = seen(one, 0), [seen(two, rank) for rank in (0, 1)]
    assert (whole["sharded"], whole["shards"]) == (False, 0)
    assert all(rank["sharded"] and rank["shards"] > 0 for rank in ranks)

    if iterations == 1:  # a pass of its own, as many on each process, one response in each or none
        generations = 2
        assert sum(whole["passes"]) == generations * sum(sharded_worker.RIGHT)
        assert sorted(sum(rank["passes"][:7]) for rank in ranks) == sorted(sharded_worker.RIGHT)
        assert all(len(rank["passes"]) == generations * max(sharded_worker.RIGHT) for rank in ranks)
    else:
        assert not whole["passes"]
        assert not any(rank["passes"] for rank in ranks)

    before = load_file(MODEL_DIR / "model.safetensors")
    after, sharded = (load_file(out / "model" / "model.safetensors") for out in (one, two))
    assert set(sharded) - set(after) <= {"lm_head.weight"}  # tied to the embedding, and saved beside it
    for name, tensor in after.items():
        # Weights moved by about 1e-3 a step (Adam); float32 gradients are summed in another order.
        assert torch.allclose(sharded[name], tensor, atol=2e-5), name
        assert (tensor - before[name]).abs().max() > 1e-4, name

    assert len(whole["log"]) == len(ranks[0]["log"]) == 3
    for entry, other in zip(whole["log"], ranks[0]["log"], strict=True):
        for name, value in entry.items():
            if not name.startswith(tuple(OF_RANKS)):
                assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name  # float32, as above
    assert whole["log"][0]["attnpo/mean_gamma"] < 1


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, False),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=1)}, True),
        ({"fsdp_plugin": SimpleNamespace(fsdp_version=2)}, True),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, False),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, True),
    ],
)
def test_sharding_is_seen_in_the_accelerator(state: dict[str, Any], expected: bool) -> None:
    accelerator = SimpleNamespace(state=SimpleNamespace(**{"fsdp_plugin": None, "deepspeed_plugin": None, **state}))
    trainer = SimpleNamespace(accelerator=accelerator)
    assert AttnPOTrainer._sharded(trainer) is expected  # type: ignore[arg-type]
