"""The command line: `attnpo template | split | probe | train | eval | study | table | report | trace | run | push |
check`."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

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
    """Entry point; the exit code: 0, 1 (a check found a change), 2 (an error), 130 (interrupted), 141 (output cut off).

    Raises:
        SystemExit: from the parser, for --help and for what it cannot parse.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
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
            commands | {name: _with_plain_help(commands[name]) for name in words[:1] if name in commands},
            prog="attnpo",
            description="AttnPO: attention-guided process supervision for efficient reasoning. "
            "`attnpo --version` prints the version.",
            args=arguments,
            config=(tyro.conf.DisallowNone,),  # None means not given, and is nothing to write
        )
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has had enough, as `head`; Python would say so once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
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


def _with_plain_help(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the help of each argument on one line, which the parser would break wherever the docstring does,
    and without `(default: None)`: such an argument's help says what holds where it is not given."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    functools.update_wrapper(call, command)
    del call.__wrapped__  # type: ignore[attr-defined]  # the parser would read its docstring
    call.__doc__ = re.sub(r"\n {8,}(?=\S)", " ", inspect.getdoc(command) or "")
    signature = inspect.signature(command)
    call.__signature__ = signature  # type: ignore[attr-defined]
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature.parameters.items():
        if parameter.default is None:
            hints[name] = Annotated[hints[name], tyro.conf.arg(help_behavior_hint="")]
    call.__annotations__ = hints
    return call


def version() -> str:
    """The package's version and, in a git checkout, its commit and whether files differ from it."""
    state = git_state()
    commit = f", commit {state['commit']}" if state["commit"] else ""
    return f"attnpo {attnpo.__version__}{commit}{' with changes' if state['dirty'] else ''}"
