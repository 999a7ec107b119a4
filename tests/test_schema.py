"""What pydantic says about wrong settings, as one line with file, key, value and remedy."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError
from attnpo.schema import STRICT, Count, Options, Positive, Seeds, Share, build, read_yaml


@dataclass(frozen=True, config=STRICT)
class Level:
    name: str
    depth: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Inner:
    steps: Count
    rate: Positive = 1.0
    share: Share = 0.5
    levels: tuple[Level, ...] = ()
    pairs: Literal["top"] | list[tuple[Count, int]] = "top"
    limit: Count | None = None
    more: Options = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Outer:
    inner: Inner
    named: dict[str, Inner] = field(default_factory=dict)
    seeds: Seeds = field(default_factory=lambda: [0])


def test_values_keep_their_types() -> None:
    inner = build(Inner, {"steps": 2, "rate": 3, "pairs": [[1, 2]], "more": {"a": 1, "b": 1.0, "c": [True, None]}}, "f")
    assert dataclasses.asdict(inner) == {
        "steps": 2,
        "rate": 3.0,
        "share": 0.5,
        "levels": (),
        "pairs": [(1, 2)],
        "limit": None,
        "more": {"a": 1, "b": 1.0, "c": [True, None]},
    }
    assert [type(inner.rate), *map(type, inner.more.values())] == [float, int, float, list]


def test_a_changed_copy_is_checked_again() -> None:
    inner = Inner(steps=1)
    assert dataclasses.replace(inner, steps=2).steps == 2
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        dataclasses.replace(inner, steps=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        inner.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: 0 must be at least 1"),
        ({"steps": 2.0}, "steps: 2.0 is not a whole number"),
        ({"rate": 0}, "rate: 0 must be above 0"),
        ({"rate": float("nan")}, "rate: nan is not a finite number"),
        (
            {"rate": "3e-4"},
            "rate: '3e-4' is not a number; YAML reads an exponent only after a decimal point, as in 3.0e-4",
        ),
        ({"share": 1.5}, "share: 1.5 must be at most 1"),
        ({"limit": "all"}, "limit: 'all' is not a whole number or null"),
        ({"pairs": "best"}, "pairs: 'best' is not 'top' or a list"),
        ({"pairs": [[1, 2], [0, 2]]}, "pairs[1][0]: 0 must be at least 1"),
        ({"pairs": [[1, 2], [3]]}, "pairs[1][1]: missing; add it"),
        ({"pairs": [[1, 2, 3]]}, "pairs[0]: [1, 2, 3] must have a length of at most 2"),
        ({"levels": [{"depth": 1}]}, "levels[0].name: missing; add it"),
        ({"levels": [{"name": "x", "depth": "y"}]}, "levels[0].depth: 'y' is not a whole number"),
        ({"levels": [{"nam": "x"}]}, "levels[0].nam: unknown key, did you mean 'name'?; valid keys are name, depth"),
        ({"more": {"a": [float("inf")]}}, "more: {'a': [inf]} holds NaN or infinity; give finite numbers"),
        (
            {"setps": 1, "steps": ...},  # not the missing one that it causes
            "setps: unknown key, did you mean 'steps'?; valid keys are steps, rate, share, levels, pairs, limit, more",
        ),
        ({"steps": ...}, "steps: missing; add it"),
    ],
)  # fmt: skip
def test_the_line_names_file_key_and_value(changes: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in {"steps": 1, **changes}.items() if value is not ...}
    for mapping, at in (({"inner": values}, "inner"), ({"inner": {"steps": 1}, "named": {"x": values}}, "named.x")):
        with pytest.raises(AttnPOError) as caught:
            build(Outer, mapping, "f.yaml", "top")
        assert str(caught.value) == f"f.yaml: top.{at}.{message}"


def test_seeds_are_different_and_fit_numpy() -> None:
    for seeds, message in (
        ([1, 1], r"seeds: \[1, 1\] must be different whole numbers, at least one"),
        ([], r"seeds: \[\] must be different"),
        ([2**32], r"seeds\[0\]: 4294967296 must be below 4294967296"),
        ([-1], r"seeds\[0\]: -1 must be at least 0"),
    ):
        with pytest.raises(AttnPOError, match=message):
            build(Outer, {"inner": {"steps": 1}, "seeds": seeds}, "f.yaml")


def test_a_plain_dataclass_is_checked_likewise() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain:
        floor: float = 0.0

        def __post_init__(self) -> None:
            if self.floor > 1:
                raise AttnPOError("floor is above 1")

    assert build(Plain, {"floor": 1}, "f").floor == 1.0
    for values, message in (
        ({"flor": 1}, "f: s.flor: unknown key, did you mean 'floor'"),
        ({"floor": "1"}, "f: s.floor: '1' is not a number"),
        ({"floor": 2}, "f: s: floor is above 1"),
        (3, "f: s: 3 is not a mapping"),
    ):
        with pytest.raises(AttnPOError, match=message):
            build(Plain, values, "f", "s")


def test_a_value_that_holds_itself_is_one_line() -> None:
    circle: dict[str, Any] = {}
    circle["inner"] = circle
    with pytest.raises(AttnPOError, match="Circular reference"):
        build(Outer, circle, "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: {c: 1, c: 2}\n", r"f\.yaml: not valid YAML: key 'c' stands twice in .* line 2"),
        (b"a: 1\n'a': 2\n", "key 'a' stands twice"),
        (b"a: [1,\n", "not valid YAML"),
        (b"a: \xff\n", r"f\.yaml: not UTF-8 at byte 3; save it as UTF-8"),
    ],
)
def test_broken_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(AttnPOError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_merge_keys_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 3}\n")
    assert read_yaml(path)["c"] == {"x": 2, "y": 3}
