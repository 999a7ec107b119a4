"""Labels by sampled answers: what is asked, how often, how it is graded, and that nothing is asked again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import attnpo.probing.answers
from attnpo.method.scores import Response
from attnpo.method.steps import align_steps, token_bytes_table
from attnpo.probing.answers import answer_labels
from attnpo.probing.settings import ProbeSection, Source
from attnpo.problems.problem import Problem
from attnpo.sampling.models import load_tokenizer
from attnpo.sampling.sampler import Sample, prompt_ids
from attnpo.testbed import EMBEDDED

PROBLEM = Problem("x", "Start with 3. Add 4. Add 5.", "12")
TEXT = "First, 3 + 4 = 7.\nWait, 4 + 3 = 7, yes.\nThen 7 + 5 = 12.\n</think>\n\\boxed{12}"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def rows(tokenizer: PreTrainedTokenizerBase) -> list[tuple[Problem, Response]]:
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    steps = align_steps(ids, token_bytes_table(tokenizer), "corrected", 1)
    assert steps is not None and len(steps.steps) == 3
    return [(PROBLEM, Response(prompt_ids(tokenizer, [PROBLEM.text])[0], ids, steps))] * 2


class Answering:
    """A sampler whose answer is right if the thinking holds what it needs; it counts, and may break down."""

    unit = 1

    def __init__(self, tokenizer: PreTrainedTokenizerBase, forced: str) -> None:
        self.tokenizer, self.forced = tokenizer, forced
        self.asked: list[str] = []
        self.budgets: set[int] = set()
        self.made: list[dict[str, Any]] = []
        self.lasts = 10**9

    def make(self, backend: str, model: str, revision: str | None, **options: Any) -> Answering:
        self.made.append({"backend": backend, "model": model, "revision": revision, **options})
        return self

    def sample(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, **_: Any
    ) -> Iterator[tuple[int, int, Sample]]:
        self.budgets.add(max_new_tokens)
        for place, prompt in enumerate(prompts):
            if len(self.asked) >= self.lasts:
                raise ConnectionError("the sampler broke down")
            text = str(self.tokenizer.decode(prompt))
            self.asked.append(text)
            assert text.endswith(f"</think>{self.forced}")
            answer = "12" if "First" in text and "Then" in text else "7"
            boxed = f"{answer}}}" if self.forced else f"\\boxed{{{answer}}}"
            yield place, 0, Sample(self.tokenizer(boxed, add_special_tokens=False)["input_ids"], "stop")

    def close(self) -> None: ...

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None: ...


def section(way: str, forced: str) -> ProbeSection:
    return ProbeSection(
        problems=1,
        samples=1,
        max_completion_tokens=64,
        labels=way,  # type: ignore[arg-type]
        forced_answer=forced,
        answers=3,
        answer_tokens=20,
        backend="vllm",
    )


SOURCE = Source(model=EMBEDDED, revision=None, data=EMBEDDED)


@pytest.mark.parametrize("forced", ["", "So, \\boxed{"])
@pytest.mark.parametrize(
    ("way", "labels", "questions"),
    # behind the first step alone the answer is wrong, so it gains nothing: what prefix_gain cannot see
    [("sampled_ablation", [True, False, True], 6), ("prefix_gain", [False, False, True], 4)],
)
def test_steps_are_labelled_by_the_answers_behind_the_rest(
    way: Any,
    labels: list[bool],
    questions: int,
    forced: str,
    rows: list[tuple[Problem, Response]],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = Answering(tokenizer, forced)
    monkeypatch.setattr(attnpo.probing.answers, "make_sampler", sampler.make)
    settings, path = section(way, forced), tmp_path / "answers.jsonl"
    assert answer_labels(rows, way, SOURCE, settings, tokenizer, path) == [labels] * 2
    assert len(sampler.asked) == 3 * questions * 2 and sampler.budgets == {20}
    assert len(sampler.made) == 1 and sampler.made[0]["backend"] == "vllm"
    assert sampler.made[0]["max_model_len"] >= max(len(tokenizer(text)["input_ids"]) for text in sampler.asked) + 20

    # what is there is not asked again, and no model is loaded for it
    whole, asked = path.read_bytes(), len(sampler.asked)
    assert answer_labels(rows, way, SOURCE, settings, tokenizer, path) == [labels] * 2
    assert (len(sampler.asked), len(sampler.made), path.read_bytes()) == (asked, 1, whole)


def test_a_run_that_broke_down_goes_on(
    rows: list[tuple[Problem, Response]],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = Answering(tokenizer, "")
    monkeypatch.setattr(attnpo.probing.answers, "make_sampler", sampler.make)
    settings, path = section("sampled_ablation", ""), tmp_path / "answers.jsonl"
    sampler.lasts = 20
    with pytest.raises(ConnectionError):
        answer_labels(rows, "sampled_ablation", SOURCE, settings, tokenizer, path)
    assert len(path.read_text().splitlines()) == 20
    sampler.lasts = 10**9
    assert answer_labels(rows, "sampled_ablation", SOURCE, settings, tokenizer, path) == [[True, False, True]] * 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == len(sampler.asked) == 3 * 6 * 2
    assert len({(line["response"], line["removed"], line["k"]) for line in lines}) == len(lines)


def test_the_embedded_model_answers(
    rows: list[tuple[Problem, Response]], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    settings = ProbeSection(problems=1, samples=1, max_completion_tokens=64, labels="prefix_gain", answers=2)
    labels = answer_labels(rows[:1], "prefix_gain", SOURCE, settings, tokenizer, tmp_path / "answers.jsonl")
    assert len(labels) == 1 and len(labels[0]) == 3
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["removed"] for line in lines] == [name for name in ("0,1,2", "1,2", "2", "") for _ in range(2)]
    assert all(0 < len(line["response_ids"]) <= 32 for line in lines)
