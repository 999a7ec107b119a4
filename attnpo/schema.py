"""Strict dataclasses from mappings: located errors."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal, TypeVar, Union

from attnpo.errors import AttnPOError

T = TypeVar("T")


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`overlay` over `base`: mappings merge key by key, anything else is replaced. Neither is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def build(cls: type[T], mapping: dict[str, Any], file: str, section: str = "") -> T:
    """A dataclass from a mapping, nested dataclasses included, strictly.

    Args:
        cls: a dataclass; its annotations may use str, int, float, bool, None, Any, Path, Literal, unions,
            list, tuple, dict with str keys, and dataclasses.
        mapping: field name to value; a whole number is accepted for a float.
        file: what to call the mapping's origin in an error, e.g. `tiny.yaml`.
        section: the keys that lead to this mapping, e.g. `methods.attnpo`; empty at the top.

    Raises:
        AttnPOError: an unknown key, a missing one, or a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    at = f"{file}: {section}." if section else f"{file}: "
    for key in mapping:
        if key not in fields:
            raise AttnPOError(f"{at}{key}: unknown key{_nearest(key, fields)}; valid keys are {_names(fields)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, f in fields.items():
        if name in mapping:
            values[name] = _convert(hints[name], mapping[name], file, f"{section}.{name}" if section else name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise AttnPOError(f"{at}{name}: missing; add it")
    return cls(**values)


def _convert(hint: Any, value: Any, file: str, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, value, file, key)
    if origin in (Union, types.UnionType):
        errors = []
        for option in args:
            try:
                return _convert(option, value, file, key)
            except AttnPOError as error:
                errors.append(error)
        expected = " or ".join(_describe(option) for option in args)
        raise AttnPOError(f"{file}: {key}: {value!r} is not {expected}") from errors[-1]
    if origin is Literal and value in args:
        return value
    if origin is list and isinstance(value, list):
        return [_convert(args[0], item, file, f"{key}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, (list, tuple)) and len(value) == len(args):
        pairs = enumerate(zip(args, value, strict=True))
        return tuple(_convert(arg, item, file, f"{key}[{i}]") for i, (arg, item) in pairs)
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], item, file, f"{key}.{k}") for k, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    remedy = ""
    if hint is float and isinstance(value, str) and "e" in value.lower():
        remedy = "; YAML reads an exponent only after a decimal point, as in 3.0e-4"
    raise AttnPOError(f"{file}: {key}: {value!r} is not {_describe(hint)}{remedy}")


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(a) for a in args)
    if origin is list:
        return "a list"
    if origin is tuple:
        return f"a list of {len(args)}"
    return "a mapping" if origin is dict or dataclasses.is_dataclass(hint) else str(hint)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _nearest(name: object, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _names(known: typing.Iterable[object]) -> str:
    return ", ".join(str(k) for k in known) or "none"
