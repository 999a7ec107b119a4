from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from attnpo.evaluation import lm_eval_hook
from attnpo.evaluation.evaluate import run_eval
from attnpo.problems.benchmarks import BENCHMARKS
from attnpo.problems.choice import LETTERS, prompt
from attnpo.testbed import MODEL_DIR

TASKS = ROOT / "tasks"
NAMES = ["gpqa_diamond", "mmlu"]
OPTIONS = ["{{red}}", " green ", "blue", "[1, 2]"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up sets, MMLU's cut to 300 problems; `ATTNPO_DATA` names it."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setitem(BENCHMARKS, "mmlu", BENCHMARKS["mmlu"]._replace(problems=300))
    for name in NAMES:
        lines = [
            {
                "id": f"{name}/{i}",
                "problem": f" Which one, {i}?\n",
                "choices": OPTIONS,
                "answer": "ABCD"[i % 4],
                "subject": f"subject_{i % 57}",
            }
            for i in range(BENCHMARKS[name].problems)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.setenv("ATTNPO_DATA", str(folder))
    return folder


def manager(*folders: Path, **metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders) or [TASKS], include_defaults=False, metadata=metadata)


def load(*names: str, **metadata: Any) -> dict[str, Any]:
    return manager(**metadata).load(list(names))["tasks"]


@pytest.mark.parametrize(("name", "samples"), [("gpqa_diamond", 4), ("mmlu", 1)])
def test_documents_and_settings(name: str, samples: int, data: Path) -> None:
    (task,) = load(f"attnpo_{name}").values()
    hub = BENCHMARKS[name].hub
    assert hub is not None
    assert task.config.metadata["hub"] == f"{hub.repository}, revision {hub.revision}, {hub.file}"
    assert task.config.metadata["license"]
    assert task.config.repeats == samples
    documents = list(task.test_docs())
    assert len(documents) == BENCHMARKS[name].problems
    for document in documents:
        i = int(document["id"].split("/")[1])
        assert document["choices"][LETTERS.index(document["answer"])] == OPTIONS[i % 4]
        assert sorted(document["choices"]) == sorted(OPTIONS)
        assert task.doc_to_text(document) == prompt(f" Which one, {i}?\n", document["choices"])
        assert task.doc_to_target(document) == document["answer"]
        assert (document["subject"], document["thinking"]) == (f"subject_{i % 57}", True)
    assert len(Counter(document["answer"] for document in documents)) == 4


def test_settings_and_metrics_are_those_of_the_math_tasks(data: Path) -> None:
    for name in BENCHMARKS:
        lines = [json.dumps({"id": str(i), "problem": "x", "answer": "1"}) for i in range(BENCHMARKS[name].problems)]
        if name not in NAMES:
            (data / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    math, *choices = (t.dump_config() for t in load("attnpo_math500", "attnpo_gpqa_diamond", "attnpo_mmlu").values())
    for ours in choices:
        assert {key for key in ours if ours[key] != math[key]} <= {
            "task",
            "custom_dataset",
            "process_results",
            "repeats",
            "metadata",
        }


def scripted(answers: dict[str, list[str]]) -> Any:
    """A model of lm-eval's that gives the answers written down for a problem, one after another."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        def __init__(self) -> None:
            super().__init__()
            self.left = {text: list(given) for text, given in answers.items()}
            self.options: list[dict[str, Any]] = []

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            self.options += [request.args[1] for request in requests]
            return [self.left[request.args[0]].pop(0) for request in requests]

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    return Scripted()


def evaluate(tasks: Any, model: Any, **options: Any) -> Any:
    import lm_eval

    return lm_eval.simple_evaluate(model=model, tasks=tasks, bootstrap_iters=0, **options)


def right(document: dict[str, Any]) -> str:
    return document["answer"]


def wrong(document: dict[str, Any]) -> str:
    return next(letter for letter in "ABCD" if letter != document["answer"])


def test_gpqa_through_lm_eval_itself(data: Path) -> None:
    """As `lm_eval --tasks attnpo_gpqa_diamond --limit 2`, the model a script."""
    task_manager = manager(tokenizer=str(MODEL_DIR))
    (task,) = task_manager.load(["attnpo_gpqa_diamond"])["tasks"].values()
    first, second = list(task.test_docs())[:2]
    model = scripted(
        {
            first["text"]: [
                f"x</think>Answer: {right(first)}",
                f"x</think>\\boxed{{\\text{{{right(first)}}}}}",
                f"x</think>The answer is ({wrong(first)}).",
                f"x</think>Answer: {wrong(first)}\n\\boxed{{{right(first)}}}",
            ],
            second["text"]: [
                f"Answer: {right(second)}",
                f"x</think>Answer: {right(second)} or {wrong(second)}",
                f"x</think>Answer: {second['choices'][LETTERS.index(right(second))]}",
                "x</think>I cannot tell.",
            ],
        }
    )
    results = evaluate(["attnpo_gpqa_diamond"], model, task_manager=task_manager, limit=2)
    table = results["results"]["attnpo_gpqa_diamond"]
    assert table["responses,none"] == 8
    assert table["avg@k,none"] == (3 / 4 + 1 / 4) / 2
    assert table["pass@k,none"] == 1
    assert table["parse_failed,none"] == 2 / 8
    assert table["missing_think_end,none"] == 1 / 8
    assert all(options["until"] == [] and options["max_gen_toks"] == 16384 for options in model.options)
    samples = json.loads(json.dumps(results["samples"]["attnpo_gpqa_diamond"]))
    assert [r["reason"] for r in samples[0]["responses"]] == ["equal", "equal", "different", "equal"]
    assert [r["reason"] for r in samples[1]["responses"]] == ["no_think_end", "ambiguous", "equal", "no_answer"]
    assert samples[0]["doc"]["subject"] == first["subject"]


def test_samples_and_a_model_that_does_not_think(data: Path) -> None:
    task_manager = manager(tokenizer=str(MODEL_DIR), samples=2, thinking=False)
    (task,) = task_manager.load(["attnpo_mmlu"])["tasks"].values()
    document = task.test_docs()[0]
    model = scripted({document["text"]: [f"Answer: {right(document)}", f"x</think>Answer: {right(document)}"]})
    results = evaluate(["attnpo_mmlu"], model, task_manager=task_manager, limit=1)
    table = results["results"]["attnpo_mmlu"]
    assert (table["avg@k,none"], table["responses,none"]) == (1.0, 2)
    (sample,) = results["samples"]["attnpo_mmlu"]
    thought = [r["tokens"]["thinking"] for r in sample["responses"]]
    assert thought[0] == 0 < thought[1]
    # The report says so: the configuration, and no rate of a tag that is not expected.
    assert results["configs"]["attnpo_mmlu"]["metadata"]["thinking"] is False
    assert table["missing_think_end,none"] != table["missing_think_end,none"]


def test_a_sample_s_line_has_its_subject(data: Path, tmp_path: Path) -> None:
    path = run_eval(
        str(MODEL_DIR),
        ["attnpo_gpqa_diamond"],
        tmp_path / "out",
        samples=1,
        temperature=0.6,
        top_p=0.95,
        max_tokens=8,
        batch_size=2,
        seed=0,
        limit=2,
    )
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["meta"] for line in lines] == [
        {"subject": f"subject_{int(line['problem_id'].split('/')[1]) % 57}"} for line in lines
    ]


# --- the groups

LIVECODEBENCH = """
include: ../attnpo_math/_common_yaml
task: attnpo_livecodebench
metadata: {version: 1.0, benchmark: aime2024}
"""


def with_livecodebench(tmp_path: Path) -> Path:
    """Our folder, and a stand-in for attnpo_livecodebench if it is not there."""
    folder = tmp_path / "tasks"
    shutil.copytree(TASKS, folder)
    stand_in = folder / "attnpo_livecodebench"
    if not stand_in.is_dir():
        stand_in.mkdir()
        (stand_in / "attnpo_livecodebench.yaml").write_text(LIVECODEBENCH)
        shutil.copy(folder / "attnpo_math" / "hooks.py", stand_in)
    return folder


def test_the_groups_hold_all_nine_each_once(tmp_path: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    found = {}
    for path in TASKS.rglob("*.yaml"):
        config = load_yaml(path, resolve_func=False)
        found[config.get("group") or config["task"]] = config
    assert found["attnpo"]["task"] == ["attnpo_math", "attnpo_ood"]
    nine = [task for group in found["attnpo"]["task"] for task in found[group]["task"]]
    assert nine == [f"attnpo_{name}" for name in BENCHMARKS if name not in NAMES] + [
        "attnpo_livecodebench",
        "attnpo_gpqa_diamond",
        "attnpo_mmlu",
    ]
    for group in ("attnpo", "attnpo_ood", "attnpo_math_boxed"):
        assert found[group]["aggregate_metric_list"] == found["attnpo_math"]["aggregate_metric_list"]


@pytest.mark.skipif((TASKS / "attnpo_livecodebench").is_dir(), reason="its data would be needed")
def test_the_macro_mean_is_over_the_nine(data: Path, tmp_path: Path) -> None:
    for name, benchmark in BENCHMARKS.items():
        if name not in NAMES:
            lines = [json.dumps({"id": str(i), "problem": "x", "answer": "1"}) for i in range(benchmark.problems)]
            (data / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task_manager = manager(with_livecodebench(tmp_path), tokenizer=str(MODEL_DIR), samples=1)
    tasks = task_manager.load(["attnpo"])["tasks"]
    texts = {task.test_docs()[0]["text"] for task in tasks.values()}
    # The math problems, all "x", are right; of the others none.
    answers = {text: ["</think>\\boxed{1}" if text == "x" else "</think>"] * 9 for text in texts}
    results = evaluate(["attnpo"], scripted(answers), task_manager=task_manager, limit=1)
    means = {name: results["groups"][name]["avg@k,none"] for name in ("attnpo", "attnpo_math", "attnpo_ood")}
    assert means == pytest.approx({"attnpo": 7 / 9, "attnpo_math": 1, "attnpo_ood": 1 / 3})


# --- what is broken here stays here

BROKEN = {
    "syntax.yaml": "task: [",
    "list.yaml": "- task: attnpo_list",
    "shapeless.yaml": "metadata: {version: 1}",
    "include.yaml": "include: nowhere.yaml\ntask: attnpo_include",
    "number.yaml": "task: [attnpo, number]\noutput_type: generate_until",
    "binary.yaml": "task: \x00",
    "hook.yaml": "task: attnpo_hook\noutput_type: generate_until\ncustom_dataset: !function broken.load",
    "class.yaml": "task: attnpo_class\nclass: !function attnpo.nothing.Task",
    "member.yaml": "group: attnpo_member\ntask: [attnpo_nowhere]",
    "broken.py": "raise RuntimeError('imported')",
}
THEIRS = """
task: theirs
custom_dataset: !function theirs.load
output_type: generate_until
test_split: test
doc_to_text: text
doc_to_target: text
metric_list: [{metric: exact_match}]
metadata: {version: 1}
"""


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Code that puts a broken folder of ours in place, reads the hook, and keeps lm-eval's own files out of sight."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shutil.copytree(TASKS, ours)
    for file, text in BROKEN.items():
        (ours / "attnpo_testbed" / file).write_text(text)
    theirs.mkdir()
    (theirs / "theirs.yaml").write_text(THEIRS)
    (theirs / "theirs.py").write_text(
        "import datasets\ndef load(**_):\n    return {'test': datasets.Dataset.from_list([{'text': 'x'}])}"
    )
    return f"""
import runpy, sys
from attnpo.evaluation import lm_eval_hook
lm_eval_hook.tasks_folder = lambda: {str(ours)!r}
lm_eval_hook.install()
import lm_eval.tasks.manager as manager
manager.__file__ = {str(tmp_path / "none" / "manager.py")!r}
def lm_eval(*arguments):
    sys.argv[1:] = list(arguments)
    runpy.run_module("lm_eval", run_name="__main__")
"""


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ATTNPO_NO_LM_EVAL_HOOK": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_what_is_broken_of_ours_does_not_break_theirs(broken: str, tmp_path: Path) -> None:
    """Their task is run, then everything listed, then a broken task of ours asked for: that alone fails."""
    theirs = ("--include_path", str(tmp_path / "theirs"))
    done = run(
        f"""{broken}
lm_eval("run", "--model", "dummy", "--tasks", "theirs", *{theirs!r})
lm_eval("ls", "tasks", *{theirs!r})
try:
    lm_eval("run", "--model", "dummy", "--tasks", "attnpo_hook")
except RuntimeError as error:
    print("failed:", error)
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    table, listing = done.stdout.split("Config Location", 1)
    assert "|theirs|" in table.replace(" ", "")
    for name in ("theirs", "attnpo_math500", "attnpo_gpqa_diamond", "attnpo_hook"):
        assert name in listing
    assert "failed: imported" in listing


def test_our_names_cannot_be_taken_for_theirs() -> None:
    """lm-eval sorts the names, so one that is no string would break every listing."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in TASKS.rglob("*.yaml"):
        config = load_yaml(path, resolve_func=False)
        name = config.get("group") or config["task"]
        assert name == path.stem and (name == "attnpo" or name.startswith("attnpo_"))
        assert "tag" not in config


def test_tasks_folder_is_ours() -> None:
    assert lm_eval_hook.tasks_folder() == str(TASKS)
