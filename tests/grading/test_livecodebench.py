from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpo.errors import AttnPOError
from attnpo.evaluation import lm_eval_hook
from attnpo.evaluation.lm_eval_task import SampledTask
from attnpo.grading.code import extract_code, grade, judge, same_text, same_value
from attnpo.grading.sandbox import Sandbox
from attnpo.grading.sandbox_process import Limits, Outcome
from attnpo.problems import livecodebench as lcb
from attnpo.problems.livecodebench import Test as Case
from attnpo.problems.livecodebench import Tests as Suite
from attnpo.testbed import MODEL_DIR

SECRET = "the-expected-output-4711"


def packed(cases: list[dict[str, str]], protocol: int = pickle.DEFAULT_PROTOCOL) -> str:
    """Private tests as the data set has them."""
    return pack(pickle.dumps(json.dumps(cases), protocol))


def pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def row(
    name: str, day: str, cases: list[tuple[str, str]], function: str | None = None, **changes: Any
) -> dict[str, Any]:
    """A problem in the data set's layout: the first test is public, the others are private."""
    kind = "functional" if function else "stdin"
    tests = [{"input": given, "output": wanted, "testtype": kind} for given, wanted in cases]
    return {
        "question_title": name,
        "question_content": f"Solve {name}.",
        "platform": "leetcode" if function else "atcoder",
        "question_id": name,
        "contest_id": "c1",
        "contest_date": f"{day}T00:00:00",
        "starter_code": f"class Solution:\n    def {function}(self, a):\n        " if function else "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(tests[:1]),
        "private_test_cases": packed(tests[1:]),
        "metadata": json.dumps({"func_name": function} if function else {}),
        **changes,
    }


SUM = row("sum", "2023-05-07", [("1 2\n", "3\n"), ("20 22\n", "42\n"), ("5 5\n", "10")])
DOUBLE = row("double", "2024-08-01", [("[1, 2]", "[2, 4]"), ("[]", "[]"), ("[5]", "[10]")], "double")
ECHO = row("echo", "2025-04-05", [("a\n", "a"), ("b\n", SECRET)])
FILES: dict[str, list[dict[str, Any]]] = {name: [] for name in lcb.FILES}
FILES |= {"test.jsonl": [SUM], "test4.jsonl": [DOUBLE], "test6.jsonl": [ECHO]}

SUM_RIGHT = "print(sum(map(int, input().split())))"
DOUBLE_RIGHT = "class Solution:\n    def double(self, a: List[int]):\n        return tuple(2 * x for x in a)"


def write(folder: Path, files: dict[str, list[dict[str, Any]]]) -> Path:
    (folder / "livecodebench").mkdir(exist_ok=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "livecodebench" / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path, FILES)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    """Bubblewrap where it works: the programs here that are not harmless ask for it."""
    limits = Limits(seconds=10, memory=1 << 30)
    try:
        return Sandbox(run_untrusted_code=True, limits=limits)
    except AttnPOError:
        return Sandbox("none", run_untrusted_code=True, limits=limits)


def respond(code: str, thinking: str = "Hm.") -> str:
    return f"{thinking}</think>Here it is:\n```python\n{code}\n```\nDone."


# --- the data


def test_problems_and_their_tests(data: Path) -> None:
    problems = lcb.load(lcb.files(data_dir=data))
    assert [(p.id, p.contest_date, p.file, p.offset) for p in problems] == [
        ("sum", "2023-05-07", "test.jsonl", 0),
        ("double", "2024-08-01", "test4.jsonl", 0),
        ("echo", "2025-04-05", "test6.jsonl", 0),
    ]
    assert problems[0].text.endswith("writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n")
    assert "\n\nQuestion: Solve double.\n\nYou will use the following starter code" in problems[1].text
    assert f"```python\n{DOUBLE['starter_code']}\n```" in problems[1].text
    folder = data / "livecodebench"
    assert lcb.read_tests(folder / "test.jsonl", 0) == Suite(
        [Case("1 2\n", "3\n"), Case("20 22\n", "42\n"), Case("5 5\n", "10")], None
    )
    assert lcb.read_tests(folder / "test4.jsonl", 0).function == "double"


def test_offsets_find_their_lines(tmp_path: Path) -> None:
    rows = [row(f"é{i}", "2024-01-01", [(f"{i}\n", f"{i}\n")]) for i in range(5)]
    data = write(tmp_path, {"test2.jsonl": rows})
    path = data / "livecodebench" / "test2.jsonl"
    path.write_text("\n" + path.read_text(encoding="utf-8").replace("\n", "\n\n"), encoding="utf-8")
    problems = lcb.load(lcb.files("v2", data))
    assert [lcb.read_tests(path, p.offset).cases for p in problems] == [[Case(f"{i}\n", f"{i}\n")] for i in range(5)]


@pytest.mark.parametrize(
    ("start", "end", "ids"),
    [
        (None, None, ["sum", "double", "echo"]),
        ("2024-08-01", None, ["double", "echo"]),
        ("2024-08-02", None, ["echo"]),
        (None, "2024-08-01", ["sum", "double"]),
        ("2023-05-07", "2023-05-07", ["sum"]),
    ],
)
def test_a_window_holds_both_its_days(data: Path, start: str | None, end: str | None, ids: list[str]) -> None:
    assert [p.id for p in lcb.load(lcb.files(data_dir=data), start, end)] == ids


def test_windows_that_make_no_sense(data: Path) -> None:
    paths = lcb.files(data_dir=data)
    with pytest.raises(AttnPOError, match="start_date is 'May'; give a day as 2025-01-31"):
        lcb.load(paths, "May")
    with pytest.raises(AttnPOError, match="no problem of test.jsonl, .* lies between 2030-01-01 and 9999-12-31"):
        lcb.load(paths, "2030-01-01")


@pytest.mark.parametrize(
    ("release", "names"),
    [
        ("release_v6", list(lcb.FILES)),
        ("release_v1", ["test.jsonl"]),
        ("v6", ["test6.jsonl"]),
        ("v4_v6", ["test4.jsonl", "test5.jsonl", "test6.jsonl"]),
    ],
)
def test_releases(data: Path, release: str, names: list[str]) -> None:
    assert list(lcb.files(release, data)) == names


@pytest.mark.parametrize("release", ["v7", "release_v0", "v6_v4", "latest", "release_v1_v2", ""])
def test_releases_that_are_none(data: Path, release: str) -> None:
    with pytest.raises(AttnPOError, match="release"):
        lcb.files(release, data)


def test_a_missing_file_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "livecodebench" / "test5.jsonl").unlink()
    monkeypatch.setenv("ATTNPO_DATA", str(data))
    with pytest.raises(AttnPOError, match=r"release_v6: .*livecodebench/test5\.jsonl is missing; put .*'s file there"):
        lcb.files()
    assert list(lcb.files("v6")) == ["test6.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"test6\.jsonl:1: not JSON"),
        ("[1]", r"test6\.jsonl:1: a problem needs question_id, .*metadata, each a string"),
        (json.dumps({**ECHO, "starter_code": None}), "needs starter_code, each a string"),
        (json.dumps({**ECHO, "contest_date": "soon"}), "echo has contest_date 'soon', no date"),
        (json.dumps(ECHO) + "\n" + json.dumps(ECHO), "the id 'echo' stands there twice"),
        (json.dumps({**ECHO, "metadata": "[]"}), "echo: metadata must be an object"),
        (json.dumps({**ECHO, "public_test_cases": "{}"}), "echo: metadata must be an object, public_test_cases"),
        (json.dumps({**ECHO, "public_test_cases": '[{"input": 1}]'}), "echo: a test needs input and output"),
        (json.dumps({**ECHO, "public_test_cases": "[", "private_test_cases": "[]"}), "echo: .* are not JSON"),
        (json.dumps({**ECHO, "public_test_cases": "[]", "private_test_cases": "[]"}), "echo has no tests"),
        (json.dumps({**ECHO, "metadata": '{"func_name": "f"}'}), "echo: its tests or metadata are not JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_at_once(tmp_path: Path, line: str, message: str) -> None:
    """Not after hours of sampling, when the tests are run."""
    data = write(tmp_path, {"test6.jsonl": []})
    (data / "livecodebench" / "test6.jsonl").write_text(line + "\n")
    with pytest.raises(AttnPOError, match=message) as caught:
        lcb.load(lcb.files("v6", data))
    assert "\n" not in str(caught.value)


def test_private_tests_may_be_plain_json(tmp_path: Path) -> None:
    plain = {**ECHO, "private_test_cases": json.dumps([{"input": "x", "output": "y"}])}
    path = write(tmp_path, {"test6.jsonl": [plain]}) / "livecodebench" / "test6.jsonl"
    assert lcb.read_tests(path, 0).cases[1] == Case("x", "y")


@settings(deadline=None)
@given(st.text(), st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_private_tests_come_back(text: str, protocol: int) -> None:
    assert lcb.decode_private(pack(pickle.dumps(json.dumps([text]), protocol))) == json.dumps([text])


def test_large_private_tests_come_back() -> None:
    text = json.dumps(["x" * 300_000])
    assert lcb.decode_private(pack(pickle.dumps(text))) == text


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "run"))


class Persistent(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return "x" if isinstance(obj, bytes) else None


def test_a_pickle_that_is_more_than_a_string_is_refused_and_not_run(tmp_path: Path) -> None:
    import io

    stream = io.BytesIO()
    Persistent(stream).dump([b"x"])
    hostile = [
        pickle.dumps(Evil(tmp_path / "run")),
        pickle.dumps(Evil(tmp_path / "run"), 2),
        pickle.dumps(["a", "b"]),
        pickle.dumps({"a": 1}),
        pickle.dumps(b"bytes"),
        pickle.dumps(7),
        stream.getvalue(),
        b"cposix\nsystem\n(S'touch run'\ntR.",
        b"\x80\x04" + b"\x94" * 1000 + b".",
        b"\x80\x04\x8c\x01a\x8c\x01b.",
        b"\x80\x04\x8c\x01a",
        b"\x80\x04\x8c\xffa.",
        b"\x80\x04r\xff\xff\xff\xff.",
        b"",
        b"no pickle",
    ]
    for data in hostile:
        with pytest.raises(AttnPOError, match=r"no pickle of one string .*do not trust this file"):
            lcb.decode_private(pack(data))
    assert not (tmp_path / "run").exists()


def test_the_hostile_pickle_would_have_run(tmp_path: Path) -> None:
    """The test above can fail."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "run")))
    assert (tmp_path / "run").exists()


def test_a_decompression_bomb_and_other_wrappings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    good = packed([{"input": "", "output": ""}])
    monkeypatch.setattr(lcb, "TESTS_LIMIT", 1 << 20)
    with pytest.raises(AttnPOError, match="cut off, or more than 1048576 bytes"):
        lcb.decode_private(pack(b"x" * (64 << 20)))
    with pytest.raises(AttnPOError, match="cut off"):
        lcb.decode_private(base64.b64encode(base64.b64decode(good)[:-6]).decode())
    for text in ("", "é", "%%%", "AAAA", base64.b64encode(b"not zlib").decode()):
        with pytest.raises(AttnPOError, match="no base64 of zlib|cut off"):
            lcb.decode_private(text)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Stands in for the hub: a file of our own under the commit that was asked for."""
    import huggingface_hub

    calls: dict[str, Any] = {}

    def download(repository: str, name: str, *, repo_type: str, revision: str) -> str:
        calls[name] = (repository, repo_type, revision)
        folder = tmp_path / "snapshots" / ("c0ffee" if revision == "main" else revision)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(ECHO) + "\n")
        return str(folder / name)

    monkeypatch.delenv("ATTNPO_DATA", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    lcb._from_hub.cache_clear()
    yield calls
    lcb._from_hub.cache_clear()


def test_a_download_is_verified_and_its_commit_is_said(hub: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        AttnPOError, match=rf"test6\.jsonl has SHA-256 [0-9a-f]{{64}}, not {lcb.FILES['test6.jsonl']}, and"
    ):
        lcb.files("v6")
    assert hub == {"test6.jsonl": ("livecodebench/code_generation_lite", "dataset", lcb.REVISION)}
    with caplog.at_level("INFO", logger="attnpo.problems.livecodebench"):
        paths = lcb.files("v6", revision="main")
        assert [p.id for p in lcb.load(paths)] == ["echo"]
    assert "commit c0ffee" in caplog.text and "not the published files" in caplog.text


def test_a_verified_download_is_used(hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "same").write_text(json.dumps(ECHO) + "\n")
    monkeypatch.setitem(lcb.FILES, "test6.jsonl", lcb.sha256_file(tmp_path / "same"))
    assert [p.id for p in lcb.load(lcb.files("v6"))] == ["echo"]


def test_no_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATTNPO_DATA", raising=False)
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    lcb._from_hub.cache_clear()
    with pytest.raises(AttnPOError) as caught:
        lcb.files()
    assert str(caught.value) == (
        f"LiveCodeBench: test.jsonl of livecodebench/code_generation_lite at {lcb.REVISION} is neither here nor within "
        "reach (offline); allow the hub, or set ATTNPO_DATA to a folder with livecodebench/test.jsonl"
    )


# --- code and comparison


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\na\n```", "a"),
        ("x\n```\na\nb\n```\ny\n```python\nc\n\nd\n```\nz", "c\n\nd"),
        ("```python\na\n```\nThen run\n```bash", "Then run"),  # as in the harness
        ("  ```py\n  a\n  ```", "  a"),
        ("```python\n```", ""),
        ("```python\na", None),
        ("Plan:\n```\nread\n\n```python\na\n```", "a"),
        ("Here:```python\na\n```", "a"),
        ("```x = 1``` is it.\n```python\na\n```", "a"),
        ("> ```python\n> a\n>  b\n> ```", "a\n b"),
        ("a", None),
        ("", None),
    ],
)
def test_the_program_is_what_the_last_two_fences_enclose(answer: str, code: str | None) -> None:
    assert extract_code(answer) == code


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3", "3", True),
        ("3\n\n", "\n3", True),
        (" 1 2 \r\n3", "1 2\n3", True),
        ("1  2", "1 2", True),  # as numbers
        ("a  b", "a b", False),
        ("1.0 2e1", "1 20", True),
        ("0.333", "0.3333", False),
        ("50000000000000000", "50000000000000001", False),
        ("YES", "Yes", False),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1", False),
        ("", "", True),
        ("", "0", False),
        ("nan", "nan", True),
        ("NaN 1", "NaN 1.0", False),
        ("sNaN 1", "sNaN 2", False),
        ("1e999999999 1", "1e999999999 1.0", True),
    ],
)
def test_same_text(output: str, expected: str, same: bool) -> None:
    assert same_text(output, expected) is same


@settings(deadline=None)
@given(st.text(), st.text())
def test_same_text_is_an_equivalence_with_itself_and_symmetric(a: str, b: str) -> None:
    assert same_text(a, a)
    assert same_text(a, b) == same_text(b, a)


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        (b"[1, 2]", "[1,2]", True),
        (b"1.0", "1", True),
        (b'"a"', '"a"', True),
        (b"true", "true", True),
        (b"null", "null", True),
        (b"[2, 1]", "[1, 2]", False),
        (b'"1"', "1", False),
        (b"", "null", False),
        (b"[1, 2] [1, 2]", "[1, 2]", False),
        (b"attnpo-sandbox-ready\n1", "1", False),
        (b"NaN", "NaN", False),
        (b"\xff", "1", False),
        (b"[" * 200_000, "1", False),
        (b"9" * 300_000, "9" * 300_000, True),
        (b"9" * 300_000, "1", False),
    ],
)
def test_same_value(output: bytes, expected: str, same: bool) -> None:
    assert same_value(output, expected) is same


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(_json_values)
def test_every_json_value_equals_itself(value: Any) -> None:
    assert same_value(json.dumps(value).encode(), json.dumps(value, indent=1))


# --- grading


def only(code: str, tests: Suite, box: Sandbox) -> str:
    return judge(code, tests, box)


STDIN = Suite([Case("1 2\n", "3\n"), Case("20 22\n", "42\n"), Case("5 5\n", "10")], None)
FUNCTIONAL = Suite([Case("[1, 2]", "[2, 4]"), Case("[]", "[]")], "double")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (SUM_RIGHT, "passed"),
        (
            "if __name__ == '__main__':\n    a, b = map(int, sys.stdin.read().split())\n    print(float(a + b))",
            "passed",
        ),
        (f"{SUM_RIGHT}\nsys.exit(1)", "passed"),
        ("print(3)", "wrong_answer: test 2 of 3"),
        ("n = sum(map(int, input().split()))\nprint(n if n < 10 else 1 / 0)", "runtime_error: test 2 of 3"),
        ("a b", "runtime_error: test 1 of 3"),
        ("import os\nprint(3, flush=True)\nos._exit(1)", "runtime_error: test 1 of 3"),
        ("import os\nos._exit(0)", "wrong_answer: test 1 of 3"),
        ("x = bytearray(1 << 33)", "memory_limit: test 1 of 3"),
        ("", "wrong_answer: test 1 of 3"),
    ],
)
def test_verdicts_on_printed_output(box: Sandbox, code: str, verdict: str) -> None:
    assert only(code, STDIN, box) == verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (DOUBLE_RIGHT, "passed"),
        ("def double(a): return [2 * x for x in a]", "passed"),
        ("def double(a): return [2, 4]", "wrong_answer: test 2 of 2"),
        ("def double(a): print([2, 4])", "wrong_answer: test 1 of 2"),
        ("def double(a): return {1, 2}", "runtime_error: test 1 of 2"),
        ("def half(a): return a", "runtime_error: test 1 of 2"),
        ("class Solution:\n    pass", "runtime_error: test 1 of 2"),
        ("import os\ndef double(a): os._exit(0)", "wrong_answer: test 1 of 2"),
        (f"{DOUBLE_RIGHT}\nif __name__ == '__main__':\n    while True: input()", "passed"),
        (f"from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n{DOUBLE_RIGHT}", "passed"),
    ],
)
def test_verdicts_on_returned_values(box: Sandbox, code: str, verdict: str) -> None:
    assert only(code, FUNCTIONAL, box) == verdict


FORGERIES = {
    "words": "print('passed'); print('{\"correct\": true}')",
    "ready": "print('attnpo-sandbox-ready')\nprint('attnpo-sandbox-ready\\npassed')",
    "equal": "class Any:\n    def __eq__(self, other): return True\nprint(Any())",
    "frames": """
import gc, os, sys
found = [o for o in gc.get_objects() if isinstance(o, (str, bytes)) and 'expected' in str(o)]
frame = sys._getframe()
while frame:
    found += [v for v in frame.f_locals.values() if isinstance(v, str) and 'the-expected' in v and 'gc.get' not in v]
    frame = frame.f_back
for value in (found or ["nothing"]): print(value)
""",
    "descriptors": """
import os
for number in range(3, 64):
    try: os.write(number, b'passed')
    except OSError: pass
os.write(1, b'passed')
os._exit(0)
""",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_verdicts_are_wrong_answers(box: Sandbox, name: str) -> None:
    assert only(FORGERIES[name], Suite([Case("", SECRET)], None), box) == "wrong_answer: test 1 of 1"


def test_a_forged_value_is_a_wrong_answer(box: Sandbox) -> None:
    code = """
class Any(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
class Solution:
    def f(self, a):
        import json
        json.dumps = lambda *_, **__: "true"
        return Any()
"""
    assert only(code, Suite([Case("1", json.dumps(SECRET))], "f"), box) == "wrong_answer: test 1 of 1"


def test_a_program_finds_neither_the_gold_tests_nor_the_data(box: Sandbox, data: Path, tmp_path: Path) -> None:
    if box.isolation == "none":
        pytest.skip("without isolation a program can read what the user can")
    code = f"""
import os
for folder in ({str(data)!r}, {str(tmp_path)!r}, {str(Path(lcb.__file__).parent)!r}, "/tmp", "/proc"):
    for place, _, names in os.walk(folder):
        for name in names:
            if {SECRET[:12]!r} in open(os.path.join(place, name), errors="replace").read():
                print({SECRET!r})
print("nothing")
"""
    assert box.run(code) == Outcome("ok", b"nothing\n", "", pytest.approx(5, abs=5))
    assert only(code, Suite([Case("", SECRET)], None), box) == "wrong_answer: test 1 of 1"


def test_responses_are_graded_in_order(box: Sandbox) -> None:
    opened: list[str] = []
    counted: list[int] = []

    def tests(name: str, value: Suite) -> Any:
        return lambda: opened.append(name) or value

    right, wrong = respond(SUM_RIGHT), respond("print(3)")
    responses = [
        [right, wrong, right, "never ends", "a</think>b</think>" + right, "x</think>no code"],
        [respond(DOUBLE_RIGHT, "```python\nprint(1)\n```")] * 2,
        ["nothing to run"],
    ]
    grades = grade(
        responses, [tests("sum", STDIN), tests("double", FUNCTIONAL), tests("none", STDIN)], box, 2, counted.append
    )
    assert [[(g.correct, g.parse_failed, g.reason) for g in group] for group in grades] == [
        [
            (True, False, "passed"),
            (False, False, "wrong_answer: test 2 of 3"),
            (True, False, "passed"),
            (False, False, "no_think_end"),
            (False, False, "many_think_ends"),
            (False, True, "no_code"),
        ],
        [(True, False, "passed")] * 2,
        [(False, False, "no_think_end")],
    ]
    assert grades[0][0].extracted == SUM_RIGHT and grades[0][3].extracted is None
    assert sorted(opened) == ["double", "sum"], "tests are read once, and only where there is a program"
    assert sum(counted) == 9


def test_grade_refuses_what_makes_no_sense(box: Sandbox) -> None:
    with pytest.raises(AttnPOError, match="1 problems with responses but 0 with tests"):
        grade([["x"]], [], box)
    with pytest.raises(AttnPOError, match="workers is 0; give a whole number"):
        grade([], [], box, 0)


def test_an_error_in_the_grading_is_raised(box: Sandbox) -> None:
    def broken() -> Suite:
        raise AttnPOError("the file is gone")

    with pytest.raises(AttnPOError, match="the file is gone"):
        grade([[respond("print(1)")]] * 3, [broken] * 3, box)


# --- the task


def manager(**metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=lm_eval_hook.tasks_folder(), include_defaults=False, metadata=metadata)


@pytest.fixture(scope="module")
def task(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Made once: lm-eval takes its time over names of metrics that it does not know."""
    folder = write(tmp_path_factory.mktemp("data"), FILES)
    metadata = {"data_dir": str(folder), "isolation": box.isolation, "tokenizer": str(MODEL_DIR)}
    (task,) = manager(**metadata).load(["attnpo_livecodebench"])["tasks"].values()
    return task


def evaluate(task: Any, **options: Any) -> Any:
    import lm_eval

    tasks = manager()
    return lm_eval.simple_evaluate(tasks=[task], task_manager=tasks, bootstrap_iters=0, **options)


def test_the_task(task: Any) -> None:
    config = task.config
    assert isinstance(task, SampledTask) and task.UNSAFE_CODE
    assert config.repeats == 4 and config.filter_list == [{"name": "none", "filter": []}]
    assert config.generation_kwargs["max_gen_toks"] == 16384 and config.generation_kwargs["until"] == []
    assert config.metadata["revision"] == lcb.REVISION and config.metadata["release"] == "release_v6"
    documents = list(task.test_docs())
    assert [doc["id"] for doc in documents] == ["sum", "double", "echo"]
    assert documents[0] == {
        "text": task.doc_to_text(documents[0]),
        "answer": "",
        "id": "sum",
        "platform": "atcoder",
        "difficulty": "easy",
        "contest_date": "2023-05-07",
        "file": "test.jsonl",
        "offset": 0,
    }
    assert SECRET not in json.dumps(documents)


def test_the_metadata_choose_release_and_window(task: Any) -> None:
    load = task.config.custom_dataset
    metadata = {**task.config.metadata, "start_date": "2024-01-01"}
    assert [doc["id"] for doc in load(**metadata)["test"]] == ["double", "echo"]
    assert [doc["id"] for doc in load(**{**metadata, "end_date": "2024-12-31"})["test"]] == ["double"]
    assert [doc["id"] for doc in load(**{**metadata, "release": "v5_v6"})["test"]] == ["echo"]


def test_the_metrics_are_those_of_the_math_tasks(task: Any) -> None:
    texts = [respond(SUM_RIGHT), respond("print(3)"), "x</think>y", "x"]
    figures = task.process_results(task.test_docs()[0], [texts])
    assert set(figures) == set(task.aggregation())
    assert (figures["avg@k"], figures["pass@k"], figures["parse_failed"]) == (0.25, 1.0, 0.25)
    assert figures["missing_think_end"] == 0.25
    assert [r["reason"] for r in figures["responses"]] == [
        "passed",
        "wrong_answer: test 2 of 3",
        "no_code",
        "no_think_end",
    ]


def test_no_isolation_is_refused_before_anything_is_sampled(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(AttnPOError, match=r"bubblewrap .* is not installed, and untrusted code is not run without"):
        manager(data_dir=str(data)).load(["attnpo_livecodebench"])


def test_lm_eval_asks_for_the_flag(task: Any) -> None:
    with pytest.raises(ValueError, match="attnpo_livecodebench which is marked as unsafe"):
        evaluate(task, model="dummy")


def test_attnpo_asks_for_consent_before_it_loads_anything(tmp_path: Path) -> None:
    from attnpo.evaluation.evaluate import run_eval

    options: dict[str, Any] = {
        "samples": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 8,
        "batch_size": 1,
        "seed": 0,
    }
    with pytest.raises(
        AttnPOError, match=r"attnpo_livecodebench runs programs .* agree with --confirm-run-unsafe-code"
    ):
        run_eval("no-model", ["attnpo_ood"], tmp_path, **options)


@pytest.mark.slow
def test_a_scripted_model_through_lm_eval_itself(task: Any) -> None:
    """Answers right, wrong, right, and not at all; lm-eval makes the requests and collects the figures."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            answers = {"sum": SUM_RIGHT, "double": DOUBLE_RIGHT, "echo": "print(input())"}
            texts, seen = [], dict.fromkeys(answers, 0)
            for request in requests:
                name = request.doc["id"]
                code = ("x = 1" if seen[name] == 1 else answers[name]) if seen[name] < 3 else None
                texts.append("no end of thinking" if code is None else respond(code))
                seen[name] += 1
            return texts

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
            raise NotImplementedError

    results = evaluate(task, model=Scripted(), confirm_run_unsafe_code=True)
    table = results["results"]["attnpo_livecodebench"]
    reasons = {
        s["doc"]["id"]: [r["reason"] for r in s["responses"]] for s in results["samples"]["attnpo_livecodebench"]
    }
    assert reasons == {
        "sum": ["passed", "wrong_answer: test 1 of 3", "passed", "no_think_end"],
        "double": ["passed", "runtime_error: test 1 of 3", "passed", "no_think_end"],
        "echo": ["wrong_answer: test 2 of 2", "wrong_answer: test 1 of 2", "wrong_answer: test 2 of 2", "no_think_end"],
    }
    assert table["avg@k,none"] == pytest.approx(4 / 12)
    assert table["pass@k,none"] == pytest.approx(2 / 3)
    assert table["missing_think_end,none"] == 0.25 and table["responses,none"] == 12
    assert SECRET not in json.dumps(results["samples"], default=str)


@pytest.mark.slow
def test_a_real_model_through_lm_eval_itself(task: Any) -> None:
    results = evaluate(
        task,
        model="hf",
        model_args={"pretrained": str(MODEL_DIR), "device": "cpu"},
        batch_size=6,
        gen_kwargs="max_gen_toks=24",
        confirm_run_unsafe_code=True,
    )
    table = results["results"]["attnpo_livecodebench"]
    assert table["responses,none"] == 12 and table["retokenized,none"] == 0 and table["avg@k,none"] == 0
    reasons = [r["reason"] for s in results["samples"]["attnpo_livecodebench"] for r in s["responses"]]
    counts = Counter(reasons)
    assert set(counts) <= {"no_think_end", "many_think_ends", "no_code"}  # it knows arithmetic alone
    assert table["missing_think_end,none"] == pytest.approx(counts["no_think_end"] / 12)
    assert table["parse_failed,none"] == pytest.approx(counts["no_code"] / 12)


def test_predict_only_runs_no_program(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task.config, "process_results", "process_results")  # as lm-eval does it
    monkeypatch.setattr(type(task), "prepare", lambda *_: pytest.fail("a program is run"))
    task.build_all_requests(limit=1)
    for request in task.instances:
        request.resps = [respond(SUM_RIGHT)]
    task.apply_filters()
    assert task.process_results(task.test_docs()[0], [[respond(SUM_RIGHT)]]) == {"bypass": 0}
