"""reproduce/small.sh in miniature, on a CPU: the large model is built, measured and evaluated by profile small."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from attnpo.cli import main
from attnpo.probing.heads import HeadRanking
from attnpo.probing.probe import run_probe
from attnpo.runs.plan import eval_spec, problems_identity
from attnpo.runs.profile import Profile, load_profile
from attnpo.sampling.models import load_tokenizer
from attnpo.testbed import MODELS, build, load_problems, traces
from attnpo.testbed.problems import LARGE, ChainProblem, load

SIZE = "--hidden-size 32 --intermediate-size 32 --layers 2 --heads 4 --kv-heads 2 --vocab-examples 500"
STEPS = "--rounds.0.bare-steps 1 --rounds.0.steps 2 --save-steps 2 --batch-size 2 --warmup-steps 1"
CHANGES = {
    "extends": "small.yaml",
    "name": "mini",
    "probe": {"problems": 4, "samples": 1, "bootstrap": 50},
    "train": {"steps": 1, "save_steps": 1, "prompts_per_step": 2, "group_size": 2, "max_completion_tokens": 8},
    "evaluate": {"samples": 1, "limit": 2, "max_completion_tokens": 8, "batch_size": 8},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("testbed-large")
    words = ["--scale", "testbed-large", "--out", str(folder), *SIZE.split(), *STEPS.split()]
    return build.build(build.config_of(words))


@pytest.fixture
def profile(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Profile small with little to do; its model is the miniature."""
    monkeypatch.setitem(MODELS, "testbed-large", MODELS["testbed-large"]._replace(folder=model))
    shutil.copyfile(ROOT / "reproduce" / "profiles" / "small.yaml", tmp_path / "small.yaml")
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(CHANGES))
    return load_profile(str(tmp_path / "mini.yaml"))


@pytest.fixture
def card() -> Any:
    path = ROOT / "reproduce" / "testbed_card.py"
    spec = importlib.util.spec_from_file_location("testbed_card", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(problem: ChainProblem, seed: int) -> str:
    habits = traces.Habits(work=0.5, slip=0.0, doubt=0.0, recheck=1.0)
    return traces.write_trace(problem, random.Random(seed), habits).text


def probe_of_written_traces(profile: Profile, folder: Path) -> Path:
    """A probe whose samples are there already: the miniature answers nothing correctly."""
    tokenizer, section = load_tokenizer(profile.model), profile.probed()
    lines = []
    for seed, problem in enumerate(load(section.split, LARGE)[: section.problems]):
        ids = tokenizer(written(problem, seed), add_special_tokens=False)["input_ids"]
        row = {"problem_id": problem.id, "k": 0, "response_ids": [*ids, tokenizer.eos_token_id], "finish": "stop"}
        lines.append(json.dumps(row) + "\n")
    folder.mkdir()
    (folder / "samples.jsonl").write_text("".join(lines))
    return run_probe(profile.source, profile.steps, section, folder)


def test_a_command_line_starts_from_the_settings_of_its_scale() -> None:
    assert build.config_of([]) == build.CONFIGS["testbed"]
    assert build.config_of(["--scale", "testbed-large"]) == build.CONFIGS["testbed-large"]
    changed = build.config_of(["--rounds.0.steps", "7", "--scale=testbed-large"])
    assert (changed.rounds[0].steps, changed.hidden_size, changed.scale) == (7, 512, "testbed-large")
    assert build.config_of(["--rounds.0.steps", "7"]).hidden_size == 128


def test_a_written_response_has_about_300_tokens(model: Path) -> None:
    tokenizer = build.make_tokenizer(build.CONFIGS["testbed-large"])
    rng = random.Random(0)
    texts = [traces.write_trace(problem, rng).text for problem in load("test", LARGE)]
    lengths = [len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    # 325 in 600 others; their standard deviation is about 75, so five standard errors are 22.
    assert sum(lengths) / len(lengths) == pytest.approx(325, abs=22)
    small = load_profile("small")
    assert sum(n > small.trained().max_completion_tokens for n in lengths) <= 3
    assert build.CONFIGS["testbed-large"].context > 2 * small.evaluated().max_completion_tokens


def test_the_profile_trains_on_the_large_problems(profile: Profile, tmp_path: Path) -> None:
    words = ["--profile", str(profile.path), "--results", str(tmp_path / "results")]
    assert main(["train", "--method", "tlmre", *words]) == 0
    (log,) = (tmp_path / "results").rglob("log.jsonl")
    assert "steps/essential" in json.loads(log.read_text().splitlines()[0])


def test_the_profile_evaluates_the_large_problems(profile: Profile, tmp_path: Path) -> None:
    words = ["--profile", str(profile.path), "--results", str(tmp_path / "results")]
    assert main(["eval", "--method", "base", *words]) == 0
    (path,) = (tmp_path / "results").rglob("samples.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    expected = [load(split, LARGE)[i] for split in ("shifted", "test") for i in range(2)]
    assert sorted((row["task"], row["problem_id"]) for row in rows) == sorted(
        (f"attnpo_testbed_large_{'shifted' if p.wording == 'verbose' else 'test'}", p.id) for p in expected
    )
    assert all(row["tokens"]["total"] <= 8 and row["meta"]["chain"] in range(5, 10) for row in rows)


def test_the_card_measures_it(profile: Profile, model: Path, card: Any, tmp_path: Path, monkeypatch: Any) -> None:
    path = probe_of_written_traces(profile, tmp_path / "probe")
    ranking = HeadRanking.load(path)
    assert (ranking.n_responses, len(ranking.heads), ranking.label_source) == (4, 8, "testbed-large oracle")
    monkeypatch.setattr(card, "run_probe", lambda *_: path)
    monkeypatch.setattr(card, "run_eval", lambda *_, **__: evaluated(card, tmp_path))
    card.main(profile=str(profile.path))
    text = (model / "README.md").read_text()
    assert "chained arithmetic modulo 1000" in text and "    bash reproduce/small.sh\n" in text
    assert "| accuracy % | 50 to 80 | 100.0 | missed |" in text
    assert "| worked out right % | 98 to 100 | 100.0 | met |" in text
    assert text.count("\n| shifted | ") == 3  # all, and chains of eight and nine links


def evaluated(card: Any, folder: Path) -> Path:
    """Samples as the evaluation leaves them, of written traces in place of the model's."""
    hooks = ROOT / "tasks" / "attnpo_testbed" / "hooks.py"
    spec = importlib.util.spec_from_file_location("attnpo_testbed_hooks", hooks)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from attnpo.evaluation.lengths import Generation, TokenCounts

    lines = []
    for split in card.SPLITS:
        documents = getattr(module, f"load_large_{split}")()["test"]
        for seed, problem in enumerate(load(split, LARGE)[:6]):
            text = written(problem, seed)
            response = Generation.make(text, [1] * 300, "stop", TokenCounts(300, 200, 99))
            figures = module.process_large_results(documents[seed], [[response]], lambda: _Words())
            (record,) = figures["responses"]
            about = {"task": f"attnpo_testbed_large_{split}", "problem_id": problem.id, "k": 0}
            lines.append(json.dumps({**about, **record, "meta": {"chain": problem.chain}}) + "\n")
    (folder / "eval.jsonl").write_text("".join(lines))
    return folder / "eval.jsonl"


class _Words:
    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
        return {"input_ids": text.split()}


def test_an_evaluation_is_identified_by_the_problems_of_its_scale(tmp_path: Path) -> None:
    small, tiny = load_profile("small"), load_profile("tiny")
    large = [problems_identity("testbed-large", split) for split in ("test", "shifted", "validation")]
    embedded = [problems_identity("testbed", split) for split in ("test", "shifted")]
    assert eval_spec(small, "rloo", 0)["problems"] == large[:2]
    assert eval_spec(small.trials(), "rloo@2", 0)["problems"] == large[2:]
    assert eval_spec(tiny, "rloo", 0)["problems"] == embedded
    mixed = tiny.evaluated_by({"tasks": ["attnpo_testbed_large_test", "attnpo_testbed", "attnpo_gsm8k"]})
    spec = eval_spec(mixed, "rloo", 0)
    assert spec["problems"] == embedded + large[:2] and list(spec["tasks"]) == ["attnpo_gsm8k"]
    assert load_problems("testbed-large", "test") == load("test", LARGE)


def test_without_the_model_there_is_a_plan_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "testbed-large"
    monkeypatch.setitem(MODELS, "testbed-large", MODELS["testbed-large"]._replace(folder=folder))
    words = ["--profile", "small", "--results", str(tmp_path / "results")]
    line = f"the large testbed model is missing from {folder}; make it: bash reproduce/small.sh"
    assert main(["run", "table1", "--dry-run", *words]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 23 and err.splitlines()[-1] == line
    for command in (["run", "table1"], ["probe"], ["train", "--method", "attnpo"], ["eval", "--method", "tlmre"]):
        assert main([*command, *words]) == 2
        assert capsys.readouterr().err == f"attnpo: {line}\n"
    alone = ["eval", "--model", "testbed-large", "--tasks", "attnpo_testbed_large"]
    assert main([*alone, *words[2:]]) == 2
    assert capsys.readouterr().err == f"attnpo: {line}\n"
    assert not (tmp_path / "results").exists()
