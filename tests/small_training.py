"""TRL's arguments for two optimizer steps on the embedded model, without a GPU and without output."""

from __future__ import annotations

from typing import Any

TWO_STEPS: dict[str, Any] = {
    "max_steps": 2,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "no",
}

RESCALED: dict[str, Any] = {
    **TWO_STEPS,
    "num_generations": 8,
    "heads": [[1, 5], [1, 4]],
    "min_step_chars": 1,
    "lone_trigger_chars": 1,
    "credit": {"warmup_steps": 0},
}
"""With AttnPO on, for a process of several; a group of eight may lie on two of them."""
