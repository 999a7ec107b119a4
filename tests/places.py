"""Where things are: the checkout, the golden vectors, and the folder `shared` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
SHARED = Path(os.environ.get("ATTNPO_SHARED") or ROOT.parent / "shared")
