"""`attnpo trace`: responses on one self-contained page, step by step, with what the heads look at."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.evaluation.tasks import data_files, task_groups
from attnpo.files import atomic_write_text, json_lines, parse_json
from attnpo.probing.heads import HeadRanking, RankedHead
from attnpo.probing.settings import StepsSection
from attnpo.probing.traces import KINDS, Looks, Trace, Tracer, look
from attnpo.problems.problem import Problem
from attnpo.report.evaluations import Evaluation, check_names, read_evaluations
from attnpo.report.templates import template
from attnpo.schema import build, listed
from attnpo.testbed import MODELS, check_model, load_problems, missing_model
from attnpo.testbed.problems import SCALES, ChainProblem
from attnpo.training.rollouts import ROLLOUTS_FILE

logger = logging.getLogger(__name__)

RESPONSES = 200
"""Responses on a page, if not said otherwise."""
MAX_BYTES = 5_000_000
"""A page is no larger; it takes fewer responses then."""
ANSWER_TOKENS, LOOKS = 64, 12_000
"""At most so many answer tokens of a response have their attention kept, and so many values of it."""
_TYPES = list(KINDS.values())

ProblemKey = tuple[str, str]
"""Task and id of a problem."""


@dataclass(frozen=True)
class TracePage:
    """A page that was written; a notebook shows it."""

    path: Path

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" title="Traces" style="width: 100%; height: 50rem; border: 0"></iframe>'


@dataclass(frozen=True)
class Scoring:
    """With what steps are scored."""

    model: str
    revision: str | None
    heads: list[RankedHead]


@dataclass
class Training:
    """The rollouts that a training has kept, as an `Evaluation` gives responses; the task is the step."""

    label: str
    seed: int
    origin: str
    file: Path
    manifest: Mapping[str, Any]
    asked: dict[ProblemKey, tuple[str, str]] = field(default_factory=dict)
    """Step and id of a problem -> its text and its gold answer, known once `samples` has been read."""
    chains: dict[ProblemKey, Problem] = field(default_factory=dict)
    """The same for problems of the testbed."""

    def samples(self) -> Iterator[dict[str, Any]]:
        """A record a rollout."""
        of_data: dict[tuple[str, str], dict[str, Problem]] = {}
        for line in json_lines(self.file, "train again, with train.trace_samples", skip_torn=True):
            record = {**line.value, "task": f"step {line.value['step']}"}
            key = record["task"], str(record["problem_id"])
            self.asked[key] = record["asked"], str(record["answer"])
            data = record["data"], record["split"]
            if data[0] in SCALES:
                if data not in of_data:
                    of_data[data] = {problem.id: problem for problem in load_problems(*data)}
                self.chains[key] = of_data[data][key[1]]
            yield record


Run = Evaluation | Training


class _Shown(NamedTuple):
    """A response of the page."""

    run: int
    problem: ProblemKey
    record: dict[str, Any]
    trace: Trace
    looks: Looks | None

    @property
    def exact(self) -> bool:
        """Whether the trace has as many tokens as were sampled."""
        return self.trace.ids is not None and len(self.trace.ids) == self.record["tokens"]["total"]


def trace(
    samples: Sequence[str | Path],
    *,
    model: str | None = None,
    revision: str | None = None,
    heads: str | Path | None = None,
    top: int = 3,
    out: str | Path = "trace.html",
    limit: int = RESPONSES,
    data: Sequence[str] = (),
    **cut: Any,
) -> TracePage:
    """Write one page on which the responses of evaluations can be looked at step by step.

    Args:
        samples: `PATH` or `LABEL=PATH` each, see `attnpo.report.evaluations.read_evaluations`; also folders of training
            runs that have kept rollouts (`train.trace_samples`).
        model: whose tokenizer counts the steps and, with `heads`, whose heads score them; None: the tokenizer of a
            run's model if that is one of the testbed, else characters are counted.
        revision: of a model on the hub.
        heads: the heads.json of a probe. Each response costs one forward pass.
        top: how many of its heads, the best ones.
        out: the page.
        limit: responses on it at most, from problems that are evenly spread; fewer if the page would exceed
            `MAX_BYTES`.
        data: files of problems of the user's own that were asked.
        cut: how the thinking is cut, fields of `attnpo.probing.settings.StepsSection`, over what heads.json says; of
            neither, a profile's defaults, but on the testbed no steps merge.

    Raises:
        AttnPOError: samples that cannot be read, problems that are out of reach, heads without a model, or heads that
            the model lacks.
    """
    if heads is not None and model is None:
        raise AttnPOError(f"--heads {heads}: whose heads? name the model that scores with --model")
    if limit < 1:
        raise AttnPOError(f"--limit {limit}: must be at least 1")
    ranking = None if heads is None else HeadRanking.load(heads)
    scoring = None if ranking is None or model is None else Scoring(model, revision, ranking.best(top))
    if model is not None:
        check_model(model)
    told = {} if ranking is None else {"phrases": ranking.phrase_set, "min_chars": ranking.min_chars}
    settings = {**told, **cut}
    build(StepsSection, settings, "trace")
    evaluations = _read([str(argument) for argument in samples])
    if not evaluations:
        raise AttnPOError("no samples are named; give lm-eval's output folder, or a run folder, at least one")
    counts = _counted(evaluations)
    tasks = {task for _, (task, _) in counts}
    problems = _problems(evaluations, tasks, data)
    chosen = choose(counts, limit)
    tokenizer = _tokenizer(model, revision, evaluations)
    chains = {key[0] for key, problem in problems.items() if isinstance(problem, ChainProblem)}
    tracers = {
        task: Tracer(
            build(StepsSection, {**({"min_chars": 1} if task in chains else {}), **settings}, "trace"), tokenizer
        )
        for task in sorted(tasks)
    }
    shown = []
    for run, key, record in _records(evaluations):
        if record["k"] in chosen.get((run, key), ()):
            shown.append(_Shown(run, key, record, tracers[key[0]].trace(record, problems.get(key)), None))
    if scoring is not None:
        texts = {key: problem.text for key, problem in problems.items()}
        for evaluation in evaluations:  # as it was asked, with a target length, say
            texts |= {key: text for key, (text, _) in evaluation.asked.items()}
        shown = _scored(scoring, shown, texts, tracers)
    return TracePage(_write(Path(out), evaluations, counts, problems, shown, scoring, tracers))


def _read(arguments: Sequence[str]) -> list[Run]:
    found: list[Run] = []
    for argument in arguments:
        label, equals, rest = argument.partition("=")
        named = bool(equals) and not Path(argument).exists() and "/" not in label
        file = Path(rest if named else argument) / ROLLOUTS_FILE
        found += [_training(file, label if named else None)] if file.is_file() else read_evaluations([argument])
    check_names(found)
    return found


def _training(file: Path, label: str | None) -> Training:
    folder = file.parent
    for name in ("manifest.json", "attempt.json"):
        if (folder / name).is_file():
            manifest = parse_json((folder / name).read_bytes(), str(folder / name), "train again")
            spec = manifest["spec"]
            return Training(label or spec["method"], spec["seed"], folder.name, file, manifest)
    raise AttnPOError(f"{folder}: no manifest of a training; pass the folder of a run")


def _scale_of(task: str) -> str | None:
    """The testbed that a task asks the problems of."""
    return next((name for name, scale in SCALES.items() if task in scale.tasks), None)


# what was asked, and what of it is shown

Counts = dict[tuple[int, ProblemKey], list[tuple[int, bool, int]]]
"""Run and problem -> of each response its number, whether it is correct, and its tokens."""


def _records(evaluations: Sequence[Run]) -> Iterator[tuple[int, ProblemKey, dict[str, Any]]]:
    for run, evaluation in enumerate(evaluations):
        for record in evaluation.samples():
            yield run, (record["task"], str(record["problem_id"])), record


def _counted(evaluations: Sequence[Run]) -> Counts:
    found: Counts = {}
    for run, key, record in _records(evaluations):
        found.setdefault((run, key), []).append((record["k"], bool(record["correct"]), record["tokens"]["total"]))
    if not found:
        raise AttnPOError(f"{evaluations[0].origin}: no response in it; evaluate again")
    return found


def choose(counts: Counts, limit: int) -> dict[tuple[int, ProblemKey], set[int]]:
    """Which responses are shown, at most `limit` of them: all those of problems that are evenly spread.

    The problems are those that all runs have, where there are any. Where a single problem has more responses, the first
    ones of each run are taken.
    """
    of_problem: dict[ProblemKey, list[int]] = {}
    for (_, key), found in counts.items():
        of_problem.setdefault(key, []).append(len(found))
    runs = len({run for run, _ in counts})
    keys = [key for key, found in of_problem.items() if len(found) == runs] or list(of_problem)
    most = max(sum(of_problem[key]) for key in keys)
    take = min(len(keys), max(1, limit // most))
    spread = {keys[place * len(keys) // take] for place in range(take)}
    each = max(1, limit // runs) if most > limit else most
    return {(run, key): {k for k, _, _ in found[:each]} for (run, key), found in counts.items() if key in spread}


def _problems(evaluations: Sequence[Run], tasks: set[str], data: Sequence[str]) -> dict[ProblemKey, Problem]:
    """What was asked, where it can be known: from the testbed, from lm-eval's sample files, or read again."""
    found: dict[ProblemKey, Problem] = {}
    for evaluation in evaluations:
        found |= {key: Problem(key[1], text, answer) for key, (text, answer) in evaluation.asked.items()}
        found |= evaluation.chains if isinstance(evaluation, Training) else {}
    files = data_files(data)
    for path in data:
        if path not in [file for task, file in files.items() if task in tasks]:
            raise AttnPOError(f"--data {path}: no file of that name was asked; the tasks are {listed(sorted(tasks))}")
    known = {task for members in task_groups().values() for task in members} | set(files)
    again = []
    for task in sorted(tasks):
        if (scale := _scale_of(task)) is not None:
            split = task.removeprefix(f"{SCALES[scale].group}_")
            found |= {(task, problem.id): problem for problem in load_problems(scale, split)}
        elif task in known and not any(task == other for other, _ in found):
            again.append(files.get(task, task))
    if again:
        from attnpo.evaluation.evaluate import load_tasks, problems_of

        for name, task in load_tasks(again).items():
            for doc in problems_of(task):
                found[name, str(doc["id"])] = Problem(str(doc["id"]), task.doc_to_text(doc), str(doc.get("answer", "")))
    return found


def _tokenizer(model: str | None, revision: str | None, evaluations: Sequence[Run]) -> Any:
    """The tokenizer of `model`, else that of the testbed's model that all evaluations began with, else None."""
    if model is None:
        names = {((e.manifest or {}).get("spec") or {}).get("model", {}).get("name") for e in evaluations}
        model = names.pop() if len(names) == 1 else None
        if model not in MODELS or missing_model(str(model)):
            return None
    from attnpo.sampling.models import load_tokenizer

    return load_tokenizer(str(model), revision)


# scores


def _scored(
    scoring: Scoring,
    shown: Sequence[_Shown],
    texts: Mapping[ProblemKey, str],
    tracers: Mapping[str, Tracer],
) -> list[_Shown]:
    """The responses with what the heads look at, where they can be scored."""
    from rich.console import Console
    from rich.progress import track

    from attnpo.method.attention import check_heads
    from attnpo.sampling.models import load_model
    from attnpo.sampling.sampler import prompt_ids

    if missing := [one.problem for one in shown if one.problem not in texts]:
        raise AttnPOError(
            f"{missing[0][0]}: what was asked is not known, so nothing can be scored; name the file of its problems "
            "with --data, or leave --heads out"
        )
    model, tokenizer = load_model(scoring.model, scoring.revision)
    heads = [(head.layer, head.head) for head in scoring.heads]
    check_heads(model, heads)
    wanted = {one.problem: texts[one.problem] for one in shown}
    prompts = dict(zip(wanted, prompt_ids(tokenizer, list(wanted.values())), strict=True))
    found = []
    for one in track(shown, description="scoring", console=Console(stderr=True)):
        kept = max(1, min(ANSWER_TOKENS, LOOKS // (len(heads) * max(1, len(one.trace.texts)))))
        tracer = tracers[one.problem[0]]
        found.append(one._replace(looks=look(model, heads, tracer, one.trace, prompts[one.problem], kept)))
    return found


# the page


def packed(trace: Trace, looks: Looks | None) -> bytes:
    """A trace as zlib's bytes: four bytes with the length of a JSON text, the text, and the attention, a byte a value.

    The attention of the H heads from R tokens to K steps is in this order, 255 is the text's `most`.
    """
    about: dict[str, Any] = {
        "texts": trace.texts,
        "kinds": [_TYPES.index(kind) for kind in trace.kinds],
        "triggers": trace.triggers,
        "tokens": trace.tokens,
        "labels": trace.labels,
        "essential": trace.essential,
        "answer": trace.answer,
    }
    values = b""
    if looks is not None:
        most = float(looks.rows.max()) if looks.rows.size else 0.0
        scaled = looks.rows * (255 / most) if most else looks.rows
        values = np.rint(scaled).astype(np.uint8).tobytes()
        about |= {
            "scores": [[None if s is None else float(f"{s:.4g}") for s in of_head] for of_head in looks.scores],
            "words": looks.token_texts,
            "before": looks.before,
            "answerTokens": looks.answer_tokens,
            "totalTokens": looks.total_tokens,
            "most": most,
        }
    text = json.dumps(about, separators=(",", ":"), allow_nan=False).encode()
    return zlib.compress(len(text).to_bytes(4, "little") + text + values, 9)


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element, whatever its strings hold; it is ASCII alone."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _write(
    out: Path,
    evaluations: Sequence[Run],
    counts: Counts,
    problems: Mapping[ProblemKey, Problem],
    shown: Sequence[_Shown],
    scoring: Scoring | None,
    tracers: Mapping[str, Tracer],
) -> Path:
    """Write the page, with fewer responses if it would be too large."""
    blobs = {id(one): base64.b64encode(packed(one.trace, one.looks)).decode() for one in shown}
    while True:
        page = _page(evaluations, counts, problems, shown, scoring, tracers, blobs)
        size = len(page.encode())
        if size <= MAX_BYTES or len(shown) == 1:
            atomic_write_text(out, page)
            return out
        fewer = min(len(shown) - 1, len(shown) * MAX_BYTES // size)
        there: Counts = {}
        for one in shown:
            key = one.run, one.problem
            there.setdefault(key, []).append((one.record["k"], False, 0))
        chosen = choose(there, max(1, fewer))
        shown = [one for one in shown if one.record["k"] in chosen.get((one.run, one.problem), ())]
        if len(shown) > fewer:  # one problem, a response of each run
            shown = shown[: max(1, fewer)]
        logger.warning(
            "with %d responses the page would have %.1f MB, %d at most: %d are shown",
            len(blobs), size / 10**6, MAX_BYTES // 10**6, len(shown),
        )  # fmt: skip


def _page(
    evaluations: Sequence[Run],
    counts: Counts,
    problems: Mapping[ProblemKey, Problem],
    shown: Sequence[_Shown],
    scoring: Scoring | None,
    tracers: Mapping[str, Tracer],
    blobs: Mapping[int, str],
) -> str:
    from attnpo.method.credit import CreditConfig  # it loads torch, which `attnpo run` does not need

    keys = list(dict.fromkeys(one.problem for one in shown))
    all_keys = dict.fromkeys(key for _, key in counts)
    several = len({e.seed for e in evaluations}) > 1
    labels = [f"{e.label}, seed {e.seed}" if several else e.label for e in evaluations]
    runs = []
    for run, evaluation in enumerate(evaluations):
        of_run = [response for (number, _), found in counts.items() if number == run for response in found]
        runs.append(
            {
                "label": labels[run],
                "origin": evaluation.origin,
                "n": len(of_run),
                "accuracy": _mean([correct for _, correct, _ in of_run]),
                "tokens": _mean([tokens for _, _, tokens in of_run]),
            }
        )
    index = {
        "runs": runs,
        "problems": [
            {
                "task": key[0],
                "id": key[1],
                "text": problems[key].text if key in problems else None,
                "gold": problems[key].answer if key in problems else None,
                "of": [
                    {"accuracy": _mean([c for _, c, _ in found]), "tokens": _mean([t for _, _, t in found])}
                    if (found := counts.get((run, key)))
                    else None
                    for run in range(len(runs))
                ],
            }
            for key in keys
        ],
        "responses": [_about(one, keys.index(one.problem), counts[one.run, one.problem]) for one in shown],
        "kinds": _TYPES,
        "heads": [] if scoring is None else [[h.layer, h.head, h.sra] for h in scoring.heads],
        "credit": dataclasses.asdict(CreditConfig()),
    }
    beside = Path(__file__).parent
    return template("trace.html.j2").render(
        title="Traces: " + ", ".join(labels),
        about=_conditions(shown, problems, counts, all_keys, keys, scoring, tracers),
        index=script_json(index),
        blobs=script_json([blobs[id(one)] for one in shown]),
        style=(beside / "trace.css").read_text(encoding="utf-8"),
        script=(beside / "trace.js").read_text(encoding="utf-8"),
    )


def _mean(values: Sequence[float]) -> float:
    return float(f"{sum(values) / len(values):.6g}")


def _about(one: _Shown, problem: int, group: Sequence[tuple[int, bool, int]]) -> dict[str, Any]:
    """What the page's lists say of a response."""
    record, trace = one.record, one.trace
    tokens = record["tokens"]
    return {
        "run": one.run,
        "problem": problem,
        "k": record["k"],
        "step": record.get("step"),
        "p": record.get("group_accuracy", _mean([correct for _, correct, _ in group])),
        "correct": bool(record["correct"]),
        "reason": record.get("reason"),
        "truncated": record["finish"] == "length",
        "thinkEnd": record["think_tags"] > 0 or not record.get("thinking", True),
        "tokens": [tokens["total"], tokens["thinking"], tokens["answer"]],
        "shares": {name: round(share, 4) for name, share in trace.shares(tokens).items()},
        "first": [trace.first_step, trace.first_tokens],
        "exact": None if trace.ids is None else one.exact,
    }


def _conditions(
    shown: Sequence[_Shown],
    problems: Mapping[ProblemKey, Problem],
    counts: Counts,
    all_keys: Mapping[ProblemKey, None],
    keys: Sequence[ProblemKey],
    scoring: Scoring | None,
    tracers: Mapping[str, Tracer],
) -> list[str]:
    """What a reader of the page must know, in sentences."""
    total = sum(map(len, counts.values()))
    lines = [f"{len(shown)} of {total} responses, on {len(keys)} of {len(all_keys)} problems, evenly spread."]
    if len(shown) == total:
        lines = [f"All {total} responses, on {len(keys)} problems."]
    cuts = {(t.settings.phrases, t.settings.min_chars) for t in tracers.values()}
    for phrases, least in sorted(cuts):
        merged = f"; those shorter than {least} characters merge" if least > 1 else ""
        lines.append(f"Steps are cut by the phrase set {phrases}{merged}.")
    if all(tracer.tokenizer is None for tracer in tracers.values()):
        lines.append("Steps are counted in characters: no tokenizer is known, name one with --model.")
    else:
        exact = sum(one.exact for one in shown)
        again = any("response_ids" not in one.record for one in shown)
        lines.append(
            f"Texts were tokenized again; {exact} of {len(shown)} have as many tokens as were sampled."
            if again
            else "Tokens are those that were sampled."
        )
    oracle = {one.problem[0] for one in shown if isinstance(problems.get(one.problem), ChainProblem)}
    if oracle:
        lines.append("Labels: the testbed's oracle.")
    if {one.problem[0] for one in shown} - oracle:
        lines.append(
            "Labels: by the first answer; of a correct response, steps behind the first one that states the gold "
            "answer count as redundant."
        )
    if scoring is not None:
        scored = sum(one.looks is not None for one in shown)
        lines.append(
            f"Scores: one forward pass of {Path(scoring.model).name} for each of {scored} responses; the others do not "
            "have exactly one </think> between thinking and answer."
            if scored < len(shown)
            else f"Scores: one forward pass of {Path(scoring.model).name} for each response."
        )
    return lines
