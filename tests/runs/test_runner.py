"""The runner with made-up jobs (tests/fake_jobs): real processes, signals and locks, no torch."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import PROFILE, fake_profile, write_profile
from places import TESTS
from rich.console import Console

from attnpo.errors import AttnPOError
from attnpo.runs.plan import check_methods, plan_runs, train_spec
from attnpo.runs.profile import Profile
from attnpo.runs.progress import Display, last_entry
from attnpo.runs.runner import _cause
from attnpo.runs.store import run_id


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """A model folder and a data file: what a profile needs to exist."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "data.jsonl").write_text('{"problem": "1 + 1", "answer": "2"}\n')
    return {"model": str(tmp_path / "model"), "data": str(tmp_path / "data.jsonl")}


def ids(profile: Profile) -> dict[str, str]:
    return {job.title: job.run.id for job in plan_runs(profile, Path("results"))}


# the plan


def test_the_plan_has_every_run_once_after_what_it_needs(tmp_path: Path, world: dict[str, Any]) -> None:
    plan = plan_runs(fake_profile(tmp_path, **world), tmp_path)
    assert len(plan) == 1 + 3 * 3 + 4 * 3
    assert len({job.run.id for job in plan}) == len(plan)
    seen: set[str] = set()
    for job in plan:
        assert {run.id for run in job.needs} <= seen
        seen.add(job.run.id)
    needs_probe = {job.method for job in plan if any(run.id == plan[0].run.id for run in job.needs)}
    assert needs_probe == {"attnpo"}


def test_a_change_gives_new_ids_to_just_what_it_changes(tmp_path: Path, world: dict[str, Any]) -> None:
    before = ids(fake_profile(tmp_path, **world))

    def changed(**changes: Any) -> set[str]:
        after = ids(fake_profile(tmp_path, **{**world, **changes}))
        return {title for title in before if after[title] != before[title]}

    everything, trained = set(before), {t for t in before if t != "probe seed 0" and "base" not in t}
    attnpo = {t for t in before if "attnpo" in t}
    evals = {t for t in before if t.startswith("eval")}
    assert changed(report={"accuracy_margin": 0.5}) == set()
    assert changed(train={**PROFILE["train"], "steps": 5}) == trained
    assert changed(probe={**PROFILE["probe"], "samples": 9}) == {"probe seed 0"} | attnpo
    assert changed(evaluate={**PROFILE["evaluate"], "samples": 9}) == evals
    relabelled = {name: {**method, "label": "new"} for name, method in PROFILE["methods"].items()}
    assert changed(methods=relabelled) == set()
    credit = {**PROFILE["methods"], "attnpo": {**PROFILE["methods"]["attnpo"], "credit": {"warmup_steps": 1}}}
    assert changed(methods=credit) == attnpo
    (Path(world["model"]) / "model.safetensors").write_bytes(b"other weights")
    assert changed() == everything


def test_a_changed_problem_changes_what_was_trained_on_it(tmp_path: Path, world: dict[str, Any]) -> None:
    before = ids(fake_profile(tmp_path, **world))
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": "1 + 1", "answer": "3"}\n')
    after = ids(fake_profile(tmp_path, **{**world, "data": str(other)}))
    assert {t for t in before if before[t] != after[t]} == {t for t in before if "base" not in t}


def test_settings_of_a_method_change_its_ids_and_no_other(tmp_path: Path, world: dict[str, Any]) -> None:
    """Every flag of an ablation is part of what determines a run."""

    def id_of(**changes: Any) -> str:
        method = {**PROFILE["methods"]["attnpo"], **changes}
        profile = fake_profile(tmp_path, **world, methods={**PROFILE["methods"], "attnpo": method})
        assert train_spec(profile, "tlmre", 0) == plain
        return run_id(train_spec(profile, "attnpo", 0))

    plain = train_spec(fake_profile(tmp_path, **world), "tlmre", 0)
    assert not {"estimator", "grpo", "tell", "n_heads", "phrases", "tune", "label"} & plain["settings"].keys()
    target = {"text": "Think for {n} tokens.", "low": 1, "high": 2, "evaluate": 1}
    flags: list[dict[str, Any]] = [
        {},
        {"estimator": "grpo"},
        {"grpo": {"epsilon_high": 0.28}},
        {"target_length": target},
        {"n_heads": 1},
        {"n_heads": 8},
        {"phrases": "published"},
        *({"heads": heads} for heads in ("worst", "random", "all", "oracle", [[1, 2]])),
        {"heads": "random", "n_heads": 8},
        *({"credit": {key: False}} for key in ("positive", "negative", "schedule", "difficulty")),
        {"credit": {"variant": "summary"}},
        {"reward": "dler"},
    ]
    assert len({id_of(**flag) for flag in flags}) == len(flags)
    assert id_of(tune=[{}]) == id_of(label="new") == id_of()
    # With `random`, how many is the probe's number of heads unless the method says so.
    assert id_of(heads="random") == id_of(heads="random", n_heads=3)


def test_artefacts_and_seeds_of_methods_decide_the_plan(tmp_path: Path, world: dict[str, Any]) -> None:
    artefacts = {"both": {"methods": ["tlmre", "tlmre+attnpo"], "seeds": [0]}}
    profile = fake_profile(tmp_path, **world, artefacts=artefacts, method_seeds={"tlmre": [0, 5]})
    titles = [job.title for job in plan_runs(profile.narrowed("both"), tmp_path)]
    trained = ["tlmre seed 0", "tlmre+attnpo seed 0", "tlmre seed 5"]
    evaluated = ["base seed 0", "base seed 5", *trained]
    assert titles[0] == "probe seed 0"
    assert titles.index("eval tlmre seed 0") < titles.index("train tlmre seed 5")  # a seed to its end
    assert [t for t in titles if t.startswith("train")] == [f"train {t}" for t in trained]
    assert sorted(t for t in titles if t.startswith("eval")) == sorted(f"eval {t}" for t in evaluated)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"label": "x", "reward": "tlmr"}, r"fake\.yaml: methods\.x\.reward: no reward 'tlmr'"),
        (
            {"label": "x", "reward": "rloo", "credit": {"warmup": 1}},
            r"x\.credit\.warmup: unknown key",
        ),
        (
            {"label": "x", "reward": "tlmre", "reward_args": {"alpah": 0.1}},
            r"fake\.yaml: methods\.x\.reward_args: reward 'tlmre' has no argument 'alpah'; it has alpha",
        ),
        (
            {"label": "x", "reward": "dot"},
            r"methods\.x\.reward_args: std_multiplier 3\.0 can cut nothing in groups of 8",
        ),
        (
            {"label": "x", "reward": "rloo", "attnpo": True, "heads": "oracle"},
            r"methods\.x\.heads: oracle labels are known for testbed, testbed-large, not 'some\.jsonl'",
        ),
        ({"label": "x", "reward": "rloo", "answers": {"samples": 0}}, r"methods\.x\.answers\.samples: 0 must be"),
        ({"label": "x", "reward": "s_grpo", "exits": {"loss": "x"}}, r"methods\.x\.exits\.loss: 'x' is not"),
        ({"label": "x", "reward": "rloo", "selection": {"shares": 1}}, r"methods\.x\.selection\.shares: unknown key"),
    ],
)
def test_wrong_methods_are_found_before_anything_runs(tmp_path: Path, method: dict[str, Any], message: str) -> None:
    with pytest.raises(AttnPOError, match=message):
        check_methods(fake_profile(tmp_path, data="some.jsonl", methods={"x": method}))


def test_the_last_entry_is_the_last_whole_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert last_entry(log) == {"step": 0}
    log.write_text('{"step": 1}\n{"step": 12, "loss": 0.5}\n{"train_runtime": 3.0}\n{"ste')
    assert last_entry(log) == {"step": 12, "loss": 0.5}
    log.write_bytes(
        b'{"step": 1}\n{"step": 2, "x": "' + b"\xc3\xa4" * 50_000 + b'"}\n{"step": 3}\n{"step": 4, "x": "\xc3'
    )
    assert last_entry(log) == {"step": 3}  # where the end that is read begins inside a character too
    log.write_bytes(b"\x00" * 100)  # what a loss of power may leave
    assert last_entry(log) == {"step": 0}


# showing it


def test_where_there_is_no_terminal_a_line_is_written_when_a_run_ends(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job for job in plan_runs(fake_profile(tmp_path, **world), tmp_path) if job.kind == "train"][:2]
    jobs[0].run.folder.mkdir(parents=True)
    log = jobs[0].run.folder / "log.jsonl"
    out = io.StringIO()
    with Display(6, 1, 4, Console(file=out, width=200)) as display:
        display.bars.get_time = iter(range(0, 1000, 60)).__next__
        display.update(jobs, 1)
        for step in (1, 2):  # of 4: of no run that has ended
            log.write_text(json.dumps({"step": step}) + "\n")
            display.update(jobs, 1)
        display.update(jobs[1:], 2)
        display.update([], 6)
    *where, first, second, last = out.getvalue().splitlines()
    assert where == [f"{job.title}: see {job.run.folder}/job.log, and log.jsonl beside it" for job in jobs]
    assert first == "1/6 runs; train rloo seed 0; train tlmre seed 0"
    assert re.fullmatch(r"2/6 runs, about \d+:\d\d(:\d\d)? left; train tlmre seed 0", second)
    assert last == "6/6 runs"


FIGURES = {
    "step": 3,
    "attnpo/group_accuracy": 0.671875,
    "completions/mean_length": 101.31,
    "attnpo/pa_token_share": 0.019,
    "attnpo/na_token_share": 0.014,
}


@pytest.mark.parametrize("terminal", [True, False])
def test_beside_a_training_stand_the_figures_of_its_newest_step(
    tmp_path: Path, world: dict[str, Any], terminal: bool
) -> None:
    plan = plan_runs(fake_profile(tmp_path, **world), tmp_path)
    jobs = [job for job in plan if job.kind == "train" and job.seed == 0]
    for job in jobs[1:]:  # the first has not taken a step
        job.run.folder.mkdir(parents=True)
        (job.run.folder / "log.jsonl").write_text(json.dumps(FIGURES) + '\n{"step": 4, "attnpo/gro')
    out = io.StringIO()
    with Display(6, 0, 4, Console(file=out, width=200, force_terminal=terminal, color_system=None)) as display:
        display.update(jobs, 0)
        display.bars.refresh()
    shown = {title: line for line in re.split(r"[\n;]", out.getvalue()) for title in [job.title for job in jobs]
             if title in line and "job.log" not in line}  # fmt: skip
    step = "3/4" if terminal else "step 3/4, "
    assert "accuracy" not in shown["train rloo seed 0"]
    assert step in shown["train tlmre seed 0"] and "accuracy 0.67, 101 tokens" in shown["train tlmre seed 0"]
    assert "attenuated" not in shown["train tlmre seed 0"]
    assert step in shown["train attnpo seed 0"] and "3.3% of tokens attenuated" in shown["train attnpo seed 0"]


def test_on_a_terminal_bars_show_steps_and_runs(tmp_path: Path, world: dict[str, Any]) -> None:
    jobs = [job for job in plan_runs(fake_profile(tmp_path, **world), tmp_path) if job.kind != "probe"][:2]
    out = io.StringIO()
    with Display(6, 3, 4, Console(file=out, width=120, force_terminal=True, color_system=None)) as display:
        display.update(jobs, 3)
        display.bars.refresh()
    shown = out.getvalue()
    assert "3/6" in shown
    assert "train rloo seed 0" in shown and "0/4" in shown


# running it


class Call:
    """`attnpo run table1` in its own process, with made-up jobs."""

    def __init__(self, tmp_path: Path, world: dict[str, Any], **environment: str) -> None:
        self.journal = tmp_path / "journal"
        self.results = tmp_path / "results" / "fake"
        self.profile = write_profile(tmp_path, **world)
        paths = [str(TESTS / "fake_jobs"), str(TESTS), str(TESTS.parent)]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "FAKE_JOURNAL": str(self.journal),
            **environment,
        }

    def start(self, *options: str, artefact: str = "table1") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "attnpo.cli", "run", artefact, "--profile", str(self.profile)]
        command += ["--results", str(self.results.parent), *options]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, *options: str, artefact: str = "table1") -> tuple[int, str, str]:
        process = self.start(*options, artefact=artefact)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def jobs(self) -> list[str]:
        """Titles of what was computed so far."""
        lines = self.journal.read_text().splitlines() if self.journal.is_file() else []
        return [line.split(" pid ")[0] for line in lines]

    def pids(self) -> list[int]:
        return [int(line.split(" pid ")[1]) for line in self.journal.read_text().splitlines()]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def two_methods(world: dict[str, Any]) -> dict[str, Any]:
    methods = {name: PROFILE["methods"][name] for name in ("tlmre", "attnpo")}
    return {**world, "methods": methods, "seeds": [0], "report": {"bootstrap": 20}}


def test_a_plan_runs_to_the_table_and_then_never_again(tmp_path: Path, world: dict[str, Any]) -> None:
    call = Call(tmp_path, two_methods(world))
    code, out, err = call("--jobs", "3")
    assert code == 0, err
    assert sorted(call.jobs()) == [
        *("eval attnpo 0", "eval base 0", "eval tlmre 0", "probe"),
        *("train attnpo 0 from 0", "train tlmre 0 from 0"),
    ]
    assert "6/6 runs" in err
    assert "AttnPO is" in out
    table = (call.results / "table1.md").read_text()
    assert "not run" not in table
    assert (call.results / "figures" / "heads.png").stat().st_size > 0
    written = {p: p.read_bytes() for p in call.results.rglob("*") if p.is_file()}
    assert loads_no_torch(call)
    assert len(call.jobs()) == 6
    assert {p: p.read_bytes() for p in call.results.rglob("*") if p.is_file()} == written
    manifest = json.loads(next((call.results / "raw").glob("train-attnpo-*/manifest.json")).read_text())
    assert manifest["command"] == "attnpo train --profile fake.yaml --method attnpo --seed 0"
    assert str(tmp_path) not in json.dumps(manifest)


def test_one_at_a_time_the_order_is_the_plan_s(tmp_path: Path, world: dict[str, Any]) -> None:
    world = {**two_methods(world), "methods": {"tlmre": PROFILE["methods"]["tlmre"]}, "seeds": [1, 0]}
    call = Call(tmp_path, world)
    code, _, err = call("--jobs", "1")
    assert code == 0, err
    titles = [job.title for job in plan_runs(fake_profile(tmp_path, **world), tmp_path)]
    assert [re.sub(r" from 0$", "", job) for job in call.jobs()] == [title.replace(" seed", "") for title in titles]


def loads_no_torch(call: Call) -> bool:
    """Whether the same call with the real modules, which import torch, ends well without loading them."""
    script = (
        "import sys; from attnpo.cli import main\n"
        "code = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(code)"
    )
    options = ["run", "table1", "--profile", str(call.profile), "--results", str(call.results.parent)]
    environment = {**call.environment, "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-c", script, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1] == "False"


def test_a_failed_job_is_named_and_the_others_go_on(tmp_path: Path, world: dict[str, Any]) -> None:
    call = Call(tmp_path, two_methods(world), FAKE_FAIL="train tlmre 0 from 0")
    code, _, err = call("--jobs", "2")
    assert code == 2
    assert re.search(
        r"failed: train tlmre seed 0 \(exit code 2\), see .*job\.log: .*RuntimeError: made to fail, .*it goes on,$",
        err,
        re.M,
    )
    assert "eval tlmre seed 0" in err.splitlines()[-1]
    assert "eval attnpo 0" in call.jobs()
    assert "eval tlmre 0" not in call.jobs()
    assert "| TLMRE | not run |" in (call.results / "table1.md").read_text()
    call.environment["FAKE_FAIL"] = ""
    code, _, err = call("--jobs", "2")
    assert code == 0, err
    assert "not run" not in (call.results / "table1.md").read_text()
    assert call.jobs().count("eval attnpo 0") == 1


def test_jobs_that_would_fail_alike_are_not_started(tmp_path: Path, world: dict[str, Any]) -> None:
    world = {**two_methods(world), "methods": {"tlmre": PROFILE["methods"]["tlmre"]}, "seeds": [0, 1, 2, 3, 4]}
    call = Call(tmp_path, world, FAKE_FAIL="train tlmre [1-4] from 0")
    code, _, err = call("--jobs", "1")
    assert code == 2
    trained = ["train tlmre 0 from 0", "train tlmre 1 from 0", "train tlmre 2 from 0"]
    assert [job for job in call.jobs() if job.startswith("train")] == trained
    assert "two train runs failed alike, so no other is started" in err
    assert sorted(job for job in call.jobs() if "eval base" in job) == [f"eval base {seed}" for seed in range(5)]
    assert "8 of 15 runs are missing" in err.replace("\n", " ")
    call.environment["FAKE_FAIL"] = ""
    code, _, err = call("--jobs", "4")
    assert code == 0, err


def test_a_failure_is_named_by_its_error_line(tmp_path: Path, world: dict[str, Any]) -> None:
    job = plan_runs(fake_profile(tmp_path, **world), tmp_path)[0]
    job.run.folder.mkdir(parents=True)
    log = job.run.folder / "job.log"
    for text, cause in {
        "$ probe\n": "it said nothing",
        "$ probe\nattnpo: old\n$ probe\n 5%|..\rValueError: new\n\n": "ValueError: new",
        "$ probe\nattnpo: no head (9, 9); take another\n[rank0] closing\n": "no head (9, 9); take another",
    }.items():
        log.write_text(text)
        assert _cause(job) == cause


def leave_what_git_has(call: Call) -> None:
    for path in (call.results / "raw").glob("*/*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("manifest.json", "record.csv", "heads.json"):
            path.unlink()


def unmarked(markdown: str) -> str:
    """A table without the marks of what is shown from records."""
    return "".join(re.sub(" ?†", "", line) for line in markdown.splitlines(keepends=True) if "†:" not in line)


def test_a_failed_call_leaves_recorded_runs_in_the_table(tmp_path: Path, world: dict[str, Any]) -> None:
    world = {**two_methods(world), "methods": {"tlmre": PROFILE["methods"]["tlmre"]}}
    call = Call(tmp_path, world)
    code, _, err = call("--jobs", "4")
    assert code == 0, err
    table = (call.results / "table1.md").read_text()
    leave_what_git_has(call)
    recorded = {path: path.read_bytes() for path in (call.results / "raw").glob("*tlmre*/*")}
    assert len(recorded) >= 4
    call.environment["FAKE_FAIL"] = "train tlmre 0 from 0"
    code, _, err = call("--jobs", "1")
    assert (code, "made to fail" in err) == (2, True)
    marked = (call.results / "table1.md").read_text()
    assert (unmarked(marked), "| TLMRE † |" in marked) == (table, True)
    assert {path: path.read_bytes() for path in recorded} == recorded


def test_recorded_runs_are_taken_only_if_asked_and_models_made_where_needed(
    tmp_path: Path, world: dict[str, Any]
) -> None:
    call = Call(tmp_path, two_methods(world))
    code, _, err = call("--jobs", "4")
    assert code == 0, err
    table = (call.results / "table1.md").read_bytes()
    once = call.jobs()
    leave_what_git_has(call)

    code, _, err = call("--recorded")
    assert (code, call.jobs()) == (0, once), err
    assert (call.results / "table1.md").read_bytes() == table

    lost = next((call.results / "raw").glob("eval-tlmre-*"))
    (lost / "record.csv").unlink()
    code, _, err = call("--dry-run", "--recorded")
    assert "2 to do: 1 train, 1 eval" in err
    code, _, err = call("--dry-run")
    assert f"{len(once)} to do" in err
    code, _, err = call("--recorded")
    assert code == 0, err
    assert sorted(call.jobs()[len(once) :]) == ["eval tlmre 0", "train tlmre 0 from 0"]


def test_the_core_rows_are_run_and_the_others_shown_from_their_records(tmp_path: Path, world: dict[str, Any]) -> None:
    artefacts = {"table1": {"methods": ["tlmre", "attnpo"], "core": {"methods": ["tlmre"], "seeds": 1}}}
    call = Call(tmp_path, {**two_methods(world), "artefacts": artefacts, "method_seeds": {"tlmre": [1, 0]}})
    code, _, err = call("--jobs", "3")
    assert code == 0, err
    core = ["eval base 1", "eval tlmre 1", "probe", "train tlmre 1 from 0"]
    assert sorted(call.jobs()) == core
    assert "core rows of table1: TLMRE, 1 seed; --all runs all 2\n4 runs, 4 to do: 1 probe, 1 train, 2 eval" in err
    assert "| AttnPO | not run |" in (call.results / "table1.md").read_text()

    code, _, err = call("--jobs", "3", "--all")
    assert code == 0, err
    assert len(call.jobs()) == 9
    whole = {ending: (call.results / f"table1.{ending}").read_text() for ending in ("md", "tex", "csv")}
    leave_what_git_has(call)
    code, _, err = call("--recorded")
    assert (code, len(call.jobs())) == (0, 9), err
    assert {ending: (call.results / f"table1.{ending}").read_text() for ending in whole} == whole

    code, out, err = call("--dry-run")
    assert [line.split()[1:3] for line in out.splitlines()[1:]] == [
        ["train", "tlmre"],
        ["eval", "base"],
        ["eval", "tlmre"],
    ]
    assert "TLMRE, 1 seed; the other row is shown from its records, --all runs all 2" in err
    code, out, err = call("--jobs", "3")
    assert code == 0, err
    assert sorted(call.jobs()[9:]) == core
    markdown, tex = ((call.results / f"table1.{ending}").read_text() for ending in ("md", "tex"))
    for text in (out, markdown, tex):
        assert "†: shown from the records of earlier runs, not run here" in text
    assert re.search(r"^\| AttnPO † \|.*\| 0 \|$", markdown, re.M)
    assert re.search(r"^\| TLMRE \|.*\| 0† 1 \|$", markdown, re.M)
    assert re.search(r"^AttnPO \$\^\\dagger\$ &", tex, re.M)
    assert "AttnPO †" in out
    assert unmarked(markdown) == whole["md"]


def test_a_core_row_that_the_table_has_not_is_refused(tmp_path: Path, world: dict[str, Any]) -> None:
    artefacts = {"table1": {"methods": ["tlmre"], "core": {"methods": ["rloo"], "seeds": 1}}}
    with pytest.raises(AttnPOError, match=r"artefacts\.table1\.core\.methods has 'rloo', which its methods have not"):
        fake_profile(tmp_path, **world, artefacts=artefacts)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_call_leaves_no_process_and_goes_on_where_it_stood(
    tmp_path: Path, world: dict[str, Any], how: signal.Signals
) -> None:
    world["train"] = {**PROFILE["train"], "steps": 8}
    call = Call(tmp_path, two_methods(world), FAKE_STEP_SECONDS="0.3")
    process = call.start("--jobs", "4")
    raw = call.results / "raw"
    wait_for(lambda: any(len(p.read_text().splitlines()) >= 2 for p in raw.glob("train-tlmre-*/log.jsonl")))
    process.send_signal(how)
    code = process.wait(timeout=30)
    process.communicate()
    assert code != 0
    wait_for(lambda: all(gone(pid) for pid in call.pids()), seconds=10)
    call.environment["FAKE_STEP_SECONDS"] = "0"
    code, _, err = call("--jobs", "4")
    assert code == 0, err
    resumed = [job for job in call.jobs() if job.startswith("train tlmre")]
    assert resumed[0] == "train tlmre 0 from 0"
    assert len(resumed) == 2
    assert int(resumed[1].split()[-1]) >= 2
    log = next(raw.glob("train-tlmre-*/log.jsonl")).read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 9))


LAUNCHER = """#!{python}
# Starts a worker in a session of its own, as torchrun does, which starts a process itself, and waits for the job.
import os, subprocess, sys
sleep = "import os, time; print('sleeper pid', os.getpid(), file=open(os.environ['FAKE_JOURNAL'], 'a'), flush=True);"
sleep += "time.sleep(600)"
worker = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True);"
subprocess.Popen([sys.executable, "-c", worker + sleep, sleep], start_new_session=True)
print("launched", flush=True)
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)
"""


def launched(tmp_path: Path, world: dict[str, Any], steps: int) -> dict[str, Any]:
    """A world with one method, which is trained through a launcher."""
    launcher = tmp_path / "launcher"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    changes = {
        "methods": {"tlmre": PROFILE["methods"]["tlmre"]},
        "train": {**PROFILE["train"], "steps": steps},
        "artefacts": {"fig_curves": {"methods": ["tlmre"]}},
        "launch": {"train": [str(launcher)]},
    }
    return {**two_methods(world), **changes}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_all_that_a_launcher_starts_ends_with_the_runner(
    tmp_path: Path, world: dict[str, Any], how: signal.Signals
) -> None:
    call = Call(tmp_path, launched(tmp_path, world, steps=200), FAKE_STEP_SECONDS="1")
    process = call.start("--jobs", "1", artefact="fig_curves")
    wait_for(lambda: sorted(call.jobs()) == ["sleeper", "sleeper", "train tlmre 0 from 0"])
    assert not any(gone(pid) for pid in call.pids())
    process.send_signal(how)
    assert process.wait(timeout=30) != 0
    process.communicate()
    wait_for(lambda: all(gone(pid) for pid in call.pids()), seconds=10)


def test_what_a_launcher_leaves_behind_ends_with_it(tmp_path: Path, world: dict[str, Any]) -> None:
    call = Call(tmp_path, launched(tmp_path, world, steps=2), FAKE_STEP_SECONDS="1")
    _, _, err = call("--jobs", "1", artefact="fig_curves")  # the made-up training logs no curve
    assert "1/1 runs" in err
    assert call.jobs().count("sleeper") == 2
    assert all(gone(pid) for pid in call.pids())
    log = next((call.results / "raw").glob("train-tlmre-*/job.log")).read_text()
    assert log.startswith(f"$ {tmp_path / 'launcher'} -m attnpo.cli train ")


@pytest.mark.parametrize(
    ("script", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("os.kill(os.getpid(), 15)", -15)]
)
def test_a_supervisor_ends_as_its_command(script: str, code: int) -> None:
    read_end, write_end = os.pipe()
    command = [
        sys.executable,
        "-m",
        "attnpo.runs.supervise",
        str(read_end),
        sys.executable,
        "-c",
        f"import os, sys; {script}",
    ]
    assert subprocess.run(command, pass_fds=(read_end,), timeout=60).returncode == code
    os.close(read_end)
    os.close(write_end)


def test_a_supervisor_passes_sigterm_on(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); time.sleep(60)"
    )
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "attnpo.runs.supervise", str(read_end), sys.executable, "-c", script]
    with subprocess.Popen(command, pass_fds=(read_end,), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(timeout=30) == 7
    os.close(read_end)
    os.close(write_end)


def test_a_launcher_that_is_not_there_is_named(tmp_path: Path, world: dict[str, Any]) -> None:
    world = {**launched(tmp_path, world, steps=2), "launch": {"train": ["no-such-launcher"]}}
    code, _, err = Call(tmp_path, world)("--jobs", "1", artefact="fig_curves")
    assert code == 2
    assert "attnpo: launch.train: no program 'no-such-launcher' is installed; install it" in err


def test_trials_are_compared_by_one_rule_on_validation(tmp_path: Path, world: dict[str, Any]) -> None:
    tuned = {"tlmre": {**PROFILE["methods"]["tlmre"], "tune": [{"reward_args": {"alpha": 0.1}}, {}]}}
    world = {**two_methods(world), "methods": tuned, "tuning": {"tasks": ["attnpo_testbed_validation"], "seeds": [7]}}
    call = Call(tmp_path, world)
    code, out, err = call("--jobs", "4", artefact="tune")
    assert code == 0, err
    titles = {"eval base@ 7", "eval tlmre@1 7", "eval tlmre@2 7", "train tlmre@1 7 from 0", "train tlmre@2 7 from 0"}
    assert set(call.jobs()) == titles
    lines = (call.results / "tune.csv").read_text().splitlines()
    assert out.splitlines() == lines
    assert lines[0] == "method,trial,settings,seeds,accuracy,tokens,aes,chosen"
    assert [line.rsplit(",", 1)[1] for line in lines[1:]] == ["0", "1"]  # the second is shorter, see fakes.MEANS
    assert lines[1].startswith('tlmre,1,"{""reward_args"":{""alpha"":0.1}}",1,0.')
    code, _, err = call("--method", "attnp", artefact="tune")
    assert (code, "no method 'attnp'" in err) == (2, True)
    code, _, err = call(artefact="table9")
    assert code == 2
    assert "nothing to make under 'table9'; profile fake has table1, tune" in err
    code, _, err = call("--method", "tlmr")
    assert code == 2
    assert "--method tlmr: table1 has tlmre" in err


def test_programs_that_a_model_wrote_run_with_consent_alone(tmp_path: Path, world: dict[str, Any]) -> None:
    world = {**two_methods(world), "evaluate": {**PROFILE["evaluate"], "tasks": ["attnpo_ood"]}}
    call = Call(tmp_path, world)
    code, _, err = call("--jobs", "4")
    assert (code, call.jobs()) == (2, [])
    assert "attnpo_livecodebench runs programs that the model writes" in err
    code, _, err = call("--jobs", "4", "--confirm-run-unsafe-code")
    assert code == 0, err
    logs = {p.parent.name.split("-")[0]: p.read_text() for p in (call.results / "raw").glob("*/job.log")}
    assert {kind for kind, log in logs.items() if "--confirm-run-unsafe-code" in log} == {"eval"}


def test_some_methods_of_a_table_can_be_run_alone(tmp_path: Path, world: dict[str, Any]) -> None:
    call = Call(tmp_path, two_methods(world))
    code, _, err = call("--method", "tlmre", "--jobs", "2")
    assert code == 0, err
    assert not [job for job in call.jobs() if "attnpo" in job]
    table = (call.results / "table1.md").read_text()
    assert "| AttnPO | not run |" in table
    assert "| TLMRE | not run |" not in table


def test_two_calls_do_not_work_on_the_same_results(tmp_path: Path, world: dict[str, Any]) -> None:
    call = Call(tmp_path, two_methods(world), FAKE_STEP_SECONDS="1")
    first = call.start("--jobs", "2")
    try:
        wait_for(lambda: len(call.jobs()) >= 1)
        code, _, err = call("--jobs", "2")
        assert code == 2
        assert "another `attnpo run` is at work here" in err
    finally:
        first.kill()
        first.communicate()


def test_a_dry_run_shows_the_plan_and_runs_nothing(tmp_path: Path, world: dict[str, Any]) -> None:
    call = Call(tmp_path, two_methods(world))
    code, out, err = call("--dry-run")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["absent"] * 6
    assert call.jobs() == []
    assert not call.results.exists()
