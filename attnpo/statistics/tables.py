"""Tables of sums and means from samples and logs, as pandas frames; no files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from attnpo.errors import AttnPOError
from attnpo.method.phrases import PHRASE_KINDS, phrase_counts
from attnpo.method.steps import thinking_part
from attnpo.statistics.metrics import pass_at_k_each
from attnpo.testbed.oracle import CAUSES, error_cause

if TYPE_CHECKING:
    import pandas as pd

# raw -> records -> derived

COUNTS = [
    *("n", "correct", "parse_failed", "missing_think_end", "truncated", "retokenized"),
    *("tokens", "thinking_tokens", "answer_tokens", "correct_tokens"),
    *(f"phrases_{kind}" for kind in PHRASE_KINDS),
]
"""Columns of problems.csv that every sample has: sums over the samples of a problem."""


def problem_table(
    samples: Iterable[tuple[str, int, Iterable[Mapping[str, Any]]]], budgets: Iterable[int] = ()
) -> pd.DataFrame:
    """A row per (method, seed, task, problem): sums over its samples, that is `COUNTS`, one column a step label,
    `wrong_CAUSE` where steps are labelled, and `correct_at_B`, the samples that are correct and ended within B tokens.

    `truncated` is NaN where a sample's finish reason is not known.

    Args:
        samples: (method, seed, lines of a samples.jsonl) each.
        budgets: the Bs.
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
            for name, count in _counts(sample, budgets).items():
                row[name] = row.get(name, 0) + count
    if not sums:
        return pd.DataFrame(columns=[*keys, *COUNTS])
    return pd.DataFrame([dict(zip(keys, key, strict=True)) | row for key, row in sums.items()])


def _counts(sample: Mapping[str, Any], budgets: Iterable[int]) -> dict[str, float]:
    """What one sample adds to its problem's row."""
    tokens, correct, finish = sample["tokens"], bool(sample["correct"]), sample["finish"]
    steps, chain = sample.get("steps") or {}, sample.get("meta", {}).get("chain")
    cause = error_cause(steps, chain) if steps and chain and not correct else None
    phrases = phrase_counts(thinking_part(sample["text"]))
    return {
        "n": 1,
        "correct": int(correct),
        "parse_failed": int(sample["parse_failed"]),
        "missing_think_end": int(sample["think_tags"] == 0),
        "truncated": int(finish == "length") if finish else math.nan,
        "retokenized": int(sample["counted"] == "retokenized"),
        "tokens": tokens["total"],
        "thinking_tokens": tokens["thinking"],
        "answer_tokens": tokens["answer"],
        "correct_tokens": tokens["total"] if correct else 0,
        **{f"phrases_{kind}": count for kind, count in phrases.items()},
        **{f"correct_at_{b}": int(correct and finish != "length" and tokens["total"] <= b) for b in budgets},
        **{f"steps_{label}": count for label, count in steps.items()},
        **{f"wrong_{name}": int(name == cause) for name in CAUSES if steps and chain},
    }


def metric_table(problems: pd.DataFrame) -> pd.DataFrame:
    """A row per (method, seed, task, chain), chain "all" included: shares and means over the responses, and pass@k
    for each k that all its problems have responses for."""
    import pandas as pd

    keys = ["method", "seed", "task", "chain"]
    if problems.empty:
        return pd.DataFrame(columns=[*keys, "problems", "n", "accuracy"])
    both = pd.concat([problems.assign(chain="all"), problems[problems["chain"].notna()]], ignore_index=True)
    numbers = [c for c in problems.columns if c not in (*keys, "problem_id")]
    most = both.groupby("task")["n"].min()  # responses that every problem of the task has
    reach = both["task"].map(most)
    passes = {}
    for k in range(1, int(most.max()) + 1):
        enough = both[reach >= k]
        each = pd.Series(pass_at_k_each(enough["correct"], enough["n"], k), index=enough.index)
        passes[f"pass@{k}"] = each.groupby([enough[key] for key in keys], sort=False).mean()
    groups = both.groupby(keys, sort=False)
    sums = groups[numbers].sum()
    sums = sums.where(groups[numbers].count().eq(groups.size(), axis=0))  # unknown for one problem: unknown
    table = pd.DataFrame({"problems": groups.size(), "n": sums["n"], "accuracy": sums["correct"] / sums["n"]})
    wrong = sums["n"] - sums["correct"]
    table["tokens_of_correct"] = sums["correct_tokens"] / sums["correct"].where(sums["correct"] > 0)
    table["tokens_of_wrong"] = (sums["tokens"] - sums["correct_tokens"]) / wrong.where(wrong > 0)
    table["tokens_per_correct"] = sums["tokens"] / sums["correct"].where(sums["correct"] > 0)
    shares = sums.drop(columns=["n", "correct", "correct_tokens"]).div(sums["n"], axis=0)
    return pd.concat([table, shares, pd.DataFrame(passes).reindex(table.index)], axis=1).reset_index()


def trial_table(problems: pd.DataFrame, overlays: Mapping[str, str]) -> pd.DataFrame:
    """A row per trial of `attnpo run tune`: method, trial, its settings, seeds, accuracy, tokens, AES, chosen.

    Accuracy and tokens are means over seeds and tasks; `chosen` is 1 for the trial of each method with the highest
    Accuracy-Efficiency Score against the untrained model on the same problems, the first of equals.

    Args:
        problems: see `problem_table`; trials that are not in it are left out.
        overlays: trial, such as `kimi@2`, to its entry under `tune`, as text.

    Raises:
        AttnPOError: the untrained model has not been evaluated.
    """
    import pandas as pd

    from attnpo.statistics.metrics import aes

    table = metric_table(problems)
    table = table[table["chain"].eq("all")]
    means = table.groupby("method", sort=False)[["accuracy", "tokens"]].mean()
    if "base@" not in means.index:
        raise AttnPOError("the untrained model is not evaluated on the validation problems; run the plan to its end")
    base = means.loc["base@"]
    rows = []
    for name, overlay in overlays.items():
        if name in means.index:
            stem, _, trial = name.partition("@")
            accuracy, tokens = means.loc[name]
            score = aes(accuracy, tokens, base["accuracy"], base["tokens"])
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
