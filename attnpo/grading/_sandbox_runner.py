"""Runs one untrusted program on one input. The source of this file is handed to `python -c` inside the sandbox.

Only the standard library is imported. Standard input starts with a line that gives the length of a JSON header; what
follows the header is the program's own standard input. Right before the program begins, the header's `ready` is
written to standard output; everything after it is the program's.
"""

import contextlib
import json
import os
import resource
import sys
import types

# LiveCodeBench's own harness (testing_util.py, commit 15808c7) imports every name of these modules and the modules
# themselves before a program, and sets these limits on recursion and on the digits of integers.
STARRED = "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys"
STARRED += " json builtins typing"
IMPORTED = "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys"
IMPORTED += " json"
RECURSION = DIGITS = 50_000


def read(size: int) -> bytes:
    """Exactly `size` bytes of standard input, unbuffered, so that the program's own input stays unread."""
    data = b""
    while len(data) < size:
        piece = os.read(0, min(size - len(data), 1 << 20))
        if not piece:
            sys.exit("the header is cut off")
        data += piece
    return data


def plain(value: object) -> object:
    """A numpy array or number as a Python list or number."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be returned")


def main() -> None:
    """Set the limits and run the program."""
    digits = b""
    while not digits.endswith(b"\n"):
        digits += read(1)
    header = json.loads(read(int(digits)))
    os.environ.clear()
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    sys.path.extend(header["packages"])
    sys.setrecursionlimit(RECURSION)
    sys.set_int_max_str_digits(DIGITS)
    arguments = [json.loads(line) for line in header["arguments"]]
    code, function, ready = header["code"], header["function"], header["ready"].encode()
    # In LiveCodeBench's harness a program whose function is called is not the main module, and a block under
    # `if __name__ == "__main__"` does not run.
    module = types.ModuleType("__main__" if function is None else "tmp_sol")
    names = module.__dict__
    for name in STARRED.split():
        exec(f"from {name} import *", names)
    exec(f"import {', '.join(IMPORTED.split())}", names)
    for name, limit in header["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    del header
    if function is None:
        os.write(1, ready)
        with contextlib.suppress(SystemExit):  # as in LiveCodeBench's harness, the exit code does not count
            exec(compile(code, "<program>", "exec"), names)
        return
    # Only the function's value is compared, so what the program prints is dropped.
    channel, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.write(channel, ready)
    exec(compile(code, "<program>", "exec"), names)
    holder = names["Solution"]() if "class Solution" in code else module
    value = json.dumps(getattr(holder, function)(*arguments), default=plain).encode()
    while value:
        value = value[os.write(channel, value) :]
    os._exit(0)


main()
