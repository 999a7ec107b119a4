"""A profile, samples and a reward made up for tests; no torch, no model."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from attnpo.runs.profile import Profile, load_profile
from attnpo.runs.store import Run
from attnpo.statistics.tables import problem_table

PROFILE: dict[str, Any] = {
    "name": "fake",
    "seeds": [0, 1, 2],
    "probe": {"problems": 2, "samples": 1, "max_completion_tokens": 8},
    "train": {"steps": 4, "learning_rate": 1.0e-3, "max_completion_tokens": 8, "save_steps": 2},
    "methods": {
        "rloo": {"label": "RLOO", "reward": "rloo"},
        "tlmre": {"label": "TLMRE", "reward": "tlmre", "reward_args": {"alpha": 0.2}},
        "attnpo": {"label": "AttnPO", "reward": "tlmre", "reward_args": {"alpha": 0.2}, "attnpo": True},
    },
    "evaluate": {
        "tasks": ["attnpo_testbed"],
        "samples": 2,
        "max_completion_tokens": 8,
        "batch_size": 2,
    },
    "report": {
        "bootstrap": 200,
        "blocks": {"attnpo_testbed_test": "Test", "attnpo_testbed_shifted": "Shifted"},
    },
    "quick": {"seeds": [0], "train": {"steps": 2}},
}

MEANS = {  # accuracy, redundant steps, essential steps
    "base": (0.80, 4.0, 3.4),
    "rloo": (0.95, 3.8, 3.5),
    "tlmre": (0.95, 2.2, 3.45),
    "attnpo": (0.95, 0.4, 3.4),
    "tlmre@2": (0.95, 1.0, 3.45),  # the better trial
}


def write_profile(folder: Path, **changes: Any) -> Path:
    """The fake profile with some sections replaced, as a file."""
    path = folder / "fake.yaml"
    path.write_text(yaml.safe_dump({**PROFILE, **changes}, sort_keys=False), encoding="utf-8")
    return path


def fake_profile(folder: Path, quick: bool = False, **changes: Any) -> Profile:
    """The fake profile, loaded."""
    return load_profile(str(write_profile(folder, **changes)), quick)


def fake_samples(method: str, seed: int, problems: int = 60) -> Iterator[dict[str, Any]]:
    """Lines of samples.jsonl with about the figures of `MEANS`."""
    rng = random.Random(f"{method}{seed}")
    accuracy, redundant, essential = MEANS[method if method in MEANS else method.partition("@")[0]]
    for task, chains in (("attnpo_testbed_test", range(1, 7)), ("attnpo_testbed_shifted", range(5, 9))):
        for i in range(problems):
            for k in range(2):
                r, e = round(rng.gauss(redundant, 0.5)), round(rng.gauss(essential, 0.3))
                r, e = max(0, r), max(0, e)
                thinking = 10 * (r + e)
                yield {
                    "task": task,
                    "problem_id": f"p{i}",
                    "k": k,
                    "text": "…",
                    "correct": rng.random() < accuracy,
                    "parse_failed": False,
                    "think_tags": 1,
                    "tokens": {"total": thinking + 20, "thinking": thinking, "answer": 19},
                    "finish": "length" if rng.random() < 0.02 else "stop",
                    "counted": "generated",
                    "meta": {"chain": chains[i % len(chains)]},
                    "steps": {"essential": e, "repair": 0, "redundant": r, "slip": min(r, 1)},
                    "links": {"solved": min(e, chains[i % len(chains)]), "hard": 2, "worked": 1 + k, "worked_right": 1}
                    | {"direct": 1 - k, "direct_right": 0, "doubted": 0, "repaired": 0, "strays": 0},
                    "valid_share": e / (e + r) if e else None,
                }


@functools.cache
def _fake_tables(methods: tuple[str, ...], seeds: tuple[int, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """derived/problems.csv and derived/runs.csv of made-up evaluations."""
    runs = [(m, s, Run.at(Path("nowhere"), {"kind": "eval", "method": m, "seed": s})) for m in methods for s in seeds]
    problems = problem_table((m, s, fake_samples(m, s)) for m, s, _ in runs)
    rows = [{"kind": "eval", "method": m, "seed": s, "run_id": run.id, "wall_seconds": 1.0} for m, s, run in runs]
    return problems, pd.DataFrame(rows)


def fake_tables(methods: list[str], seeds: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """derived/problems.csv and derived/runs.csv of made-up evaluations."""
    problems, runs = _fake_tables(tuple(methods), tuple(seeds))
    return problems.copy(), runs.copy()


def correctness(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """A reward function for training: whether a response ends with the boxed gold answer."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(text.endswith(f"\\boxed{{{gold}}}")) for text, gold in zip(texts, answer, strict=True)]
