"""Do Key-Focus Heads stay what they are on another sample, and at other temperatures?

    .venv/bin/python reproduce/head_stability.py tiny

The probe's heads are judged on responses to the profile's study problems, which did not choose them, sampled anew at
each temperature; beside them stand the heads that the probe took one after the other, each time the one that helped
most, and those that each sample would have chosen. Labels are the probe's. Writes
`head_stability.md` into the profile's results folder.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from attnpo.environment import checkout_root
from attnpo.files import atomic_write_text
from attnpo.method.attention import all_heads
from attnpo.method.ranking import ensemble_ranking_accuracy, ranking_difference, step_ranking_accuracy
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import label_responses, labeler_for, sample_responses, score_labelled
from attnpo.report.formats import markdown_grid
from attnpo.runs.plan import probe_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.store import Run
from attnpo.sampling.models import load_model
from attnpo.testbed import load_problems

TEMPERATURES = (0.6, 0.8, 1.0, 1.2)
SEED = 1
"""Not the probe's, which is 0."""


def main(name: str) -> None:
    """Sample, rank and write the table."""
    profile = load_profile(name)
    probe, study = profile.probed(), profile.study
    assert study is not None
    results = checkout_root() / "results" / profile.results_name
    chosen = HeadRanking.load(Run.at(results, probe_spec(profile)).folder / "heads.json")
    model, tokenizer = load_model(profile.model)
    heads = all_heads(model)
    of_probe = [heads.index(head) for head in chosen.top(probe.heads)]
    greedy = [heads.index(head) for head in chosen.greedy[: probe.heads]]
    by_probe = torch.tensor([next(h.sra for h in chosen.heads if (h.layer, h.head) == head) for head in heads])
    problems = load_problems(profile.data, study.split)[: study.problems]
    items = {problem.id: problem for problem in problems}
    lines = []
    for temperature in TEMPERATURES:
        with tempfile.TemporaryDirectory() as scratch:
            settings = replace(study, temperature=temperature)
            path = Path(scratch) / "samples.jsonl"
            sampled = list(sample_responses(profile.source, settings, tokenizer, problems, path, SEED))
            correct = [(items[r["problem_id"]], r["prompt_ids"], r["response_ids"]) for r in sampled if r["correct"]]
            label = labeler_for(probe, profile.source, tokenizer, Path(scratch))
            labelled = label_responses(label, profile.steps, tokenizer, correct)
        scores, essential = score_labelled(model, labelled)
        ranking = step_ranking_accuracy(scores, essential, n_resamples=probe.bootstrap, seed=SEED)
        best = ranking.sra.argsort(descending=True)[: len(of_probe)].tolist()
        line = {"T": f"{temperature:g}", "correct %": f"{100 * len(correct) / len(sampled):.1f}"}
        line["responses with both kinds"] = str(len(labelled))
        for row in of_probe:
            line[f"SRA of {heads[row]}"] = _interval(ranking.sra[row], ranking.low[row], ranking.high[row])
        for title, rows in (("SRA of their mean", of_probe), ("of the mean of this sample's best", best)):
            mean = ensemble_ranking_accuracy(scores, essential, rows, n_resamples=probe.bootstrap, seed=SEED)
            line[title] = _interval(mean.sra, mean.low, mean.high)
        less = ranking_difference(scores, essential, greedy, of_probe, probe.bootstrap, seed=SEED)
        line["greedily chosen heads less these"] = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*less).replace("-", "−")
        line["this sample's best"] = " ".join(str(heads[row]) for row in best)
        ranks = pd.Series(ranking.sra.numpy()).corr(pd.Series(by_probe.numpy()), method="spearman")
        line["rank correlation with the probe"] = f"{ranks:.3f}"
        lines.append(line)
    grid = "\n".join(markdown_grid(list(lines[0]), [list(line.values()) for line in lines]))
    about = (
        f"Responses to {len(problems)} {study.split} problems, {study.samples} each, sampled anew at each temperature; "
        f"the probe asked {probe.split} problems at T = {probe.temperature:g}. Profile `{profile.name}`, made by "
        "`reproduce/head_stability.py`. 95 % intervals over responses. Chosen greedily: "
        f"{' '.join(str(heads[row]) for row in greedy)}."
    )
    text = f"# The probe's heads on other samples\n\n{about}\n\n{grid}\n"
    atomic_write_text(results / "head_stability.md", text)
    print(text)


def _interval(value: Tensor, low: Tensor, high: Tensor) -> str:
    return f"{value.item():.3f} [{low.item():.3f}, {high.item():.3f}]"


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny")
