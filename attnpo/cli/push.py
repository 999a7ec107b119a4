"""`attnpo push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from attnpo.runs.push import check_repo, to_push, trained_run
from attnpo.runs.push import push as upload


def push(
    run_folder: Annotated[Path, tyro.conf.Positional],
    repo_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")],
    private: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Upload a trained model to the hub, its card with the results of the evaluations of it.

    The card is README.md in the folder of the model: what is written there by hand, such as the license, stays.

    Args:
        run_folder: of a training, results/PROFILE/raw/train-….
        repo_id: repository on the hub, OWNER/NAME; it is made if it is not there.
        private: make it private.
        overwrite: replace files that the repository has; otherwise they are named, and nothing is uploaded.
        dry_run: print the card and the names of the files; write and upload nothing.
    """
    check_repo(repo_id)
    what = to_push(trained_run(run_folder))
    if dry_run:
        print(what.card)
        print(f"to {repo_id}: {', '.join(what.files)}", file=sys.stderr)
        return
    print(upload(what, repo_id, private=private, overwrite=overwrite))
