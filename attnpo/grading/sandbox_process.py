"""The conversation with one sandboxed process: hand the program over, collect its output, keep the limits.

Time and memory are measured from outside. The process belongs to `attnpo.grading.sandbox`, which starts and ends it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

READY = "attnpo-sandbox-ready\n"
"""What the runner writes to standard output right before the program begins."""
START_SECONDS = 60.0
"""A sandbox that has not reported `READY` by then has not started."""
POLL_SECONDS = 0.05
"""Time between two looks at the memory of the whole process tree."""


class Limits(NamedTuple):
    """What one run may use.

    LiveCodeBench's harness (`testing_util.py`, commit 15808c7) gives 6 seconds a test and names 4 GB of memory, which
    it does not enforce. The other numbers are ours.
    """

    seconds: float = 6.0
    """Wall-clock time from the moment the program begins."""
    memory: int = 4 << 30
    """Bytes: of address space a process, and of resident memory of all processes together."""
    processes: int = 16
    """Processes and threads, the sandbox's own two included. Not enforced without isolation."""
    file: int = 64 << 20
    """Bytes of one file, and of `/tmp`."""
    open_files: int = 64
    output: int = 32 << 20
    """Bytes of standard output."""
    stack: int = 256 << 20


class Outcome(NamedTuple):
    """The result of one run."""

    status: str
    """"ok" (ended by itself, exit code 0), "runtime_error", "time_limit", "memory_limit" or "output_limit"."""
    output: bytes
    """Standard output, or the returned value as JSON. The untrusted program wrote it."""
    error: str
    """The last 2,000 characters of standard error."""
    seconds: float
    """From the program's beginning to its end."""


class Conversation:
    """Serves one sandboxed process until it ends or exceeds a limit."""

    def __init__(self, process: subprocess.Popen[bytes], request: bytes, limits: Limits) -> None:
        self.process, self.limits = process, limits
        self.pending = memoryview(request)
        self.output, self.error = bytearray(), bytearray()
        self.begun: float | None = None
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.stdin, self.stdout, self.stderr = (p.fileno() for p in (process.stdin, process.stdout, process.stderr))
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)

    def outcome(self) -> Outcome | str:
        """The outcome; or, if the program did not begin, what was on standard error."""
        status = self._converse()
        error = self.error.decode("utf-8", "replace")[-2000:]
        if self.begun is None:
            return error or f"no answer in {START_SECONDS:.0f} s"
        seconds = time.monotonic() - self.begun
        return Outcome(status, bytes(self.output), error, seconds)

    def _converse(self) -> str:
        deadline = time.monotonic() + START_SECONDS
        ended = os.pidfd_open(self.process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(ended, selectors.EVENT_READ)
                selector.register(self.stdin, selectors.EVENT_WRITE)
                selector.register(self.stdout, selectors.EVENT_READ)
                selector.register(self.stderr, selectors.EVENT_READ)
                while (left := deadline - time.monotonic()) > 0:
                    ready = {key.fd for key, _ in selector.select(min(left, POLL_SECONDS))}
                    if self.stdin in ready and not self._feed():
                        selector.unregister(self.stdin)
                    for descriptor in ready & {self.stdout, self.stderr}:
                        if not self._read(descriptor):
                            selector.unregister(descriptor)
                    if self.begun is None and self.output.startswith(READY.encode()):
                        del self.output[: len(READY)]
                        self.begun = time.monotonic()
                        deadline = self.begun + self.limits.seconds
                    if len(self.output) > self.limits.output:
                        return "output_limit"
                    if ended in ready:
                        return self._last_words()
                    if self.begun is not None and _resident(self.process.pid) > self.limits.memory:
                        return "memory_limit"
                return "time_limit"
        finally:
            os.close(ended)

    def _feed(self) -> bool:
        """Write as much as the pipe takes; False when all is written or nobody reads any more."""
        try:
            self.pending = self.pending[os.write(self.stdin, self.pending[: 1 << 20]) :]
        except BrokenPipeError:
            self.pending = self.pending[:0]
        except BlockingIOError:
            pass
        if not self.pending:
            assert self.process.stdin is not None
            self.process.stdin.close()
        return bool(self.pending)

    def _read(self, descriptor: int) -> bool:
        """Read what is there; False at the end of the stream."""
        try:
            piece = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return True
        if descriptor == self.stdout:
            self.output += piece
        else:
            self.error += piece
            del self.error[:-8000]
        return bool(piece)

    def _last_words(self) -> str:
        """Read what is left in the pipes of a process that has ended; returns the status."""
        for descriptor in (self.stdout, self.stderr):
            size = -1
            while size != len(self.output) + len(self.error):
                size = len(self.output) + len(self.error)
                if len(self.output) > self.limits.output + len(READY):
                    return "output_limit"
                if not self._read(descriptor):
                    break
        if self.begun is None and self.output.startswith(READY.encode()):
            del self.output[: len(READY)]
            self.begun = time.monotonic()
        # End what it left in its process group. Until `wait` collects it, its number cannot belong to another process.
        os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if code == 0:
            return "ok"
        if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return "time_limit"
        return "memory_limit" if b"MemoryError" in self.error[-200:] else "runtime_error"


def first_process(info: int) -> int | None:
    """A descriptor of the first process of bubblewrap's pid namespace; None if bubblewrap failed."""
    text, deadline = b"", time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(info, selectors.EVENT_READ)
        while b"}" not in text and (left := deadline - time.monotonic()) > 0:
            if selector.select(left):
                piece = os.read(info, 4096)
                if not piece:
                    return None
                text += piece
    if b"}" not in text:
        return None
    try:
        return os.pidfd_open(json.loads(text)["child-pid"])
    except ProcessLookupError:
        return None


def _resident(pid: int) -> int:
    """Resident bytes of a process and all its descendants. A process that ends meanwhile counts as 0.

    In a pid namespace the first process adopts orphans, so none leaves the tree.
    """
    total, found = 0, [pid]
    for pid in found:  # the list grows during the loop
        try:
            total += int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
            for thread in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        except (OSError, IndexError):
            continue
    return total * _PAGE


_PAGE = os.sysconf("SC_PAGE_SIZE")
