"""Is a program right? What the last two fences of the answer enclose must pass all tests of its problem, in a sandbox.

Extraction, comparison and limits follow LiveCodeBench's own harness (github.com/LiveCodeBench/LiveCodeBench;
`testing_util.py` as of commit 15808c7, extraction as of release 6). Differences:

- Each test runs in a process of its own and reads a real standard input. The harness runs all tests of a program in
  one process and replaces `sys.stdin`.
- The answer is the text after the only `</think>`. A program in a quotation loses the marks of quotation.
- Returned values are passed on as JSON, so tuples equal lists at every depth; in the harness only the outermost do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, InvalidOperation

from attnpo.environment import usable_cores
from attnpo.errors import AttnPOError
from attnpo.grading.grade import Grade, answer_part, no_answer_reason
from attnpo.grading.sandbox import Sandbox
from attnpo.grading.sandbox_process import Outcome
from attnpo.problems.livecodebench import Tests, parse_value


def extract_code(answer: str) -> str | None:
    """What lies between the last two lines with three backticks; None if there are fewer than two.

    If both lines are quoted (`> `), the marks of quotation before the lines between are removed.
    """
    lines = answer.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return None
    opening, closing = fences[-2:]
    block = lines[opening + 1 : closing]
    if all(lines[number].lstrip().startswith(">") for number in (opening, closing)):
        block = [_QUOTED.sub("", line) for line in block]
    return "\n".join(block)


_QUOTED = re.compile(r"^\s*> ?")


def same_text(output: str, expected: str) -> bool:
    """Whether two texts are equal line by line, without white space at the ends of text and lines.

    Two lines are also equal if all their words are equal numbers. Numbers are compared as exact decimals: `1.0` equals
    `1`, but `0.333` does not equal `0.3333`.
    """
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (output, expected))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    try:
        return [Decimal(word) for word in ours.split()] == [Decimal(word) for word in theirs.split()]
    except InvalidOperation:  # no number, or a signalling NaN
        return False


def same_value(output: bytes, expected: str) -> bool:
    """Whether both are JSON of the same value."""
    try:
        return bool(parse_value(output) == parse_value(expected))
    except (ValueError, RecursionError, InvalidOperation):
        return False


def judge(code: str, tests: Tests, sandbox: Sandbox) -> str:
    """Run a program on its tests, up to the first that fails.

    Returns:
        "passed", or how and where it failed, such as "wrong_answer: test 3 of 12". The other ways are "runtime_error",
        "time_limit", "memory_limit" and "output_limit".
    """
    for number, case in enumerate(tests.cases, 1):
        if tests.function is None:
            outcome = sandbox.run(code, case.input)
        else:
            outcome = sandbox.run(code, function=tests.function, arguments=case.input.split("\n"))
        verdict = _verdict(outcome, case.output, functional=tests.function is not None)
        if verdict != "passed":
            return f"{verdict}: test {number} of {len(tests.cases)}"
    return "passed"


def _verdict(outcome: Outcome, expected: str, functional: bool) -> str:
    if outcome.status != "ok":
        return outcome.status
    if functional:
        return "passed" if same_value(outcome.output, expected) else "wrong_answer"
    return "passed" if same_text(outcome.output.decode("utf-8", "replace"), expected) else "wrong_answer"


def grade(
    responses: Sequence[Sequence[str]],
    tests: Sequence[Callable[[], Tests]],
    sandbox: Sandbox,
    workers: int | None = None,
    done: Callable[[int], None] = lambda number: None,
) -> list[list[Grade]]:
    """Grade the responses to N problems, several problems at a time.

    Args:
        responses: for each problem its k texts, thinking included.
        tests: for each problem a function that gives its tests. It is called when the problem's turn comes, so that
            the tests of few problems are in memory at once.
        sandbox: where the programs run.
        workers: how many programs run at once; None: as many as there are usable cores. With more than that, a program
            may exceed the time limit because it has to share a core.
        done: called after each problem with the number of its responses.

    Returns:
        For each problem k grades, in order. The reason is that of `judge`, "no_think_end", "many_think_ends", or
        "no_code", which counts as a parse failure.

    Raises:
        AttnPOError: the numbers of problems differ, tests cannot be read, or the sandbox fails.
    """
    if len(responses) != len(tests):
        raise AttnPOError(f"{len(responses)} problems with responses but {len(tests)} with tests")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise AttnPOError(f"workers is {workers!r}; give a whole number, at least 1")

    def serve(texts: Sequence[str], load_tests: Callable[[], Tests]) -> list[Grade]:
        codes = [_code(text) for text in texts]
        verdicts: dict[str, str] = {}
        if programs := sorted({code for code, reason in codes if reason is None}):
            loaded = load_tests()
            verdicts = {code: judge(code, loaded, sandbox) for code in programs}
        done(len(texts))
        grades = []
        for code, reason in codes:
            word = reason or verdicts[code]
            grades.append(Grade(word == "passed", word == "no_code", code or None, word))
        return grades

    with ThreadPoolExecutor(workers or usable_cores()) as pool:
        futures = [pool.submit(serve, *pair) for pair in zip(responses, tests, strict=True)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _code(response: str) -> tuple[str, str | None]:
    """The program of a response, or the reason why there is none."""
    answer = answer_part(response)
    if answer is None:
        return "", no_answer_reason(response)
    code = extract_code(answer)
    return ("", "no_code") if code is None else (code, None)
