"""Arguments of the length rewards for responses of the testbed's length."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "arlcp": {"few": 2, "many": 5},
    "decs": {"max_length": 192},
    "depo": {"max_length": 192},
    "thinkprune": {"limits": [150, 100]},
    "laser": {"target": 100},
    "laser_d": {"lower": 60, "upper": 190, "interval": 10},
    "laser_de": {"lower": 60, "upper": 190, "interval": 10},
    "overlong": {"max_length": 192, "cache": 64},
    "shorter": {"beta": 0.005},
    "diet": {"budget": 192, "half_period": 75},
    "dler": {"limit": 120},
    "dot": {"std_multiplier": 0.5, "margin": 4},
    "l1_exact": {"alpha": 0.005},
    "l1_max": {"alpha": 0.005},
    "vsrm": {"first": 40, "apart": 40},
}
