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
from typing import Any, NamedTuple

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
from attnpo.runs.profile import Profile, load_profile
from attnpo.runs.store import Run
from attnpo.sampling.models import load_model
from attnpo.statistics.bootstrap import mean_estimate
from attnpo.testbed import load_problems, oracle, routes
from attnpo.testbed.problems import ChainProblem

ALPHAS = (0.0, 0.1, 0.2, 0.4, 0.8)
GROUP = 8
KINDS = ("rewarded", "punished", "wrong", "all")


class Answered(NamedTuple):
    """A response to a problem, and what the method and the oracle see in it."""

    response: Response
    correct: bool
    scores: torch.Tensor | None
    """(K,) of its steps, the mean over the Key-Focus Heads; None where it has no steps or no answer."""
    essential: list[bool]
    """Of its steps, by the oracle."""
    begun: list[tuple[int, int, bool]]
    """Of each hard link that it did: which, the token at which its route begins, and whether it was recalled."""


def answer(profile: Profile, split: str) -> list[Answered]:
    """The untrained model's responses, a group to each problem, one group after the other."""
    results = checkout_root() / "results" / profile.results_name
    ranking = HeadRanking.load(Run.at(results, probe_spec(profile)).folder / "heads.json")
    model, tokenizer = load_model(profile.model)
    members = [all_heads(model).index(head) for head in ranking.top(profile.probe.heads)]
    problems = load_problems(profile.data, split, profile.data_revision)[: profile.probe.problems]
    settings = dataclasses.replace(profile.probe, samples=GROUP)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "samples.jsonl"
        sampled = list(sample_responses(profile.source, settings, tokenizer, problems, path, seed=0))
    table, cut = token_bytes_table(tokenizer), profile.steps
    responses = []
    for row in sampled:
        steps = align_steps(row["response_ids"], table, cut.phrases, cut.min_chars, cut.lone_trigger_chars)
        responses.append(Response(row["prompt_ids"], row["response_ids"], steps))
    scored = [i for i, (_, _, steps) in enumerate(responses) if steps is not None and steps.answer[0] < steps.answer[1]]
    scores = dict(zip(scored, score_all(model, [responses[i] for i in scored]), strict=True))

    by_id = {problem.id: problem for problem in problems}
    answered = []
    for i, (row, response) in enumerate(zip(sampled, responses, strict=True)):
        problem, steps = by_id[row["problem_id"]], response.steps
        assert isinstance(problem, ChainProblem)
        texts = steps.texts if steps else []
        essential = [label in oracle.ESSENTIAL for label in oracle.label_steps(problem, texts)]
        begun = [
            (link, steps.step_of_token.index(step), not worked)
            for link, step, worked in routes.begun(problem, texts)
            if steps
        ]
        mean = scores[i][members].mean(0) if i in scores else None
        answered.append(Answered(response, bool(row["correct"]), mean, essential, begun))
    return answered


def scored_steps(answered: list[Answered], advantages: torch.Tensor, by_oracle: bool) -> dict[int, ScoredSteps]:
    """What `rescale` looks at: the steps of correct responses that have an advantage, with their scores."""
    found = {}
    for i, one in enumerate(answered):
        steps = one.response.steps
        if steps is not None and one.scores is not None and one.correct and advantages[i] != 0 and len(steps.steps) > 1:
            scores = oracle_scores(one.essential) if by_oracle else one.scores
            found[i] = ScoredSteps(steps, scores, len(one.response.prompt_ids))
    return found


def pushes_of_group(group: list[Answered], kinds: list[str], of_tokens: torch.Tensor) -> dict[str, float]:
    """Kind of response -> its part of the push, the mean over the problem's hard links; nothing if none was done."""
    links: dict[int, list[tuple[bool, float, str]]] = {}
    for one, kind, advantages in zip(group, kinds, of_tokens, strict=True):
        for link, token, recalled in one.begun:
            links.setdefault(link, []).append((recalled, float(advantages[token]), kind))
    pushes = dict.fromkeys(KINDS, 0.0) if links else {}
    for decisions in links.values():
        share = sum(recalled for recalled, _, _ in decisions) / len(decisions)
        for recalled, advantage, kind in decisions:
            part = advantage * (recalled - share) / len(decisions) / len(links)
            pushes[kind] += part
            pushes["all"] += part
    return pushes


def main(name: str, step: int | None = None) -> None:
    """Sample, score, compare, write and print."""
    profile = load_profile(name)
    assert profile.train is not None
    step = step or profile.train.steps
    answered = answer(profile, profile.train.split)
    lengths = torch.tensor([len(one.response.ids) for one in answered])
    correct = torch.tensor([float(one.correct) for one in answered])
    width = int(lengths.max())
    methods: dict[str, dict[str, Any]] = {
        "TLMRE": {"positive": False, "negative": False},
        "AttnPO": {},
        "PA alone": {"negative": False},
        "NA alone": {"positive": False},
        "AttnPO, oracle labels": {},
        "AttnPO-R": {"length_credit": "redundant"},
    }
    rows = []
    for alpha in ALPHAS:
        credit = assign(Shaped(tlmre_rewards(lengths, correct, GROUP, alpha)), lengths, correct, GROUP, "rloo")
        signs = zip(answered, credit.advantages.tolist(), strict=True)
        kinds = ["wrong" if not one.correct else "rewarded" if a > 0 else "punished" for one, a in signs]
        for method, settings in methods.items():
            scored = scored_steps(answered, credit.advantages, by_oracle="oracle" in method)
            config = CreditConfig(**profile.credit, **settings)
            of_tokens = rescale(
                credit.advantages, credit.accuracy, scored, width, step, config, of_correctness=credit.of_correctness
            ).advantages
            groups = [slice(first, first + GROUP) for first in range(0, len(answered), GROUP)]
            pushes = pd.DataFrame([pushes_of_group(answered[g], kinds[g], of_tokens[g]) for g in groups]).dropna()
            for kind in KINDS:
                means = 1000 * pushes[kind].to_numpy()[None]
                estimate = mean_estimate(means, draws=profile.report.bootstrap, level=profile.report.confidence)
                rows.append({"alpha": alpha, "method": method, "responses": kind, **estimate._asdict()})
    frame = pd.DataFrame(rows)
    atomic_write_csv(checkout_root() / "results" / profile.results_name / "route_push.csv", frame)
    shown = [f"{v:+.1f} ({a:+.1f} to {b:+.1f})" for v, a, b in frame[["value", "low", "high"]].to_numpy()]
    print("push towards recalling, thousandths, with 95 % intervals over problems")
    print(frame.assign(text=shown).pivot(index=["alpha", "method"], columns="responses", values="text").to_string())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tiny", *map(int, sys.argv[2:3]))
