"""Settings of tables, figures and launches."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from attnpo.schema import STRICT, Count, Names, Options, Seed, Seeds, Share, Unique

BASE = "base"
"""The untrained model among the methods of tables and figures."""
BASE_OF_TRIALS = f"{BASE}@"
"""The untrained model on the validation problems, beside the trials of `attnpo run tune`."""
BASES = (BASE, BASE_OF_TRIALS)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CoreSection:
    """The rows of a table that `attnpo run` makes unless it is told which; the others are shown from their records."""

    methods: Names
    """Some of the table's."""
    seeds: Count
    """How many, the first ones of each method."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ArtefactSection:
    """What one table or figure is made of."""

    methods: Unique
    """Names as `Profile.method` takes them, in the order of the rows."""
    seeds: Seeds | None = None
    """Null: the profile's; see `Profile.seeds_of`."""
    method_seeds: dict[str, Seeds] = field(default_factory=dict)
    """Seeds of single methods in this artefact."""
    blocks: dict[str, str] | None = None
    """Task to title, in place of `report.blocks`; null: those."""
    evaluate: Options = field(default_factory=dict)
    """Fields of `evaluate` for this artefact alone: its evaluations are runs of their own."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """For `fig_curves`, `fig_phrases`, `fig_passk` and `fig_budget`: the title of a figure, which names its file too,
    to the methods in it; empty: one figure of all. For `fig_strength`: a method, whose name and look a line has, to
    the methods along that line; each line is compared with the last one."""
    core: CoreSection | None = None
    """Null: all rows."""
    chains: dict[str, list[int]] = field(default_factory=dict)
    """For `fig_passk` and `fig_budget` on the testbed: the title of a figure, which names its file too, to the lengths
    of the chains in it; empty: all problems in one."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LaunchSection:
    """How jobs are started on machines with accelerators."""

    train: list[str] = field(default_factory=list)
    """Words before `-m attnpo.cli train ...` in place of the Python interpreter, such as `accelerate launch
    --config_file reproduce/accelerate/8gpus-zero3.yaml`. A file is looked for in the current folder, then among those
    that come with the package. Empty: one process."""
    workers: Count | None = None
    """Runs side by side unless `--jobs` says otherwise; null: one a usable core."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TuningSection:
    """`attnpo run tune`: the trial of each method with the best Accuracy-Efficiency Score on validation problems."""

    tasks: Names
    """lm-eval tasks of validation problems. A trial is never evaluated on anything else."""
    seeds: Seeds = field(default_factory=lambda: [0])
    """The score is taken of the means over these; better none that the tables use."""
    samples: Count = 4
    """Responses per problem."""


EqualTokensMeasure = Literal["accuracy", "redundant_steps", "worked_links"]
"""Those of `attnpo.statistics.estimates.AT_EQUAL_TOKENS`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReportSection:
    """How derived numbers become table and figure."""

    blocks: dict[str, str] = field(default_factory=dict)
    """Task to title, in the order of the table's blocks; empty: every evaluated task under its own name."""
    base_label: str = BASE
    """Name of the untrained model in tables and figures."""
    reference: str | None = None
    """Method from which every other one's difference is shown, paired over the problems."""
    accuracy_margin: Share = 0.02
    """Non-inferiority margin (share of responses), declared before the runs: 'equal accuracy' needs the
    interval of the accuracy difference to stay above minus this."""
    margins_at_equal_tokens: dict[EqualTokensMeasure, Annotated[float, Field(gt=0)]] = field(default_factory=dict)
    """Measure to the least difference at equal tokens that counts, in its own unit (shares, steps), declared before the
    runs; see `docs/numbers.md`."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    bootstrap: Count = 2000
    """Draws (seeds and problems) for the intervals."""
    bootstrap_seed: Seed = 0
    paper_model: str = "1.5B"
    """Model size whose published values stand beside ours."""
