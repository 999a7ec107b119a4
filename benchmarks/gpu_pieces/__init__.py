"""The pieces of the GPU check: what each measures, how long it may take and how long it should.

A piece is a function of the same name in its module. It takes a `gpu_pieces.inputs.Setting` and gives its rows: a name,
and a function that measures and returns what stands in the report. `benchmarks/gpu.py` runs them.
"""

from __future__ import annotations

from typing import NamedTuple


class Piece(NamedTuple):
    """One part of the check, which runs in a process of its own."""

    module: str
    """Where its function is, under `gpu_pieces`."""
    expected_s: int
    """Seconds on one H100, the start of the process included: an estimate, which `docs/gpus.md` explains."""
    limit_s: int
    """Seconds after which it is killed."""
    what: str
    """A sentence for the report."""


PIECES = {
    "scores": Piece(
        "attention",
        20,
        90,
        "Step scores against those from eager attention with `output_attentions=True` in float32 on the same weights: "
        "norm of the difference over norm, models with random weights.",
    ),
    "scoring": Piece(
        "attention",
        20,
        90,
        "The scoring pass of three heads against a plain causal forward pass without logits, bfloat16. The last head "
        "is in layer 23 of 28, so the ratio cannot be under 24/28 = .857.",
    ),
    "tiny": Piece(
        "tiny",
        30,
        90,
        "`attnpo train` on the profile tiny, AttnPO, its heads given. The log must be whole and finite.",
    ),
    "step": Piece(
        "training",
        90,
        240,
        "Training steps on responses that are given, nothing is sampled: micro-batches of 2, float32 weights, bfloat16 "
        "autocast on a GPU, gradient checkpointing. Then the share of the weights that three steps at 2e-6 change, "
        "trained in float32 and in bfloat16.",
    ),
    "long": Piece(
        "training",
        30,
        120,
        "One training step on 8 responses as long as the paper's budget, in micro-batches of 2.",
    ),
    "sampling": Piece(
        "sampling",
        100,
        180,
        "Tokens a second through `attnpo.sampling`, prompts of 64 tokens; hardly any response ends before its budget.",
    ),
    "colocated": Piece(
        "training",
        95,
        180,
        "Three steps of AttnPO with rollouts by vLLM in the same process: what TRL logs of the difference between the "
        "probabilities of the sampler and of the trainer.",
    ),
}
