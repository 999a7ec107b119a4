"""The process in which math-verify runs: one JSON request a line on stdin, one JSON verdict a line on stdout.

Started as a script by `attnpo.rewards.correctness`, which kills it when an item takes too long. It imports
nothing of the package, so that starting it costs little more than importing math-verify.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys

MEMORY_LIMIT = 4 << 30
"""Bytes of address space; beyond it an expression such as 9^{9^{9}} fails instead of filling the machine."""


def judge(answer: str, gold: str) -> str:
    """One of "equal", "different", "unparsed" (the answer), "gold_unparsed"; both are contents of a box."""
    from math_verify import parse, verify

    # No fallback to the bare string: what math-verify cannot read is a parse failure, not an answer.
    # Its own timeouts stay off: they are signals, and cannot interrupt a long computation in C.
    parsed_gold = parse(f"\\boxed{{{gold}}}", fallback_mode="no_fallback", parsing_timeout=None)
    if not parsed_gold:
        return "gold_unparsed"
    parsed_answer = parse(f"\\boxed{{{answer}}}", fallback_mode="no_fallback", parsing_timeout=None)
    if not parsed_answer:
        return "unparsed"
    return "equal" if verify(parsed_gold, parsed_answer, timeout_seconds=None) else "different"


def main() -> None:
    """Serve requests `{"answer", "gold", "alarm"}` until stdin closes."""
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
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        request = json.loads(line)
        # Should the parent be gone by the time, the default action of the alarm ends this process, even
        # inside C code.
        signal.alarm(request["alarm"])
        try:
            verdict = judge(request["answer"], request["gold"])
        except (MemoryError, RecursionError, OverflowError):
            verdict = "unparsed"
        signal.alarm(0)
        print(json.dumps({"verdict": verdict}), file=replies, flush=True)


if __name__ == "__main__":
    main()
