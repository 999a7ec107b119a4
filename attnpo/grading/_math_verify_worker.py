"""The process in which math-verify runs: one JSON request a line on stdin, one JSON verdict a line on stdout.

Started as a script by `attnpo.grading.math`, which replaces it when an item takes too long. It imports
nothing of the package, so that starting it costs little more than importing math-verify.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import sys
from dataclasses import replace
from typing import Any

MEMORY_LIMIT = 4 << 30
"""Bytes of address space; beyond it an expression such as 9^{9^{9}} fails instead of filling the machine."""

VARIABLE = re.compile(r"(?<![a-zA-Z])[a-zA-Z]{1,2}(?![a-zA-Z])")
COMMAND = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[a-zA-Z]+")


def judge(answer: str, gold: str) -> str:
    """One of "equal", "different", "unparsed" (the answer), "gold_unparsed"; both are contents of a box.

    math-verify with these options and rules:

    1. Only the box is read. What cannot be parsed is a parse failure; no number is picked out of it.
    2. Units are dropped only where the gold answer has no variable: `6m` is six m, not six metres.
    3. An inequality and an interval may be equal, whichever side has which (`allow_set_relation_comp`).
    4. A decimal equals another number if they agree after rounding to 6 places, counted from the first digit
       of the gold answer if that is below 0.1: 0.333333 is 1/3, 0.333 is not.
    5. A percent sign may stand on one side only, as math-verify has it for integers; 62.5% is also 0.625.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    units = not VARIABLE.search(COMMAND.sub(" ", gold))
    default = LatexExtractionConfig()
    config = LatexExtractionConfig(
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=replace(default.normalization_config, units=units),
    )

    def read(text: str) -> list:
        # math-verify's own timeouts stay off: they are signals, and cannot interrupt a long computation in C.
        return parse(f"\\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None)

    parsed_gold, parsed_answer = read(gold), read(answer)
    if not parsed_gold:
        return "gold_unparsed"
    if not parsed_answer:
        return "unparsed"
    if ("%" in gold) != ("%" in answer):
        parsed_gold += read(gold.replace("\\%", "").replace("%", ""))
        parsed_answer += read(answer.replace("\\%", "").replace("%", ""))
    equal = verify(
        parsed_gold,
        parsed_answer,
        float_rounding=6 + leading_zeros(parsed_gold[0]),
        allow_set_relation_comp=True,
        timeout_seconds=None,
    )
    return "equal" if equal else "different"


def leading_zeros(gold: Any) -> int:
    """Zeros between the point and the first digit of a number below 0.1; 0 for anything else."""
    if not getattr(gold, "is_number", False):
        return 0
    size = abs(gold.doit().evalf())
    return -math.floor(math.log10(size)) - 1 if size.is_Float and 1e-300 < size < 1 else 0


def main() -> None:
    """Serve requests `{"answer", "gold", "cpu", "alarm"}` until stdin closes; the last two are limits in seconds."""
    # Whatever a library prints must not be taken for a verdict.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        print(json.dumps({"ready": False, "error": str(error)}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for limit_signal in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(limit_signal, signal.SIG_DFL)
    for line in sys.stdin:
        request = json.loads(line)
        # The default action of both ends this process, even inside C code: the first after so much time of the
        # processor, however busy the machine is; the second should the parent be gone by then.
        signal.setitimer(signal.ITIMER_PROF, request["cpu"])
        signal.alarm(request["alarm"])
        try:
            verdict = judge(request["answer"], request["gold"])
        except (MemoryError, RecursionError, OverflowError):
            verdict = "unparsed"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        print(json.dumps({"verdict": verdict}), file=replies, flush=True)


if __name__ == "__main__":
    main()
