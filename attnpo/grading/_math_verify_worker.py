"""The process in which math-verify runs. It reads JSON requests from stdin and writes JSON verdicts to stdout, by line.

`attnpo.grading.math` starts it as a script and replaces it when an answer takes too long. Of the package it imports
`comparison` alone, so starting it costs little more than importing math-verify.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

MEMORY_LIMIT = 4 << 30
"""Bytes of address space. An expression such as 9^{9^{9}} fails at this limit instead of filling the memory."""


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
    # The modules beside this file, even where another copy of the package is installed, or imported by a .pth file.
    package = Path(__file__).parents[1]
    sys.path.insert(0, str(package.parent))
    import attnpo

    del sys.path[0]
    attnpo.__path__ = [str(package)]
    try:
        from attnpo.grading.comparison import judge
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
