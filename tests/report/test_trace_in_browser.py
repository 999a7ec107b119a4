"""The page of `attnpo trace` in a real browser: it is looked at as people look at it."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_traces import problem, record, solution, two_runs, write_run

import attnpo.report
from attnpo.method.credit import step_gammas
from attnpo.report.traced import MAX_BYTES

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium, of the extra `test`, drives the browser")
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="chromium is missing: apt-get install chromium chromium-driver"
    ),
    pytest.mark.xdist_group("browser"),
]
SCHEMES = ["light", "dark"]


class Page:
    """One page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a page and wait until the first response is drawn."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri() + fragment)
        self.wait("document.querySelector('main .pane')")

    def work(self, action: Callable[[], Any]) -> float:
        """The seconds of processor time that the page's main thread takes for something, however busy the machine."""
        self.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

        def spent() -> float:
            metrics = self.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

        before = spent()
        action()
        after = spent()
        return after - before if after >= before else after  # a page opened in a new process counts from 0

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {code}", *arguments)

    def wait(self, condition: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def texts(self, selector: str) -> list[str]:
        return self.js(
            "[...document.querySelectorAll(arguments[0])].map((e) => e.textContent.toWellFormed())", selector
        )

    def click(self, selector: str, text: str = "") -> None:
        found = "[...document.querySelectorAll(arguments[0])].find((e) => e.textContent.includes(arguments[1]))"
        self.driver.execute_script(f"{found}.click()", selector, text)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def problems(self) -> list[str]:
        """What the console has to complain about since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--window-size=1400,1000"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Page(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs, with scores."""
    folder = tmp_path_factory.mktemp("two")
    (heads,) = (Path(__file__).parents[2] / "results/tiny/raw").glob("probe-*/heads.json")
    return attnpo.report.trace(two_runs(folder), model="testbed", heads=heads, out=folder / "page.html").path


def test_it_opens_from_a_file_without_a_word_from_the_console(page: Page, two: Path) -> None:
    page.open(two)
    assert page.texts("#problems .what")[0] == problem(0).text
    assert len(page.texts("#problems .problem")) == 6
    assert page.texts("main h2")[0].startswith(problem(0).id)
    assert page.js("performance.getEntriesByType('resource').length") == 0
    assert page.problems() == []


def test_filters_order_and_search(page: Page, two: Path) -> None:
    page.open(two)
    page.click("#filters button", "truncated")
    assert page.texts("#problems .what") == [problem(0).text]
    assert page.texts("#count") == ["1 problem, 2 responses"]
    assert page.texts(".verdict b") == ["✗ cut off", "✗ cut off"] or page.js("state.problem") == 0
    page.click("#filters button", "truncated")
    page.click("#filters button", "no </think>")
    assert page.texts("#problems .what") == [problem(0).text, problem(1).text]
    page.click("#filters button", "no </think>")
    page.click("#filters button", "longest first")
    lengths = page.js("listed().map(longestOf)")
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
    page.click("#filters button", "longest first")
    links = solution(problem(4)).split("\n")[0].removeprefix("First, ")
    page.js("document.getElementById('search').focus()")
    page.press(*links)
    page.wait("document.getElementById('count').textContent.startsWith('1 problem')")
    page.wait(f"document.querySelector('main h2')?.textContent.startsWith({json.dumps(problem(4).id)})")


def test_steps_have_what_the_method_says_of_them(page: Page, two: Path) -> None:
    page.open(two)
    seen = set()
    for p, number in ((1 / 3, 0), (1.0, page.js("members[5][0]"))):
        unpacked = "const done = arguments[1]; unpack(arguments[0]).then"
        trace = page.driver.execute_async_script(f"{unpacked}((t) => done({{...t, attention: 0}}))", number)
        now = page.driver.execute_async_script(f"{unpacked}((t) => done(scored(arguments[0], t)))", number)
        assert page.js("index.responses[arguments[0]].p", number) == pytest.approx(p, abs=1e-5)
        scores = torch.tensor(trace["scores"], dtype=torch.float64).mean(0)
        for advantage, name in ((1.0, "positive"), (-1.0, "negative")):
            expected = step_gammas(scores, advantage, p, trace["answerTokens"], trace["totalTokens"], 10**9).tolist()
            # The page has p to six digits.
            assert [step[name] for step in now["steps"]] == pytest.approx(expected, rel=1e-4)
            seen |= {(name, gamma in (0, 1), gamma) for gamma in expected}
    assert {("negative", True, 0.0), ("negative", True, 1.0), ("positive", True, 1.0)} <= seen
    assert any(not whole for _, whole, _ in seen)
    facts = page.texts('article[data-side="0"] .facts')
    assert all(" S₀" in of and "γ PA" in of for of in facts)
    assert "doubt or branch" in facts[1] and "redundant: recheck" in facts[1]


def test_heads_are_switched_off_and_on(page: Page, two: Path) -> None:
    page.open(two)
    before = page.texts("article .score")
    page.click('[data-head="0"]')
    one_off = page.texts("article .score")
    assert one_off != before and all(one_off)
    page.click('[data-head="1"]')
    page.click('[data-head="2"]')
    assert not any(page.texts("article .score"))
    for head in range(3):
        page.click(f'[data-head="{head}"]')
    assert page.texts("article .score") == before


def test_two_runs_show_what_the_second_no_longer_writes(page: Page, two: Path) -> None:
    page.open(two)
    assert len(page.texts("article.gone")) == 2 and page.texts("article.new") == []
    assert all("Wait" in text for text in page.texts("article.gone .text"))
    assert page.texts(".difference b") == ["2 are no longer written"]
    assert "(2 redundant, 0 essential)" in page.texts(".difference")[0]
    page.js("(state.single = true, state.panes[1] = null, draw())")
    page.wait("!document.querySelector('.difference')")
    assert page.texts("article.gone") == [] and "null" not in page.texts("main")[0]
    page.click(".pick button", "Compare")
    page.wait("document.querySelector('.difference')")


def test_an_answer_token_shows_where_the_heads_look(page: Page, two: Path) -> None:
    page.open(two)
    assert page.texts("#looked") == [""]
    page.js("document.querySelectorAll('.token')[3].focus()")
    assert re.match(r'From ".*" the heads look at step \d+ \(\d+ %\)', page.texts("#looked")[0])
    assert any(page.texts("article .seen"))
    widths = page.js("[...document.querySelectorAll('article[data-side=\"0\"] .look')].map((e) => e.offsetWidth)")
    assert max(widths) > 0
    page.press(Keys.ARROW_RIGHT)
    second = page.texts("#looked")[0]
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.texts("#looked")[0] != second
    page.press(Keys.ENTER)
    assert page.js("document.activeElement.matches('article.step')")
    page.press(Keys.ESCAPE)
    assert page.texts("#looked") == [""] and not any(page.texts("article .seen"))


def test_the_keyboard_alone_is_enough(page: Page, two: Path) -> None:
    page.open(two)
    page.js("document.body.focus()")
    page.press("/")
    assert page.js("document.activeElement.id") == "search"
    reached = set()
    for _ in range(40):
        page.press(Keys.TAB)
        focused = "document.activeElement"
        reached.add(
            page.js(
                f"{focused}.closest('nav, header, .controls, .pick, .steps, .answer')?.className || "
                f"{focused}.closest('nav, header, main')?.tagName"
            )
        )
        outline = page.js(f"getComputedStyle({focused}).outlineStyle")
        assert page.js(f"{focused} === document.body") or outline == "solid"
        if page.js(f"{focused}.matches('.problem')"):
            page.press(Keys.ARROW_DOWN)
            page.wait(f"document.querySelector('main h2').textContent.startsWith({json.dumps(problem(1).id)})")
            page.press(Keys.ARROW_UP)
            page.wait(f"document.querySelector('main h2').textContent.startsWith({json.dumps(problem(0).id)})")
            page.js("document.querySelector('#problems li:last-child button').focus()")
    assert {"controls", "pick", "steps", "answer"} <= reached
    page.js("document.querySelector('article.step').focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.js("document.activeElement.dataset.step") == "1"


CONTRAST = """
const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
const linear = (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const grounds = [];
  for (let at = element; at && !grounds.length; at = at.parentElement) {
    const of = getComputedStyle(at);
    for (const colour of of.backgroundImage.match(/rgba?\\([^)]*\\)/g) ?? []) grounds.push(rgb(colour));
    const ground = rgb(of.backgroundColor);
    if (ground.length === 3 || ground[3] === 1) grounds.push(ground);
  }
  if (!grounds.length) grounds.push(rgb(getComputedStyle(document.documentElement).backgroundColor));
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
  for (const ground of grounds) {
    const [a, b] = [light(rgb(style.color)), light(ground)].sort((x, y) => y - x);
    found.push([(a + .05) / (b + .05), large ? 3 : 4.5, element.className + ": " + element.textContent.slice(0, 30)]);
  }
}
return found;
"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast_passes_wcag_aa(page: Page, two: Path, scheme: str) -> None:
    page.scheme(scheme)
    page.open(two)
    page.js("document.querySelector('details').open = true")
    page.js("document.querySelectorAll('.token')[3].focus()")
    page.click("#filters button", "correct")
    grounds = set()
    for level in range(-4, 5):  # every step on every colour
        page.js("document.querySelectorAll('article').forEach((a) => { a.dataset.level = `l${arguments[0]}` })", level)
        grounds.add(page.js("getComputedStyle(document.querySelector('article')).backgroundColor"))
        measured = page.driver.execute_script(CONTRAST)
        assert len(measured) > 100
        assert not [of for of in measured if of[0] < of[1]]
    assert len(grounds) == 9
    paper = page.js("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    page.click("#filters button", "correct")
    page.scheme("light")


def test_markup_and_broken_text_are_shown_as_text(page: Page, tmp_path: Path) -> None:
    bad = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\"> &amp; \u2028 "
    text = f"First, {bad}\ud83d.\n</think>\n{bad}\udc00\\boxed{{4}}"
    runs = [
        write_run(tmp_path / name, f"<b>{name}</b>", {"</script><script>x": [record(text, False)]}, task="<i>t</i>",
                  model={"name": name})
        for name in ("testbed", "other")
    ]  # fmt: skip
    for run in runs:  # with a tokenizer and without
        page.open(attnpo.report.trace([run], out=tmp_path / "page.html").path)
        assert page.js("document.title").startswith("Traces: <b>")
        assert page.js("document.querySelectorAll('main script, main img, main i:not(.mapped i), nav b').length") == 0
        assert bad.strip() in page.texts("article .text")[0] and bad.strip() in page.texts(".answer .text")[0]
        assert page.texts("article .text")[0].endswith("\N{REPLACEMENT CHARACTER}.")
        assert page.problems() == []


def test_a_notebook_shows_it_in_a_frame(page: Page, two: Path, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f'<meta charset="utf-8">{attnpo.report.TracePage(two)._repr_html_()}', encoding="utf-8")
    page.driver.get(notebook.as_uri())
    page.driver.switch_to.frame(0)
    page.wait("document.querySelector('main .pane')")
    page.click("#problems button", problem(2).text)
    page.wait(f"document.querySelector('main h2').textContent.startsWith({json.dumps(problem(2).id)})")
    page.driver.switch_to.default_content()


def test_two_hundred_long_responses_stay_usable(page: Page, tmp_path: Path) -> None:
    draw = random.Random(0)
    names = [f"{a}{b}" for a in "bcdfghjklmnprstvw" for b in ("ar", "en", "il", "ost", "umber", "ation", "ing")]

    def long(number: int) -> dict[str, Any]:
        lines = []
        for _ in range(400):  # of 40 tokens, 3.5 characters each
            opening = draw.choice(["Wait, ", "So ", "Let me check: ", "Now ", "Alternatively, "])
            lines.append(opening + " ".join(draw.choices(names, k=22)) + f" = {draw.randrange(10**6)}.\n")
        text = "".join(lines) + f"</think>\nThe answer is \\boxed{{{number}}}."
        tokens = {"total": 16_000, "thinking": 15_990, "answer": 9}
        return {
            "text": text, "correct": number % 2 == 0, "parse_failed": False, "reason": "equal", "thinking": True,
            "think_tags": 1, "tokens": tokens, "finish": "stop", "counted": "generated",
        }  # fmt: skip

    runs = [
        write_run(tmp_path / name, name, {f"p{n}": [long(n)] for n in range(100)}, task="t", model={"name": "other"})
        for name in ("one", "other")
    ]
    path = attnpo.report.trace(runs, out=tmp_path / "page.html").path
    assert MAX_BYTES / 2 < path.stat().st_size <= MAX_BYTES
    assert page.work(lambda: page.open(path)) < 2
    assert page.js("index.responses.length") == 200
    assert len(page.texts('article[data-side="0"]')) >= 390

    def browse() -> None:
        page.js("select(listed()[listed().indexOf(state.problem) + 1])")
        name = page.js("index.problems[state.problem].id")
        page.wait(f"document.querySelector('main h2').textContent.startsWith('{name} ')")

    assert page.work(browse) < 1
    page.click("#filters button", "wrong")
    assert len(page.texts("#problems .problem")) == 50
    page.js("document.getElementById('search').focus()")
    page.press("boxed{7}")
    page.wait("document.getElementById('count').textContent.startsWith('1 problem')")
    assert page.problems() == []
