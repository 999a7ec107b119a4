"""Measure a testbed's model and write its card, `README.md` beside its weights. Called by testbed.sh and small.sh.

python reproduce/testbed_card.py [MODEL_FOLDER] [--profile NAME|FILE.yaml]

The profile says which problems are asked, how, and of which model if no folder is given. What the base must be was
declared before it was made (`WANTED`); the card says what it is, met or missed.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import tyro

from attnpo.evaluation.evaluate import run_eval
from attnpo.files import read_jsonl
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import run_probe
from attnpo.runs.profile import Profile, load_profile
from attnpo.sampling.models import load_model
from attnpo.statistics.estimates import Wanted, estimate_table
from attnpo.statistics.measures import MEASURES
from attnpo.statistics.tables import problem_table
from attnpo.testbed import MODELS, model_path
from attnpo.testbed.problems import SCALES, Scale

SPLITS = ("validation", "test", "shifted")
SHOWN = (
    *("accuracy", "tokens", "essential_steps", "redundant_steps"),
    *("worked_links", "direct_right", "worked_right", "repairs", "valid_thinking_rate"),
)


class Wish(NamedTuple):
    """A property of the base and the range that it must lie in, in per cent or tokens."""

    name: str
    low: float
    high: float


WANTED = {
    "testbed": (
        Wish("recalled right %", 70, 80),
        Wish("worked out right %", 98, 100),
        Wish("easy links right %", 99, 100),
        Wish("responses with a miscopied operand %", 0, 3),
        Wish("hard links worked out %", 40, 55),
        Wish("accuracy %", 60, 80),
        Wish("tokens", 100, 140),
    ),
    "testbed-large": (
        Wish("recalled right %", 70, 85),
        Wish("worked out right %", 98, 100),
        Wish("easy links right %", 99, 100),
        Wish("responses with a miscopied operand %", 0, 3),
        Wish("hard links worked out %", 40, 55),
        Wish("accuracy %", 50, 80),
        Wish("tokens", 250, 350),
    ),
}
"""By the problems' name, on the validation problems."""


def main(folder: Annotated[Path | None, tyro.conf.Positional] = None, profile: str = "tiny") -> None:
    """Evaluate on validation, test and shifted test, probe the heads, write the card.

    Args:
        folder: of the model; the profile's if not given.
        profile: a name in reproduce/profiles, or a YAML file.
    """
    loaded = load_profile(profile)
    measure(loaded, folder or Path(model_path(loaded.model)))


def measure(profile: Profile, folder: Path) -> None:
    """Measure the model in a folder as the profile says, write its card there and print it."""
    scale, section = SCALES[profile.data], profile.evaluate
    assert profile.probe is not None and section is not None and section.samples is not None
    with tempfile.TemporaryDirectory() as scratch:
        path = run_eval(
            str(folder),
            [f"{scale.group}_{split}" for split in SPLITS],
            Path(scratch) / "eval",
            samples=section.samples,
            temperature=section.temperature,
            top_p=section.top_p,
            max_tokens=section.max_completion_tokens,
            batch_size=section.batch_size,
            limit=section.limit,
        )
        lines = list(read_jsonl(path))
        source = replace(profile.source, model=str(folder))
        ranking = HeadRanking.load(run_probe(source, profile.steps, profile.probe, Path(scratch) / "probe"))
    size = sum(p.numel() for p in load_model(str(folder))[0].parameters())
    text = card(scale, lines, ranking, size, section.samples, section.max_completion_tokens)
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


def properties(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The value of each of `WANTED`, from the samples of a split."""
    links: pd.DataFrame = pd.DataFrame([line["links"] for line in lines])
    total = links.sum()
    return {
        "recalled right %": 100 * total["direct_right"] / total["direct"],
        "worked out right %": 100 * total["worked_right"] / total["worked"],
        "easy links right %": 100 * total["easy_right"] / total["easy"],
        "responses with a miscopied operand %": 100 * float(links["strays"].gt(0).mean()),
        "hard links worked out %": 100 * total["worked"] / total["hard"],
        "accuracy %": 100 * sum(line["correct"] for line in lines) / len(lines),
        "tokens": sum(line["tokens"]["total"] for line in lines) / len(lines),
    }


def card(scale: Scale, lines: list[dict[str, Any]], ranking: HeadRanking, size: int, samples: int, budget: int) -> str:
    """The card's Markdown."""
    text = [
        "# The testbed model",
        "",
        f"A Qwen3 model of {size:,} parameters, trained on R1-like traces of chained arithmetic modulo {scale.modulus}",
        "(`attnpo/testbed/traces.py`). A hard link is recalled in one line or worked out in three; between them stand",
        "re-checks, detours, recaps, and doubts that work out what was recalled. Made and measured by",
        "",
        f"    {MODELS[scale.data].script}",
        "",
        f"At T = 1, top_p = 1, at most {budget} tokens, {samples} samples a problem, seed 0.",
        "",
        "What it was to be, declared before it was made, and what it is on the validation problems:",
        "",
        "| | wanted | is | |",
        "|---|---|---|---|",
    ]
    found = properties([line for line in lines if line["task"] == f"{scale.group}_validation"])
    for wish in WANTED[scale.data]:
        value = found[wish.name]
        met = "met" if wish.low <= value <= wish.high else "missed"
        text.append(f"| {wish.name} | {wish.low:g} to {wish.high:g} | {value:.1f} | {met} |")
    text += ["", "By split and number of links, with 95 % bootstrap intervals over problems:", ""]
    headings = [MEASURES[name].heading for name in SHOWN]
    text += [f"| split | links | problems | {' | '.join(headings)} |", "|---" * (3 + len(SHOWN)) + "|"]
    problems = problem_table([("base", 0, lines)])
    for split in SPLITS:
        of_split = problems[problems["task"].eq(f"{scale.group}_{split}")]
        for chain in ["all", *sorted(of_split["chain"].unique())]:
            part = of_split if chain == "all" else of_split[of_split["chain"].eq(chain)]
            estimates = estimate_table(part, [Wanted()]).set_index("measure")
            cells = [_cell(name, estimates) for name in SHOWN]
            text.append(f"| {split} | {chain} | {part['problem_id'].nunique()} | {' | '.join(cells)} |")
    text += [
        "",
        f"Step Ranking Accuracy from {ranking.n_responses} correct responses to training problems,",
        f"{ranking.n_pairs:,} pairs:",
        "",
        "| rank | (layer, head) | SRA |",
        "|---|---|---|",
    ]
    for rank, head in enumerate(ranking.best(5), start=1):
        text.append(f"| {rank} | ({head.layer}, {head.head}) | {head.sra:.3f} [{head.low:.3f}, {head.high:.3f}] |")
    middle = sorted(head.sra for head in ranking.heads)[len(ranking.heads) // 2]
    text += ["", f"The median of its {len(ranking.heads)} heads is {middle:.3f}.", ""]
    return "\n".join(text)


def _cell(name: str, estimates: pd.DataFrame) -> str:
    if name not in estimates.index:
        return ""
    measure = MEASURES[name]
    value, low, high = (
        f"{measure.scale * float(estimates.loc[name, column]):.{measure.digits}f}"  # type: ignore[arg-type]
        for column in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
