"""What pushes a model to recall hard links in place of working them out, under TLMRE and under AttnPO.

    .venv/bin/python reproduce/diagnose_routes.py tiny [STEP]

The untrained model of a testbed profile answers training problems, a group of responses to each. Nothing is trained:
the advantages of these responses are computed as in training step STEP (default: the last of a run) for each strength
of the penalty, with and without AttnPO, with the oracle's labels in place of attention, with PA or NA alone, and with
our variant. For each hard link of a problem the push towards recalling is the covariance, over the responses of the
group that did the link, of having recalled it and of the advantage at the first token of the step that begins the
route: what a policy gradient adds, at first order, to the log-odds of recalling there. It is parted by what the
response is: correct and rewarded (A > 0), correct and punished (A < 0), or wrong. Writes `route_push.csv` into the
results folder, with intervals over problems. About two minutes.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from attnpo.environment import checkout_root
from attnpo.files import atomic_write_csv
from attnpo.method.attention import all_heads
from attnpo.method.credit import CreditConfig, ScoredSteps, Shaped, assign, oracle_scores, rescale
from attnpo.method.scores import Response
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import sample_responses, score_all
from attnpo.rewards.tlmre import tlmre_rewards
from attnpo.runs.plan import probe_spec
from attnpo.runs.profile import load_profile
from attnpo.runs.store import Run
from attnpo.sampling.models import load_model
from attnpo.statistics.bootstrap import mean_estimate
from attnpo.testbed import load_problems, oracle, routes
from attnpo.testbed.problems import ChainProblem

ALPHAS = (0.0, 0.1, 0.2, 0.4, 0.8)
GROUP = 8
KINDS = ("rewarded", "punished", "wrong")


def main(name: str, step: int | None = None) -> None:
    """Sample, score, compare, write and print."""
    profile = load_profile(name)
    assert profile.train is not None
    step = step or profile.train.steps
    results = checkout_root() / "results" / profile.results_name
    heads = HeadRanking.load(Run.at(results, probe_spec(profile)).folder / "heads.json").top(profile.probe.heads)
    model, tokenizer = load_model(profile.model)
    problems = load_problems(profile.data, profile.train.split, profile.data_revision)[: profile.probe.problems]
    settings = dataclasses.replace(profile.probe, samples=GROUP)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "samples.jsonl"
        sampled = list(sample_responses(profile.source, settings, tokenizer, problems, path, seed=0))
    table, steps = token_bytes_table(tokenizer), profile.steps
    aligned = [
        align_steps(row["response_ids"], table, steps.phrases, steps.min_chars, steps.lone_trigger_chars)
        for row in sampled
    ]
    known = [i for i, found in enumerate(aligned) if found is not None and found.answer[0] < found.answer[1]]
    responses = [Response(sampled[i]["prompt_ids"], sampled[i]["response_ids"], aligned[i]) for i in known]
    members = [all_heads(model).index(head) for head in heads]
    scores = dict(zip(known, (of[members].mean(0) for of in score_all(model, responses)), strict=True))
    lengths = torch.tensor([len(row["response_ids"]) for row in sampled])
    correct = torch.tensor([float(row["correct"]) for row in sampled])

    by_id = {problem.id: problem for problem in problems}
    begun, labels = [], []  # of each response: (link, first token, worked out), and what its steps are
    for row, found in zip(sampled, aligned, strict=True):
        problem = by_id[row["problem_id"]]
        assert isinstance(problem, ChainProblem)
        texts = found.texts if found is not None else []
        labels.append([label in oracle.ESSENTIAL for label in oracle.label_steps(problem, texts)])
        of_row = routes.begun(problem, texts)
        begun.append([(link, found.step_of_token.index(k), worked) for link, k, worked in of_row] if found else [])

    constants = profile.credit
    methods = {
        "TLMRE": None,
        "AttnPO": ("attention", CreditConfig(**constants)),
        "PA alone": ("attention", CreditConfig(**constants, negative=False)),
        "NA alone": ("attention", CreditConfig(**constants, positive=False)),
        "AttnPO, oracle labels": ("oracle", CreditConfig(**constants)),
        "AttnPO-R": ("attention", CreditConfig(**constants, length_credit="redundant")),
    }
    rows = []
    for alpha in ALPHAS:
        shaped = Shaped(tlmre_rewards(lengths, correct, GROUP, alpha))
        credit = assign(shaped, lengths, correct, GROUP, "rloo")
        for method, how in methods.items():
            if how is None:
                of_tokens = credit.advantages[:, None].expand(-1, int(lengths.max()))
            else:
                scored = {}
                for i in known:
                    found = aligned[i]
                    assert found is not None
                    if correct[i] and credit.advantages[i] != 0 and len(found.steps) > 1:
                        of_steps = oracle_scores(labels[i]) if how[0] == "oracle" else scores[i]
                        scored[i] = ScoredSteps(found, of_steps, len(sampled[i]["prompt_ids"]))
                width, alone = int(lengths.max()), credit.of_correctness
                of_tokens = rescale(
                    credit.advantages, credit.accuracy, scored, width, step, how[1], of_correctness=alone
                ).advantages
            pushes: dict[str, list[list[float]]] = {kind: [] for kind in (*KINDS, "all")}
            for first in range(0, len(sampled), GROUP):
                links: dict[int, list[tuple[bool, float, str]]] = {}
                for i in range(first, first + GROUP):
                    kind = "wrong" if not correct[i] else "rewarded" if credit.advantages[i] > 0 else "punished"
                    for link, token, worked in begun[i]:
                        links.setdefault(link, []).append((not worked, float(of_tokens[i, token]), kind))
                of_problem: dict[str, list[float]] = {kind: [] for kind in pushes}
                for decisions in links.values():
                    share = sum(recalled for recalled, _, _ in decisions) / len(decisions)
                    parts = [(kind, a * (recalled - share) / len(decisions)) for recalled, a, kind in decisions]
                    for kind in pushes:
                        of_problem[kind].append(sum(value for k, value in parts if kind in (k, "all")))
                for kind, values in of_problem.items():
                    pushes[kind].append(values)
            for kind, values in pushes.items():
                means = torch.tensor([sum(of) / len(of) for of in values if of], dtype=torch.float64).numpy()
                estimate = mean_estimate(
                    1000 * means[None], draws=profile.report.bootstrap, level=profile.report.confidence
                )
                rows.append({"alpha": alpha, "method": method, "responses": kind, **estimate._asdict()})
    frame = pd.DataFrame(rows)
    atomic_write_csv(results / "route_push.csv", frame)
    shown = frame.assign(
        text=[f"{v:+.1f} ({a:+.1f} to {b:+.1f})" for v, a, b in frame[["value", "low", "high"]].to_numpy()]
    )
    print("push towards recalling, thousandths, with 95 % intervals over problems")
    print(shown.pivot(index=["alpha", "method"], columns="responses", values="text").to_string())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny", *map(int, sys.argv[2:3]))
