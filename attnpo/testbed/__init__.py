"""The embedded default: chained-arithmetic problems, R1-like traces, an oracle of essential steps, a tiny model.

Everything here runs on a CPU without a hub. `problems` makes the data, `traces` writes reasoning traces for
fine-tuning, `oracle` labels each step of any trace, `build` makes the tokenizer and the model in `MODEL_DIR`.
"""

from __future__ import annotations

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""Tokenizer, configuration and weights of the tiny model (Qwen2 architecture), rebuilt by `reproduce/testbed.sh`."""
