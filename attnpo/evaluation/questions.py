"""What is asked of a model: problems by task and id, how to decode, how often. Answers lie in a file of samples.

Each response has a seed of its own, from the run's seed and from what is asked, never from the model: two models are
sampled with equal seeds. Where a batch draws from one stream of random numbers (transformers), the seed of its first
response counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError
from attnpo.evaluation.lengths import Generation, bytes_table, count_tokens
from attnpo.sampling.sampler import Sampler
from attnpo.sampling.store import Key, SampleFile

FIELDS = ("task", "problem_id", "k")
"""What names a response in a file of samples."""

_BUDGETS = ("max_new_tokens", "max_tokens", "max_completion_tokens", "max_gen_toks")
"""Names of the budget in lm-eval. Our tasks set the last one, so that any other is the user's and goes first."""
_OURS = {*_BUDGETS, "do_sample", "temperature", "top_p", "until", "seed"}


class Decoding(NamedTuple):
    """How responses are sampled."""

    temperature: float
    """0 is greedy decoding."""
    top_p: float
    max_new_tokens: int
    """Budget of a response, in tokens."""
    options: Mapping[str, Any] = {}
    """More, by the backend's own names; see `attnpo.sampling.sampler.Sampler.sample`."""

    @property
    def greedy(self) -> bool:
        """Whether all responses to a problem are the same; then one is sampled."""
        return self.temperature == 0

    @staticmethod
    def of(arguments: Mapping[str, Any], where: str) -> Decoding:
        """What lm-eval's generation arguments say.

        As in lm-eval, `do_sample: false` is greedy decoding, and without temperature nothing is sampled; a temperature
        of 0 is greedy with `do_sample: true`, too.

        Raises:
            AttnPOError: they have stop strings, no budget, or numbers out of range.
        """
        if arguments.get("until"):
            raise AttnPOError(
                f"{where}: until={arguments['until']!r}: our tasks read responses to their end and count all of their "
                "tokens; leave it out, and limit the length by max_gen_toks"
            )
        budget = next((arguments[name] for name in _BUDGETS if arguments.get(name) is not None), None)
        sampled = arguments.get("do_sample") is not False
        found: dict[str, Any] = {
            "temperature": (arguments.get("temperature") or 0) if sampled else 0,
            "top_p": arguments.get("top_p", 1),
            "max_gen_toks": budget,
        }
        for name, value in found.items():
            try:
                found[name] = float(value)
            except (TypeError, ValueError) as error:
                raise AttnPOError(f"{where}: {name} is {value!r}; give a number") from error
        temperature, top_p, budget = found.values()
        if not (0 <= temperature < float("inf") and 0 < top_p <= 1 and budget >= 1 and budget == int(budget)):
            raise AttnPOError(
                f"{where}: temperature {temperature:g}, top_p {top_p:g}, budget {budget:g}; take a temperature of 0 or "
                "more, 0 < top_p <= 1 and a budget of at least 1 token"
            )
        options = {name: value for name, value in arguments.items() if name not in _OURS}
        if not options.get("top_k"):  # 0, -1 or none at all: each backend is told in its own way
            options.pop("top_k", None)
        return Decoding(temperature, top_p, int(budget), options)


class Question(NamedTuple):
    """One problem, to be answered k times."""

    task: str
    problem_id: Any
    """A JSON value."""
    prompt: Any
    """Token ids, or what a server is sent."""
    k: int
    decoding: Decoding
    identity: str = ""
    """Tells apart, in one file, answers to the same problem that were asked for otherwise or of another model."""

    def key(self, k: int) -> Key:
        """The key of response k: the values of `FIELDS`, behind them the identity if there is one."""
        key = (self.task, self.problem_id, 0 if self.decoding.greedy else k)
        return (*key, self.identity) if self.identity else key


def ask(file: SampleFile, sampler: Sampler, questions: Sequence[Question], seed: Any, *, show: bool = True) -> None:
    """Sample what the file lacks, in the order of the questions, those that are decoded alike together.

    Args:
        file: of the samples; each is appended as it comes.
        sampler: samples them.
        questions: each with a key of its own.
        seed: of the run, any JSON value; None: the sampler takes no seeds.
        show: draw a progress bar.
    """
    alike: dict[str, list[Question]] = {}
    for one in questions:
        alike.setdefault(stable_json(one.decoding), []).append(one)
    for group in alike.values():
        how = group[0].decoding
        turns = [(one, k) for one in group for k in range(1 if how.greedy else one.k)]
        file.fill(
            sampler,
            [one.key(k) for one, k in turns],
            [one.prompt for one, _ in turns],
            None if seed is None else [derive(seed, one.task, one.problem_id, k) for one, k in turns],
            temperature=how.temperature,
            top_p=how.top_p,
            max_new_tokens=how.max_new_tokens,
            options=how.options,
            description="sampling" if show else None,
        )


def is_answered(file: SampleFile, questions: Sequence[Question]) -> bool:
    """Whether all responses are in the file."""
    return all(one.key(k) in file for one in questions for k in range(one.k))


def answers(file: SampleFile, question: Question, tokenizer: Any) -> list[Generation]:
    """The k responses to a question, read from the file.

    Args:
        file: of the samples.
        question: what was asked.
        tokenizer: of the model, to decode ids, special tokens included, and to count; None: the rows have texts, and
            whoever needs counts makes them.
    """
    found = []
    for row in file.rows(question.key(k) for k in range(question.k)):
        ids, text = row["response_ids"], row.get("text")
        if text is None:
            kept = ids[:-1] if row["finish"] == "stop" else ids
            text = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        counts = count_tokens(ids, bytes_table(tokenizer)) if ids and tokenizer is not None else None
        found.append(Generation.make(text, ids or None, row["finish"], counts, row.get("usage"), row.get("seed")))
    return found


def derive(*parts: Any) -> int:
    """A seed from JSON values; equal values give equal seeds. It has 31 bits, which every backend takes."""
    return int.from_bytes(hashlib.sha256(stable_json(list(parts)).encode()).digest()[:4], "big") >> 1


def stable_json(value: Any) -> str:
    """JSON that is equal for equal values; what JSON has no form for is written as text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
