"""What the machine refuses, as one line: a full disk, a file system or a folder that cannot be written."""

from __future__ import annotations

import errno
import re

from attnpo.errors import first_line

_GO_ON = "then the same command goes on where this one stood"
_FULL = f"no room is left on the disk; free some, {_GO_ON}"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: f"the quota is used up; free some room, {_GO_ON}",
    errno.EROFS: "the file system can only be read; take a folder that can be written, as with --results",
    errno.EACCES: "this user may not use it; change its permissions, or take another folder, as with --results",
    errno.EPERM: "this user may not change it; change its permissions, or take another folder, as with --results",
    errno.ENOTDIR: "a file stands where a folder belongs; move it away, or take another folder, as with --results",
    errno.EEXIST: "a file stands where a folder belongs; move it away, or take another folder, as with --results",
    errno.EISDIR: "a folder stands where a file belongs; move it away, or name another file",
    errno.ENAMETOOLONG: "the name is too long; take a shorter one",
    errno.EFBIG: f"the file may not be so large; raise the limit or take another folder, {_GO_ON}",
    errno.EIO: f"the disk does not answer; check it, {_GO_ON}",
}
_TORCH = ("PytorchStreamWriter", "inline_container")
"""What torch says, in a RuntimeError, when it cannot write a file to its end; it does not say why."""


def refusal(error: BaseException) -> str | None:
    """Path, reason and remedy, if the machine is why something failed; None if it is not."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return f"{error.filename or first_line(error)}: {_REMEDIES[error.errno]}"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object!a:.160}: this locale ({error.encoding}) cannot write it; set PYTHONUTF8=1"
    found = re.search(r"\(os error (\d+)\)", str(error))  # of libraries in Rust, safetensors among them
    if found and int(found[1]) in _REMEDIES:
        return f"{first_line(error)}: {_REMEDIES[int(found[1])]}"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH):
        return f"a file could not be written to its end ({first_line(error):.160}); it seems that {_FULL}"
    return None
