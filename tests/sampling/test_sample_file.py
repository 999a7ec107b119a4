"""Samples on disk: appended as they come, read in any order, made whole after a kill."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from attnpo.errors import AttnPOError
from attnpo.sampling.sampler import Sample
from attnpo.sampling.store import SampleFile

FIELDS = ("problem_id", "k")
KEYS = [(f"p{i}", k) for i in range(5) for k in range(2)]
PROMPTS = [[10 + i] for i in range(5) for _ in range(2)]
SEEDS = list(range(100, 110))


class FakeSampler:
    """A response is made of its prompt and of random numbers, a stream for each `unit` of responses."""

    def __init__(self, unit: int, shuffled: bool = False, stop_after: int | None = None) -> None:
        self.unit, self.shuffled, self.stop_after = unit, shuffled, stop_after
        self.asked = 0

    def sample(self, prompts: Sequence[Sequence[int]], **options: Any) -> Iterator[tuple[int, int, Sample]]:
        self.asked += len(prompts)
        found = []
        for start in range(0, len(prompts), self.unit):
            draw = random.Random(options["seeds"][start])
            for turn in range(start, min(start + self.unit, len(prompts))):
                found.append((turn, 0, Sample([*prompts[turn], draw.randrange(10**6)], "stop")))
        if self.shuffled:
            random.Random(len(found)).shuffle(found)
        for n, one in enumerate(found):
            if n == self.stop_after:
                raise KeyboardInterrupt
            yield one

    def close(self) -> None: ...

    def __enter__(self) -> FakeSampler:
        return self

    def __exit__(self, *_: Any) -> None: ...


def fill(path: Path, sampler: FakeSampler) -> list[dict[str, Any]]:
    with SampleFile(path, FIELDS) as file:
        file.fill(sampler, KEYS, PROMPTS, SEEDS, temperature=1.0, max_new_tokens=2)
        return list(file.rows(KEYS))


@pytest.mark.parametrize(("unit", "shuffled"), [(4, False), (1, True)])
def test_a_killed_run_ends_with_the_samples_of_a_straight_one(tmp_path: Path, unit: int, shuffled: bool) -> None:
    straight = fill(tmp_path / "straight.jsonl", FakeSampler(unit, shuffled))
    assert [(row["problem_id"], row["k"]) for row in straight] == KEYS
    for stop in range(len(KEYS)):
        path = tmp_path / f"{stop}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            fill(path, FakeSampler(unit, shuffled, stop_after=stop))
        with path.open("ab") as file:
            file.write(b'{"problem_id": "p0", "k"')  # what a kill leaves of a line
        rest = FakeSampler(unit, shuffled)
        assert fill(path, rest) == straight
        assert rest.asked == len(KEYS) - stop // unit * unit
        assert len(path.read_text().splitlines()) == len(KEYS)
    again = FakeSampler(unit)
    assert fill(tmp_path / "straight.jsonl", again) == straight
    assert again.asked == 0


def test_a_row_holds_key_ids_and_finish(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.jsonl"
    with SampleFile(path, FIELDS) as file:
        file.append(("é", 1), Sample([1, 2], "length"))
        assert json.loads(path.read_text()) == {"problem_id": "é", "k": 1, "response_ids": [1, 2], "finish": "length"}
        file.append(("b", 0), Sample([], None, "text \ud800", 3), seed=5)
        rows = list(file.rows([("b", 0), ("é", 1)]))
        assert rows[0] == {
            "problem_id": "b",
            "k": 0,
            "response_ids": [],
            "finish": None,
            "seed": 5,
            "text": "text \ud800",
            "usage": 3,
        }
        assert rows[1]["response_ids"] == [1, 2]
        assert len(file) == 2
        with pytest.raises(KeyError):
            list(file.rows([("c", 0)]))
        with pytest.raises(AttnPOError, match="another process writes there"):
            SampleFile(path, FIELDS)
    path.write_text('{"problem_id": \n{}\n')
    with pytest.raises(AttnPOError, match=r"samples.jsonl:1: not JSON .*; delete"):
        SampleFile(path, FIELDS)


def test_the_rows_of_other_files_are_seen_and_not_written_again(tmp_path: Path) -> None:
    straight = fill(tmp_path / "straight.jsonl", FakeSampler(1))
    with SampleFile(tmp_path / "one.jsonl", FIELDS) as one:
        one.append(KEYS[3], Sample([13, 1], "stop"))
        with SampleFile(tmp_path / "two.jsonl", FIELDS, [tmp_path / "one.jsonl"]) as two:
            sampler = FakeSampler(1)
            two.fill(sampler, KEYS, PROMPTS, SEEDS, temperature=1.0, max_new_tokens=2)
            assert sampler.asked == len(KEYS) - 1
            rows = list(two.rows(KEYS))
    assert rows[3]["response_ids"] == [13, 1]
    assert rows[:3] + rows[4:] == straight[:3] + straight[4:]
    assert len((tmp_path / "two.jsonl").read_text().splitlines()) == len(KEYS) - 1
