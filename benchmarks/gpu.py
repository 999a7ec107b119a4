"""What one GPU makes of the project: are scores right, what do scoring, training and sampling take, do weights move?

bash benchmarks/gpu.sh                          # all pieces, in the active Python or else in the checkout's .venv
bash benchmarks/gpu.sh --pieces step long       # some of them
bash benchmarks/gpu.sh --small --device cpu     # in miniature: whether it runs, no figures

Random models of DeepSeek-R1-Distill-Qwen-1.5B's shape and invented text: nothing comes from a hub. Each piece has a
process and a time limit of its own. What is measured goes to DIR/<device>.json and .md after every piece, in place of
what an earlier call left there. Exits with 1 if a piece failed; one that lacks a package or memory is skipped and says
so. Without a GPU it says that and exits with 0. docs/gpus.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_pieces import PIECES
from gpu_pieces.report import markdown

from attnpo.environment import device, git_state, package_versions
from attnpo.errors import AttnPOError, first_line
from attnpo.files import atomic_write_json, atomic_write_text, parse_json

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = "environment"
"""Not a piece: the process that says what there is, so that this one leaves the GPU alone."""


def main(arguments: list[str] | None = None) -> int:
    """Run the pieces and report; or, as the process of one, measure it."""
    args = parsed(sys.argv[1:] if arguments is None else arguments)
    if args.child:
        name, result, scratch = args.child
        return child(name, Path(result), Path(scratch), args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder below goes
    deadline = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(prefix="attnpo-gpu-") as folder:
        scratch = Path(folder)
        found = process(ENVIRONMENT, scratch, args, 120, "its 120 s")
        if found["status"] != "done":
            print(f"the environment could not be read; {found['status']}", file=sys.stderr)
            return 1
        environment = found["rows"][ENVIRONMENT]
        if environment["device"] is None:
            print("no GPU here: nothing was measured (--small --device cpu runs the pieces in miniature)")
            return 0
        return check(args, environment, scratch, deadline)


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    expected = sum(piece.expected_s for piece in PIECES.values())
    times = ", ".join(f"{name} {piece.expected_s}" for name, piece in PIECES.items())
    parser = argparse.ArgumentParser(
        prog="gpu.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Seconds on one H100, an estimate that no run has confirmed, {expected} together:\n{times}.",
    )
    parser.add_argument(
        "--pieces",
        nargs="+",
        choices=list(PIECES),
        default=list(PIECES),
        metavar="PIECE",
        help="default: all, in the order below",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu", metavar="DIR")
    parser.add_argument("--minutes", type=float, default=8, help="no piece goes on after these (default 8)")
    parser.add_argument("--small", action="store_true", help="miniature shapes")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--child", nargs=3, metavar=("PIECE", "RESULT", "SCRATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.device == "cpu" and not args.small:
        parser.error("--device cpu would take days at full size; add --small")
    args.words = shlex.join(["bash", "benchmarks/gpu.sh", *arguments])
    return args


def check(args: argparse.Namespace, environment: dict[str, Any], scratch: Path, deadline: float) -> int:
    """Run the pieces that are asked for, write the report after each, and return the exit code."""
    slug = re.sub(r"[^a-z0-9]+", "-", environment["device"].lower()).strip("-") + ("-small" if args.small else "")
    report: dict[str, Any] = {"command": args.words, "environment": environment, "small": args.small, "pieces": {}}
    for name in args.pieces:
        left = deadline - time.monotonic()
        limit = min(PIECES[name].limit_s, left)
        why = f"its {limit:.0f} s" if limit < left else f"the {args.minutes:g} minutes of all pieces"
        if left > 0:
            piece = process(name, scratch, args, limit, why)
        else:
            piece = {"status": f"skipped: {why} are over; give more --minutes, or fewer --pieces", "rows": {}}
        report["pieces"][name] = piece
        atomic_write_json(args.out / f"{slug}.json", report)
        atomic_write_text(args.out / f"{slug}.md", markdown(report))
        print(f"{name}: {piece['status']} ({piece.get('seconds', 0):.0f} s)", flush=True)
    print(f"\n{markdown(report)}\nin {args.out / slug}.json and .md")
    return int(any(piece["status"].startswith("failed") for piece in report["pieces"].values()))


# a piece from outside


def process(name: str, scratch: Path, args: argparse.Namespace, limit: float, why: str) -> dict[str, Any]:
    """Run a piece in a process of its own, which ends with this one, and return its status, seconds and rows.

    Args:
        limit: seconds after which it is killed, with all that it started.
        why: what is over then, for the status.
    """
    result, log = scratch / f"{name}.json", scratch / f"{name}.log"
    start = time.monotonic()
    alive, held = os.pipe()
    supervised = [
        sys.executable,
        "-m",
        "attnpo.runs.supervise",
        str(alive),
        *child_command(name, result, scratch, args),
    ]
    with log.open("wb") as output:
        running = subprocess.Popen(
            supervised,
            pass_fds=[alive],
            env=child_environment(args),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    os.close(alive)
    late = False
    try:
        running.wait(limit)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        os.close(held)  # the supervisor ends the piece
        running.wait()
    found = parse_json(result.read_bytes(), str(result), "run again") if result.is_file() else {}
    rows = found.get("rows", {})
    status = status_of(rows, found.get("error"), running.returncode, f"ran past {why}" if late else None)
    if status.startswith("failed"):
        print(f"--- the end of what {name} wrote", *log.read_text(errors="replace").splitlines()[-40:], sep="\n")
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "rows": rows}


def child_command(name: str, result: Path, scratch: Path, args: argparse.Namespace) -> list[str]:
    """The command that measures one piece."""
    options = ["--device", args.device, *(["--small"] if args.small else [])]
    return [sys.executable, __file__, *options, "--child", name, str(result), str(scratch)]


def child_environment(args: argparse.Namespace) -> dict[str, str]:
    """No hub and no telephoning home; without a GPU where the device is the CPU."""
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return {**os.environ, **quiet, **({"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {})}


def status_of(rows: dict[str, Any], error: str | None, code: int, late: str | None) -> str:
    """`done`, `skipped: why` or `failed: why`, in one line."""
    errors = [f"{name}: {row['error']}" for name, row in rows.items() if "error" in row]
    skipped = [row["skipped"] for row in rows.values() if "skipped" in row]
    if late or error or errors:
        return f"failed: {late or error or errors[0]}"
    if code:
        return f"failed: the process ended with {code if code > 0 else f'signal {-code}'}"
    if not rows:
        return "failed: nothing was measured"
    return f"skipped: {skipped[0]}" if len(skipped) == len(rows) else "done"


# a piece from inside


def child(name: str, result: Path, scratch: Path, args: argparse.Namespace) -> int:
    """Measure the rows of a piece, write them after each, and return 1 if one failed."""
    written: dict[str, Any] = {"rows": {}}
    if name == ENVIRONMENT:
        written["rows"][name] = environment(args.device)
        atomic_write_json(result, written)
        return 0
    from gpu_pieces.inputs import Setting

    rows = getattr(importlib.import_module(f"gpu_pieces.{PIECES[name].module}"), name)
    try:
        for title, measure in rows(Setting(args.device, args.small, scratch)):
            written["rows"][title] = row(measure)
            atomic_write_json(result, written)
    except Exception as error:
        written["error"] = f"{type(error).__name__}: {first_line(error)}"
        atomic_write_json(result, written)
        raise
    return int(any("error" in values for values in written["rows"].values()))


def row(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a row measures; or `skipped` or `error` with the reason, so that the next rows still have their turn."""
    import torch

    from attnpo.sampling.models import free_memory

    try:
        values = measure()
        for name, value in values.items():
            numbers = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, float)]
            if not all(map(math.isfinite, numbers)):
                raise AttnPOError(f"{name} is {value}; it must be finite")
    except torch.OutOfMemoryError as error:
        traceback.print_exc()
        values = {"skipped": f"out of memory: {first_line(error)}"}
    except Exception as error:
        traceback.print_exc()
        values = {"error": f"{type(error).__name__}: {first_line(error)}"}
    free_memory()
    return values


def environment(where: str) -> dict[str, Any]:
    """What the pieces run on; `device` is None where a GPU is asked for and there is none."""
    import torch

    found: dict[str, Any] = {"device": "cpu" if where == "cpu" else None, "memory_gib": None, "driver": None}
    if where == "cuda" and torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
        found["driver"] = driver()
    versions = package_versions()
    try:
        versions["vllm"] = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        versions["vllm"] = None
    return {**found, "cuda": torch.version.cuda, "host": device(), "versions": versions, "git": git_state()}


def driver() -> str | None:
    """The driver's version by nvidia-smi; None where that is missing."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
