"""Several processes give the samples of one, and none of them outlives whoever asked."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attnpo.errors import AttnPOError
from attnpo.sampling import backends, processes
from attnpo.sampling.backends import make_sampler
from attnpo.sampling.processes import ProcessSampler, visible_gpus
from attnpo.sampling.sampler import Sample, Sampler
from attnpo.testbed import EMBEDDED

PROMPTS = [[10 + i] for i in range(7)]


class Drawing(Sampler):
    """Draws a number for each response, from one stream for each two; tells its process and its GPUs."""

    unit = 2

    def sample(self, prompts: Any, *, seeds: Any, options: Any, **_: Any) -> Iterator[tuple[int, int, Sample]]:
        for i, prompt in enumerate(prompts):
            if i % self.unit == 0:
                draw = random.Random(seeds[i])
            if prompt == (options or {}).get("refuse"):
                raise AttnPOError(f"{prompt}: refused")
            if prompt == (options or {}).get("fail"):
                raise ZeroDivisionError("no number")
            if prompt == (options or {}).get("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            text = f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
            yield i, 0, Sample([*prompt, draw.randrange(10**6)], "stop", text)

    def close(self) -> None:
        pass


def ask(sampler: Sampler, k: int = 1, **options: Any) -> dict[tuple[int, int], Sample]:
    seeds = list(range(100, 100 + len(PROMPTS) * k))
    found = sampler.sample(PROMPTS, k=k, temperature=1.0, max_new_tokens=2, seeds=seeds, options=options)
    return {(prompt, number): one for prompt, number, one in found}


def test_the_units_are_dealt_and_the_samples_are_those_of_one_process() -> None:
    alone = {(i, 0): one for i, _, one in Drawing().sample(PROMPTS, seeds=range(100, 107), options=None)}  # type: ignore[arg-type]
    with ProcessSampler(Drawing, 2, ["3", "5"]) as sampler:
        found = ask(sampler)
        again = ask(sampler)
        workers = [process for process, _ in sampler._workers]
    assert {key: one.ids for key, one in found.items()} == {key: one.ids for key, one in alone.items()}
    assert again == found  # by the same processes
    of = {str(one.text).split()[1]: str(one.text).split()[0] for one in found.values()}
    assert set(of) == {"3", "5"} and len({*of.values(), str(os.getpid())}) == 3
    by_turn = [str(found[turn, 0].text).split()[1] for turn in range(7)]
    assert by_turn == ["3", "3", "5", "5", "3", "3", "5"]
    assert all(process.exitcode == 0 for process in workers)


def test_k_responses_to_a_prompt_and_fewer_units_than_processes() -> None:
    with ProcessSampler(Drawing, 2, [None] * 20) as sampler:
        found = ask(sampler, k=2)
        assert len(sampler._workers) == 7
    assert set(found) == {(prompt, number) for prompt in range(7) for number in range(2)}
    assert all(one.ids[0] == 10 + prompt for (prompt, _), one in found.items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"refuse": [12]}, AttnPOError, r"^\[12\]: refused$"),
        ({"fail": [12]}, RuntimeError, "a sampling process failed:\n(.|\n)*ZeroDivisionError: no number"),
        ({"die": [12]}, AttnPOError, "ended with exit code -9, .*run the same command again, with a smaller batch"),
    ],
)
def test_what_goes_wrong_in_a_process_is_told(options: dict, error: type[Exception], message: str) -> None:
    sampler = ProcessSampler(Drawing, 2, [None, None])
    with pytest.raises(error, match=message):
        ask(sampler, **options)
    assert sampler._workers == []  # none is left
    assert len(ask(sampler)) == 7  # and new ones can be started
    sampler.close()


def _start_and_wait(path: str) -> None:
    sampler = ProcessSampler(Drawing, 2, [None])
    ask(sampler)
    Path(path).write_text(str(sampler._workers[0][0].pid))
    time.sleep(600)


def test_the_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    import multiprocessing

    parent = multiprocessing.get_context("spawn").Process(target=_start_and_wait, args=(str(tmp_path / "pid"),))
    parent.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert parent.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.join()
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """Whether a process is there, and is no corpse that nobody has looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("gpus", "number", "expected"),
    [
        ([], None, None),
        ([], 1, None),
        ([], 2, [None, None]),
        (["4"], None, None),
        (["4", "7"], None, ["4", "7"]),
        (["4", "7", "8"], 2, ["4", "7"]),
        (["4", "7"], 3, "3 sampling processes; take at most 2, the visible GPUs"),
        ([], 0, "0 sampling processes; take 1 or more"),
    ],
)
def test_one_process_a_visible_gpu(
    gpus: list[str], number: int | None, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(backends, "_make", lambda *_, **__: "one")
    make = functools.partial(make_sampler, "hf", EMBEDDED, batch_size=9, processes=number)
    if isinstance(expected, str):
        with pytest.raises(AttnPOError, match=expected):
            make()
    elif expected is None:
        assert make() == "one"
    else:
        sampler: Any = make()
        assert (sampler._devices, sampler.unit) == (expected, 9)


@pytest.mark.parametrize(
    ("named", "count", "expected"), [(None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"]), ("", 0, []), ("3,9", 1, ["3"])]
)
def test_gpus_keep_the_names_that_the_user_gave(
    named: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.os, "environ", {} if named is None else {"CUDA_VISIBLE_DEVICES": named})
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert visible_gpus() == expected
