from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from attnpo.errors import AttnPOError
from attnpo.evaluation import evaluate, lengths, lm_eval_hook
from attnpo.evaluation.lm_eval_task import SampledTask
from attnpo.problems import benchmarks
from attnpo.problems.benchmarks import BENCHMARKS
from attnpo.testbed import MODEL_DIR

FOLDER = ROOT / "tasks" / "attnpo_math"
MATH = [name for name, benchmark in BENCHMARKS.items() if not benchmark.choices]
TASKS = [f"attnpo_{name}" for name in MATH]
# With what lm-eval or a template engine might change: white space at the ends, templates, digits, brackets.
TEXTS = [" What is {{1}} + 1?\n", "Start with 7. Add 5. What is the result?"]
ANSWERS = ["[1, 2]", "12"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up sets of the right sizes; `ATTNPO_DATA` names it."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in MATH:
        rows = [
            {"id": f"{name}/{i}", "problem": TEXTS[i % 2], "answer": ANSWERS[i % 2]}
            for i in range(BENCHMARKS[name].problems)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.setenv("ATTNPO_DATA", str(folder))
    return folder


def manager(**metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=lm_eval_hook.tasks_folder(), include_defaults=False, metadata=metadata)


def load(*names: str, **metadata: Any) -> dict[str, Any]:
    return manager(**metadata).load(list(names))["tasks"]


def test_the_group_is_the_six_tasks_with_the_paper_s_settings(data: Path) -> None:
    tasks = load("attnpo_math")
    assert list(tasks) == TASKS
    for name, task in tasks.items():
        config = task.config
        assert config.repeats == (16 if re.search("aime|amc", name) else 4)
        assert config.generation_kwargs == {
            "until": [],
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": 0,
            "max_gen_toks": 16384,
        }
        short = name.removeprefix("attnpo_")
        published, hub = BENCHMARKS[short].published, BENCHMARKS[short].hub
        assert published is not None
        source = f"commit {benchmarks.COMMIT}, data/test/preprocessed_data/{published.file}"
        assert config.metadata["published"].endswith(source)
        named = f"{hub.repository}, revision {hub.revision}, {hub.file}" if hub else "none; the authors' 581 problems"
        assert config.metadata["hub"].startswith(named)
        assert config.metadata["license"]
        documents = task.test_docs()
        assert len(documents) == BENCHMARKS[short].problems
        assert documents[0] == {"id": f"{short}/0", "text": TEXTS[0], "answer": ANSWERS[0], "thinking": True}
        assert task.doc_to_text(documents[0]) == TEXTS[0]
        assert task.doc_to_target(documents[0]) == ANSWERS[0]


def test_the_boxed_variants_differ_by_the_instruction_alone(data: Path) -> None:
    tasks, boxed = load("attnpo_math"), load("attnpo_math_boxed")
    assert list(boxed) == [f"{name}_boxed" for name in tasks]
    for name, task in tasks.items():
        variant = boxed[f"{name}_boxed"]
        assert [d["text"] for d in variant.test_docs()] == [
            d["text"] + "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
            for d in task.test_docs()
        ]
        for key in ("id", "answer", "thinking"):
            assert variant.test_docs()[key] == task.test_docs()[key]
        ours, theirs = variant.dump_config(), task.dump_config()
        assert {key for key in ours if ours[key] != theirs[key]} <= {"task", "custom_dataset", "metadata"}
        assert ours["metadata"].pop("config_source") != theirs["metadata"].pop("config_source")
        assert ours["metadata"] == theirs["metadata"]


def test_a_hub_that_is_not_within_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        AttnPOError, match=r"aime2025: math-ai/aime25 \(revision main, test.jsonl\) is neither in the hub"
    ):
        load("attnpo_aime2025", source="hub", data_revision="main", revision="of the model")
    with pytest.raises(AttnPOError, match="olympiadbench has no counterpart on the hub"):
        load("attnpo_olympiadbench", source="hub")


@pytest.mark.parametrize("thinking", ["false", 0, None])
def test_a_switch_that_is_none(data: Path, thinking: Any) -> None:
    with pytest.raises(AttnPOError, match=f"thinking is {thinking!r} in the metadata; give true, or false for a model"):
        load("attnpo_aime2024", thinking=thinking)


# (text, thinking tokens are all before the tag, right by the paper's rule, right if the model is said not to think)
STARTS = [
    ("7+5=12</think>\\boxed{12}", True, True),  # R1: the prompt ends with <think>
    ("<think>7+5=12</think>\\boxed{12}", True, True),  # writes the tag itself
    ("7+5=\\boxed{12}", False, True),  # does not think at all
    ("<think>7+5=\\boxed{12}", False, False),  # cut off while thinking
    ("a</think>b</think>\\boxed{12}", False, False),
]


@pytest.mark.parametrize("thinking", [True, False])
def test_the_three_kinds_of_models(data: Path, thinking: bool) -> None:
    metadata = {} if thinking else {"thinking": False}
    (task,) = load("attnpo_aime2024", pretrained=str(MODEL_DIR), **metadata).values()
    figures = task.process_results(task.test_docs()[1], [[text for text, *_ in STARTS]])
    records = figures["responses"]

    def count(text: str) -> int:
        return len(task.tokenizer(text, add_special_tokens=False)["input_ids"])

    assert [r["correct"] for r in records] == [right[0 if thinking else 1] for _, *right in STARTS]
    assert [r["thinking"] for r in records] == [thinking] * 5
    for (text, *_), record in zip(STARTS, records, strict=True):
        tokens = record["tokens"]
        assert tokens["total"] == count(text)
        if "</think>" in text:
            assert tokens["thinking"] == count(text.split("</think>")[0]) > 0
            assert tokens["answer"] == tokens["total"] - tokens["thinking"] - 1
        elif thinking or text.startswith("<think>"):
            assert (tokens["thinking"], tokens["answer"]) == (tokens["total"], 0)
        else:
            assert (tokens["thinking"], tokens["answer"]) == (0, tokens["total"])
    # A leading tag is a thinking token.
    assert records[1]["tokens"]["thinking"] == records[0]["tokens"]["thinking"] + count("<think>")
    assert figures["missing_think_end"] == pytest.approx(2 / 5 if thinking else float("nan"), nan_ok=True)


def test_metadata_sets_samples_and_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPO_DATA", "/nowhere")
    tasks = load("attnpo_aime2024", "attnpo_math500", samples=2, data_dir=str(data), pretrained="x", revision="y")
    assert [task.config.repeats for task in tasks.values()] == [2, 2]


@pytest.mark.parametrize("samples", [0, -1, 2.0, "2", True])
def test_samples_that_make_no_sense(data: Path, samples: Any) -> None:
    with pytest.raises(AttnPOError, match=f"samples is {samples!r} in the metadata; give a whole number"):
        load("attnpo_aime2024", samples=samples)


def test_data_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNPO_DATA", str(tmp_path))
    with pytest.raises(AttnPOError, match=r"aime2025: .*aime2025\.jsonl cannot be read"):
        load("attnpo_aime2025")


def test_plain_strings_are_counted_with_the_model_s_tokenizer(data: Path) -> None:
    """As from a backend that gives no ids."""
    texts = ["7+5=12</think>\\boxed{12}", "7+5=12", "</think>12", "x</think>\\boxed{13}"]
    (task,) = load("attnpo_aime2024", pretrained=str(MODEL_DIR)).values()
    figures = task.process_results(task.test_docs()[1], [texts])
    assert isinstance(task, SampledTask)
    records = figures["responses"]
    assert [r["tokens"]["total"] for r in records] == [len(task.tokenizer(text)["input_ids"]) for text in texts]
    assert [r["correct"] for r in records] == [True, False, False, False]
    assert (figures["avg@k"], figures["pass@k"], figures["retokenized"]) == (0.25, 1.0, 1.0)
    assert (figures["missing_think_end"], figures["parse_failed"]) == (0.25, 0.25)
    (nameless,) = load("attnpo_aime2024").values()
    with pytest.raises(AttnPOError, match=r"attnpo_aime2024: .* no tokenizer is named .* give --metadata"):
        nameless.process_results(nameless.test_docs()[1], [texts])


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_every_figure_has_an_aggregation_and_the_group_averages_them(data: Path) -> None:
    common = yaml.load((FOLDER / "_common_yaml").read_text(encoding="utf-8"), _Loader)
    group = yaml.load((FOLDER / "attnpo_math.yaml").read_text(encoding="utf-8"), _Loader)
    (task,) = load("attnpo_aime2024").values()
    response = lengths.Generation.make("x", [1], "length", lengths.TokenCounts(1, 1, 0))
    figures = set(task.process_results(task.test_docs()[0], [[response]]))
    listed = [metric["metric"] for metric in common["metric_list"]]
    assert set(listed) == figures and len(listed) == len(figures)
    averaged = [metric["metric"] for metric in group["aggregate_metric_list"]]
    assert averaged == [name for name in listed if name != "responses"]
    assert all(metric["weight_by_size"] is False for metric in group["aggregate_metric_list"])


def test_the_group_through_lm_eval_itself(data: Path) -> None:
    """As `lm_eval --tasks attnpo_math --model hf --limit 2 --metadata '{"samples": 2}'` runs it."""
    import lm_eval

    budget = 34
    results: Any = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(MODEL_DIR), "device": "cpu"},
        tasks=["attnpo_math"],
        task_manager=manager(samples=2),
        batch_size=4,
        limit=2,
        gen_kwargs=f"max_gen_toks={budget}",
        bootstrap_iters=0,
    )
    tables = results["results"]
    for name in TASKS:
        samples = results["samples"][name]
        assert [s["doc"]["text"] for s in samples] == TEXTS
        for sample, text in zip(samples, TEXTS, strict=True):
            assert f"<|user|>{text}<|assistant|>" in sample["arguments"][0][0]
            assert len(sample["responses"]) == 2
            for record in sample["responses"]:
                total, thinking, answer = record["tokens"].values()
                assert record["counted"] == "generated"
                assert 1 <= total <= budget and thinking + answer <= total
                assert record["finish"] == "stop" or total == budget
                assert (record["think_tags"] == 0) == (thinking == total)
        records = [record for sample in samples for record in sample["responses"]]
        table = tables[name]
        assert table["responses,none"] == len(records) == 4
        assert table["tokens,none"] == sum(r["tokens"]["total"] for r in records) / 4
        assert table["truncated,none"] == sum(r["finish"] == "length" for r in records) / 4
        assert table["avg@k,none"] == sum(r["correct"] for r in records) / 4
        assert table["retokenized,none"] == 0
    for figure in ("avg@k", "pass@k", "tokens", "truncated"):
        macro = sum(tables[name][f"{figure},none"] for name in TASKS) / 6
        assert results["groups"]["attnpo_math"][f"{figure},none"] == pytest.approx(macro)
    finishes = {r["finish"] for name in TASKS for s in results["samples"][name] for r in s["responses"]}
    assert finishes == {"stop", "length"}, "choose another budget: the test must see both"


def test_run_eval_sets_the_number_of_samples(data: Path, tmp_path: Path) -> None:
    path = evaluate.run_eval(
        str(MODEL_DIR),
        ["attnpo_amc23"],
        tmp_path / "out",
        samples=2,
        temperature=0.6,
        top_p=0.95,
        max_tokens=24,
        batch_size=4,
        seed=0,
        limit=2,
    )
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["problem_id"], line["k"]) for line in lines] == [(f"amc23/{i}", k) for i in (0, 1) for k in (0, 1)]
    assert all(line["meta"] == {} and line["counted"] == "generated" for line in lines)
