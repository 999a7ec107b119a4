"""Runs untrusted Python programs, each in a process tree of its own that is isolated from the system.

A program is given one input and returns bytes, which are compared with the expected output outside. So the expected
output never enters the program's process tree.

With `bubblewrap` the tree has its own user, mount, pid, network, ipc and uts namespaces and no capabilities. It sees
a read-only root with the system's `/usr` and the Python installation, an empty `/tmp` of limited size, and no `/proc`.
If the user is root, programs run as `nobody`, because the kernel exempts root from limits on processes. `docker` and
`podman` isolate in the same ways with a container. `none` limits memory, time, files and output and ends the process
group, but a program can read what the user can read, use the network, and leave daemons behind. It must be asked for
by name.

The parent measures time and ends the program. When the first process of a pid namespace is killed, the kernel kills
every other process in it, so nothing outlives a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from attnpo.errors import AttnPOError
from attnpo.grading.sandbox_process import READY, START_SECONDS, Conversation, Limits, Outcome, first_process

logger = logging.getLogger(__name__)

ISOLATIONS = ("bubblewrap", "docker", "podman", "none")
RUNNER = Path(__file__).with_name("_sandbox_runner.py")
ATTEMPTS = 4
"""How often to try to start a sandbox. Trying again is safe, because no program has begun by then."""
NOBODY = 65534
_PACKAGES = "/packages"
_NAME = "{name of the container}"


class Sandbox:
    """Runs programs under one kind of isolation, which is tested when the sandbox is made.

    Args:
        isolation: one of `ISOLATIONS`.
        run_untrusted_code: must be True; the caller's consent.
        limits: what each run may use.
        image: the container's image, for docker and podman; it needs `python3` of version 3.11 or newer.

    Raises:
        AttnPOError: there is no consent, the isolation is unknown, or it does not work here.
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
            "RLIMIT_CPU": int(self.limits.seconds) + 5,  # in case the clock outside misses something
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
        """One line for the log: the isolation that programs run in."""
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
            function: a function of the program, or a method of its class `Solution`. If given, it is called, and the
                output is its value as JSON instead of what the program prints.
            arguments: the function's arguments, each as JSON.

        Raises:
            AttnPOError: the sandbox did not start, so the program did not run.
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
                    # Read before the program is handed over, so that the program cannot have written it.
                    first = first_process(info) if info >= 0 else None
                    return Conversation(process, request, self.limits).outcome()
                finally:
                    self._end(process, name, first)

    def _end(self, process: subprocess.Popen[bytes], name: str, first: int | None) -> None:
        """End all processes that are left of a run and collect them."""
        if name and process.poll() is None:
            subprocess.run(
                [self.isolation, "kill", name], capture_output=True, env=_client_environment(), timeout=START_SECONDS
            )
        if first is not None:
            # bubblewrap ends before its pid namespace, and the first process of the namespace ends last.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(first, signal.SIGKILL)
            select.select([first], [], [], START_SECONDS)
            os.close(first)
        if process.returncode is None:  # not yet collected, so no other process has its number
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
        # Root may mount what `nobody` may not read, such as a Python in /root. So an outer bubblewrap makes the root
        # folder, and an inner one, which `nobody` runs, makes all the namespaces again, including a user namespace.
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
        """Run a program of ours that tries what the sandbox must not allow, and log the isolation."""
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


def _client_environment() -> dict[str, str]:
    """The variables with which a container runtime's client finds its server and its images."""
    wanted = ("PATH", "HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST", "CONTAINERS_CONF")
    return {name: os.environ[name] for name in wanted if name in os.environ}


def _numpy() -> list[Path]:
    """Numpy's folders, the package first. LiveCodeBench's harness offers numpy, and some programs use it."""
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
