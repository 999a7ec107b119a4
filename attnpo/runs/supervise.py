"""Runs a command that ends, with all that it started, when the runner ends: `python -m attnpo.runs.supervise FD CMD…`.

FD is the read end of a pipe whose write end the runner alone holds. The system closes that when the runner dies, even
by SIGKILL. Launchers such as `torchrun` start their workers in sessions of their own, so a process group is not enough:
the whole tree is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
"""Linux: what a dying descendant leaves behind becomes a child of this process, so the tree stays one."""


def main(arguments: list[str]) -> int:
    """Run the command and return its exit code; if a signal ended it, end by the same signal.

    SIGTERM is passed on to the command's process group. What the command leaves behind when it ends is killed.
    """
    descriptor, *command = arguments
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        process = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        print(
            f"attnpo: cannot start {command[0]} ({error.strerror}); install it, or mend launch.train", file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: _signal_group(process.pid, signal.SIGTERM))

    def watch() -> None:
        os.read(int(descriptor), 1)  # returns at end of file only: nothing is ever written
        kill_tree(process.pid)

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    kill_tree(process.pid)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def kill_tree(group: int) -> None:
    """Kill a process group and every descendant of this process, until none is alive (where there is /proc)."""
    _signal_group(group, signal.SIGKILL)
    while alive := _descendants(os.getpid()):
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _descendants(root: int) -> list[int]:
    """Living descendants of a process; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    dead = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            pid = int(stat.parent.name)
            children.setdefault(int(parent), []).append(pid)
            dead |= {pid} if state in "ZX" else set()
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return [pid for pid in found[1:] if pid not in dead]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
