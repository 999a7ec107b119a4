"""What a manifest must hold for a run to be taken or to go on."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass

from attnpo.errors import AttnPOError
from attnpo.schema import Index, NotNegative, build

_MORE = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
"""As `attnpo.schema.STRICT`, with keys that only people read."""


def _date(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date") from None
    return text


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{text!r} is no SHA-256")
    return text


Date = Annotated[str, AfterValidator(_date)]
Digest = Annotated[str, AfterValidator(_digest)]


@dataclass(frozen=True, kw_only=True, config=_MORE)
class Output:
    """A file that a run has made."""

    bytes: Index
    sha256: Digest


@dataclass(frozen=True, kw_only=True, config=_MORE)
class Manifest:
    """The keys of a manifest that the harness reads."""

    spec: dict[str, Any]
    started: Date
    resumed: list[Date]
    finished: Date | None
    wall_seconds: NotNegative
    outputs: dict[str, Output]


def check_manifest(content: Any, path: Path, remedy: str) -> None:
    """Check the content of a manifest.

    Raises:
        AttnPOError: a key is missing or cannot be; the line ends with the remedy.
    """
    try:
        build(Manifest, content, path.name)
    except AttnPOError as error:
        raise AttnPOError(f"{path.parent / str(error)}; {remedy}") from error
