from __future__ import annotations

import importlib.util
import json
import random
from types import ModuleType
from typing import Any

import pytest
import yaml
from places import ROOT

from attnpo.evaluation.lengths import Generation, TokenCounts
from attnpo.testbed import problems, traces

FOLDER = ROOT / "tasks" / "attnpo_testbed"
QUIET = traces.Habits(work=1.0, slip=0.0, recheck=0.0, detour=0.0, recap=0.0)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attnpo_testbed_hooks", FOLDER / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def response(text: str) -> Generation:
    return Generation.make(text, [1] * len(text), "stop", TokenCounts(len(text), len(text) - 9, 8))


def no_tokenizer() -> Any:
    raise AssertionError("exact counts need no tokenizer")


def document(hooks: ModuleType, split: str, index: int) -> dict[str, Any]:
    load = hooks.load_test if split == "test" else hooks.load_shifted
    return load(version=1.0, pretrained="x")["test"][index]


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_documents_are_the_problems_of_the_split(hooks: ModuleType, split: str) -> None:
    load = hooks.load_test if split == "test" else hooks.load_shifted
    documents, expected = load()["test"], problems.load(split)
    assert [d["id"] for d in documents] == [p.id for p in expected]
    assert documents[7] == {
        "id": expected[7].id,
        "text": expected[7].text,
        "answer": expected[7].answer,
        "chain": expected[7].chain,
        "split": split,
    }


@pytest.mark.parametrize("split", ["test", "shifted"])
def test_a_clean_trace_is_right_and_all_essential(hooks: ModuleType, split: str) -> None:
    problem = problems.load(split)[5]
    text = traces.write_trace(problem, random.Random(0), QUIET).text
    figures = hooks.process_results(document(hooks, split, 5), [[response(text)] * 3], no_tokenizer)
    assert figures["avg@k"] == figures["pass@k"] == 1.0
    hard = sum(problems.is_hard(*link) for link in problem.ops)
    assert figures["essential_steps"] == problem.chain + 2 * hard
    assert figures["redundant_steps"] == 0
    assert figures["correct_tokens"] == [3 * len(text), 3]
    assert len(figures["responses"]) == 3
    first = figures["responses"][0]
    assert (first["steps"]["solve"], first["steps"]["work"]) == (problem.chain - hard, 3 * hard)
    assert (first["links"]["hard"], first["links"]["worked_right"]) == (hard, hard)
    assert first["valid_share"] == 1  # nothing follows the last link


def test_what_a_trace_adds_is_redundant(hooks: ModuleType) -> None:
    problem = problems.load("test")[5]
    habits = traces.Habits(work=0.0, slip=0.0, doubt=0.0, recheck=1.0, detour=1.0, recap=1.0)
    texts = [traces.write_trace(problem, random.Random(seed), habits).text for seed in range(4)]
    figures = hooks.process_results(document(hooks, "test", 5), [[response(text) for text in texts]], no_tokenizer)
    assert figures["avg@k"] == 1.0
    assert figures["essential_steps"] == problem.chain
    assert figures["redundant_steps"] >= 2 * problem.chain


def test_wrong_truncated_and_unreadable_responses_are_told_apart(hooks: ModuleType) -> None:
    doc = document(hooks, "test", 0)
    wrong = str((int(doc["answer"]) + 1) % 100)
    texts = [
        "x</think>\\boxed{" + doc["answer"] + "}",
        "x</think>\\boxed{" + wrong + "}",
        "x \\boxed{" + doc["answer"] + "}",
        "x</think>" + doc["answer"],
    ]
    figures = hooks.process_results(doc, [[response(text) for text in texts]], no_tokenizer)
    assert (figures["avg@k"], figures["pass@k"]) == (0.25, 1.0)
    assert figures["missing_think_end"] == 0.25
    assert figures["parse_failed"] == 0.25
    assert figures["correct_tokens"] == [len(texts[0]), 1]
    assert figures["wrong_tokens"] == [sum(map(len, texts[1:])), 3]
    json.dumps(figures, allow_nan=False)


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_every_figure_has_an_aggregation_and_the_group_averages_them(hooks: ModuleType) -> None:
    common = yaml.load((FOLDER / "_common_yaml").read_text(), _Loader)
    group = yaml.load((FOLDER / "attnpo_testbed.yaml").read_text(), _Loader)
    doc = document(hooks, "test", 0)
    figures = set(hooks.process_results(doc, [[response("x")]], no_tokenizer))
    listed = [metric["metric"] for metric in common["metric_list"]]
    assert set(listed) == figures and len(listed) == len(figures)
    averaged = [metric["metric"] for metric in group["aggregate_metric_list"]]
    assert averaged == [name for name in listed if name != "responses"]
    assert all(metric["weight_by_size"] is False for metric in group["aggregate_metric_list"])
