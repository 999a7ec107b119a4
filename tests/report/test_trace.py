from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_traces import TASK, problem, record, solution, tokenizer, two_runs, write_run

import attnpo.report
from attnpo.cli import main
from attnpo.errors import AttnPOError
from attnpo.method.scores import Response, score_batch
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.settings import StepsSection
from attnpo.probing.traces import Tracer, look
from attnpo.problems.problem import Problem
from attnpo.report import traced
from attnpo.report.traced import choose, packed, script_json
from attnpo.sampling.models import load_model
from attnpo.sampling.sampler import prompt_ids
from attnpo.testbed.oracle import label_steps

ONE = StepsSection(min_chars=1)
HEADS = Path(__file__).parents[2] / "results/tiny/raw"


def heads_file() -> Path:
    (path,) = HEADS.glob("probe-*/heads.json")
    return path


def content(page: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index and the traces of a page."""
    html = page.read_text(encoding="utf-8")
    index, blobs = re.findall(r'<script type="application/json" id="\w+">(.*?)</script>', html, re.S)
    raw = [zlib.decompress(base64.b64decode(blob)) for blob in json.loads(blobs)]
    return json.loads(index), [json.loads(one[4 : 4 + int.from_bytes(one[:4], "little")]) for one in raw]


# one response


def test_a_trace_has_steps_tokens_labels_and_where_the_answer_is_found() -> None:
    of = problem(0)
    one = record(solution(of, checks=2), True)
    trace = Tracer(ONE, tokenizer()).trace(one, of)
    thinking, _, answer = one["text"].partition("</think>")
    assert "".join(trace.texts) == thinking and trace.answer == answer
    assert trace.triggers[:3] == [None, "Wait", "Wait"]
    assert trace.kinds[:2] == ["forward", "doubt or branch"]
    assert trace.labels == label_steps(of, trace.texts)
    assert trace.essential == [True, False, False, *[True] * (of.chain - 1)]
    assert trace.tokens is not None and sum(trace.tokens) == one["tokens"]["thinking"]
    assert trace.ids is not None and len(trace.ids) == one["tokens"]["total"]
    assert trace.first_step == of.chain + 1 and trace.first_tokens == one["tokens"]["thinking"]
    shares = trace.shares(one["tokens"])
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["redundant"] == pytest.approx(sum(trace.tokens[1:3]) / one["tokens"]["total"])


def test_without_a_tokenizer_characters_count() -> None:
    of = problem(0)
    one = record(solution(of, checks=1), True)
    trace = Tracer(ONE).trace(one, of)
    assert trace.tokens is None and trace.ids is None and trace.first_tokens is None
    assert trace.first_step == of.chain
    share = len(trace.texts[1]) / len("".join(trace.texts)) * one["tokens"]["thinking"] / one["tokens"]["total"]
    assert trace.shares(one["tokens"])["redundant"] == pytest.approx(share)


@pytest.mark.parametrize("counts", [True, False])
def test_a_truncated_response_has_steps_and_no_answer(counts: bool) -> None:
    text = solution(problem(0), checks=1).partition("</think>")[0] + "Wait, 1 + "
    one = record(text, False, "length")
    trace = Tracer(ONE, tokenizer() if counts else None).trace(one, problem(0))
    assert "".join(trace.texts) == text and trace.answer == ""
    assert trace.tokens is None or sum(trace.tokens) == one["tokens"]["total"]
    assert trace.shares(one["tokens"])["answer"] == 0


def test_a_model_that_does_not_think_has_an_answer_alone() -> None:
    trace = Tracer(ONE, tokenizer()).trace({**record("It is \\boxed{4}.", True), "thinking": False}, problem(0))
    assert (trace.texts, trace.tokens, trace.answer) == ([], [], "It is \\boxed{4}.")


def test_elsewhere_steps_behind_the_first_answer_are_redundant() -> None:
    asked = Problem("a", "What is 6 * 7?", "42")
    text = "\nFirst, 6 * 7 = 42.\nWait, 7 * 6 = 42.\nSo it is 42.\n</think>\n\\boxed{42}"
    tracer = Tracer(ONE, tokenizer())
    trace = tracer.trace(record(text, True), asked)
    assert trace.labels == ["essential", "essential", "redundant", "redundant"][-len(trace.texts) :]
    assert trace.first_step == trace.labels.index("redundant") - 1
    assert set(tracer.trace(record(text, False), asked).labels) == {None}
    assert tracer.trace(record(text, True), None).first_step is None


@given(st.lists(st.sampled_from(["Wait", "\nSo", " 12", "\n", "é", "</think", ">", "\ufffd", "First,"]), max_size=12))
def test_steps_are_those_of_the_method(pieces: list[str]) -> None:
    ids = [*tokenizer()("".join(pieces) + "</think>\n4")["input_ids"], tokenizer().eos_token_id]
    expected = align_steps(ids, token_bytes_table(tokenizer()), "corrected", 1)
    trace = Tracer(ONE, tokenizer()).trace({"response_ids": ids, "finish": "stop", "correct": False}, None)
    if expected is not None:
        assert trace.texts == expected.texts and trace.tokens is not None
        assert trace.tokens == [expected.step_of_token.count(k) for k in range(len(expected.steps))]


def test_what_the_heads_look_at_adds_up_to_the_scores() -> None:
    model, _ = load_model("testbed")
    of, heads = problem(0), [(1, 5), (2, 0)]
    tracer = Tracer(ONE, tokenizer())
    trace = tracer.trace(record(solution(of, checks=1), True), of)
    prompt = prompt_ids(tokenizer(), [of.text])[0]
    looks = look(model, heads, tracer, trace, prompt, kept=1000)
    assert looks is not None and trace.ids is not None and trace.tokens is not None
    steps = align_steps(trace.ids, tracer.table, "corrected", 1)
    (scores,) = score_batch(model, heads, [Response(prompt, trace.ids, steps)])
    assert looks.scores == scores.tolist()
    assert looks.rows.shape == (2, looks.answer_tokens, len(trace.texts))
    summed = torch.from_numpy(looks.rows).sum(1) / torch.tensor(trace.tokens)
    torch.testing.assert_close(summed, scores)  # float32, two orders of summation
    assert looks.total_tokens == len(prompt) + len(trace.ids) and looks.before == ""
    assert "".join(looks.token_texts).startswith(trace.answer)
    last = look(model, heads, tracer, trace, prompt, kept=3)
    assert last is not None and len(last.token_texts) == 3 and last.answer_tokens == looks.answer_tokens
    assert np.array_equal(last.rows, looks.rows[:, -3:])
    assert last.before + "".join(last.token_texts) == "".join(looks.token_texts)


# the page's data


def test_problems_are_chosen_evenly_and_whole() -> None:
    counts = {(run, (TASK, str(n))): [(k, True, 9) for k in range(4)] for run in (0, 1) for n in range(100)}
    chosen = choose(counts, 40)
    assert {int(id) for _, (_, id) in chosen} == {0, 20, 40, 60, 80}
    assert sum(map(len, chosen.values())) == 40
    assert choose(counts, 10_000).keys() == counts.keys()
    some = {(run, key): found for (run, key), found in counts.items() if run == 0 or int(key[1]) > 90}
    assert {int(id) for _, (_, id) in choose(some, 24)} == {91, 94, 97}  # of those that both have
    few = choose(counts, 6)
    assert {run for run, _ in few} == {0, 1} and all(of == {0, 1, 2} for of in few.values())


def test_data_stand_in_a_script_as_they_are() -> None:
    value = {"a": "</script><!-- & \u2028\u2029 \ud800 é"}
    text = script_json(value)
    assert not set("<>&") & set(text) and text.isascii()
    assert json.loads(text) == value


def test_a_trace_is_packed_with_every_character() -> None:
    text = "First, <script>alert(1)</script> \ud83d é\n</think>\n\\boxed{4}"
    for tracer, shown in ((Tracer(ONE), "\ud83d"), (Tracer(ONE, tokenizer()), "\N{REPLACEMENT CHARACTER}")):
        raw = zlib.decompress(packed(tracer.trace(record(text, False), None), None))
        there = json.loads(raw[4:])
        assert "".join(there["texts"]) == text.partition("</think>")[0].replace("\ud83d", shown)


def test_a_page_of_two_runs(tmp_path: Path) -> None:
    page = attnpo.report.trace(two_runs(tmp_path), out=tmp_path / "page.html")
    index, traces = content(page.path)
    assert [run["label"] for run in index["runs"]] == ["base", "short"]
    assert [run["n"] for run in index["runs"]] == [14, 14]
    first = index["problems"][0]
    assert (first["id"], first["gold"], first["text"]) == (problem(0).id, problem(0).answer, problem(0).text)
    assert first["of"][0]["accuracy"] == pytest.approx(1 / 3, abs=1e-5)
    assert len(traces) == len(index["responses"]) == 28
    assert [len(traces[n]["texts"]) for n in (0, 14)] == [problem(0).chain + 2, problem(0).chain]
    assert sum(response["truncated"] for response in index["responses"]) == 2
    assert sum(not response["thinkEnd"] for response in index["responses"]) == 4
    assert all(response["exact"] for response in index["responses"])
    html = page.path.read_text(encoding="utf-8")
    assert "http" not in html and "All 28 responses, on 6 problems." in html
    assert page._repr_html_().startswith("<iframe srcdoc=")


def test_scores_come_with_a_model_and_its_heads(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, problems=2)
    page = attnpo.report.trace(runs, model="testbed", heads=heads_file(), top=2, out=tmp_path / "page.html")
    index, traces = content(page.path)
    assert len(index["heads"]) == 2
    scored = [trace for trace in traces if "scores" in trace]
    assert len(scored) == 4 * 2 and len(traces) == 6 * 2
    assert all(len(trace["scores"]) == 2 and len(trace["scores"][0]) == len(trace["texts"]) for trace in scored)


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = two_runs(tmp_path)
    size = attnpo.report.trace(runs, out=tmp_path / "page.html").path.stat().st_size
    monkeypatch.setattr(traced, "MAX_BYTES", size - 1500)
    page = attnpo.report.trace(runs, out=tmp_path / "page.html")
    index, traces = content(page.path)
    assert page.path.stat().st_size < size - 1500
    assert 0 < len(traces) < 28 and f"{len(traces)} of 28 responses" in page.path.read_text(encoding="utf-8")
    assert {response["run"] for response in index["responses"]} == {0, 1}
    assert index["runs"][0]["n"] == 14  # accuracy and length are those of all


def test_lm_eval_s_files_say_what_was_asked(tmp_path: Path) -> None:
    text = "First, 6 * 7 = 42.\nWait, 7 * 6 = 42.\n</think>\n\\boxed{42}"
    arguments = {"gen_args_0": {"arg_0": "…", "arg_1": {"until": [], "max_gen_toks": 99, "temperature": 0.6}}}
    doc = {"id": "a", "text": "What is 6 * 7?", "answer": "42", "thinking": True}
    line = {"doc": doc, "doc_id": 0, "doc_hash": "x", "arguments": arguments, "responses": [record(text, True)]}
    (tmp_path / "samples_attnpo_gsm8k_2026-01-01T00-00-00.0.jsonl").write_text(json.dumps(line) + "\n")
    index, traces = content(attnpo.report.trace([tmp_path], out=tmp_path / "page.html", min_chars=1).path)
    assert index["problems"][0]["text"] == "What is 6 * 7?" and index["problems"][0]["gold"] == "42"
    assert traces[0]["tokens"] is None and traces[0]["labels"] == ["essential", "redundant"]


def test_a_file_of_one_s_own_is_named(tmp_path: Path) -> None:
    text = "First, 6 * 7 = 42.\n</think>\n\\boxed{42}"
    run = write_run(tmp_path / "run", "base", {"a": [record(text, True)]}, task="mine")
    index, _ = content(attnpo.report.trace([run], out=tmp_path / "page.html").path)
    assert index["problems"][0]["text"] is None
    (tmp_path / "mine.jsonl").write_text('{"id": "a", "problem": "What is 6 * 7?", "answer": "42"}\n')
    data = [str(tmp_path / "mine.jsonl")]
    index, _ = content(attnpo.report.trace([run], data=data, out=tmp_path / "page.html").path)
    assert index["problems"][0]["text"] == "What is 6 * 7?"
    with pytest.raises(AttnPOError, match="mine: what was asked is not known, so nothing can be scored"):
        attnpo.report.trace([run], model="testbed", heads=heads_file(), out=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--heads HEADS", "whose heads? name the model that scores with --model"),
        ("--limit 0", "--limit 0: must be at least 1"),
        ("--model testbed --heads HEADS --top 0", "top 0 heads: give 1 to "),
        ("--model testbed --heads nowhere.json", "nowhere.json: No such file or directory; write it with"),
        ("--min-chars -1", "trace: min_chars: -1 must be at least 0"),
        ("--data other.jsonl", "--data other.jsonl: no file of that name was asked; the tasks are attnpo_testbed_test"),
        ("nowhere", "nowhere: no such file or folder; pass a run folder or lm-eval's output folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_a_model_is_loaded(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnpo.sampling.models.load_model", lambda *_: pytest.fail("loaded"))
    (run, _) = two_runs(tmp_path, problems=2)
    words = words.replace("HEADS", str(heads_file()))
    assert main(["trace", str(run), *words.split(), "--out", str(tmp_path / "page.html")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "page.html").exists()
