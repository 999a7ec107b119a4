"""LiveCodeBench, code generation: its problems, prompts and tests. `attnpo.grading.code` grades the responses.

The data are the JSON-lines files of `livecodebench/code_generation_lite` on the hub (licence: cc), pinned by
commit and by SHA-256. `release_v6` is all six of them: 1,055 problems of May 2023 to April 2025. The prompt is that of
LiveCodeBench's own harness (github.com/LiveCodeBench/LiveCodeBench, release 6).

With their tests the problems take many gigabytes. So they are read one at a time, and a problem's tests are read again
from its place in the file when its responses are graded.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import pickletools
import re
import zlib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError, first_line
from attnpo.files import json_lines, parse_json, sha256_file
from attnpo.problems.benchmarks import DATA_VARIABLE
from attnpo.problems.problem import Problem

logger = logging.getLogger(__name__)

DATASET = "livecodebench/code_generation_lite"
REVISION = "0fe84c3912ea0c4d4a78037083943e8f0c4dd505"
FILES = {
    "test.jsonl": "2bd02b38beb48e8c46b5b9987095d999ff38cd8efc255ea5d58974317c48f63f",
    "test2.jsonl": "095df7c5daf15f882c51a9deb84085cff1e073495a5dbcf95015a564d485f3a3",
    "test3.jsonl": "28ed26cc83363ce3f1fe2d5fad9f8393077beb1907b167a31bd3b32f80801b79",
    "test4.jsonl": "d711138ddaebfcf5f8ec6a4283ee677298c0f5c5d374a235af92aaf0584510da",
    "test5.jsonl": "7f77571c2a6df0c2a72a3277650309f67e01e0008e18117e624633df53f81214",
    "test6.jsonl": "bb4c364f71921c4495a6ad15abe1a927350b720009f4933e2e71f8af0f6fd1f5",
}
"""Name -> SHA-256 of the files at `REVISION`, 4.5 GB together. The n-th file holds the problems that release n added
(400, 111, 101, 101, 167, 175)."""
FOLDER = "livecodebench"
TESTS_LIMIT = 1 << 30
"""Most bytes of one problem's private tests after decompression. More is refused as a decompression bomb."""


@dataclass(frozen=True, kw_only=True)
class CodeProblem(Problem):
    """One problem, without its tests. The id is the platform's, such as `abc387_b`; the text is the whole prompt."""

    platform: str
    difficulty: str
    contest_date: str
    """ISO, such as `2025-01-04`."""
    file: str
    """Name of the file that holds the problem."""
    offset: int
    """Where the problem's line begins in that file, in bytes."""


class Test(NamedTuple):
    """One test case."""

    input: str
    """Standard input; for a function, its arguments, one JSON value a line."""
    output: str
    """Standard output; for a function, its value as JSON."""


class Tests(NamedTuple):
    """The tests of one problem."""

    cases: list[Test]
    """The public tests, then the private ones."""
    function: str | None
    """The function to call (LeetCode's problems); None for programs that read standard input."""


def files(release: str = "release_v6", data_dir: str | Path | None = None, revision: str = REVISION) -> dict[str, Path]:
    """The files of a release, by name, oldest first.

    Args:
        release: named as in the data set's loading script: `release_v6` is everything up to version 6, `v6` what
            version 6 added, `v4_v6` what versions 4 to 6 added.
        data_dir: a folder that holds `livecodebench/test.jsonl` and so on. Without it the folder in
            `ATTNPO_DATA` is taken, and without that the hub.
        revision: commit, branch or tag of the hub's data set.

    Raises:
        AttnPOError: an unknown release; no file and no hub; a hub file with another checksum than published.
    """
    match = re.fullmatch(r"(release_)?v(\d)(?:_v(\d))?", release)
    if not match or (match[1] and match[3]):
        raise AttnPOError(f"there is no release {release!r} of LiveCodeBench; take release_v6, v6, v4_v6 or the like")
    last = int(match[3] or match[2])
    first = 1 if match[1] else int(match[2])
    if not 1 <= first <= last <= len(FILES):
        raise AttnPOError(f"release {release!r} of LiveCodeBench is unknown here; the versions are 1 to {len(FILES)}")
    names = list(FILES)[first - 1 : last]
    folder = data_dir or os.environ.get(DATA_VARIABLE)
    if not folder:
        return {name: _from_hub(name, revision) for name in names}
    paths = {name: Path(folder).expanduser() / FOLDER / name for name in names}
    for path in paths.values():
        if not path.is_file():
            raise AttnPOError(
                f"LiveCodeBench {release}: {path} is missing; put {DATASET}'s file there, choose a release that "
                f"needs other files, or unset {DATA_VARIABLE} to download it from the hub"
            )
    return paths


@cache
def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(DATASET, name, repo_type="dataset", revision=revision))
    except Exception as error:  # the hub's, the network's and the file system's: too many to name
        raise AttnPOError(
            f"LiveCodeBench: {name} of {DATASET} at {revision} is neither here nor within reach "
            f"({first_line(error)}); allow the hub, or set {DATA_VARIABLE} to a "
            f"folder with {FOLDER}/{name}"
        ) from error
    found = sha256_file(path)
    if revision != REVISION:
        logger.warning("LiveCodeBench: %s is of commit %s, SHA-256 %s, not verified", name, path.parent.name, found)
    elif found != FILES[name]:
        raise AttnPOError(f"{path} has SHA-256 {found}, not {FILES[name]}, and is not used; delete it and try again")
    return path


def load(paths: dict[str, Path], start_date: str | None = None, end_date: str | None = None) -> list[CodeProblem]:
    """The problems whose contest took place in a window of days, in the order of the files.

    The tests of a file that is not the published one are checked here too, so that an error shows before anything is
    sampled.

    Args:
        paths: the result of `files`.
        start_date: the first day of the window in ISO format; None: no bound.
        end_date: the last day of the window, included; None: no bound.

    Raises:
        AttnPOError: something that is no date, no problem in the window, a line that is no problem, an id that occurs
            twice, or tests that `read_tests` would refuse.
    """
    start, end = _day(start_date, "start_date", date.min), _day(end_date, "end_date", date.max)
    problems: dict[str, CodeProblem] = {}
    own = [name for name, path in paths.items() if sha256_file(path) != FILES[name]]
    if own:
        logger.warning("LiveCodeBench: not the published files (their SHA-256 is another): %s", ", ".join(own))
    for name, path in paths.items():
        for line in json_lines(path, _REMEDY):
            row = _check_fields(line.value, line.place)
            problem = _problem(row, name, line.start)
            if not start <= date.fromisoformat(problem.contest_date) <= end:
                continue
            if problem.id in problems:
                raise AttnPOError(f"{path}: the id {problem.id!r} stands there twice, or in another file too")
            problems[problem.id] = problem
            if name in own:
                _tests(row, f"{path}: {problem.id}")
    if not problems:
        raise AttnPOError(f"LiveCodeBench: no problem of {', '.join(paths)} lies between {start} and {end}")
    return list(problems.values())


def _day(text: str | None, name: str, default: date) -> date:
    """The argument `name` as a day; `default` where it is None."""
    if text is None:
        return default
    try:
        return date.fromisoformat(str(text))
    except ValueError as error:
        raise AttnPOError(f"{name} is {text!r}; give a day as 2025-01-31") from error


def _check_fields(row: Any, place: str) -> dict[str, Any]:
    missing = [field for field in _FIELDS if not isinstance(row, dict) or not isinstance(row.get(field), str)]
    if missing:
        raise AttnPOError(f"{place}: a problem needs {', '.join(missing)}, each a string")
    return row


_REMEDY = "each line is one problem as a JSON object"
_FIELDS = (
    *("question_id", "question_content", "platform", "difficulty", "contest_date", "starter_code"),
    *("public_test_cases", "private_test_cases", "metadata"),
)


def _problem(row: dict[str, Any], name: str, offset: int) -> CodeProblem:
    try:
        day = date.fromisoformat(row["contest_date"][:10]).isoformat()
    except ValueError as error:
        raise AttnPOError(f"{name}: {row['question_id']} has contest_date {row['contest_date']!r}, no date") from error
    prompt = prompt_of(row["question_content"], row["starter_code"])
    return CodeProblem(
        row["question_id"],
        prompt,
        answer="",
        platform=row["platform"],
        difficulty=row["difficulty"],
        contest_date=day,
        file=name,
        offset=offset,
    )


def prompt_of(question: str, starter_code: str) -> str:
    """The user's message: LiveCodeBench's for reasoning models (`DeepSeekR1` in `prompts/code_generation.py`).

    There is no system message.
    """
    if starter_code:
        form, code = _WITH_STARTER_CODE, starter_code
    else:
        form, code = _WITHOUT_STARTER_CODE, "# YOUR CODE HERE"
    return f"{_TASK}\n\nQuestion: {question}\n\n{form}\n```python\n{code}\n```\n\n"


_TASK = (
    "You will be given a question (problem specification) and will generate a correct Python program that matches the "
    "specification and passes all tests."
)
_WITH_STARTER_CODE = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
_WITHOUT_STARTER_CODE = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)


def read_tests(path: Path, offset: int) -> Tests:
    """The tests of the problem whose line begins at byte `offset` of a file.

    Raises:
        AttnPOError: there are no tests, they have another layout, or the private tests are more than plain data.
    """
    with path.open("rb") as file:
        file.seek(offset)
        line = file.readline()
    place = f"{path}, byte {offset}"
    row = _check_fields(parse_json(line, place, _REMEDY), place)
    return _tests(row, f"{path}: {row['question_id']}")


def _tests(row: dict[str, Any], place: str) -> Tests:
    metadata = _json(row["metadata"], place)
    public, private = (
        _json(row["public_test_cases"], place),
        _json(decode_private(row["private_test_cases"], place), place),
    )
    if not isinstance(metadata, dict) or not isinstance(public, list) or not isinstance(private, list):
        raise AttnPOError(f"{place}: metadata must be an object, public_test_cases and private_test_cases lists")
    function = metadata.get("func_name")
    cases = []
    for case in (*public, *private):
        if not isinstance(case, dict) or not all(isinstance(case.get(key), str) for key in Test._fields):
            raise AttnPOError(f"{place}: a test needs input and output, each a string")
        cases.append(Test(case["input"], case["output"]))
        if function is not None:
            for value in (case["output"], *case["input"].split("\n")):
                _json(value, place)
    if not cases:
        raise AttnPOError(f"{place} has no tests")
    return Tests(cases, function)


def parse_value(text: str | bytes) -> Any:
    """The value of a JSON text, with integers of more than 4,000 digits as `Decimal`.

    Python's own conversion of digits takes quadratic time.

    Raises:
        ValueError, RecursionError: it is not JSON, or is nested too deeply.
    """
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= 4000 else Decimal(digits))


def _json(text: str, place: str) -> Any:
    try:
        return parse_value(text)
    except (ValueError, RecursionError) as error:
        raise AttnPOError(f"{place}: its tests or metadata are not JSON ({error})") from error


def decode_private(text: str, place: str = "private tests") -> str:
    """The JSON of private tests, which the data set wraps as base64 of zlib of a pickled string.

    Unpickling runs code, so nothing is unpickled: the operations of the pickle are listed, and any that a single
    string does not need is an error.

    Raises:
        AttnPOError: another wrapping, a pickle of anything but one string, or more than `TESTS_LIMIT` bytes.
    """
    if text.lstrip()[:1] in ("[", "{"):
        return text
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text), TESTS_LIMIT)
    except (zlib.error, ValueError) as error:
        raise AttnPOError(f"{place}: the private tests are no base64 of zlib ({error})") from error
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise AttnPOError(f"{place}: the private tests are cut off, or more than {TESTS_LIMIT} bytes when unpacked")
    strings: list[str] = []
    try:
        for operation, argument, _ in islice(pickletools.genops(data), _OPERATIONS):
            if operation.name in _STRINGS:
                strings.append(str(argument))
            elif operation.name not in _HARMLESS:
                raise pickle.UnpicklingError(f"it holds {operation.name}, which a string does not need")
        if len(strings) != 1 or operation.name != "STOP":
            raise pickle.UnpicklingError(f"it holds {len(strings)} strings")
    except (ValueError, pickle.UnpicklingError) as error:
        raise AttnPOError(
            f"{place}: the private tests are no pickle of one string ({error}); do not trust this file"
        ) from error
    return strings[0]


_OPERATIONS = 16  # more than a pickled string has
_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_HARMLESS = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP")
