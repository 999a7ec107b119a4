"""The process in which math-verify runs. It reads JSON requests from stdin and writes JSON verdicts to stdout, by line.

`attnpo.grading.math` starts it as a script and replaces it when an answer takes too long. It imports nothing of the
package, so starting it costs little more than importing math-verify.
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
"""Bytes of address space. An expression such as 9^{9^{9}} fails at this limit instead of filling the memory."""

VARIABLE = re.compile(r"(?<![a-zA-Z])[a-zA-Z]{1,2}(?![a-zA-Z])")
COMMAND = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[a-zA-Z]+")


def judge(answer: str, gold: str) -> str:
    """Compare the contents of two boxes by math-verify, with these options and rules.

    1. Only the box is read. If it cannot be parsed, that is a parse failure; no number is picked out of it.
    2. Units are dropped only if the gold answer has no variable: with a variable, `6m` may be six times m.
    3. An inequality and an interval may be equal, whichever of the two is the gold answer (`allow_set_relation_comp`).
    4. A decimal equals another number if both are equal after rounding to 6 places. If the gold answer is below 0.1,
       places are counted from its first digit other than 0. So 0.333333 is 1/3, and 0.333 is not.
    5. A percent sign may stand on one side only, as in math-verify's rule for integers. 62.5% also equals 0.625.

    Returns:
        "equal", "different", "unparsed" (the answer cannot be parsed) or "gold_unparsed".
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
        # math-verify's own timeouts stay off, because they are signals that cannot interrupt a long computation in C.
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
    """How many zeros follow the point of a number below 0.1; 0 for anything else."""
    if not getattr(gold, "is_number", False):
        return 0
    size = abs(gold.doit().evalf())
    return -math.floor(math.log10(size)) - 1 if size.is_Float and 1e-300 < size < 1 else 0


def main() -> None:
    """Serve requests `{"answer", "gold", "cpu", "alarm"}` until stdin closes; the last two are limits in seconds."""
    # Verdicts go to a copy of stdout, and stdout itself to stderr, so that no library's output is taken for a verdict.
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
        # The default action of both signals ends this process, even inside C code. The first comes after so much
        # processor time, however busy the machine is; the second ends the process if the parent is gone by then.
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
