"""What a run computes on: commit, package versions, device; and where the checkout or the installed package is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
IN_CHECKOUT = (PACKAGE.parent / "reproduce").is_dir()
"""Whether the package runs from a checkout; otherwise it was installed from a wheel."""

_PACKAGES = [
    "attnpo",
    "torch",
    "transformers",
    "trl",
    "lm_eval",
    "datasets",
    "accelerate",
    "tokenizers",
    "safetensors",
    "math-verify",
    "numpy",
    "pandas",
]
_TELEMETRY = ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""What Hugging Face's libraries ask before they report their use; vLLM asks the last of them."""


def git_state() -> dict[str, Any]:
    """Commit of the checkout that the package runs from, and whether anything but results/ differs from it.

    Both are None where there is no git checkout. An installed package may lie inside somebody else's: git is not asked.
    """
    if not (PACKAGE.parent / ".git").exists():
        return {"commit": None, "dirty": None}

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(PACKAGE.parent), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--", ".", ":!results")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def package_versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a number; None if not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def device() -> dict[str, Any]:
    """What the run computes on: processor name, usable cores, threads, accelerator (once torch is loaded)."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    torch = sys.modules.get("torch")
    accelerator = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {
        "cpu": cpu,
        "cores": usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "accelerator": accelerator,
    }


def no_telemetry() -> None:
    """Keep the libraries from reporting their use, unless the environment says something about that already.

    It is to be called before they are imported: Hugging Face's read the variables then.
    """
    if not any(name in os.environ for name in _TELEMETRY):
        os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")


def telemetry_wanted() -> bool:
    """Whether the environment asks for telemetry: of what turns it off, something is set to no and nothing to yes."""
    said = [os.environ[name].upper() in ("1", "ON", "YES", "TRUE") for name in _TELEMETRY if name in os.environ]
    return bool(said) and not any(said)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def checkout_root() -> Path:
    """The checkout if attnpo is installed from one (editable), else the current folder."""
    return PACKAGE.parent if IN_CHECKOUT else Path.cwd()


def short_path(path: Path) -> str:
    """A path for people: from `checkout_root` on, if it is in there."""
    root = checkout_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def shipped(place: str) -> Path:
    """A file or folder of the repository that a wheel holds too, such as `reproduce/profiles`; it need not exist.

    A checkout has it at its top, an installed package inside itself; pyproject.toml lists what a wheel takes along.
    """
    return (PACKAGE.parent if IN_CHECKOUT else PACKAGE) / place


def cache_folder() -> Path:
    """Where what was paid for is kept between runs: $ATTNPO_CACHE, or attnpo in the user's folder of caches."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ATTNPO_CACHE") or caches / "attnpo")
