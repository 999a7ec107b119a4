"""Hostile programs. Those that only isolation contains run in bubblewrap alone, and are skipped without it.

The fork bomb is safe to run: making a `Sandbox` has shown, with at most 100 idle processes, that the limit on
processes holds, and refuses otherwise; and the whole pid namespace dies at the time limit.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from attnpo.errors import AttnPOError
from attnpo.grading import sandbox as module
from attnpo.grading.sandbox import Sandbox
from attnpo.grading.sandbox_process import Limits, Outcome

MEGABYTE = 1 << 20
LIMITS = Limits(seconds=10, memory=1 << 30, processes=12, file=4 * MEGABYTE, output=4 * MEGABYTE)
BRIEF = LIMITS._replace(seconds=2)


def make(isolation: str, limits: Limits) -> Sandbox:
    try:
        return Sandbox(isolation, run_untrusted_code=True, limits=limits)
    except AttnPOError as error:
        if isolation == "none":
            raise
        pytest.skip(f"{isolation} does not work here: {error}")


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def box(request: pytest.FixtureRequest) -> Sandbox:
    return make(request.param, LIMITS)


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def brief(request: pytest.FixtureRequest) -> Sandbox:
    return make(request.param, BRIEF)


@pytest.fixture(scope="module")
def bubble() -> Sandbox:
    return make("bubblewrap", LIMITS)


@pytest.fixture(scope="module")
def brief_bubble() -> Sandbox:
    return make("bubblewrap", BRIEF)


class Marked:
    """Programs that carry a name under which the host sees their processes."""

    def __init__(self) -> None:
        self.name = f"x{uuid.uuid4().hex[:13]}"
        self.prelude = f"import ctypes, os\nctypes.CDLL(None).prctl(15, b'{self.name}', 0, 0, 0)\n"

    def alive(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, rest = path.read_text().split(" (", 1)
            except OSError:
                continue
            if rest.startswith(f"{self.name}) ") and rest.split()[1] not in "ZX":
                found.append(int(pid))
        return found

    def gone(self) -> bool:
        """After a kill that nothing waits for: the kernel may take a moment."""
        deadline = time.monotonic() + 10
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.alive()


@pytest.fixture
def marked() -> Marked:
    return Marked()


def lines(outcome: Outcome) -> list[str]:
    assert outcome.status == "ok", outcome
    return outcome.output.decode().splitlines()


# --- what must work


def test_a_program_reads_and_writes(box: Sandbox) -> None:
    assert lines(box.run("a, b = map(int, input().split())\nprint(a + b)", "20 22\n")) == ["42"]
    assert lines(box.run("print(sys.stdin.buffer.read().decode()[::-1])", "né")) == ["én"]
    assert lines(box.run("print(open(0).read().count('x'))", "x" * 3_000_000)) == ["3000000"]


def test_input_that_is_not_read_and_a_name_guard(box: Sandbox) -> None:
    code = "if __name__ == '__main__':\n    print(Counter('aab').most_common(1), gcd(6, 4), isinstance([], List))"
    assert lines(box.run(code, "y" * 3_000_000)) == ["[('a', 2)] 2 True"]


def test_a_function_s_value_comes_back_and_what_it_prints_does_not(box: Sandbox) -> None:
    code = (
        "print('noise')\nclass Solution:\n    def f(self, a, b):\n        print(a)\n        return (a, {'b': [b]}, 0.1)"
    )
    outcome = box.run(code, function="f", arguments=["[1, 2]", '"x"'])
    assert outcome.status == "ok" and json.loads(outcome.output) == [[1, 2], {"b": ["x"]}, 0.1]
    assert box.run("def g(n): return n * n", function="g", arguments=["12"]).output == b"144"


def test_numpy_is_there_as_in_the_benchmark_s_harness(box: Sandbox) -> None:
    code = "import numpy as np\ndef f(n): return np.arange(n)"
    assert box.run(code, function="f", arguments=["3"]).output == b"[0, 1, 2]"


def test_deep_recursion_long_integers_and_threads(box: Sandbox) -> None:
    code = (
        "import threading\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
        "thread = threading.Thread(target=lambda: print(depth(40000)))\nthread.start()\nthread.join()\n"
        "print(len(str(10 ** 20000)))"
    )
    assert lines(box.run(code)) == ["40000", "20001"]


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        ("print(1)\nraise SystemExit(3)", "ok", ""),
        ("import sys\nprint(1)\nsys.exit('bye')", "ok", ""),
        ("print(1)\nexit()", "ok", ""),
        ("print(1)\n1 / 0", "runtime_error", "ZeroDivisionError"),
        ("print(1", "runtime_error", "SyntaxError"),
        ("print('\ud800')", "runtime_error", "UnicodeEncodeError"),
        ("a\0b", "runtime_error", "null byte"),
        ("import os\nos._exit(0)", "ok", ""),
        ("import os\nos._exit(7)", "runtime_error", ""),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "runtime_error", ""),
    ],
)
def test_how_a_program_ends(box: Sandbox, code: str, status: str, word: str) -> None:
    outcome = box.run(code)
    assert outcome.status == status and word in outcome.error


# --- limits


def test_an_endless_loop_ends_at_the_limit(brief: Sandbox) -> None:
    begin = time.monotonic()
    outcome = brief.run("print(1, flush=True)\nwhile True: pass")
    assert outcome.status == "time_limit" and outcome.output == b"1\n"
    assert 2 <= outcome.seconds < 4
    assert time.monotonic() - begin < 2 + module.START_SECONDS
    assert (
        brief.run("import signal, time\nsignal.pthread_sigmask(0, range(1, 65))\ntime.sleep(100)").status
        == "time_limit"
    )


def test_starting_is_not_counted(brief: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = brief._source.replace("def main() -> None:", "import time\ntime.sleep(2.5)\n\n\ndef main() -> None:")
    monkeypatch.setattr(brief, "_command", [part if part != brief._source else slow for part in brief._command])
    outcome = brief.run("print(1)")
    assert outcome.status == "ok" and outcome.seconds < 2


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_capped(brief: Sandbox, stream: str) -> None:
    outcome = brief.run(f"import sys\nwhile True: sys.{stream}.write('x' * 10000)")
    assert outcome.status == ("output_limit" if stream == "stdout" else "time_limit")
    assert len(outcome.output) <= LIMITS.output + 2 * MEGABYTE and len(outcome.error) <= 2000


def test_memory_of_one_process(box: Sandbox) -> None:
    assert box.run("x = bytearray(2 << 30)").status == "memory_limit"
    assert lines(box.run("try:\n    x = [0] * (1 << 30)\nexcept MemoryError:\n    print('caught')")) == ["caught"]


def test_memory_of_all_processes_together(box: Sandbox) -> None:
    """Each is below the limit; the four are above it."""
    code = "import os, time\nos.fork(); os.fork()\nx = b'x' * (400 << 20)\ntime.sleep(100)"
    outcome = box.run(code)
    assert outcome.status == "memory_limit" and outcome.seconds < LIMITS.seconds


def test_size_of_a_file(box: Sandbox) -> None:
    code = "try:\n    open('big', 'wb').write(b'x' * (8 << 20))\nexcept OSError as error:\n    print(error.errno)"
    assert lines(box.run(code))[0] in ("27", "28")  # too large, or no space left


def test_open_files(box: Sandbox) -> None:
    code = "import os\ntry:\n    while True: os.dup(0)\nexcept OSError:\n    print('stopped')"
    assert lines(box.run(code)) == ["stopped"]


def test_limits_cannot_be_raised(bubble: Sandbox) -> None:
    code = """
import resource
for name in ("RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CPU"):
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (hard * 2, hard * 2))
        print("raised", name)
    except (ValueError, OSError):
        print(soft == hard)
"""
    assert lines(bubble.run(code)) == ["True"] * 5


# --- nothing outlives a run


def test_children_in_the_process_group_die_with_the_program(box: Sandbox, marked: Marked) -> None:
    code = "if os.fork() == 0:\n    import time\n    print('child', flush=True)\n    time.sleep(600)\ntime.sleep(0.5)"
    outcome = box.run(f"{marked.prelude}import time\n{code}")
    assert outcome.status == "ok" and outcome.seconds < LIMITS.seconds
    assert marked.gone() if box.isolation == "none" else not marked.alive()


@pytest.mark.parametrize("ends", [True, False])
def test_a_daemon_does_not_outlive_its_run(brief_bubble: Sandbox, marked: Marked, ends: bool) -> None:
    code = f"""{marked.prelude}
import signal, sys, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(2):
    if os.fork():
        if {ends}: os._exit(0)
        time.sleep(600)
    os.setsid()
while True:
    time.sleep(0.1)
    print("still here", flush=True)
"""
    outcome = brief_bubble.run(code)
    assert outcome.status == ("ok" if ends else "time_limit")
    assert not marked.alive()


def test_a_fork_bomb_is_contained(brief_bubble: Sandbox, marked: Marked) -> None:
    most, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, len(marked.alive()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code = "while True:\n    try: os.fork()\n    except OSError: pass"
        outcome = brief_bubble.run(marked.prelude + code)
    finally:
        stop.set()
        watcher.join()
    assert outcome.status == "time_limit"
    assert 2 <= most <= BRIEF.processes
    assert not marked.alive()
    assert lines(brief_bubble.run("print('next')")) == ["next"]


# --- nothing of ours is seen or touched


def test_killing_the_parent(bubble: Sandbox) -> None:
    code = f"""
import os, signal
def kill(pid):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
for pid in [os.getppid(), 1, {os.getpid()}, {os.getppid()}, *range(3, 5000)]:
    if pid != os.getpid(): kill(pid)
print(os.getpid() < 10, flush=True)
kill(-1)
"""
    outcome = bubble.run(code)
    assert outcome.output.startswith(b"True")
    assert lines(bubble.run("print('next')")) == ["next"]


def test_no_network(bubble: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as unix:
        name = f"\0attnpo-{uuid.uuid4().hex}"
        unix.bind(name)
        unix.listen()
        port = inet.getsockname()[1]
        code = f"""
import socket
for family, address in (("AF_INET", ("127.0.0.1", {port})), ("AF_UNIX", {name!r}), ("AF_INET", ("192.0.2.1", 80))):
    try:
        with socket.socket(getattr(socket, family)) as s:
            s.settimeout(1)
            s.connect(address)
        print("connected")
    except OSError:
        print("refused")
try: print(socket.getaddrinfo("example.com", 80))
except OSError: print("unknown")
"""
        assert lines(bubble.run(code)) == ["refused"] * 3 + ["unknown"]


def test_our_files_cannot_be_seen_or_written(bubble: Sandbox, tmp_path: Path) -> None:
    gold = tmp_path / "gold.json"
    gold.write_text("secret")
    places = [
        str(gold),
        str(tmp_path),
        str(Path.home() / ".bashrc"),
        str(Path(__file__)),
        "/etc/passwd",
        "/proc/1/environ",
    ]
    code = f"""
import os
print([place for place in {places!r} if os.path.exists(place)])
print(os.listdir("/tmp"), os.listdir("/home") if os.path.isdir("/home") else [])
written = []
for folder, folders, files in os.walk("/"):
    if folder.count("/") > 2: folders.clear()
    if folder == "/tmp": continue
    try:
        open(os.path.join(folder, "attnpo-was-here"), "w").close()
        written.append(folder)
    except OSError: pass
print(written)
open("/tmp/mine", "w").write("x")
print(open("mine").read())
"""
    assert lines(bubble.run(code)) == ["[]", "[] []", "[]", "x"]
    assert lines(bubble.run("import os\nprint(os.listdir('/tmp'))")) == ["[]"]


def test_no_environment_and_no_descriptors(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNPO_SECRET", "token")
    code = """
import os
print(sorted(os.environ))
found = []
for number in range(64):
    try:
        os.fstat(number)
        found.append(number)
    except OSError: pass
print(found)
"""
    assert lines(box.run(code)) == ["['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS']", "[0, 1, 2]"]


def test_no_privileges(bubble: Sandbox) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.geteuid() != 0)
print([libc.unshare(flag) for flag in (0x10000000, 0x20000, 0x40000000)])
print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.chroot(b"/tmp"), libc.sethostname(b"x", 1))
try: os.setuid(0)
except OSError: print("no")
"""
    assert lines(bubble.run(code)) == ["True", "[-1, -1, -1]", "-1 -1 -1", "no"]


def test_nothing_of_the_request_is_left_in_the_program_s_frames(box: Sandbox) -> None:
    """What a program finds in its own process: its source and its input, no more is sent."""
    code = """
import gc, sys
frame, names = sys._getframe(), set()
while frame:
    names |= set(frame.f_locals)
    frame = frame.f_back
print("header" in names, [o for o in gc.get_objects() if isinstance(o, dict) and "arguments" in o and "limits" in o])
"""
    assert lines(box.run(code)) == ["False []"]


def test_runs_at_once_do_not_meet(box: Sandbox) -> None:
    outputs: dict[int, bytes] = {}

    def one(number: int) -> None:
        write, read = f"open('f', 'x').write('{number}')", "print(open('f').read(), os.listdir('.'))"
        code = f"import os, time\n{write}\ntime.sleep(0.3)\n{read}"
        outputs[number] = box.run(code).output

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: f"{number} ['f']\n".encode() for number in range(6)}


# --- consent, choice, refusal


@pytest.mark.parametrize("consent", [False, None, 1, "yes"])
def test_nothing_runs_without_consent(consent: object) -> None:
    with pytest.raises(AttnPOError, match="untrusted code; pass run_untrusted_code=True"):
        Sandbox("none", run_untrusted_code=consent)  # type: ignore[arg-type]


def test_an_unknown_isolation() -> None:
    with pytest.raises(
        AttnPOError, match="there is no isolation 'chroot'; take one of bubblewrap, docker, podman, none"
    ):
        Sandbox("chroot", run_untrusted_code=True)


@pytest.mark.parametrize("isolation", ["bubblewrap", "docker", "podman"])
def test_a_missing_tool_is_refused(isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AttnPOError, match=rf"{isolation}.* is not installed"):
        Sandbox(isolation, run_untrusted_code=True)


def fake(folder: Path, text: str) -> list[str]:
    path = folder / "fake"
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def test_a_tool_that_does_not_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    command = fake(
        tmp_path, f"open({str(tmp_path / 'log')!r}, 'a').write('x')\nsys.exit('No permission to\\nnamespace')"
    )
    monkeypatch.setattr(Sandbox, "_bubblewrap", lambda self: command)
    with pytest.raises(AttnPOError, match=r"bubblewrap does not start a program \(No permission to namespace\)"):
        Sandbox(run_untrusted_code=True)
    assert (tmp_path / "log").read_text() == "xx"


def test_a_tool_that_does_not_isolate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(socket.if_nameindex()) < 2:
        pytest.skip("there is no network interface here, so isolation from it cannot be missed")
    text = "os.write(int(sys.argv[2]), b'{\"child-pid\": %d}' % os.getpid())\nos.execv(sys.argv[3], sys.argv[3:])"
    command = fake(tmp_path, text)
    monkeypatch.setattr(Sandbox, "_bubblewrap", lambda self: command)
    monkeypatch.setattr(
        module, "_PROBE", module._PROBE.replace('"/", "/usr", "/etc", "/dev"', repr(str(tmp_path)) + ",")
    )
    with pytest.raises(AttnPOError, match=r"does not isolate here: it sees the network interfaces .*can write to"):
        Sandbox(run_untrusted_code=True)


def test_the_isolation_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="attnpo.grading.sandbox"):
        make("none", LIMITS)
        assert "WITHOUT isolation" in caplog.text
        make("bubblewrap", LIMITS)
        assert "untrusted code runs in bubblewrap, without network" in caplog.text


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_a_container(runtime: str, marked: Marked) -> None:
    """With an image of the tester's choice, which has python3."""
    image = os.environ.get("ATTNPO_TEST_IMAGE")
    if image is None or shutil.which(runtime) is None:
        pytest.skip(f"needs {runtime} and the name of an image in ATTNPO_TEST_IMAGE")
    if subprocess.run([runtime, "image", "inspect", image], capture_output=True).returncode:
        pytest.skip(f"{runtime} has no image {image}")
    box = Sandbox(runtime, run_untrusted_code=True, limits=BRIEF, image=image)
    assert lines(box.run("import os\nprint(input(), sorted(os.environ), os.listdir('/tmp'))", "7")) == [
        "7 ['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'] []"
    ]
    assert box.run("def f(a): return a", function="f", arguments=["[1]"]).output == b"[1]"
    assert box.run(f"{marked.prelude}while True: pass").status == "time_limit"
    assert not marked.alive()
