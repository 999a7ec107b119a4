"""Settings from files, checked by pydantic: what is wrong comes as one line with file, key, value and remedy.

Settings are frozen pydantic dataclasses with the configuration `STRICT`. `dataclasses.replace` checks the changed copy
again, and `dataclasses.asdict` gives back what was set.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass, is_pydantic_dataclass

from attnpo.errors import AttnPOError

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""No conversions but of a whole number to a float, no unknown keys, no NaN and no infinity."""


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(values, allow_nan=False, default=str)
    except ValueError:
        raise ValueError(f"{values} holds NaN or infinity; give finite numbers") from None
    return values


def _different(seeds: list[int]) -> list[int]:
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"{seeds} must be different whole numbers, at least one")
    return seeds


def _unique(names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1 or not name.strip():
            raise ValueError(f"{name!r} {'stands twice' if name.strip() else 'is no name'}; leave it out")
    return names


Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[list[Seed], AfterValidator(_different)]
Unique = Annotated[list[str], AfterValidator(_unique)]
Names = Annotated[list[str], Field(min_length=1), AfterValidator(_unique)]
Options = Annotated[dict[str, Any], AfterValidator(_finite)]
"""Arguments for somebody else, who checks them."""


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`: mappings merge key by key, anything else is replaced. Neither is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def build(cls: type[T], mapping: Any, file: str, section: str = "") -> T:
    """A dataclass from what a YAML or JSON file holds.

    Args:
        cls: a pydantic dataclass, or a plain one, which is then checked as if it had the configuration `STRICT`.
        mapping: field name to value, nested for nested dataclasses.
        file: what to call the mapping's origin in an error, e.g. `tiny.yaml`.
        section: the keys that lead to this mapping, e.g. `methods.attnpo`; empty at the top.

    Raises:
        AttnPOError: an unknown key, a missing one, a value of the wrong type or out of its range.
    """
    try:
        text = json.dumps(mapping, default=_plain)  # as JSON, strict types still let a list stand for a tuple
    except (TypeError, ValueError) as error:
        at = section or "the file"
        raise AttnPOError(f"{file}: {at}: not plain values ({error}); write it out as JSON could") from error
    checked: Any = cls if is_pydantic_dataclass(cls) else dataclass(cls, frozen=True, config=STRICT)
    try:
        return TypeAdapter(checked).validate_json(text)
    except ValidationError as error:
        problems = [_Problem(found, cls, json.loads(text), section) for found in error.errors(include_url=False)]
    raise AttnPOError(f"{file}: {_worst(problems)}")


def _plain(value: Any) -> Any:
    """A number of numpy or torch as a plain one, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def check_seed(seed: int) -> int:
    """The seed.

    Raises:
        AttnPOError: it does not fit into 32 bits, which is what numpy takes.
    """
    if not 0 <= seed < 2**32:
        raise AttnPOError(f"seed {seed} does not fit into 32 bits; give one from 0 to {2**32 - 1}")
    return seed


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        AttnPOError: it is not UTF-8 or not YAML, or a key stands twice in one mapping.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except UnicodeDecodeError as error:
        raise AttnPOError(f"{path.name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise AttnPOError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader takes the last of two equal keys without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


class _Problem:
    """One of pydantic's errors: where it is, and what was expected there."""

    def __init__(self, found: Any, cls: Any, value: Any, key: str) -> None:
        self.kind = found["type"]
        self.details = {k: f"{v:g}" if isinstance(v, float) else v for k, v in found.get("ctx", {}).items()}
        self.message, self.value = found["msg"], found["input"]
        hint = cls
        for part in found["loc"]:
            self.owner: Any = _without_none(hint)
            hint = self.owner
            if isinstance(value, dict) and part in value:
                hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else _item(hint)
                value, key = value[part], f"{key}.{part}" if key else part
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                hint, value, key = _item(hint), value[part], f"{key}[{part}]"
            elif isinstance(part, int):  # of a tuple that is too short
                key = f"{key}[{part}]"
            elif dataclasses.is_dataclass(hint):  # missing
                key = f"{key}.{part}" if key else part
            else:  # pydantic's name for one of several types: of ours only a list has something inside
                hint = next((option for option in typing.get_args(hint) if typing.get_origin(option) is list), None)
        self.key = key
        self.optional = type(None) in typing.get_args(hint)

    @property
    def unknown(self) -> bool:
        return self.kind == "unexpected_keyword_argument"

    @property
    def expected(self) -> str:
        """What should be there, to follow on `is not`; empty for other messages than those on types."""
        return _TYPES.get(self.kind, self.message.removeprefix("Input should be ") if "Input" in self.message else "")

    def __str__(self) -> str:
        at = f"{self.key}: " if self.key else ""
        value = f"{self.value!r:.80}"
        if self.unknown:
            fields, name = [field.name for field in dataclasses.fields(self.owner)], self.key.rpartition(".")[2]
            if now := getattr(self.owner, "RENAMED", {}).get(name):
                return f"{at}unknown key; it is called {now!r} now"
            return f"{at}unknown key{nearest(name, fields)}; valid keys are {listed(fields)}"
        if self.kind == "missing":
            return f"{at}missing; add it"
        if self.kind == "value_error":
            return f"{at}{self.details['error']}"
        if self.kind in _RANGES:
            return f"{at}{value} must {_RANGES[self.kind].format(**self.details)}"
        if not self.expected:
            return f"{at}{value}: {self.message}"
        exponent = self.kind == "float_type" and isinstance(self.value, str) and "e" in self.value.lower()
        remedy = "; YAML reads an exponent only after a decimal point, as in 3.0e-4" if exponent else ""
        return f"{at}{value} is not {self.expected}{' or null' if self.optional else ''}{remedy}"


_TYPES = {
    **dict.fromkeys(["int_type", "int_from_float"], "a whole number"),
    **dict.fromkeys(["list_type", "tuple_type"], "a list"),
    **dict.fromkeys(["dict_type", "dataclass_type"], "a mapping"),
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
}
_RANGES = {
    "greater_than": "be above {gt}",
    "greater_than_equal": "be at least {ge}",
    "less_than": "be below {lt}",
    "less_than_equal": "be at most {le}",
    "too_short": "have a length of at least {min_length}",
    "too_long": "have a length of at most {max_length}",
}


def _worst(problems: list[_Problem]) -> str:
    """The problem to show first.

    A misspelt key comes before the missing ones that it may cause, and these come together. A value that fits none of
    several types has a problem for each. That of the type that fitted best is shown, the deepest one or one with a
    range or a rule of ours; else all are joined.
    """
    first = min(problems, key=lambda problem: not problem.unknown)
    missing = [problem.key for problem in problems if problem.kind == "missing"]
    if first.kind == "missing" and len(missing) > 1:
        return f"{', '.join(missing)}: missing; add them"
    inside = (f"{first.key}.", f"{first.key}[")
    here = [problem for problem in problems if problem.key == first.key or problem.key.startswith(inside)]
    telling = {*_RANGES, "value_error"}
    best = max(here, key=lambda problem: (len(problem.key), problem.kind in telling))
    if first.unknown or len(here) == 1:
        return str(first)
    if best.key != first.key or best.kind in telling:
        return str(best)
    return f"{first.key}: {first.value!r:.80} is not {' or '.join(problem.expected for problem in here)}"


def _without_none(hint: Any) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    return options[0] if type(None) in typing.get_args(hint) and len(options) == 1 else hint


def _item(hint: Any) -> Any:
    """The type of the items of a list or a tuple, or of the values of a dict."""
    arguments = [argument for argument in typing.get_args(hint) if argument is not ...]
    return arguments[-1] if arguments else None


def nearest(name: object, known: Iterable[str]) -> str:
    """`, did you mean 'x'?`, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def listed(known: Iterable[object]) -> str:
    """Names with commas between them."""
    return ", ".join(str(k) for k in known) or "none"
