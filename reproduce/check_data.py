"""Compare the math sets on the hub with the authors' published files: the same problems, the same answers?

    python reproduce/check_data.py              # all sets that have both sources; needs the network
    python reproduce/check_data.py math500 --data-dir FOLDER   # FOLDER holds the reference as math500.jsonl

Exits with 1 if a set differs or cannot be had.
"""

from __future__ import annotations

import argparse
import logging
import sys

from attnpo.errors import AttnPOError
from attnpo.evaluation.sources import compare
from attnpo.problems.benchmarks import BENCHMARKS

BOTH = [name for name, benchmark in BENCHMARKS.items() if benchmark.published and benchmark.hub]


def main() -> int:
    """Print a line a set and a line a difference; 0 if there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=BOTH, metavar="name", help=", ".join(BOTH))
    parser.add_argument("--data-dir", help="folder with the reference; default ATTNPO_DATA, else the published files")
    parser.add_argument("--revision", help="of the hub's data set, instead of the pinned one")
    options = parser.parse_args()
    # Says which commit the hub resolved.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    failed = False
    for name in options.names:
        try:
            same, differences = compare(name, options.data_dir, options.revision)
        except AttnPOError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{name}: {same} of {BENCHMARKS[name].problems} problems the same, {len(differences)} differences")
        print("".join(f"  {line}\n" for line in differences), end="")
        failed = failed or bool(differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
