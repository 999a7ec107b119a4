"""Make the model of profile tiny-varied: the embedded one, fine-tuned on with traces whose wordiness varies.

    .venv/bin/python reproduce/testbed_varied.py [--out FOLDER] [--share SHARE]

The embedded model has seen about as many redundant steps at every link, and needs them to know where in a chain it is
(`reproduce/diagnose_reach.py`). Here half of the traces, or SHARE of them, have fewer, from all to none. About ten
minutes on one core. Without FOLDER it writes `results/tiny-varied/model`, whose committed weights are those that the
results belong to. With SHARE 0 it makes the model to compare with: fine-tuned as long, on traces as before.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from attnpo.environment import checkout_root
from attnpo.testbed import MODEL_DIR
from attnpo.testbed.build import BuildConfig, Round, build

MODEL = checkout_root() / "results" / "tiny-varied" / "model"


def main(out: Path = MODEL, share: float = 0.5) -> None:
    """Fine-tune and save.

    Args:
        out: folder to write to.
        share: share of traces with fewer redundant steps, 0 to 1.
    """
    build(BuildConfig(out=out, start=MODEL_DIR, rounds=(Round(0, 1000, 2e-3),), varied_share=share, seed=30))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
