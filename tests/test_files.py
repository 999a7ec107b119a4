"""The one reader of JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnpo.errors import AttnPOError, first_line
from attnpo.files import json_lines


def test_lines_come_with_their_number_and_place_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    content = '\n{"a": "é\u2028"}\n  \r\n[2]\r\n3'
    path.write_bytes(content.encode())
    lines = list(json_lines(path, "mend it"))
    assert [(line.number, line.value) for line in lines] == [(2, {"a": "é\u2028"}), (4, [2]), (5, 3)]
    raw = path.read_bytes()
    assert [raw[line.start : line.end].strip() for line in lines] == ['{"a": "é\u2028"}'.encode(), b"[2]", b"3"]
    assert lines[1].place == f"{path}:4"


@pytest.mark.parametrize("broken", [b'{"a": ', b"\xff", b"{}{}", b"[" * 100_000])
def test_a_broken_line_is_one_line_with_the_caller_s_remedy(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b"1\n" + broken + b"\n3\n")
    lines = json_lines(path, "mend it")
    assert next(lines).value == 1  # nothing is read ahead
    with pytest.raises(AttnPOError, match=r"some\.jsonl:2: not JSON \(.+\); mend it$") as caught:
        next(lines)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("last", [b"3", b'{"a": ', b"\xc3"])
def test_a_last_line_without_its_end_can_be_left_out(tmp_path: Path, last: bytes) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(b"1\n2\n" + last)
    assert [line.value for line in json_lines(path, "mend it", skip_torn=True)] == [1, 2]


def test_the_first_line_of_an_error() -> None:
    assert first_line(OSError("offline\nand more")) == "offline"
    assert first_line(OSError()) == "OSError"
