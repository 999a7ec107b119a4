"""Chained arithmetic modulo 100: "Start with 72. Add 6. Times 9."

A problem is a start value and 1 to 8 operations. A hash of its content decides to which split it belongs, so no problem
can be in two splits, whatever its wording. Within a split the problems are drawn with a fixed seed.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from functools import cache

from attnpo.errors import AttnPOError
from attnpo.problems.problem import Problem

MODULUS = 100
OPERATIONS = ("+", "-", "*")
OPERANDS = range(2, 10)
TRAINING_CHAINS = range(1, 7)
"""Chain lengths (number of operations) of train, validation and test."""
SHIFTED_CHAINS = range(5, 9)
"""Chain lengths of the shifted test. They exceed those of training, and the wording is rare in fine-tuning."""

SIZES = {"train": 12_000, "validation": 300, "test": 300, "shifted": 200}
_BUCKETS = {"train": range(80), "validation": range(80, 90), "test": range(90, 100), "shifted": range(90, 100)}
_SEEDS = {"train": 11, "validation": 12, "test": 13, "shifted": 14}

_PLAIN = {"+": "Add {n}.", "-": "Take away {n}.", "*": "Times {n}."}
_VERBOSE = {"+": "increase it by {n}", "-": "lower it by {n}", "*": "multiply it by {n}"}


@dataclass(frozen=True)
class ChainProblem(Problem):
    """A start value and a chain of operations, from which id, text and answer follow.

    The id states the content, such as `72+6*9`, and ends in `v` for the verbose wording.
    """

    id: str = field(init=False)
    text: str = field(init=False)
    answer: str = field(init=False)
    start: int
    """0 to 99."""
    ops: tuple[tuple[str, int], ...]
    """(operation, operand) pairs, in the order in which they apply."""
    wording: str = "plain"
    """"plain" or "verbose"."""

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
        """The true value before the first and after each operation: `chain + 1` integers in 0..99."""
        values = [self.start]
        for op, n in self.ops:
            values.append(apply(values[-1], op, n))
        return tuple(values)


def apply(value: int, op: str, n: int) -> int:
    """`value op n` modulo 100."""
    if op == "+":
        return (value + n) % MODULUS
    if op == "-":
        return (value - n) % MODULUS
    if op == "*":
        return value * n % MODULUS
    raise AttnPOError(f"unknown operation {op!r}; the testbed knows {', '.join(OPERATIONS)}")


def bucket(problem: ChainProblem) -> int:
    """A hash of the content (not of the wording), 0 to 99. Each split has a range of its own."""
    key = f"{problem.start}|{problem.ops}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % 100


def sample(rng: random.Random, split: str, chain: int, wording: str = "plain") -> ChainProblem:
    """A random problem of `split` with `chain` operations."""
    while True:
        ops = tuple((rng.choice(OPERATIONS), rng.choice(OPERANDS)) for _ in range(chain))
        problem = ChainProblem(rng.randrange(MODULUS), ops, wording)
        if bucket(problem) in _BUCKETS[split]:
            return problem


def load(split: str) -> list[ChainProblem]:
    """The problems of a split: always the same, without repeats, and about equally many of each chain length.

    Args:
        split: "train", "validation", "test" or "shifted" (longer chains, verbose wording).
    """
    if split not in SIZES:
        raise AttnPOError(f"the testbed has no split {split!r}; choose one of {', '.join(SIZES)}")
    return list(_load(split))


@cache
def _load(split: str) -> tuple[ChainProblem, ...]:
    chains = SHIFTED_CHAINS if split == "shifted" else TRAINING_CHAINS
    wording = "verbose" if split == "shifted" else "plain"
    rng = random.Random(_SEEDS[split])
    found: dict[str, ChainProblem] = {}
    per_chain = dict.fromkeys(chains, 0)
    for position in range(SIZES[split]):
        chain = chains[position % len(chains)]
        if per_chain[chain] >= _distinct_problems(chain) // 2:  # single operations run out of distinct problems
            chain = chains[-1]
        problem = sample(rng, split, chain, wording)
        while problem.id in found:
            problem = sample(rng, split, chain, wording)
        found[problem.id] = problem
        per_chain[chain] += 1
    return tuple(found.values())


def _distinct_problems(chain: int) -> int:
    return MODULUS * (len(OPERATIONS) * len(OPERANDS)) ** chain
