"""Measure the embedded model and write its card, `attnpo/testbed/model/README.md`. Called by testbed.sh."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

from attnpo.grading.math import Grader
from attnpo.method.steps import split_steps, step_texts, thinking_part
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import run_probe
from attnpo.runs.profile import load_profile
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.models import load_model, load_tokenizer
from attnpo.sampling.sampler import prompt_ids, text_of
from attnpo.statistics.bootstrap import mean_estimate
from attnpo.testbed import EMBEDDED, MODEL_DIR, oracle, problems

SAMPLES = 4
SEED = 0
BATCH = 200


def main() -> None:
    """Sample validation, test and shifted test at T = 1, probe the heads, write the card."""
    tokenizer = load_tokenizer(EMBEDDED)
    rows = []
    with Grader() as grader, make_sampler("hf", EMBEDDED, batch_size=BATCH) as sampler:
        for split in ("validation", "test", "shifted"):
            asked = problems.load(split)
            prompts = prompt_ids(tokenizer, [p.text for p in asked])
            seeds = [SEED * 1_000_003 + turn for turn in range(len(asked) * SAMPLES)]
            found = list(sampler.sample(prompts, k=SAMPLES, temperature=1.0, max_new_tokens=256, seeds=seeds))
            texts = [text_of(response.ids, tokenizer) for *_, response in found]
            grades = grader.grade(texts, [asked[place].answer for place, *_ in found])
            for (place, _, response), text, grade in zip(found, texts, grades, strict=True):
                thinking = thinking_part(text)
                steps = step_texts(thinking, split_steps(thinking, "corrected", 1, 1))
                counts = oracle.count_steps(asked[place], steps)
                row = (split, asked[place], grade.correct, len(response.ids), counts["essential"], counts["redundant"])
                rows.append(row)
    model, _ = load_model(EMBEDDED)
    profile = load_profile("tiny")
    with tempfile.TemporaryDirectory() as folder:
        ranking = HeadRanking.load(run_probe(profile.source, profile.steps, profile.probe, Path(folder)))
    (MODEL_DIR / "README.md").write_text(card(rows, ranking, sum(p.numel() for p in model.parameters())))
    print((MODEL_DIR / "README.md").read_text())


def card(rows: list[tuple[str, problems.ChainProblem, bool, int, int, int]], ranking: HeadRanking, size: int) -> str:
    """The card's Markdown."""
    lines = [
        "# The testbed model",
        "",
        f"A Qwen2 model of {size:,} parameters, fine-tuned on R1-like traces of chained arithmetic modulo 100",
        "(`attnpo/testbed/traces.py`): essential steps among idle re-checks, detours, recaps and slips, of which a",
        "re-check repairs some. Made and measured by",
        "",
        "    bash reproduce/testbed.sh",
        "",
        f"At T = 1, top_p = 1, at most 256 tokens, {SAMPLES} samples a problem, seed {SEED};",
        "95 % bootstrap intervals over problems.",
        "",
        "| split | chain length | problems | accuracy | tokens | essential steps | redundant steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for split in ("validation", "test", "shifted"):
        chosen = [row for row in rows if row[0] == split]
        for chain in ["all", *sorted({row[1].chain for row in chosen})]:
            part = [row for row in chosen if chain in ("all", row[1].chain)]
            cells = [_cell(part, column, digits) for column, digits in ((2, 3), (3, 1), (4, 2), (5, 2))]
            count = len({row[1].id for row in part})
            lines.append(f"| {split} | {chain} | {count} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Step Ranking Accuracy from {ranking.n_responses} correct responses to training problems,",
        f"{ranking.n_pairs:,} pairs:",
        "",
        "| rank | (layer, head) | SRA |",
        "|---|---|---|",
    ]
    for rank, head in enumerate(ranking.best(5), start=1):
        lines.append(f"| {rank} | ({head.layer}, {head.head}) | {head.sra:.3f} [{head.low:.3f}, {head.high:.3f}] |")
    middle = sorted(head.sra for head in ranking.heads)[len(ranking.heads) // 2]
    lines += ["", f"The median of its {len(ranking.heads)} heads is {middle:.3f}.", ""]
    return "\n".join(lines)


def _cell(rows: list[tuple[str, problems.ChainProblem, bool, int, int, int]], column: int, digits: int) -> str:
    values: dict[str, list[float]] = collections.defaultdict(list)
    for row in rows:
        values[row[1].id].append(float(row[column]))  # type: ignore[arg-type]
    found = mean_estimate([sum(v) / len(v) for v in values.values()])
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


if __name__ == "__main__":
    main()
