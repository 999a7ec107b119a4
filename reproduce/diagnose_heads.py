"""What the Key-Focus Heads of a testbed probe score high and low, by kind of step: why AttnPO cuts what it cuts.

    .venv/bin/python reproduce/diagnose_heads.py tiny

Reads the finished probe of the profile and writes `head_kinds.csv` into its results folder: for each of the best
heads, and for their mean as training uses it, the Step Ranking Accuracy of essential steps against each kind of
redundant step, and the median of S_k / S_base for that kind (S_base at p = 1). Positive attenuation lowers a step in
proportion to that ratio where it is below 1.
"""

from __future__ import annotations

import sys

import pandas as pd
import torch

from attnpo.environment import checkout_root
from attnpo.method.attention import all_heads
from attnpo.method.credit import baseline_score
from attnpo.method.ranking import ensemble_ranking_accuracy
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import label_responses, labeler_for, sample_responses, score_all
from attnpo.runs.plan import probe_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.store import Run
from attnpo.sampling.models import load_model
from attnpo.testbed import load_problems, oracle
from attnpo.testbed.problems import ChainProblem


def main(name: str) -> None:
    """Score the probe's correct responses again and split the redundant steps by the oracle's label."""
    profile = load_profile(name)
    results = checkout_root() / "results" / profile.results_name
    probe = Run.at(results, probe_spec(profile))
    ranking = HeadRanking.load(probe.folder / "heads.json")
    model, tokenizer = load_model(profile.model)
    problems = load_problems(profile.data, profile.probe.split, profile.data_revision)[: profile.probe.problems]
    items = {item.id: item for item in problems}
    samples = probe.folder / "samples.jsonl"  # what is missing there is sampled
    responses = [
        (items[row["problem_id"]], row["prompt_ids"], row["response_ids"])
        for row in sample_responses(profile.source, profile.probe, tokenizer, problems, samples, seed=0)
        if row["correct"]
    ]
    heads = all_heads(model)
    top = ranking.top(profile.probe.heads)
    sets = {f"({layer}, {head})": [heads.index((layer, head))] for layer, head in top}
    sets[f"mean of {len(top)}"] = [heads.index(head) for head in top]

    label = labeler_for(profile.probed(), profile.source, tokenizer, probe.folder)
    labelled = label_responses(label, profile.steps, tokenizer, responses)
    scores = score_all(model, [row.response for row in labelled])
    labels, bases = [], []
    for item, (prompt, ids, _), steps, _ in labelled:
        assert isinstance(item, ChainProblem)
        labels.append(oracle.label_steps(item, steps.texts))
        bases.append(baseline_score(1.0, steps.answer[1] - steps.answer[0], len(prompt) + len(ids)))
    assert not any(score.isnan().any() for score in scores)  # no step of the testbed is without tokens

    rows = []
    for title, members in sets.items():
        for kind in ("essential", *oracle.LABELS):
            wanted = oracle.ESSENTIAL if kind == "essential" else (kind,)
            ratios = [
                score[members, k].mean().item() / base
                for score, kinds, base in zip(scores, labels, bases, strict=True)
                for k, label in enumerate(kinds)
                if label in wanted
            ]
            row = {"heads": title, "kind": kind, "steps": len(ratios)}
            if ratios:
                row["median_score_over_baseline"] = round(float(torch.tensor(ratios).median()), 3)
            if kind in oracle.REDUNDANT and ratios:
                picked = [[k for k, label in enumerate(ks) if label in (*oracle.ESSENTIAL, kind)] for ks in labels]
                accuracy = ensemble_ranking_accuracy(
                    [score[:, index] for score, index in zip(scores, picked, strict=True)],
                    [
                        torch.tensor([ks[k] in oracle.ESSENTIAL for k in index])
                        for ks, index in zip(labels, picked, strict=True)
                    ],
                    members,
                )
                row |= {"sra": round(accuracy.sra.item(), 3), "low": round(accuracy.low.item(), 3)}
                row |= {"high": round(accuracy.high.item(), 3), "pairs": accuracy.n_pairs}
            rows.append(row)
    frame = pd.DataFrame(rows)
    frame.to_csv(results / "head_kinds.csv", index=False)
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny")
