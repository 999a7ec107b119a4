"""Runs untrusted Python programs, each in a process tree of its own that sees nothing of ours.

A program gets its source and one input, and gives back bytes; whoever grades compares those in the parent. What
the program must not know (expected outputs) never enters its process tree.

With `bubblewrap` the tree has its own user, mount, pid, network, ipc and uts namespaces, no capabilities, a
read-only root that holds the system's `/usr` and the Python installation and nothing else, an empty `/tmp` of
limited size, and no `/proc`. Root's programs run as `nobody`, since the kernel exempts root from limits on
processes. `docker` and `podman` give the same through a container. `none` has limits on memory, time, files and
output, and ends the process group, but a program can read what the user can, reach the network, and leave
daemons behind; it must be asked for by name.

Time is measured and ended from outside. When the first process of a pid namespace is killed, the kernel kills
every other one in it, so nothing outlives a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from attnpo.errors import AttnPOError

logger = logging.getLogger(__name__)

ISOLATIONS = ("bubblewrap", "docker", "podman", "none")
RUNNER = Path(__file__).with_name("_sandbox_runner.py")
READY = "attnpo-sandbox-ready\n"
"""What the runner writes to standard output when nothing but the program is left to do."""
START_SECONDS = 60.0
"""A sandbox that has not reported `READY` by then has not started."""
ATTEMPTS = 4
"""How often a sandbox that does not start is tried; no program has begun by then, so trying again is safe."""
POLL_SECONDS = 0.05
"""How often the memory of the whole tree is looked at."""
NOBODY = 65534
_PACKAGES = "/packages"
_NAME = "{name of the container}"


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
    """What came of one run."""

    status: str
    """"ok" (ended by itself, exit code 0), "runtime_error", "time_limit", "memory_limit" or "output_limit"."""
    output: bytes
    """Standard output, or the returned value as JSON. Written by the program: trust nothing in it."""
    error: str
    """The last 2,000 characters of standard error."""
    seconds: float
    """From the program's beginning to its end."""


class Sandbox:
    """Runs programs under one kind of isolation, checked when the sandbox is made.

    Args:
        isolation: one of `ISOLATIONS`.
        run_untrusted_code: consent; nothing runs without it.
        limits: of each run.
        image: of the container, with `python3` of version 3.11 or newer; for docker and podman.

    Raises:
        AttnPOError: no consent, an unknown isolation, or one that does not work here; with the reason.
    """

    def __init__(
        self,
        isolation: str = "bubblewrap",
        *,
        run_untrusted_code: bool = False,
        limits: Limits | None = None,
        image: str = "docker.io/library/python:3.12-slim",
    ) -> None:
        if run_untrusted_code is not True:
            raise AttnPOError(
                "programs written by a model are untrusted code; pass run_untrusted_code=True to run them"
            )
        if isolation not in ISOLATIONS:
            raise AttnPOError(f"there is no isolation {isolation!r}; take one of {', '.join(ISOLATIONS)}")
        self.isolation = isolation
        self.limits = limits or Limits()
        self._source = RUNNER.read_text(encoding="utf-8")
        self._packages: list[str] = []
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        self._python = [python, "-I", "-B", "-X", "utf8", "-c", self._source]
        self._rlimits = {
            "RLIMIT_AS": self.limits.memory,
            "RLIMIT_CPU": int(self.limits.seconds) + 5,  # a second line, for what the clock outside would miss
            "RLIMIT_FSIZE": self.limits.file,
            "RLIMIT_NOFILE": self.limits.open_files,
            "RLIMIT_CORE": 0,
            "RLIMIT_STACK": self.limits.stack,
        }
        self._command = []
        if isolation == "bubblewrap":
            self._rlimits["RLIMIT_NPROC"] = self.limits.processes
            self._command = [*self._bubblewrap(), *self._python]
        elif isolation == "none":
            if numpy := _numpy():
                self._packages = [str(numpy[0].parent)]
            self._command = self._python
        else:
            self._command = self._container(image)
        self._check()

    @property
    def description(self) -> str:
        """One line for the log: which isolation programs run in."""
        if self.isolation == "none":
            return (
                "untrusted code runs WITHOUT isolation: it can read your files, reach the network and leave processes "
                "behind; only memory, time, files and output are limited"
            )
        return f"untrusted code runs in {self.isolation}, without network, with {self.limits}"

    def run(self, code: str, stdin: str = "", function: str | None = None, arguments: Sequence[str] = ()) -> Outcome:
        """Run one program on one input.

        Args:
            code: source of the program.
            stdin: its standard input.
            function: a function of the program, or a method of its class `Solution`, to call instead of letting
                the program print; its value becomes the output, as JSON.
            arguments: the function's arguments, each as JSON.

        Raises:
            AttnPOError: the sandbox did not start, though tried again; the program did not run.
        """
        header = {
            "ready": READY,
            "code": code,
            "function": function,
            "arguments": list(arguments),
            "packages": self._packages,
            "limits": self._rlimits,
        }
        text = json.dumps(header).encode()
        request = b"%d\n" % len(text) + text + stdin.encode("utf-8", "replace")  # lone surrogates have no UTF-8
        error = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(2.0**attempt / 4)
            outcome = self._attempt(request)
            if isinstance(outcome, Outcome):
                return outcome
            error = outcome
        raise AttnPOError(f"{self.isolation} does not start a program ({' '.join(error.split()) or 'no reason given'})")

    def _attempt(self, request: bytes) -> Outcome | str:
        """The outcome, or why the program did not begin."""
        with contextlib.ExitStack() as stack:
            command, folder, name, info = self._command, "/", "", -1
            keep: tuple[int, ...] = ()
            if self.isolation == "none":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="attnpo-", ignore_cleanup_errors=True))
            elif self.isolation == "bubblewrap":
                info, write = os.pipe()
                stack.callback(os.close, info)
                command, keep = [command[0], "--info-fd", str(write), *command[1:]], (write,)
            else:
                name = f"attnpo-{uuid.uuid4().hex}"
                command = [name if part == _NAME else part for part in command]
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    env=_client_environment() if name else {},
                    pass_fds=keep,
                    start_new_session=True,
                    bufsize=0,
                )
            except OSError as error:
                return str(error)
            finally:
                for descriptor in keep:
                    os.close(descriptor)
            first = None
            with process:
                try:
                    # Before the program is handed over: whose word this is must be beyond doubt.
                    first = _first_process(info) if info >= 0 else None
                    return _Run(process, request, self.limits).outcome()
                finally:
                    self._end(process, name, first)

    def _end(self, process: subprocess.Popen[bytes], name: str, first: int | None) -> None:
        """End whatever is left of a run and collect it."""
        if name and process.poll() is None:
            subprocess.run(
                [self.isolation, "kill", name], capture_output=True, env=_client_environment(), timeout=START_SECONDS
            )
        if first is not None:
            # bubblewrap itself ends before its pid namespace does, whose first process ends last of all.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], START_SECONDS)
            os.close(first)
        if process.returncode is None:  # not yet collected, so the number is still its own
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        process.wait()

    def _bubblewrap(self) -> list[str]:
        tool = shutil.which("bwrap")
        if tool is None:
            raise AttnPOError(
                "bubblewrap (`bwrap`) is not installed, and untrusted code is not run without isolation; install it, "
                'or choose another with --metadata \'{"isolation": "docker"}\' (podman, none)'
            )
        prefix = os.path.realpath(sys.base_prefix)
        binds = {path: path for path in (prefix,) if not Path(path).is_relative_to("/usr")}
        if numpy := _numpy():
            binds |= {str(folder): f"{_PACKAGES}/{folder.name}" for folder in numpy}
            self._packages = [_PACKAGES]
        mounts = ["--ro-bind", "/usr", "/usr"]
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            path = Path("/", name)
            if path.is_symlink():
                mounts += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                mounts += ["--ro-bind", str(path), str(path)]
        targets = [*binds.values(), "/etc/ld.so.cache", "/dev/null", "/tmp/any"]
        for folder in sorted({str(parent) for target in targets for parent in Path(target).parents} - {"/"}):
            mounts += ["--perms", "0755", "--dir", folder]
        mounts += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
        for source, target in binds.items():
            mounts += ["--ro-bind", source, target]
        for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
            mounts += ["--dev-bind", device, device]
        common = ["--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"]
        user = ["--unshare-all", "--unshare-user", "--disable-userns", *common]
        private = ["--size", str(self.limits.file), "--tmpfs", "/tmp", "--chdir", "/tmp"]
        if os.geteuid() != 0:
            return [tool, *user, *mounts, *private, "--remount-ro", "/", "--"]
        # Root may mount what `nobody` may not read, such as a Python in /root. So the outer one makes the root
        # folder, and the inner one, run by `nobody`, all the namespaces again, the user's own too.
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise AttnPOError("`setpriv` (util-linux) is not installed; install it, or run as another user than root")
        outer = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent", "--new-session", "--clearenv"]
        drop = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        hide = ["--tmpfs", "/proc", "--remount-ro", "/proc"]
        return [
            *(tool, *outer, *mounts, "--proc", "/proc", "--remount-ro", "/", "--", *drop),
            *(tool, *user, "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", *hide, *private, "--"),
        ]

    def _container(self, image: str) -> list[str]:
        tool = shutil.which(self.isolation)
        if tool is None:
            raise AttnPOError(f"{self.isolation} is not installed; install it, or choose another isolation")
        return [
            *(tool, "run", "--rm", "--interactive", "--name", _NAME, "--network", "none", "--read-only"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges", "--user", f"{NOBODY}:{NOBODY}"),
            *("--memory", str(self.limits.memory), "--pids-limit", str(self.limits.processes)),
            *("--ulimit", f"nofile={self.limits.open_files}:{self.limits.open_files}", "--ulimit", "nproc=4096:4096"),
            *("--tmpfs", f"/tmp:size={self.limits.file},mode=1777", "--workdir", "/tmp", "--entrypoint", "python3"),
            *(image, *self._python[1:]),
        ]

    def _check(self) -> None:
        """Run a program of our own that finds out what the sandbox allows, and say which isolation it is."""
        outcome = self.run("" if self.isolation == "none" else _PROBE)
        if outcome.status != "ok":
            raise AttnPOError(f"{self.isolation} does not work here: {outcome.status}, {outcome.error!r}")
        if self.isolation == "none":
            logger.warning("%s", self.description)
            return
        found = json.loads(outcome.output)
        faults = [
            fault
            for wrong, fault in (
                (found["interfaces"] != ["lo"], f"it sees the network interfaces {found['interfaces']}"),
                (not found["thread"], "no thread can be started"),
                (found["children"] >= _MANY, f"a program can start {_MANY} processes"),
                (found["writable"], f"a program can write to {found['writable']}"),
            )
            if wrong
        ]
        if faults:
            raise AttnPOError(f"{self.isolation} does not isolate here: {'; '.join(faults)}; choose another isolation")
        logger.info("%s", self.description)


class _Run:
    """The conversation with one sandboxed process, up to its end or a limit."""

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
        """The outcome, or what stood on standard error where the program did not begin."""
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
        """Write what the pipe takes; False when there is nothing more to write or nobody to read it."""
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
        """Take what is there; False at the end of the stream."""
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
        """What is still in the pipes of a process that has ended, and how it ended."""
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
        # Before it is collected, while its number cannot be another's: what it left in its process group.
        os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        if code == 0:
            return "ok"
        if code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
            return "time_limit"
        return "memory_limit" if b"MemoryError" in self.error[-200:] else "runtime_error"


def _first_process(info: int) -> int | None:
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
    """Resident bytes of a process and all that descend from it. Those that end meanwhile count nothing.

    In a pid namespace orphans fall to its first process, so none leaves the tree.
    """
    total, found = 0, [pid]
    for pid in found:  # grows while it is walked
        try:
            total += int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
            for thread in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
        except (OSError, IndexError):
            continue
    return total * _PAGE


_PAGE = os.sysconf("SC_PAGE_SIZE")


def _client_environment() -> dict[str, str]:
    """What a container runtime's client needs to find its server and its images."""
    wanted = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST", "CONTAINERS_CONF")
    return {name: os.environ[name] for name in wanted if name in os.environ}


def _numpy() -> list[Path]:
    """Numpy's folders, the package first: the benchmark's harness has it, and some programs use it."""
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        return []
    package = Path(spec.origin).resolve().parent
    return [folder for folder in (package, package.with_name("numpy.libs")) if folder.is_dir()]


_MANY = 100
_PROBE = f"""
import os, socket, threading
facts = {{"interfaces": [name for _, name in socket.if_nameindex()], "thread": True, "children": 0, "writable": []}}
for folder in ("/", "/usr", "/etc", "/dev"):
    try:
        os.mkdir(folder + "/attnpo-probe")
        os.rmdir(folder + "/attnpo-probe")
        facts["writable"].append(folder)
    except OSError:
        pass
thread = threading.Thread(target=int)
try:
    thread.start()
    thread.join()
except RuntimeError:
    facts["thread"] = False
read, write = os.pipe()
try:
    while facts["children"] < {_MANY}:
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        facts["children"] += 1
except OSError:
    pass
print(json.dumps(facts))
"""
