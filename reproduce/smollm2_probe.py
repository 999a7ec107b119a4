"""SmolLM2-135M-Instruct on GSM8K through the whole probe, without a hub. Called by smollm2_probe.sh.

python reproduce/smollm2_probe.py thinking MODEL FOLDER     # the model with a chat template that shows it how to think
python reproduce/smollm2_probe.py problems N FILE           # the first N problems of GSM8K
python reproduce/smollm2_probe.py table RESULTS OUT COMMAND # what each probe found, from its log and its heads.json
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from attnpo.environment import package_versions
from attnpo.files import atomic_write_jsonl, atomic_write_text
from attnpo.probing.heads import HeadRanking
from attnpo.report.formats import markdown_grid

EXAMPLES = (
    (
        "Tom has 3 bags with 4 apples each. He eats 2 apples. How many apples are left?",
        "The bags hold 3 * 4 = 12 apples.\nAfter he eats 2, there are 12 - 2 = 10.\nWait, 10 + 2 = 12, yes.",
        "10",
    ),
    (
        "A pen costs $2 and a book costs $7. What do 5 pens and one book cost together, in dollars?",
        "The pens cost 5 * 2 = 10.\nWith the book it is 10 + 7 = 17.\nLet me check: 17 - 7 = 10, and 10 / 5 = 2.",
        "17",
    ),
)
"""Problem, thinking, answer. The model does not think by itself, and two examples are what it follows."""
SOURCES = ("first_answer", "ablation", "judge")


def thinking(model: Path, folder: Path) -> None:
    """The model's files under another chat template: two examples, then the conversation, then `<think>`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    shown = ""
    for problem, thoughts, answer in EXAMPLES:
        shown += f"<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n<think>\n{thoughts}\n</think>\n"
        shown += f"\\boxed{{{answer}}}<|im_end|>\n"
    tokenizer.chat_template = (
        "{{ " + json.dumps(shown) + " }}{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    for path in model.iterdir():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def problems(count: int, path: Path) -> None:
    """Write problems and answers of GSM8K as a data file."""
    from attnpo.problems.benchmarks import load

    rows = load("gsm8k")[:count]
    atomic_write_jsonl(path, ({"id": row.id, "problem": row.text, "answer": row.answer} for row in rows))


def table(results: Path, out: Path, command: str) -> None:
    """What each source of labels gave: a row for each log that is there."""
    columns = ["labels", "correct responses", "with steps of both kinds", "best three heads (SRA, 95 % interval)", ""]
    rows: list[list[str]] = []
    for source in SOURCES:
        log = results / f"{source}.log"
        if not log.is_file():
            rows.append([f"`{source}`", "", "", "", "not run"])
            continue
        text = log.read_text(encoding="utf-8")
        found = re.search(r"(\d+ of \d+) responses are correct", text)
        end = text.strip().splitlines()
        row = [f"`{source}`", found.group(1) if found else ""]
        if end[-1].endswith("heads.json"):
            ranking = HeadRanking.load(Path(end[-1]))
            best = ", ".join(f"({h.layer}, {h.head}) {h.sra:.2f} [{h.low:.2f}, {h.high:.2f}]" for h in ranking.best(3))
            row += [str(ranking.n_responses), best, "; ".join(ranking.doubts(3)) or "named"]
        else:
            row += ["0", "", end[-1].removeprefix("attnpo: ")]
        rows.append(row)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items() if version)
    lines = ["# SmolLM2-135M-Instruct on GSM8K through the probe", "", f"Made by `{command}`.", ""]
    lines += [
        *markdown_grid(columns, rows),
        "",
        f"Two examples in the chat template show it how to think. Versions: {versions}.",
        "",
    ]
    atomic_write_text(out, "\n".join(lines))
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    words = sys.argv[2:]
    if sys.argv[1] == "thinking":
        thinking(Path(words[0]), Path(words[1]))
    elif sys.argv[1] == "problems":
        problems(int(words[0]), Path(words[1]))
    else:
        table(Path(words[0]), Path(words[1]), words[2])
