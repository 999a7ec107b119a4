"""The one exception that the command line turns into a single line and a non-zero exit code."""

from __future__ import annotations


class AttnPOError(ValueError):
    """Bad input. The message is one line that names the value at fault and the remedy."""
