"""Answers to lm-eval's requests, resumable and seeded: fake models for the rules, a real `kill -9` for the rest."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CachingLM
from lm_eval.tasks import TaskManager
from places import ROOT

from attnpo.errors import AttnPOError
from attnpo.evaluation import lm_eval_hook, lm_eval_models
from attnpo.evaluation.lm_eval_task import check_keys
from attnpo.sampling import transformers as sampling
from attnpo.sampling.sampler import Sample
from attnpo.testbed import MODEL_DIR

lm_eval_models.add_method()

SAMPLED = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
GREEDY = {"until": [], "do_sample": False, "max_gen_toks": 8}


class Tokenizer:
    """A token is a character."""

    chat_template = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, ids))

    def __len__(self) -> int:
        return 0

    all_special_ids: tuple[int, ...] = ()


class Model(LM):
    """An unknown model: it answers with what it is asked, and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise NotImplementedError

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        start = len(self.asked)
        self.asked += requests
        return [f"{request.args[0]} {start + i}" for i, request in enumerate(requests)]


class HFLM(Model):
    """A model as lm-eval loads it; what samples is `sample_in_batches`. Its name tells."""

    backend, batch_size, max_length, mixed_precision_dtype = "causal", 4, 4096, None
    device = torch.device("cpu")

    def __init__(self, die_after: int | None = None, text_config: Any = None) -> None:
        super().__init__()
        self.die_after, self.batches = die_after, 0
        config = SimpleNamespace(get_text_config=lambda: text_config)
        self.model, self.tokenizer = SimpleNamespace(config=config, owner=self), Tokenizer()

    def tok_encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]


@pytest.fixture(autouse=True)
def sample_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses from torch's random numbers, as a model would draw them."""

    def sample(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], **how: Any) -> list[Sample]:
        lm = model.owner
        if lm.batches == lm.die_after:
            raise KeyboardInterrupt
        lm.batches += 1
        lm.asked += prompts
        if how["seed"] is not None:
            torch.manual_seed(how["seed"])
        drawn = [0 if how["temperature"] == 0 else int(torch.randint(10**6, ())) for _ in prompts]
        return [Sample([*prompt, *map(ord, f" {n}"), 7], "stop") for prompt, n in zip(prompts, drawn, strict=True)]

    monkeypatch.setattr(sampling, "sample", sample)
    monkeypatch.setattr("attnpo.evaluation.questions.bytes_table", lambda tokenizer: [bytes([c]) for c in range(128)])


def requests(
    problems: int, repeats: int, options: dict[str, Any] = SAMPLED, task: str = "attnpo_x", **metadata: Any
) -> list[Instance]:
    """As lm-eval hands them over: an instance stands in the list once for each k."""
    made: list[Any] = [
        Instance(
            request_type=lm_eval_models.REQUEST_TYPE,  # type: ignore[arg-type]
            doc={"id": f"p{i}", "text": f"problem {i}"},
            arguments=(f"problem {'long ' * (i % 3)}{i}", dict(options)),
            idx=0,
            metadata=(task, i, repeats),
        )
        for i in range(problems)
    ]
    for instance in made:
        instance.attnpo_plan = lm_eval_models.Plan.of(task, metadata)
    return [instance for instance in made for _ in range(repeats)]


def run(lm: Any, *args: Any, seed: int = 3, **kwargs: Any) -> list[Any]:
    torch.manual_seed(seed)
    return lm.attnpo_sample(requests(*args, **kwargs))


def seeds(texts: Sequence[Any]) -> list[Any]:
    return [text.seed for text in texts]


def test_a_killed_run_goes_on_and_asks_for_the_rest_alone(tmp_path: Path) -> None:
    straight = run(HFLM(), 5, 3, resume=str(tmp_path / "a"))
    assert len(set(straight)) == 15
    assert run(HFLM(), 5, 3) == straight  # storing changes no sample
    for batches in range(4):
        killed, again = HFLM(die_after=batches), HFLM()
        with pytest.raises(KeyboardInterrupt):
            run(killed, 5, 3, resume=str(tmp_path / str(batches)))
        texts = run(again, 5, 3, resume=str(tmp_path / str(batches)))
        assert (texts, seeds(texts)) == (straight, seeds(straight))
        assert len(killed.asked) + len(again.asked) == 15
        third = HFLM()
        assert run(third, 5, 3, resume=str(tmp_path / str(batches))) == straight
        assert third.asked == []


def test_a_batch_shares_a_seed() -> None:
    lm = HFLM()
    texts = run(lm, 5, 3)
    assert lm.batches == 4
    assert seeds(texts) == [seed for seed in seeds(texts)[::4] for _ in range(4)][:15]
    assert len(set(seeds(texts))) == 4 and None not in seeds(texts)


def test_seeds_do_not_depend_on_the_model_and_what_is_stored_does(tmp_path: Path) -> None:
    metadata = {"resume": str(tmp_path), "pretrained": "one"}
    first = run(HFLM(), 2, 2, **metadata)
    other = HFLM()
    assert seeds(run(other, 2, 2, **{**metadata, "pretrained": "two"})) == seeds(first)
    assert len(other.asked) == 4
    same = HFLM()
    run(same, 2, 2, **metadata, batch_size=64, gpu_memory_utilization=0.5, samples=2, config_source="/elsewhere")
    assert same.asked == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"options": {**SAMPLED, "temperature": 0.5}},
        {"options": {**SAMPLED, "min_p": 0.1}},
        {"task": "attnpo_y"},
        {"revision": "other"},
    ],
)
def test_whatever_determines_a_response_is_in_its_key(change: dict[str, Any], tmp_path: Path) -> None:
    run(HFLM(), 2, 2, resume=str(tmp_path))
    again = HFLM()
    run(again, 2, 2, resume=str(tmp_path), **change)
    assert len(again.asked) == 4


def test_a_seed_of_the_model_s_own_counts() -> None:
    plain = run(HFLM(), 2, 2)
    first, same, other = (run(HFLM(), 2, 2, **{"seed of the model": n}) for n in (1, 1, 2))
    assert first == same == other == plain  # an argument of another name is no seed

    def with_seed(n: int) -> list[str]:
        torch.manual_seed(3)
        made = requests(2, 2, seed=n)
        return HFLM().attnpo_sample(made)  # type: ignore[attr-defined]

    assert plain != with_seed(1) == with_seed(1) != with_seed(2)


def test_more_problems_and_samples_keep_what_is_there(tmp_path: Path) -> None:
    first = run(HFLM(), 4, 2, resume=str(tmp_path))
    more = run(HFLM(), 9, 3, resume=str(tmp_path))
    assert [more[3 * i + k] for i in range(4) for k in range(2)] == first
    assert len(set(more)) == 27


@pytest.mark.parametrize("options", [GREEDY, {**SAMPLED, "temperature": 0.0}, {"until": [], "max_gen_toks": 8}])
def test_greedy_responses_are_asked_for_once(options: dict[str, Any], tmp_path: Path) -> None:
    lm, again = HFLM(), HFLM()
    texts = run(lm, 3, 4, options, resume=str(tmp_path))
    assert len(lm.asked) == 3
    assert all(len(set(texts[4 * i : 4 * i + 4])) == 1 for i in range(3)) and len(set(texts)) == 3
    assert set(seeds(texts)) == {None}
    assert run(again, 3, 4, options, resume=str(tmp_path), seed=9) == texts
    assert again.asked == []


def test_a_model_of_which_nothing_is_known_gives_text(tmp_path: Path) -> None:
    lm, again = Model(), Model()
    texts = run(lm, 3, 2, resume=str(tmp_path))
    assert texts == [f"problem {'long ' * (i % 3)}{i} {2 * i + k}" for i in range(3) for k in range(2)]
    assert all((text.ids, text.finish, text.counts, text.seed) == (None,) * 4 for text in texts)
    assert [request.request_type for request in lm.asked] == ["generate_until"] * 6
    assert run(again, 3, 2, resume=str(tmp_path)) == texts
    assert again.asked == []


def test_lm_eval_s_cache_is_not_asked(tmp_path: Path) -> None:
    lm = HFLM()
    cached: Any = CachingLM(lm, str(tmp_path / "cache.db"))
    torch.manual_seed(1)
    first = cached.attnpo_sample(requests(3, 2))
    torch.manual_seed(1)
    assert cached.attnpo_sample(requests(3, 2)) == first
    assert len(lm.asked) == 12


def test_problems_that_are_equal_are_asked_apart(tmp_path: Path) -> None:
    twins = requests(1, 2, resume=str(tmp_path)) + requests(1, 2, resume=str(tmp_path))
    lm = HFLM()
    texts = lm.attnpo_sample(twins)
    assert len(set(texts)) == 4
    assert lm.attnpo_sample(twins) == texts
    assert len(lm.asked) == 4


def test_automatic_batches_are_found_once() -> None:
    class Automatic(HFLM):
        batch_size = "auto"  # type: ignore[assignment]
        found = 0

        def _detect_batch_size(self) -> int:
            self.found += 1
            return 5

    lm = Automatic()
    run(lm, 5, 3)
    assert (lm.found, lm.batches) == (1, 3)


def test_an_encoder_decoder_is_asked_as_a_text_model() -> None:
    class Other(HFLM):
        backend = "seq2seq"

    assert all(text.ids is None for text in run(Other(), 1, 2))


def test_a_model_in_mixed_precision_samples_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = sampling.sample

    def sample(*args: Any, **how: Any) -> list[Sample]:
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(*args, **how)

    monkeypatch.setattr(sampling, "sample", sample)

    class Mixed(HFLM):
        mixed_precision_dtype = torch.bfloat16  # type: ignore[assignment]

    run(Mixed(), 1, 1)
    run(HFLM(), 1, 1)
    assert seen == [True, False]


# the file


def stored_lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"samples-{rank}.jsonl").read_text().splitlines()]


def test_a_line_broken_in_another_way_is_an_error(tmp_path: Path) -> None:
    run(HFLM(), 3, 3, resume=str(tmp_path))
    path = tmp_path / "samples-0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], '{"key": \n', *lines[2:]]))
    with pytest.raises(AttnPOError, match=r"samples-0\.jsonl:2: not JSON .* delete the line"):
        run(HFLM(), 3, 3, resume=str(tmp_path))
    path.write_text("".join([lines[0], '{"task": "attnpo_x"}\n', *lines[2:]]))
    with pytest.raises(AttnPOError, match=r"samples-0\.jsonl:2: not a sample \(KeyError.*delete the line"):
        run(HFLM(), 3, 3, resume=str(tmp_path))


def test_a_second_process_is_told_to_wait(tmp_path: Path) -> None:
    fields = ("task", "problem_id", "k", "asked")
    message = "another process writes there; wait for it, or use another folder"
    with lm_eval_models.SampleFile(tmp_path / "samples-0.jsonl", fields), pytest.raises(AttnPOError, match=message):
        run(HFLM(), 1, 1, resume=str(tmp_path))
    run(HFLM(), 1, 1, resume=str(tmp_path))


def test_ranks_write_apart_and_read_all(tmp_path: Path) -> None:
    lm = HFLM()
    lm._rank, lm._world_size = 1, 2  # type: ignore[attr-defined]
    texts = run(lm, 2, 2, resume=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["samples-1.jsonl"]
    again = HFLM()
    assert run(again, 2, 2, resume=str(tmp_path)) == texts
    assert again.asked == []


def test_of_processes_with_one_model_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor parallelism by torchrun: lm-eval takes each process for rank 0, and all generate the same."""
    texts = run(HFLM(), 2, 1, resume=str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    lm = HFLM()
    assert run(lm, 2, 2, resume=str(tmp_path))[::2] == texts
    assert len(stored_lines(tmp_path)) == 2  # it reads there, and writes elsewhere


def test_what_a_line_holds(tmp_path: Path) -> None:
    (text,) = run(HFLM(), 1, 1, resume=str(tmp_path))
    (line,) = stored_lines(tmp_path)
    assert len(line.pop("asked")) == 32
    ids = text.ids.tolist()
    about = {"task": "attnpo_x", "problem_id": "p0", "k": 0}
    assert line == {**about, "response_ids": ids, "finish": "stop", "seed": text.seed}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"resume": 3}, "resume is 3 in the metadata of attnpo_x; give the name of a folder"),
        ({"resume": ""}, "resume is '' in the metadata"),
    ],
)
def test_metadata_that_makes_no_sense(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        lm_eval_models.Plan.of("attnpo_x", metadata)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sample", "samples"),
        ("n_samples", "samples"),
        ("Thinking", "thinking"),
        ("resum", "resume"),
        ("data-dir", "data_dir"),
        ("startdate", "start_date"),
        ("sources", "source"),
        ("worker", "workers"),
    ],
)
def test_a_misspelt_option_is_refused(key: str, meant: str) -> None:
    metadata = {key: 2, "pretrained": "x"}
    manager = TaskManager(include_path=lm_eval_hook.tasks_folder(), include_defaults=False, metadata=metadata)
    with pytest.raises(AttnPOError, match=f"the metadata has no option '{key}', did you mean '{meant}'"):
        manager.load(["attnpo_testbed_test"])


def test_no_argument_of_a_model_is_taken_for_an_option() -> None:
    """lm-eval merges them into the metadata, and the models pass some on to their libraries."""
    names = {
        argument.arg
        for path in (Path(lm_eval.__file__).parent / "models").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for argument in [*node.args.args, *node.args.kwonlyargs]
    }
    passed_on = {"attn_implementation", "device_map", "num_workers", "data_parallel_size", "enforce_eager"}
    assert {"pretrained", "enable_thinking", "revision", "tokenizer"} <= names
    check_keys(names | passed_on)


def test_the_environment_names_a_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPO_RESUME", "there")
    assert lm_eval_models.Plan.of("attnpo_x", {}).folder == Path("there")
    assert lm_eval_models.Plan.of("attnpo_x", {"resume": "here"}).folder == Path("here")
    monkeypatch.setenv("ATTNPO_RESUME", "")
    assert lm_eval_models.Plan.of("attnpo_x", {}).folder is None


def test_a_local_model_is_told_by_its_files(tmp_path: Path) -> None:
    lm = SimpleNamespace(model=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "log.txt").write_text("x")
    before = lm_eval_models.model_identity(lm)
    (tmp_path / "log.txt").write_text("longer")
    assert lm_eval_models.model_identity(lm) == before
    (tmp_path / "model.safetensors").write_bytes(b"more weights")
    assert lm_eval_models.model_identity(lm) != before


# the real thing: the embedded model, lm-eval's command line, kill -9

LM_EVAL = f"""
import sys, lm_eval.tasks.manager as manager
manager.__file__ = "/nowhere/manager.py"  # to read all of lm-eval's own task files takes half a minute
from attnpo.evaluation import lm_eval_hook
lm_eval_hook.extend(manager.TaskManager)
sys.argv[1:] = ["run", "--model", "hf", "--model_args", "pretrained={MODEL_DIR}", "--device", "cpu",
    "--tasks", "attnpo_testbed_test", "--limit", "12", "--batch_size", "8", "--seed", "11", "--log_samples",
    "--gen_kwargs", "temperature=1.0,top_p=1.0,max_gen_toks=96", *sys.argv[1:]]
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


def start(out: Path, folder: Path | None, *more: str) -> subprocess.Popen[bytes]:
    metadata = {"samples": 4, **({} if folder is None else {"resume": str(folder)})}
    command = [sys.executable, "-c", LM_EVAL, "--metadata", json.dumps(metadata), "--output_path", str(out), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATTNPO_NO_LM_EVAL_HOOK": "1", "ATTNPO_RESUME": ""}
    with (out.parent / f"{out.name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def samples(out: Path) -> list[tuple[Any, ...]]:
    (path,) = out.rglob("samples_attnpo_testbed_test_*.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [(line["doc"]["id"], line["arguments"], record) for line in lines for record in line["responses"]]
    assert all({"tokens", "finish", "seed", "text"} <= set(record) for _, _, record in rows)
    return rows


@pytest.mark.slow
def test_kill_9_through_lm_eval(tmp_path: Path) -> None:
    straight = start(tmp_path / "straight", None)
    folder = tmp_path / "stored"
    killed = start(tmp_path / "killed", folder)
    path = folder / "samples-0.jsonl"
    deadline = time.monotonic() + 300
    while not path.is_file() or path.read_bytes().count(b"\n") < 16:
        assert killed.poll() is None, (tmp_path / "killed.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    there = stored_lines(folder)
    assert 16 <= len(there) < 48, "killed too late: the test shows nothing"
    again = start(tmp_path / "again", folder)
    assert (again.wait(), straight.wait()) == (0, 0), (tmp_path / "again.log").read_text()
    rows = samples(tmp_path / "again")
    assert len(rows) == 48
    assert rows == samples(tmp_path / "straight")
    assert len({record["text"] for _, _, record in rows}) > 40
    finally_there = stored_lines(folder)
    assert finally_there[: len(there)] == there
    assert len(finally_there) == len({(line["problem_id"], line["k"]) for line in finally_there}) == 48


def test_tasks_refuse_lm_eval_s_request_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by task alone and would bring back another run's k and temperature."""
    from lm_eval.tasks import TaskManager

    folder = lm_eval_hook.tasks_folder()
    manager = TaskManager(include_path=folder, include_defaults=False, metadata={"samples": 3, "resume": "here"})
    (task,) = manager.load(["attnpo_testbed_test"])["tasks"].values()
    monkeypatch.setattr(
        "lm_eval.api.task.load_from_cache", lambda file_name, cache: pytest.fail("asked") if cache else None
    )
    task.build_all_requests(limit=2, cache_requests=True, rewrite_requests_cache=True)
    assert [request.repeats for request in task.instances] == [3, 3]
    assert task.instances[0].attnpo_plan.folder == Path("here")
