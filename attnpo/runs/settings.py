"""Settings of tables, figures and launches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ArtefactSection:
    """What one table or figure is made of."""

    methods: list[str]
    """Names as `Profile.method` takes them, in the order of the rows."""
    seeds: list[int] | None = None
    """None: the profile's. Those of the profile's `method_seeds` win, but not where the artefact has an evaluation of
    its own."""
    method_seeds: dict[str, list[int]] = field(default_factory=dict)
    """Seeds of single methods in this artefact; they win over all others."""
    blocks: dict[str, str] | None = None
    """Task to title, as `report.blocks`; None: those."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Fields of `evaluate` for this artefact alone: its evaluations are runs of their own."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """For `fig_curves`, `fig_phrases`, `fig_passk` and `fig_budget`: a title, which names the file too, to the methods
    of one figure; empty: one figure of all. For `fig_strength`: a method, whose name and look a line has, to the
    methods along that line."""
    chains: dict[str, list[int]] = field(default_factory=dict)
    """For `fig_passk` and `fig_budget` on the testbed: a title, which names the file too, to the lengths of the chains
    in a figure; empty: all problems in one."""


@dataclass(frozen=True, kw_only=True)
class LaunchSection:
    """How jobs are started on machines with accelerators."""

    train: list[str] = field(default_factory=list)
    """Words before `-m attnpo.cli train ...` in place of the Python interpreter, such as `accelerate launch
    --config_file reproduce/accelerate/8gpus-zero3.yaml`; paths are relative to the checkout. None: one process. The
    processes of a launcher end with `attnpo run` when that is interrupted, but not when it is killed (SIGKILL)."""
    workers: int | None = None
    """Runs side by side unless `--jobs` says otherwise; None: one a usable core."""


@dataclass(frozen=True, kw_only=True)
class TuningSection:
    """`attnpo run tune`: the trial of each method with the best Accuracy-Efficiency Score on validation problems."""

    tasks: list[str]
    """lm-eval tasks of validation problems. A trial is never evaluated on anything else."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """The score is taken of the means over these; better none that the tables use."""
    samples: int = 4
    """Responses per problem."""


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """How derived numbers become table and figure."""

    blocks: dict[str, str] = field(default_factory=dict)
    """Task to title, in the order of the table's blocks; empty: every evaluated task under its own name."""
    base_label: str = "base"
    """Name of the untrained model in tables and figures."""
    reference: str | None = None
    """Method from which every other one's difference is shown, paired over the problems."""
    accuracy_margin: float = 0.02
    """Non-inferiority margin (share of responses), declared before the runs: 'equal accuracy' needs the
    interval of the accuracy difference to stay above minus this."""
    confidence: float = 0.95
    bootstrap: int = 2000
    """Draws (seeds and problems) for the intervals."""
    bootstrap_seed: int = 0
    paper_model: str = "1.5B"
    """Model size whose published values stand beside ours."""
