"""The six math sets of the paper's evaluation, from a local folder or from the authors' published files.

The published files (GitHub, NieSYsc20/AttnPO, `data/test/preprocessed_data`) are pinned by commit and by
SHA-256. They are the exact source: OlympiadBench is a subset of 581 problems, chosen by a rule that is not
stated.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError

logger = logging.getLogger(__name__)

DATA_VARIABLE = "ATTNPO_DATA"
CACHE_VARIABLE = "ATTNPO_CACHE"
COMMIT = "f65066557114964a9c9d0e75b1f2d7297f951b28"
# This address, unlike that of raw files, also serves files that git keeps in large-file storage.
URL = f"https://github.com/NieSYsc20/AttnPO/raw/{COMMIT}/data/test/preprocessed_data"
TIMEOUT = 60
"""Seconds without a byte after which a download is given up."""


class Benchmark(NamedTuple):
    """A set as published."""

    file: str
    sha256: str
    problems: int


BENCHMARKS = {
    "gsm8k": Benchmark(
        "gsm8k_4.parquet", "bf93060ffc3053547316abe4e43eb46894df6be4122e42fd31ba4bad8dc27d76", problems=1319
    ),
    "math500": Benchmark(
        "math_4.parquet", "43e548ecfbc81c683254e0b62f1f19def70a548f3705440365dbe7e0a8f8e2d3", problems=500
    ),
    "amc23": Benchmark(
        "amc_16.parquet", "4e5a1a798c9d2ea37df5203afe3fc6801e91345a4442c4c1e4436c63d5f16dcc", problems=40
    ),
    "olympiadbench": Benchmark(
        "olympiadbench_4.parquet", "d4816b26ac7849a64687d61eea95b7c44cf23dc7e94e2f7863ab2c15c749d274", problems=581
    ),
    "aime2024": Benchmark(
        "aime2024_16.parquet", "2b2edbc4834440260f7a6b688f77bd33586c473a0ebd03b6d4eff888489060fe", problems=30
    ),
    "aime2025": Benchmark(
        "aime2025_16.parquet", "4aea38ea8733592eff3c6bc0750502a1268ffb1d1c49e4ab92f5370430a369e5", problems=30
    ),
}


class Problem(NamedTuple):
    """One problem, as it is put to the model, and its gold answer, as published."""

    id: str
    problem: str
    answer: str


def load(name: str, data_dir: str | Path | None = None) -> list[Problem]:
    """The problems of one set, in published order.

    Args:
        name: a key of `BENCHMARKS`.
        data_dir: folder with `<name>.jsonl`, a line `{"id": ..., "problem": ..., "answer": ...}` a problem.
            Without it the folder in `ATTNPO_DATA`, and without that the published file, downloaded once to
            `cache_folder()` and verified before each use.

    Raises:
        AttnPOError: an unknown name; no file and no network; another checksum, layout or number of problems.
    """
    if name not in BENCHMARKS:
        raise AttnPOError(f"there is no benchmark {name!r}; take one of {', '.join(BENCHMARKS)}")
    folder = data_dir or os.environ.get(DATA_VARIABLE)
    if folder:
        path = Path(folder).expanduser() / f"{name}.jsonl"
        problems = _read_jsonl(name, path)
    else:
        path = _published_file(name)
        problems = read_published(name, path)
    if len(problems) != BENCHMARKS[name].problems:
        raise AttnPOError(
            f"{path} holds {len(problems)} problems, but {name} has {BENCHMARKS[name].problems}; complete the file "
            f"(to evaluate on a part of it, use --limit or --samples)"
        )
    return problems


def cache_folder() -> Path:
    """Where downloads are kept: `ATTNPO_CACHE`, else `attnpo` in the user's cache folder (XDG)."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    # The XDG specification tells to ignore a relative path.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "attnpo"


def read_published(name: str, path: Path) -> list[Problem]:
    """The problems of a file in verl's layout, where each stands once for every sample taken of it.

    A row has `prompt` (messages, one of them the user's: the problem) and `reward_model.ground_truth`.

    Raises:
        AttnPOError: the file is no parquet file or laid out otherwise.
    """
    import pandas as pd

    try:
        # A list of rows, each a plain dict, so that messages are lists and dicts too.
        rows = pd.read_parquet(path, engine="pyarrow", dtype_backend="pyarrow").to_dict(orient="records")
    except (OSError, ValueError) as error:
        raise AttnPOError(f"{path} is no readable parquet file ({_first_line(error)}); delete it") from error
    pairs = dict.fromkeys(_problem_and_answer(row, f"row {i} of {path}") for i, row in enumerate(rows))
    return [Problem(f"{name}/{i}", problem, answer) for i, (problem, answer) in enumerate(pairs)]


def _problem_and_answer(row: Mapping[Any, Any], place: str) -> tuple[str, str]:
    messages, reward = row.get("prompt"), row.get("reward_model")
    asked = [
        message.get("content")
        for message in (messages if isinstance(messages, list) else [])
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    answer = reward.get("ground_truth") if isinstance(reward, dict) else None
    if len(asked) != 1 or not isinstance(asked[0], str) or not isinstance(answer, (str, int, float)):
        raise AttnPOError(
            f"{place} has columns {', '.join(row)}, without one user message in `prompt` or without "
            f"`reward_model.ground_truth`; set {DATA_VARIABLE} to a folder of JSON lines instead"
        )
    return asked[0], str(answer)


def _read_jsonl(name: str, path: Path) -> list[Problem]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AttnPOError(
            f"{name}: {path} cannot be read ({_first_line(error)}); put the file there, one problem a line (id, "
            f"problem, answer), or unset {DATA_VARIABLE} to download the authors' published file"
        ) from error
    problems: dict[str, Problem] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise AttnPOError(f"{path}:{number}: not JSON ({error.msg}); one object a line is expected") from error
        values: list[Any] = [row.get(field) for field in Problem._fields] if isinstance(row, dict) else []
        if not values or not all(isinstance(value, str) and value for value in values):
            raise AttnPOError(f"{path}:{number}: needs id, problem and answer, each a string that is not empty")
        problem = Problem(*values)
        if problem.id in problems:
            raise AttnPOError(f"{path}:{number}: the id {problem.id!r} stands there twice; ids must differ")
        problems[problem.id] = problem
    return list(problems.values())


def _published_file(name: str) -> Path:
    """The verified file in the cache, downloaded if it is missing or damaged."""
    file, sha256, _ = BENCHMARKS[name]
    path = cache_folder() / "benchmarks" / file
    if path.is_file():
        if _is(path.read_bytes(), sha256):
            return path
        logger.warning("%s is damaged (its SHA-256 is another than published); it is downloaded again", path)
    url = f"{URL}/{file}"
    try:
        content = _download(url)
    except (OSError, http.client.HTTPException) as error:
        raise AttnPOError(
            f"{name} is neither here nor within reach ({url}: {_first_line(error)}); set {DATA_VARIABLE} to a folder "
            f"with {name}.jsonl (id, problem, answer), or put the published file at {path}"
        ) from error
    if not _is(content, sha256):
        raise AttnPOError(
            f"{name}: {url} has SHA-256 {hashlib.sha256(content).hexdigest()}, not {sha256}, and is not used; try "
            f"again, or set {DATA_VARIABLE} to a folder with {name}.jsonl (id, problem, answer)"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise AttnPOError(f"{path} cannot be written ({_first_line(error)}); set {CACHE_VARIABLE}") from error
    return path


def _download(url: str) -> bytes:
    logger.info("downloading %s", url)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        return answer.read()


def _is(content: bytes, sha256: str) -> bool:
    return hashlib.sha256(content).hexdigest() == sha256


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
