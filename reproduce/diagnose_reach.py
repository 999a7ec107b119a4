"""Whether a model needs its redundant steps to know how far it has come, and so fails on longer chains without them.

    .venv/bin/python reproduce/diagnose_reach.py tiny [LABEL=MODEL_FOLDER ...]

The untrained model of a testbed profile, and models made of it (`model/` in the folder of a training run), answer the
shifted test, whose chains are longer than those of training. Where a response has solved some links and made no slip,
the model continues it twice: behind all it has written, and behind its essential steps alone. Writes `reach.csv` into
the results folder, a row for each model, number of solved links and condition: how often the model goes on with the
next link (with an interval over problems), with another computation, or with the end of its thinking. About four
minutes a model.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import pandas as pd
from rich.progress import track

from attnpo.environment import checkout_root
from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_csv
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.probe import sample_responses
from attnpo.probing.settings import StepsSection
from attnpo.problems.problem import Problem
from attnpo.runs.profile import Profile, load_profile
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import load_tokenizer
from attnpo.sampling.sampler import text_of
from attnpo.statistics.bootstrap import mean_estimate
from attnpo.testbed import EMBEDDED, load_problems, oracle
from attnpo.testbed.problems import ChainProblem

SAMPLES = 8  # responses to a problem
PLACES = 4  # responses to a problem that are continued behind the same number of solved links, at most
TOKENS = 70  # sampled behind them; a link with all of its checks has about 40
BATCH = 128
CONDITIONS = ("all steps", "essential steps alone")


def prefixes(
    settings: StepsSection, item: Problem, ids: list[int], table: list[bytes]
) -> dict[int, tuple[list[int], list[int]]]:
    """Where a response can be continued: behind each link that it solves, up to its first slip.

    Returns:
        number of solved links -> ids of all the thinking up to there, and of its essential steps alone.
    """
    steps = align_steps(ids, table, settings.phrases, settings.min_chars, settings.lone_trigger_chars)
    if steps is None or not isinstance(item, ChainProblem):
        return {}
    labels = oracle.label_steps(item, steps.texts)
    found: dict[int, tuple[list[int], list[int]]] = {}
    for solved, k in enumerate(oracle.solved_in(item, steps.texts)[: item.chain - 1], start=1):
        if {"slip", "repair"} & set(labels[: k + 1]):
            break
        whole = [i for i, step in enumerate(steps.step_of_token[: steps.answer[0]]) if 0 <= step <= k]
        alone = [i for i in whole if labels[steps.step_of_token[i]] in oracle.ESSENTIAL]
        found[solved] = [ids[i] for i in whole], [ids[i] for i in alone]
    return found


def reach(profile: Profile, label: str, folder: Path | str) -> pd.DataFrame:
    """The rows of one model."""
    assert profile.study is not None
    tokenizer = load_tokenizer(str(folder))
    items = load_problems(profile.data, "shifted", profile.data_revision)
    table = token_bytes_table(tokenizer)
    source = dataclasses.replace(profile.source, model=str(folder))
    settings = dataclasses.replace(profile.study, samples=SAMPLES)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "samples.jsonl"
        responses = list(sample_responses(source, settings, tokenizer, items, path, seed=0))
    by_id = {item.id: item for item in items}
    cases: dict[tuple[str, int], list[tuple[list[int], ...]]] = {}
    for row in responses:
        found = prefixes(profile.steps, by_id[row["problem_id"]], row["response_ids"], table)
        for solved, parts in found.items():
            cases.setdefault((row["problem_id"], solved), []).append((row["prompt_ids"], *parts))
    turns = [(*key, *case) for key, of_key in cases.items() for case in of_key[:PLACES]]
    turns.sort(key=lambda turn: len(turn[3]))
    lines = []
    with make_sampler("hf", str(folder), batch_size=BATCH) as sampler:
        for c, condition in enumerate(CONDITIONS):
            samples = sampler.sample(
                [[*turn[2], *turn[3 + c]] for turn in turns],
                temperature=settings.temperature,
                max_new_tokens=TOKENS,
                seeds=list(range(len(turns))),
            )
            for place, _, one in track(samples, f"{label}, {condition}", total=len(turns)):
                problem_id, solved, _, *parts = turns[place]
                problem = by_id[problem_id]
                assert isinstance(problem, ChainProblem)
                move = oracle.next_move(problem, solved, text_of(one.ids, tokenizer))
                lines.append((solved, condition, problem_id, len(parts[c]), move))
    table_of_all = pd.DataFrame(lines, columns=["solved", "condition", "problem_id", "tokens", "move"])
    rows = []
    for (solved, condition), part in table_of_all.groupby(["solved", "condition"], sort=True):
        moves = {move: part["move"].eq(move) for move in oracle.MOVES}
        of_problems = moves["link"].groupby(part["problem_id"]).mean().to_numpy()
        estimate = mean_estimate(of_problems[None], draws=profile.report.bootstrap, level=profile.report.confidence)
        about = {"model": label, "solved": solved, "condition": condition, "problems": len(of_problems), "n": len(part)}
        shares = {f"{move}_share": moves[move].mean() for move in oracle.MOVES[1:]}
        rows.append({**about, "tokens": part["tokens"].mean(), **estimate._asdict(), **shares})
    return pd.DataFrame(rows)


def main(name: str, *more: str) -> None:
    """Go on from the thinking of each model, write and print."""
    profile = load_profile(name)
    if profile.data != EMBEDDED or profile.study is None:
        sys.exit(f"profile {name}: the study is of the testbed, with the section `study`")
    results = checkout_root() / "results" / profile.results_name
    models: dict[str, Path | str] = {profile.report.base_label: profile.model}
    for text in more:
        label, _, folder = text.rpartition("=")
        if not label or not (Path(folder) / "config.json").is_file():
            sys.exit(f"{text}: not LABEL=FOLDER with a model in the folder")
        models[label] = Path(folder)
    table = pd.concat([reach(profile, label, folder) for label, folder in models.items()])
    atomic_write_csv(results / "reach.csv", table.round(4))
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    try:
        main(*(sys.argv[1:] or ["tiny"]))
    except AttnPOError as error:
        sys.exit(f"diagnose_reach: {error}")
