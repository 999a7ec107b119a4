"""The one exception that the command line turns into a single line and a non-zero exit code."""

from __future__ import annotations


class AttnPOError(ValueError):
    """Bad input. The message is one line that names the value at fault and the remedy."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its name if it says nothing: for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
