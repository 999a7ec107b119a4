"""How good the sources of step labels are, judged by the testbed's oracle, and which heads they would choose.

    .venv/bin/python reproduce/label_sources.py tiny

Labels the steps of the correct responses of the profile's probe by each source that needs no other model, and writes
`labels.md` and `figures/label_sources` into its results folder. The probe's responses are sampled again where they are
not there.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from attnpo.environment import checkout_root
from attnpo.files import atomic_write_text, read_jsonl
from attnpo.method.attention import all_heads
from attnpo.method.ranking import StepRankingAccuracy, ensemble_ranking_accuracy, step_ranking_accuracy
from attnpo.method.receiver import receiver_kurtosis
from attnpo.probing.ablation import ablation_labels
from attnpo.probing.answers import WAYS, answer_labels
from attnpo.probing.labels import Labels, first_answer_labels, oracle_labels, voted
from attnpo.probing.probe import aligned, counted_steps, has_both, sample_responses, score_all
from attnpo.probing.quality import label_quality
from attnpo.report.figures import Bar, label_sources
from attnpo.report.formats import markdown_grid
from attnpo.runs.plan import probe_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.settings import BASE
from attnpo.runs.store import Run
from attnpo.sampling.models import load_model
from attnpo.testbed import load_problems

FORCED = {"in its own words": "\n\\boxed{", "in R1's words": "\n\n**Final Answer**\n\\boxed{"}
"""What the ablation puts behind `</think>`."""
PAIRS = (("first_answer", "ablation, forced in R1's words"), ("sampled_ablation", "prefix_gain"))
"""Sources of which the steps count on which both agree."""
APART = 2
"""Receiver heads: how many steps apart count. Responses have about seven steps here, a hundred where theirs count 4."""
ANSWER_TOKENS = 160
"""Budget of an answer of the model's own: it restates the essential lines, up to twelve of ten tokens."""


class Found(NamedTuple):
    """The labels of a source and what they cost."""

    labels: list[Labels]
    passes: float = 0.0
    """Forward passes over a whole response."""
    tokens: float = 0.0
    """Sampled tokens."""
    seconds: float = 0.0


def main(name: str) -> None:
    """Label, compare and write the table."""
    profile = load_profile(name)
    results = checkout_root() / "results" / profile.results_name
    folder = Run.at(results, probe_spec(profile)).folder
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(profile.model)
    problems = load_problems(profile.data, profile.probed().split)[: profile.probed().problems]
    items = {problem.id: problem for problem in problems}
    sampled = sample_responses(profile.source, profile.probed(), tokenizer, problems, folder / "samples.jsonl", 0)
    correct = ((items[row["problem_id"]], row["prompt_ids"], row["response_ids"]) for row in sampled if row["correct"])
    rows = aligned(profile.steps, tokenizer, correct)
    texts = [response.steps.texts for _, response in rows if response.steps is not None]
    exact = [oracle_labels(item, of_one) for (item, _), of_one in zip(rows, texts, strict=True)]
    scores = score_all(model, [response for _, response in rows])

    found = {"oracle": Found(list(exact))}
    first: list[Labels] = [first_answer_labels(item, of_one) for (item, _), of_one in zip(rows, texts, strict=True)]
    found["first_answer"] = Found(first)
    steps = sum(map(len, texts))
    for title, forced in FORCED.items():
        start = time.perf_counter()
        ablated: list[Labels] = list(ablation_labels(rows, model, tokenizer, forced))
        found[f"ablation, forced {title}"] = Found(ablated, 2 * steps, 0, time.perf_counter() - start)
    own = replace(profile.probed(), forced_answer="", answer_tokens=ANSWER_TOKENS)
    for way in WAYS:
        with tempfile.TemporaryDirectory() as scratch:  # sampled anew each time, since the time is measured
            path, start = Path(scratch) / "answers.jsonl", time.perf_counter()
            answered: list[Labels] = list(answer_labels(rows, way, profile.source, own, tokenizer, path))
            seconds = time.perf_counter() - start
            sampled_tokens = sum(len(row["response_ids"]) for row in read_jsonl(path))
        found[way] = Found(answered, 0, sampled_tokens, seconds)
    for one, other in PAIRS:
        pairs = zip(found[one].labels, found[other].labels, strict=True)
        costs = [a + b for a, b in zip(found[one][1:], found[other][1:], strict=True)]
        found[f"{one} and {other}"] = Found([voted(pair, "unanimous") for pair in pairs], *costs)

    heads, by_oracle = all_heads(model), _ranking(scores, exact)
    assert by_oracle is not None

    points: list[Bar] = []

    def chosen_by(values: Tensor, title: str) -> dict[str, object]:
        """What three heads these values choose, (H,), and how good they are by the oracle."""
        chosen = values.argsort(descending=True)[:3].tolist()
        best = by_oracle.sra.argsort(descending=True)[:3].tolist()
        ranks = [pd.Series(of_heads.numpy()) for of_heads in (values, by_oracle.sra)]
        three = ensemble_ranking_accuracy(*_counted(scores, exact), chosen, n_resamples=profile.probed().bootstrap)
        sra, low, high = three.sra.item(), three.low.item(), three.high.item()
        points.append(Bar(title, sra, low, high, BASE if title == "oracle" else "attnpo"))
        return {
            "best three heads": " ".join(str(heads[row]) for row in chosen),
            "of the oracle's three": len(set(chosen) & set(best)),
            "rank correlation of heads": ranks[0].corr(ranks[1], method="spearman"),
            "SRA of their mean": f"{sra:.3f} [{low:.3f}, {high:.3f}]",
        }

    lines: list[dict[str, object]] = []
    for title, (labels, passes, tokens, spent) in found.items():
        quality = label_quality(labels, exact)
        line: dict[str, object] = {"labels": title}
        line |= {key.replace("_", " "): value for key, value in quality._asdict().items()}
        line |= {"forward passes": passes / len(rows), "sampled tokens": tokens / len(rows)}
        line["seconds"] = spent / len(rows)
        ranking = _ranking(scores, labels)
        lines.append(line if ranking is None else line | chosen_by(ranking.sra, title))
    start = time.perf_counter()
    kurtosis = receiver_kurtosis(model, heads, [response for _, response in rows], APART)
    cost = {"forward passes": steps / len(rows), "seconds": (time.perf_counter() - start) / len(rows)}
    title = f"none: receiver heads, {APART} or more steps apart"
    lines.append({"labels": title} | cost | chosen_by(kurtosis, title))
    (results / "figures").mkdir(exist_ok=True)
    label_sources(points, results / "figures" / "label_sources")
    about = (
        f"{len(rows):,} correct responses to {len(problems)} problems, {sum(map(len, exact)):,} steps, profile "
        f"`{profile.name}`. Made by `reproduce/label_sources.py`. Recall counts steps without a label as missed; kappa "
        "is over labelled steps. Forward passes (at most so many), sampled tokens and seconds are those of a response, "
        "on one core. "
        "The last column is by the oracle's labels, with the 95 % interval over responses."
    )
    columns = list(dict.fromkeys(column for line in lines for column in line))
    grid = "\n".join(markdown_grid(columns, [[_shown(line.get(column)) for column in columns] for line in lines]))
    text = f"# Sources of step labels, judged by the oracle\n\n{about}\n\n{grid}\n"
    atomic_write_text(results / "labels.md", text)
    print(text)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}" if value < 10 else f"{value:.0f}"
    return "" if value is None else str(value)


def _counted(scores: list[Tensor], labels: Sequence[Labels]) -> tuple[list[Tensor], list[Tensor]]:
    """What counts of the responses that have steps of both kinds."""
    pairs = [counted_steps(*pair) for pair in zip(scores, labels, strict=True) if has_both(pair[1])]
    return [score for score, _ in pairs], [essential for _, essential in pairs]


def _ranking(scores: list[Tensor], labels: Sequence[Labels]) -> StepRankingAccuracy | None:
    counted = _counted(scores, labels)
    return step_ranking_accuracy(*counted, n_resamples=10) if counted[0] else None


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny")
