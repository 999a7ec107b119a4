"""`python -m attnpo.cli`, as the runner starts its jobs."""

import sys

from attnpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
