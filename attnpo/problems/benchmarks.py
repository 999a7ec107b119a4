"""The problems of the benchmarks, from a local folder, the authors' published files or the hub.

The authors' files of the six math sets (GitHub, NieSYsc20/AttnPO, `data/test/preprocessed_data`) are pinned by commit
and by SHA-256. They are the exact source: their OlympiadBench is a subset of 581 problems, chosen by a rule that they
do not state. Files of the hub are pinned by commit; `attnpo.evaluation.sources.compare` compares both sources.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError, first_line
from attnpo.files import atomic_write_bytes, json_lines
from attnpo.problems.choice import LETTERS
from attnpo.problems.problem import Problem

logger = logging.getLogger(__name__)

DATA_VARIABLE = "ATTNPO_DATA"
CACHE_VARIABLE = "ATTNPO_CACHE"
COMMIT = "f65066557114964a9c9d0e75b1f2d7297f951b28"
# This address, unlike that of raw files, also serves files that git keeps in large-file storage.
URL = f"https://github.com/NieSYsc20/AttnPO/raw/{COMMIT}/data/test/preprocessed_data"
TIMEOUT = 60
"""A download fails after so many seconds without a byte."""


class Published(NamedTuple):
    """A file that the authors published."""

    file: str
    sha256: str


class Hub(NamedTuple):
    """A file of a data set on the hub."""

    repository: str
    revision: str
    """The pinned commit."""
    file: str
    read: Callable[[Mapping[str, Any]], Problem]
    """Makes a problem of a row. An empty id is replaced by one with the row's number."""


class Benchmark(NamedTuple):
    """A benchmark and its sources."""

    problems: int
    """How many problems it has."""
    published: Published | None = None
    hub: Hub | None = None
    choices: bool = False


def _fields(text: str, answer: str) -> Callable[[Mapping[str, Any]], Problem]:
    return lambda row: Problem("", row[text], str(row[answer]))


def _gsm8k(row: Mapping[str, Any]) -> Problem:
    _, answer = row["answer"].split("####")
    return Problem("", row["question"], answer.strip())


def _gpqa(row: Mapping[str, Any]) -> Problem:
    right = row["Correct Answer"].strip()
    # In the file the right option has a column of its own. In alphabetical order its place says nothing.
    choices = sorted([right, *(row[f"Incorrect Answer {i}"].strip() for i in (1, 2, 3))])
    answer = LETTERS[choices.index(right)]
    name = f"gpqa_diamond/{row['Record ID']}"
    return Problem(name, row["Question"].strip(), answer, choices=tuple(choices), subject=row["High-level domain"])


def _mmlu(row: Mapping[str, Any]) -> Problem:
    choices = tuple(row["choices"])
    # The file has no ids. The row's number cannot be one, because the order of the options follows from the id.
    digest = hashlib.sha256("\n".join((row["question"], *choices)).encode()).hexdigest()
    name = f"mmlu/{row['subject']}/{digest[:12]}"
    return Problem(name, row["question"], LETTERS[row["answer"]], choices=choices, subject=row["subject"])


BENCHMARKS = {
    "gsm8k": Benchmark(
        1319,
        Published("gsm8k_4.parquet", "bf93060ffc3053547316abe4e43eb46894df6be4122e42fd31ba4bad8dc27d76"),
        Hub(
            "openai/gsm8k",
            "740312add88f781978c0658806c59bc2815b9866",
            "main/test-00000-of-00001.parquet",
            _gsm8k,
        ),
    ),
    "math500": Benchmark(
        500,
        Published("math_4.parquet", "43e548ecfbc81c683254e0b62f1f19def70a548f3705440365dbe7e0a8f8e2d3"),
        Hub(
            "HuggingFaceH4/MATH-500",
            "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            "test.jsonl",
            _fields("problem", "answer"),
        ),
    ),
    "amc23": Benchmark(
        40,
        Published("amc_16.parquet", "4e5a1a798c9d2ea37df5203afe3fc6801e91345a4442c4c1e4436c63d5f16dcc"),
        Hub(
            "math-ai/amc23",
            "80815d37005feb82cd7f8fbc6901d5d3eff43057",
            "test-00000-of-00001.parquet",
            _fields("question", "answer"),
        ),
    ),
    "olympiadbench": Benchmark(
        581,
        Published("olympiadbench_4.parquet", "d4816b26ac7849a64687d61eea95b7c44cf23dc7e94e2f7863ab2c15c749d274"),
    ),
    "aime2024": Benchmark(
        30,
        Published("aime2024_16.parquet", "2b2edbc4834440260f7a6b688f77bd33586c473a0ebd03b6d4eff888489060fe"),
        Hub(
            "Maxwell-Jia/AIME_2024",
            "8d88b2876a82a080e2f172cc9b25d0d9d2cb4792",
            "aime_2024_problems.parquet",
            _fields("Problem", "Answer"),
        ),
    ),
    "aime2025": Benchmark(
        30,
        Published("aime2025_16.parquet", "4aea38ea8733592eff3c6bc0750502a1268ffb1d1c49e4ab92f5370430a369e5"),
        Hub(
            "math-ai/aime25",
            "563bb8404243c5f09de6ec262f2db674fe5bce9b",
            "test.jsonl",
            _fields("problem", "answer"),
        ),
    ),
    "gpqa_diamond": Benchmark(
        198,
        hub=Hub("Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", "gpqa_diamond.csv", _gpqa),
        choices=True,
    ),
    "mmlu": Benchmark(
        14042,
        hub=Hub("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", "all/test-00000-of-00001.parquet", _mmlu),
        choices=True,
    ),
}


def load(
    name: str, data_dir: str | Path | None = None, source: str | None = None, revision: str | None = None
) -> list[Problem]:
    """The problems of one benchmark.

    Math problems are in the order of the source, multiple-choice problems in a fixed order that mixes their subjects.

    Args:
        name: a key of `BENCHMARKS`.
        data_dir: folder with `<name>.jsonl`, one problem `{"id": ..., "problem": ..., "answer": ...}` a line. A
            multiple-choice problem also has `"choices": [...]`, the letter of the right one as answer and, if there is
            one, a `"subject"`.
        source: "published" for the authors' file, which is downloaded once to `cache_folder()` and verified before each
            use; "hub" for a file of the hub, which is kept in the hub's own cache. If neither `data_dir` nor `source`
            is given, the folder in `ATTNPO_DATA` is taken; without that, the published file; and for benchmarks that
            the authors did not publish, the hub.
        revision: of the hub's data set, if not the pinned one.

    Raises:
        AttnPOError: an unknown name or source; no file and no network; no access to a gated data set; another
            checksum, layout or number of problems than expected.
    """
    benchmark = benchmark_named(name)
    if source not in (None, "published", "hub"):
        raise AttnPOError(f"there is no source {source!r}; take published or hub")
    if data_dir and source:
        raise AttnPOError(f"{name}: both data_dir ({data_dir}) and source ({source}) are given; give one")
    folder = data_dir or (None if source else os.environ.get(DATA_VARIABLE))
    if folder:
        path = Path(folder).expanduser() / f"{name}.jsonl"
        problems = _read_jsonl(name, path)
    elif source == "hub" or (source is None and benchmark.published is None):
        path, problems = _from_hub(name, revision)
    else:
        path = _published_file(name)
        problems = read_published(name, path)
    if len(problems) != benchmark.problems:
        raise AttnPOError(
            f"{path} holds {len(problems)} problems, but {name} has {benchmark.problems}; complete the file "
            f"(to evaluate on a part of it, use --limit or --samples)"
        )
    if benchmark.choices:
        # In this order the first N problems are from all subjects, whatever the order of the file.
        problems.sort(key=lambda problem: hashlib.sha256(problem.id.encode()).digest())
    return problems


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        AttnPOError: there is none.
    """
    if name not in BENCHMARKS:
        raise AttnPOError(f"there is no benchmark {name!r}; take one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def cache_folder() -> Path:
    """The folder of downloads: `ATTNPO_CACHE`, or else `attnpo` in the user's cache folder (XDG)."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    # By the XDG specification, a relative path is ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "attnpo"


def read_published(name: str, path: Path) -> list[Problem]:
    """The problems of a file in verl's layout, in which a problem has one row for each of its samples.

    A row has `prompt`, messages of which the user's is the problem, and `reward_model.ground_truth`.

    Raises:
        AttnPOError: the file is no parquet file or has another layout.
    """
    pairs = dict.fromkeys(_problem_and_answer(row, f"row {i} of {path}") for i, row in enumerate(_rows(path)))
    return [Problem(f"{name}/{i}", text, answer) for i, (text, answer) in enumerate(pairs)]


def _rows(path: Path) -> list[dict[Any, Any]]:
    """The rows of a parquet, CSV or JSON-lines file as plain Python dicts and lists."""
    import pandas as pd

    kind = path.suffix.removeprefix(".")
    try:
        if kind == "parquet":
            return pd.read_parquet(path, engine="pyarrow", dtype_backend="pyarrow").to_dict(orient="records")
        if kind == "csv":
            # An option may be the text "None" or "NA".
            return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict(orient="records")
        return [line.value for line in json_lines(path, "delete it")]
    except AttnPOError:
        raise
    except (OSError, ValueError) as error:
        raise AttnPOError(f"{path} is no readable {kind} file ({first_line(error)}); delete it") from error


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
    problems: dict[str, Problem] = {}
    try:
        for line in json_lines(path, "each line is one JSON object"):
            problem = _problem(name, line.value, line.place)
            if problem.id in problems:
                raise AttnPOError(f"{line.place}: the id {problem.id!r} stands there twice; ids must differ")
            problems[problem.id] = problem
    except OSError as error:
        raise AttnPOError(
            f"{name}: {path} cannot be read ({first_line(error)}); put the file there, one problem a line "
            f"({_columns(name)}), or name no folder (data_dir, {DATA_VARIABLE}) to download the set"
        ) from error
    return list(problems.values())


def _columns(name: str) -> str:
    return "id, problem, choices, answer" if BENCHMARKS[name].choices else "id, problem, answer"


def _problem(name: str, row: Any, place: str) -> Problem:
    """The problem in a line of a local file."""
    row = row if isinstance(row, dict) else {}
    identity, text, answer = values = [row.get(field) for field in ("id", "problem", "answer")]
    if not all(isinstance(value, str) and value for value in values):
        raise AttnPOError(f"{place}: needs id, problem and answer, each a string that is not empty")
    if not BENCHMARKS[name].choices:
        return Problem(identity, text, answer)
    choices, subject = row.get("choices"), row.get("subject", "")
    if (
        not isinstance(choices, list)
        or not 2 <= len(choices) <= len(LETTERS)
        or not all(isinstance(choice, str) and choice for choice in choices)
        or answer not in list(LETTERS[: len(choices)])
        or not isinstance(subject, str)
    ):
        raise AttnPOError(
            f"{place}: needs choices, 2 to {len(LETTERS)} strings, the letter of one of them as answer, and as "
            "subject, if it has one, a string"
        )
    return Problem(identity, text, answer, choices=tuple(choices), subject=subject)


def _own_folder(name: str) -> str:
    """The remedy that always helps."""
    return f"set {DATA_VARIABLE} to a folder with {name}.jsonl ({_columns(name)})"


def hub_file(name: str, repository: str, file: str, revision: str) -> Path:
    """A file of a data set on the hub, from the hub's cache or downloaded to it. Its commit is logged.

    Args:
        name: the benchmark, for error messages.
        repository: the data set.
        file: path in the repository.
        revision: commit, branch or tag.

    Raises:
        AttnPOError: access is not granted, or the file is not in the cache and the hub is out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    try:
        path = Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except GatedRepoError as error:
        raise AttnPOError(
            f"{name}: {repository} is gated: accept its terms at https://huggingface.co/datasets/{repository}, then "
            f"run `hf auth login` or set HF_TOKEN; or {_own_folder(name)}"
        ) from error
    except (OSError, ValueError) as error:
        raise AttnPOError(
            f"{name}: {repository} (revision {revision}, {file}) is neither in the hub's cache nor within reach "
            f"({first_line(error)}); {_own_folder(name)}, or run once where the hub is within reach"
        ) from error
    # <cache>/datasets--<owner>--<name>/snapshots/<commit>/<file>
    logger.info("%s: %s at commit %s", name, repository, path.parents[len(Path(file).parts) - 1].name)
    return path


def _from_hub(name: str, revision: str | None) -> tuple[Path, list[Problem]]:
    hub = BENCHMARKS[name].hub
    if hub is None:
        raise AttnPOError(
            f"{name} has no counterpart on the hub: it is the authors' choice of problems; leave out source=hub, or "
            f"{_own_folder(name)}"
        )
    path = hub_file(name, hub.repository, hub.file, revision or hub.revision)
    problems: dict[str, Problem] = {}
    for i, row in enumerate(_rows(path)):
        try:
            problem = hub.read(row)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise AttnPOError(
                f"{name}: row {i} of {hub.repository} ({path}) has another layout ({type(error).__name__}: "
                f"{first_line(error)}); take the pinned revision {hub.revision}"
            ) from error
        # Not the id of the published file, in which the same number may be another problem.
        key = problem.id or f"{name}/hub/{i}"
        while key in problems:  # MMLU has a few questions twice
            key += "+"
        problems[key] = replace(problem, id=key)
    return path, list(problems.values())


def _published_file(name: str) -> Path:
    """The verified file in the cache, downloaded if it is missing or damaged."""
    published = BENCHMARKS[name].published
    if published is None:
        raise AttnPOError(f"{name} is not among the authors' files; take source=hub, or set {DATA_VARIABLE}")
    file, sha256 = published
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
            f"{name} is neither here nor within reach ({url}: {first_line(error)}); {_own_folder(name)}, "
            f"or put the published file at {path}"
        ) from error
    if not _is(content, sha256):
        raise AttnPOError(
            f"{name}: {url} has SHA-256 {hashlib.sha256(content).hexdigest()}, not {sha256}, and is not used; try "
            f"again, or {_own_folder(name)}"
        )
    try:
        atomic_write_bytes(path, content)
    except OSError as error:
        raise AttnPOError(f"{path} cannot be written ({first_line(error)}); set {CACHE_VARIABLE}") from error
    return path


def _download(url: str) -> bytes:
    logger.info("downloading %s", url)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        return answer.read()


def _is(content: bytes, sha256: str) -> bool:
    return hashlib.sha256(content).hexdigest() == sha256
