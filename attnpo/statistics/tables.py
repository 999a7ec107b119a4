"""Tables of sums from responses and training logs, as pandas frames. No files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attnpo.errors import AttnPOError
from attnpo.method.phrases import PHRASE_KINDS, phrase_counts
from attnpo.method.steps import thinking_part
from attnpo.statistics.metrics import aes
from attnpo.testbed.oracle import CAUSES, error_cause

if TYPE_CHECKING:
    import pandas as pd

WAYS = ("truncated", "unread", "different")
"""How a response can be wrong: cut off by the budget, without an answer that could be read, with another answer."""
COUNTS = [
    *("n", "correct", "parse_failed", "missing_think_end", "no_thinking", "truncated", "retokenized"),
    *(f"wrong_{way}" for way in WAYS),
    *("tokens", "thinking_tokens", "answer_tokens", "correct_tokens"),
    *(f"phrases_{kind}" for kind in PHRASE_KINDS),
]
"""Columns of the problem table that every response adds to."""


def sample_counts(record: Mapping[str, Any], budgets: Iterable[int] = (), phrases: bool = False) -> dict[str, float]:
    """What one response adds to the sums of its problem: the one place where a record becomes numbers.

    `steps_LABEL`, `links_ROUTE` and `wrong_CAUSE` are there for problems of the testbed, `valid_thinking`, `valid_of`
    where the record says where the thinking first states the answer.

    Args:
        record: of `attnpo.evaluation.responses.describe`, or a line of samples.jsonl.
        budgets: token budgets B for `correct_at_B`: the response is correct and ended within B tokens.
        phrases: count the phrases in the thinking too, `phrases_KIND`.

    Returns:
        `truncated` and the ways to be wrong are NaN where the finish reason is not known, `missing_think_end` and
        `no_thinking` for a model that does not think.
    """
    tokens, correct, finish = record["tokens"], bool(record["correct"]), record["finish"]
    thinking = tokens["thinking"]
    steps, links, chain = record.get("steps") or {}, record.get("links") or {}, record.get("meta", {}).get("chain")
    cause = error_cause(steps, links["solved"], chain) if links and chain and not correct else None
    valid = record.get("valid_share")
    unread = record["parse_failed"] or record.get("reason") in ("no_think_end", "many_think_ends")
    way = None if correct else "truncated" if finish == "length" else "unread" if unread else "different"
    unthought = record["think_tags"] > 0 and not thinking_part(record["text"]).strip(" .\t\r\n…")
    counted = phrase_counts(thinking_part(record["text"])) if phrases else {}
    return {
        "n": 1,
        "correct": int(correct),
        "parse_failed": int(record["parse_failed"]),
        "missing_think_end": int(record["think_tags"] == 0) if record.get("thinking", True) else math.nan,
        "truncated": int(finish == "length") if finish else math.nan,
        "no_thinking": int(unthought) if record.get("thinking", True) else math.nan,
        **{f"wrong_{name}": int(name == way) if finish else math.nan for name in WAYS},
        "retokenized": int(record["counted"] == "retokenized"),
        "tokens": tokens["total"],
        "thinking_tokens": tokens["thinking"],
        "answer_tokens": tokens["answer"],
        "correct_tokens": tokens["total"] if correct else 0,
        **{f"phrases_{kind}": count for kind, count in counted.items()},
        **{f"correct_at_{b}": int(correct and finish != "length" and tokens["total"] <= b) for b in budgets},
        **{f"steps_{label}": count for label, count in steps.items()},
        **{f"links_{route}": count for route, count in links.items()},
        **(
            {"valid_thinking": (valid or 0) * thinking, "valid_of": thinking if valid else 0}
            if "valid_share" in record
            else {}
        ),
        **{f"wrong_{name}": int(name == cause) for name in CAUSES if links and chain},
    }


def problem_table(
    samples: Iterable[tuple[str, int, Iterable[Mapping[str, Any]]]], budgets: Iterable[int] = ()
) -> pd.DataFrame:
    """A row per (method, seed, task, problem): the sums over its responses of what `sample_counts` gives.

    Args:
        samples: (method, seed, lines of a samples.jsonl) each.
        budgets: token budgets, as in `sample_counts`.
    """
    import pandas as pd

    budgets = list(budgets)
    keys = ["method", "seed", "task", "problem_id", "chain"]
    sums: dict[tuple[Any, ...], dict[str, float]] = {}
    for method, seed, lines in samples:
        for sample in lines:
            chain = sample.get("meta", {}).get("chain")
            key = (method, seed, sample["task"], str(sample["problem_id"]), chain)
            row = sums.setdefault(key, {})
            for name, count in sample_counts(sample, budgets, phrases=True).items():
                row[name] = row.get(name, 0) + count
    if not sums:
        return pd.DataFrame(columns=[*keys, *COUNTS])
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | row for key, row in sums.items()])


def trial_table(problems: pd.DataFrame, overlays: Mapping[str, str], base: str) -> pd.DataFrame:
    """A row per trial of `attnpo run tune`: method, trial, its settings, seeds, accuracy, tokens, AES, chosen.

    Accuracy and tokens are means over seeds and tasks; `chosen` is 1 for the trial of each method with the highest
    Accuracy-Efficiency Score against the untrained model on the same problems, the first of equals.

    Args:
        problems: see `problem_table`; trials that are not in it are left out.
        overlays: trial, such as `kimi@2`, to its entry under `tune`, as text.
        base: name of the untrained model in `problems`.

    Raises:
        AttnPOError: the untrained model has not been evaluated.
    """
    import pandas as pd

    sums = problems.groupby(["method", "seed", "task"], sort=False)[["n", "correct", "tokens"]].sum()
    table = sums[["correct", "tokens"]].div(sums["n"], axis=0).rename(columns={"correct": "accuracy"}).reset_index()
    means = table.groupby("method", sort=False)[["accuracy", "tokens"]].mean()
    if base not in means.index:
        raise AttnPOError("the untrained model is not evaluated on the validation problems; run the plan to its end")
    before = means.loc[base]
    rows = []
    for name, overlay in overlays.items():
        if name in means.index:
            stem, _, trial = name.partition("@")
            accuracy, tokens = means.loc[name]
            score = aes(accuracy, tokens, before["accuracy"], before["tokens"])
            seeds = table.loc[table["method"].eq(name), "seed"].nunique()
            rows.append([stem, int(trial), overlay, seeds, accuracy, tokens, score])
    columns = ["method", "trial", "settings", "seeds", "accuracy", "tokens", "aes"]
    found = pd.DataFrame(rows, columns=columns)
    best = found.groupby("method", sort=False)["aes"].idxmax()
    return found.assign(chosen=found.index.isin(best).astype(int))


def curve_table(method: str, seed: int, log: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per (method, seed, step) with every number that a training logged, without its closing summary."""
    import pandas as pd

    rows = []
    for line in log:
        if "train_runtime" in line:
            continue
        numbers = {k: v for k, v in line.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        rows.append({"method": method, "seed": seed, **numbers})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["method", "seed", "step"])
