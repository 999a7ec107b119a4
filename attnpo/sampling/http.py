"""What an error of a request to a server means."""

from __future__ import annotations


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the response that an error is about; None: there was no response."""
    return getattr(getattr(error, "response", None), "status_code", None)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, too many requests, or a fault of the server."""
    import requests

    status = status_of(error)
    return isinstance(error, requests.RequestException) and (status is None or status == 429 or status >= 500)
