"""Reading evaluations from disk: our run folders, and the sample files of lm-eval for our tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from attnpo.errors import AttnPOError
from attnpo.evaluation.questions import Decoding
from attnpo.evaluation.responses import sample_lines
from attnpo.files import json_lines, sha256_file

_LM_EVAL_FILE = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.\-]+)\.jsonl")
_OURS = "samples.jsonl"


class Conditions(NamedTuple):
    """How a task's responses were sampled; two runs with different ones are not comparable."""

    budget: int
    temperature: float
    top_p: float | None
    """None where the temperature is 0, greedy decoding."""
    top_k: int | None

    def __str__(self) -> str:
        if self.temperature == 0:
            return f"budget {self.budget} tokens, greedy"
        cut = f", top_k {self.top_k}" if self.top_k else ""
        return f"budget {self.budget} tokens, temperature {self.temperature:g}, top_p {self.top_p:g}{cut}"


@dataclass
class Evaluation:
    """The samples of one model and seed. The fields that `samples` fills in are known once it has been read."""

    label: str
    seed: int
    origin: str
    """Run id, or name of lm-eval's folder."""
    files: dict[str, Path]
    """Task -> file for lm-eval's, {"": file} for ours."""
    conditions: dict[str, Conditions] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    """Task -> hash over the contents of its problems, for lm-eval's files."""
    asked: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """Task and id of a problem -> its text and its gold answer, for lm-eval's files."""
    manifest: Mapping[str, Any] | None = None

    def samples(self) -> Iterator[dict[str, Any]]:
        """A record a response, as in the samples.jsonl of our run folders.

        Raises:
            AttnPOError: a file without the responses of our tasks, or with two ways of sampling for one task.
        """
        if self.manifest is not None:
            yield from self._ours(self.manifest["spec"])
            self._check_hash(self.manifest.get("outputs"))
            return
        for task, path in self.files.items():
            yield from self._of_lm_eval(task, path)

    def _ours(self, spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        generation, section = spec.get("generation"), spec["evaluate"]  # the first without a profile alone
        path = self.files[""]
        for line in json_lines(path, f"delete {path.name} and evaluate again; the other runs can stay"):
            task = line.value["task"]
            if task not in self.conditions:
                self.conditions[task] = (
                    _conditions(section["max_completion_tokens"], section["temperature"], section["top_p"], 0)
                    if generation is None
                    else _of_arguments(generation[task], task)
                )
            yield line.value

    def _check_hash(self, outputs: Any) -> None:
        """After the lines, since one that cannot be read is the better message."""
        path = self.files[""]
        output = outputs.get(path.name) if isinstance(outputs, dict) else None
        if isinstance(output, dict) and output.get("sha256") != sha256_file(path):
            raise AttnPOError(
                f"{path}: has other bytes than those whose hash its manifest holds; restore it, or run again"
            )

    def _of_lm_eval(self, task: str, path: Path) -> Iterator[dict[str, Any]]:
        digest = hashlib.sha256()
        remedy = f"evaluate {task} again, or take this file away; those of other tasks can stay"
        for line in (entry.value for entry in json_lines(path, remedy)):
            if not isinstance(line.get("responses"), list) or not isinstance(line.get("doc"), dict):
                raise AttnPOError(
                    f"{path.name}: no exact lengths in it; evaluate an attnpo_… task with --log_samples, and pass that"
                )
            settings = line["arguments"]["gen_args_0"]["arg_1"]
            found = _of_arguments(settings, path.name)
            if self.conditions.setdefault(task, found) != found:
                raise AttnPOError(f"{path.name}: sampled with {self.conditions[task]} and with {found}; split the file")
            digest.update(str(line["doc_hash"]).encode())
            problem = line["doc"].get("id", line["doc_id"])
            if isinstance(text := line["doc"].get("text"), str):
                self.asked[task, str(problem)] = text, str(line["doc"].get("answer", ""))
            yield from sample_lines(task, problem, line["doc"], line["responses"])
        self.documents[task] = digest.hexdigest()


def _conditions(budget: int, temperature: float, top_p: float | None, top_k: int | None) -> Conditions:
    greedy = temperature == 0
    return Conditions(int(budget), float(temperature), None if greedy else top_p, None if greedy else top_k)


def _of_arguments(arguments: Mapping[str, Any], where: str) -> Conditions:
    """The conditions that lm-eval's generation arguments mean."""
    decoding = Decoding.of({**arguments, "until": []}, where)
    return _conditions(
        decoding.max_new_tokens, decoding.temperature, decoding.top_p, decoding.options.get("top_k") or 0
    )


def read_evaluations(arguments: Sequence[str]) -> list[Evaluation]:
    """What the user named: `PATH` or `LABEL=PATH` each.

    A path is a run folder of ours or its samples.jsonl, a folder above several of them, lm-eval's output folder (of
    one model; the newest file of each task counts), or one of its sample files.

    Raises:
        AttnPOError: nothing there, or two evaluations with the same label and seed.
    """
    found = []
    for argument in arguments:
        label, equals, rest = argument.partition("=")
        named = bool(equals) and not Path(argument).exists() and "/" not in label
        found += _read(Path(rest if named else argument), label if named else None)
    check_names(found)
    return found


class Named(Protocol):
    """An evaluation, or whatever else has a label, a seed and an origin."""

    label: str
    seed: int
    origin: str


def check_names(found: Iterable[Named]) -> None:
    """Raises AttnPOError if two have the same label and seed."""
    seen: dict[tuple[str, int], Named] = {}
    for evaluation in found:
        other = seen.setdefault((evaluation.label, evaluation.seed), evaluation)
        if other is not evaluation:
            raise AttnPOError(
                f"{other.origin} and {evaluation.origin} are both called {other.label!r}, seed {other.seed}; "
                "name them: LABEL=PATH"
            )


def _read(path: Path, label: str | None) -> list[Evaluation]:
    if not path.exists():
        raise AttnPOError(f"{path}: no such file or folder; pass a run folder or lm-eval's output folder")
    if path.is_file():
        if path.name == _OURS:
            return [_run(path, label)]
        match = _LM_EVAL_FILE.fullmatch(path.name)
        if match is None:
            raise AttnPOError(f"{path}: not a file of samples; pass a samples.jsonl or lm-eval's samples_….jsonl")
        return [_lm_eval({match["task"]: path}, match["date"], path.parent, label)]
    if ours := sorted(path.rglob(_OURS)):
        return [_run(file, label) for file in ours]
    newest: dict[str, tuple[str, Path]] = {}
    for file in sorted(path.rglob("samples_*.jsonl")):
        if match := _LM_EVAL_FILE.fullmatch(file.name):
            newest[match["task"]] = max(newest.get(match["task"], ("", file)), (match["date"], file))
    if not newest:
        raise AttnPOError(f"{path}: no samples in it; evaluate with --log_samples, or name another folder")
    folders = {file.parent for _, file in newest.values()}
    if len(folders) > 1:
        names = ", ".join(sorted(folder.name for folder in folders))
        raise AttnPOError(f"{path}: holds several models ({names}); name one folder for each")
    return [_lm_eval({t: file for t, (_, file) in newest.items()}, max(newest.values())[0], folders.pop(), label)]


def _run(file: Path, label: str | None) -> Evaluation:
    folder = file.parent
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        spec = manifest["spec"]
        seed, method = int(spec["seed"]), str(spec["method"])
        if "generation" not in spec:
            int(spec["evaluate"]["max_completion_tokens"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttnPOError(
            f"{path}: no manifest of an evaluation, so how {file.name} was sampled is not known; pass a run folder"
        ) from error
    return Evaluation(label or method, seed, folder.name, {"": file}, manifest=manifest)


def _lm_eval(files: dict[str, Path], date: str, folder: Path, label: str | None) -> Evaluation:
    name, seed = folder.name, 0
    results = folder / f"results_{date}.json"
    if results.is_file():
        content = json.loads(results.read_text(encoding="utf-8"))
        name = Path(str(content.get("model_name") or name)).name
        seed = int((content.get("config") or {}).get("torch_seed") or 0)
    return Evaluation(label or name, seed, folder.name, dict(sorted(files.items())))


def labelled_samples(evaluations: Iterable[Evaluation]) -> Iterator[tuple[str, int, Iterator[dict[str, Any]]]]:
    """The evaluations as `attnpo.statistics.tables.problem_table` takes them, the label as method."""
    for evaluation in evaluations:
        yield evaluation.label, evaluation.seed, evaluation.samples()


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Raises AttnPOError unless all sampled each task alike and, where that is recorded, from the same problems."""
    first: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        for task, conditions in evaluation.conditions.items():
            other = first.setdefault(task, evaluation)
            if conditions != other.conditions[task]:
                raise AttnPOError(
                    f"{task}: {other.label!r} has {other.conditions[task]}, {evaluation.label!r} has {conditions}; "
                    "numbers of different budgets or sampling are not comparable, report them apart"
                )
            hashes = {e.documents[task] for e in (other, evaluation) if task in e.documents}
            if len(hashes) > 1:
                raise AttnPOError(
                    f"{task}: {other.label!r} and {evaluation.label!r} answered different problems; evaluate both on "
                    "the same set and limit"
                )
