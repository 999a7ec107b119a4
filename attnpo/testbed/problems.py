"""Chained arithmetic modulo 100 or 1000: "Start with 72. Add 6. Times 24."

A problem is a start value and some operations, its links. A link is hard if it multiplies by a two-digit number: its
result can be recalled in one line, which may fail, or be worked out in three, which hardly does. At least one link of
a problem is hard. No two operands end in the same digit: by it a link is told from the others, which small models
confuse otherwise. A hash of its content decides to which split a problem belongs, so none can be in two splits,
whatever its wording. Within a split the problems are drawn with a fixed seed. There are two scales: `TINY`, the
embedded default, and `LARGE`, with larger numbers and longer chains.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from functools import cache

from attnpo.errors import AttnPOError
from attnpo.problems.problem import Problem

OPERATIONS = ("+", "-", "*")
UNTAUGHT_SHARE = 0.42
"""Share of the facts, values times hard factors, whose result no trace teaches: a model can work it out, not recall it.
How reliable recalling is then follows from this share, and hardly from how long a model is trained."""
HARD_SHARE = 0.5
"""Chance that a link is hard. Problems without a hard link are drawn again."""


@dataclass(frozen=True)
class Scale:
    """How large the numbers of a testbed are, and how long its chains."""

    data: str
    """The name of its problems in a profile's `data`."""
    modulus: int
    """All values are 0 to `modulus - 1`."""
    terms: range
    """Operands of + and -."""
    factors: range
    """Operands of easy multiplications, of one digit."""
    hard_factors: tuple[int, ...]
    """Operands of hard multiplications, of two digits, neither of them 0 or 1."""
    chains: range
    """Chain lengths (number of operations) of train, validation and test."""
    shifted_chains: range
    """Chain lengths of the shifted test. They exceed those of training, and the wording is rare in fine-tuning."""

    @property
    def group(self) -> str:
        """The lm-eval group of its test and shifted test."""
        return f"attnpo_{self.data.replace('-', '_')}"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names that lm-eval knows of it: the group, and the task of each split."""
        return (self.group, *(f"{self.group}_{split}" for split in ("test", "shifted", "validation")))


_FEW = (22, 33, 24, 35, 26, 37, 28, 39)
_MANY = tuple(10 * tens + units for tens in range(2, 5) for units in range(2, 10))
TINY = Scale("testbed", 100, range(2, 10), range(2, 10), _FEW, range(2, 5), range(5, 7))
LARGE = Scale("testbed-large", 1000, range(2, 100), range(2, 10), _MANY, range(5, 8), range(8, 10))
SCALES = {scale.data: scale for scale in (TINY, LARGE)}
"""By the name in a profile's `data`."""

SIZES = {"train": 12_000, "validation": 300, "test": 300, "shifted": 200}
_BUCKETS = {"train": range(80), "validation": range(80, 90), "test": range(90, 100), "shifted": range(90, 100)}
_SEEDS = {"train": 11, "validation": 12, "test": 13, "shifted": 14}

_PLAIN = {"+": "Add {n}.", "-": "Take away {n}.", "*": "Times {n}."}
_VERBOSE = {"+": "increase it by {n}", "-": "lower it by {n}", "*": "multiply it by {n}"}


@dataclass(frozen=True)
class ChainProblem(Problem):
    """A start value and a chain of operations, from which id, text and answer follow.

    The id states the content, such as `72+6*24`, and ends in `v` for the verbose wording.
    """

    id: str = field(init=False)
    text: str = field(init=False)
    answer: str = field(init=False)
    start: int
    """0 to `modulus - 1`."""
    ops: tuple[tuple[str, int], ...]
    """(operation, operand) pairs, in the order in which they apply."""
    wording: str = "plain"
    """"plain" or "verbose"."""
    modulus: int = TINY.modulus
    """That of its scale."""

    def __post_init__(self) -> None:
        chain = "".join(f"{op}{n}" for op, n in self.ops)
        object.__setattr__(self, "id", f"{self.start}{chain}{'v' if self.wording == 'verbose' else ''}")
        object.__setattr__(self, "text", self._worded())
        object.__setattr__(self, "answer", str(self.values[-1]))

    def _worded(self) -> str:
        if self.wording == "plain":
            return " ".join([f"Start with {self.start}.", *(_PLAIN[op].format(n=n) for op, n in self.ops)])
        steps = ", then ".join(_VERBOSE[op].format(n=n) for op, n in self.ops)
        return f"Take {self.start}, then {steps}."

    @property
    def chain(self) -> int:
        """Chain length: the number of operations."""
        return len(self.ops)

    @property
    def values(self) -> tuple[int, ...]:
        """The true value before the first and after each operation: `chain + 1` integers."""
        values = [self.start]
        for op, n in self.ops:
            values.append(self.apply(values[-1], op, n))
        return tuple(values)

    def apply(self, value: int, op: str, n: int) -> int:
        """`value op n` modulo the problem's modulus.

        Raises:
            AttnPOError: an operation that is none of `OPERATIONS`.
        """
        if op == "+":
            return (value + n) % self.modulus
        if op == "-":
            return (value - n) % self.modulus
        if op == "*":
            return value * n % self.modulus
        raise AttnPOError(f"unknown operation {op!r}; the testbed knows {', '.join(OPERATIONS)}")

    def parts(self, value: int, n: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The products that a hard link `value * n` is worked out by: (operand, result) of the units, of the tens."""
        units, tens = n % 10, n - n % 10
        return (units, self.apply(value, "*", units)), (tens, self.apply(value, "*", tens))


def is_hard(op: str, n: int) -> bool:
    """Whether a link can be worked out: it multiplies by a two-digit number."""
    return op == "*" and n > 9


def is_taught(value: int, n: int) -> bool:
    """Whether traces teach the result of `value * n`, for a hard factor n: a hash chooses, so it is always the same."""
    digest = hashlib.sha256(f"{value}*{n}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 >= UNTAUGHT_SHARE


def bucket(problem: ChainProblem) -> int:
    """A hash of the content (not of the wording), 0 to 99. Each split has a range of its own."""
    key = f"{problem.start}|{problem.ops}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % 100


def sample(rng: random.Random, split: str, chain: int, wording: str = "plain", scale: Scale = TINY) -> ChainProblem:
    """A random problem of `split` with `chain` operations, of which at least one is hard."""
    while True:
        ops = _links(rng, chain, scale)
        problem = ChainProblem(rng.randrange(scale.modulus), ops, wording, scale.modulus)
        if any(is_hard(*link) for link in ops) and bucket(problem) in _BUCKETS[split]:
            return problem


def _links(rng: random.Random, chain: int, scale: Scale) -> tuple[tuple[str, int], ...]:
    """Random links whose operands end in different digits."""
    links: list[tuple[str, int]] = []
    while len(links) < chain:
        op, n = _link(rng, scale)
        if all(n % 10 != other % 10 for _, other in links):
            links.append((op, n))
    return tuple(links)


def _link(rng: random.Random, scale: Scale) -> tuple[str, int]:
    if rng.random() < HARD_SHARE:
        return "*", rng.choice(scale.hard_factors)
    op = rng.choice(OPERATIONS)
    return op, rng.choice(scale.factors if op == "*" else scale.terms)


def load(split: str, scale: Scale = TINY) -> list[ChainProblem]:
    """The problems of a split: always the same, without repeats, and equally many of each chain length.

    Args:
        split: "train", "validation", "test" or "shifted" (longer chains, verbose wording).
        scale: `TINY` or `LARGE`.

    Raises:
        AttnPOError: no such split.
    """
    if split not in SIZES:
        raise AttnPOError(f"the testbed has no split {split!r}; choose one of {', '.join(SIZES)}")
    return list(_load(split, scale))


@cache
def _load(split: str, scale: Scale) -> tuple[ChainProblem, ...]:
    chains = scale.shifted_chains if split == "shifted" else scale.chains
    wording = "verbose" if split == "shifted" else "plain"
    rng = random.Random(_SEEDS[split])
    found: dict[str, ChainProblem] = {}
    for position in range(SIZES[split]):
        chain = chains[position % len(chains)]
        problem = sample(rng, split, chain, wording, scale)
        while problem.id in found:
            problem = sample(rng, split, chain, wording, scale)
        found[problem.id] = problem
    return tuple(found.values())
