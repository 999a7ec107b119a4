"""The command line: `attnpo template | split | probe | train | eval | study | table | report | trace | run | push |
check`."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import tyro
from rich.console import Console
from rich.logging import RichHandler

import attnpo
from attnpo.cli.data import split
from attnpo.cli.evaluation import check, evaluate
from attnpo.cli.machine import refusal
from attnpo.cli.push import push
from attnpo.cli.results import report, run, table, trace
from attnpo.cli.training import probe, study, template, train
from attnpo.environment import git_state, no_telemetry
from attnpo.errors import AttnPOError, first_line
from attnpo.runs.runner import die_with_runner


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit code: 0, 1 (a check found a change), 2 (an error), 130 (interrupted).

    Raises:
        SystemExit: from the parser, for --help and for what it cannot parse.
    """
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        print(version())
        return 0
    die_with_runner()
    no_telemetry()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale may not know what names and tables are written with
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))])
    try:
        commands: dict[str, Callable[..., Any]] = {
            "template": template, "split": split, "probe": probe, "train": train, "eval": evaluate, "study": study,
            "table": table, "report": report, "trace": trace, "run": run, "push": push,
            "check": check,
        }  # fmt: skip
        code = tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="attnpo",
            description="AttnPO: attention-guided process supervision for efficient reasoning. "
            "`attnpo --version` prints the version.",
            args=arguments,
        )
    except AttnPOError as error:
        print(f"attnpo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("attnpo: interrupted; the same command goes on where this one stood", file=sys.stderr)
        return 130
    except Exception as error:  # Python's own exit code for these is 1, which says that a check found a change
        line = refusal(error)
        if line is None:
            traceback.print_exc()
            line = f"this should not happen: {type(error).__name__}: {first_line(error)}"
        print(f"attnpo: {line}", file=sys.stderr)
        return 2
    return int(code or 0)


def version() -> str:
    """The package's version and, in a git checkout, its commit and whether files differ from it."""
    state = git_state()
    commit = f", commit {state['commit']}" if state["commit"] else ""
    return f"attnpo {attnpo.__version__}{commit}{' with changes' if state['dirty'] else ''}"
