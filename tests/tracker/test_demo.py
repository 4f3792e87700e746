"""The demo shop: every type can be caused by hand, and the panel beside it shows what was sent and what came back."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collector.config import Tracker
from collector.daemon.demo import read_demo
from collector.events import CONTRACT
from tests.system.process import Process, serving, wait_until
from tests.tracker.conftest import Shared, tidy
from tests.tracker.site import CLOCK
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Browser, Key

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "demo" / "shop"
AXE = ROOT / "tracker" / "node_modules" / "axe-core" / "axe.min.js"

CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "",
}
TYPES: set[str] = set(CONTRACT["properties"]["event_type"]["enum"])

# Runs in the shop, `panel` being the panel's document.
IN_PANEL = "const panel = document.getElementById('panel').contentDocument;"
LINES = (
    "return [...panel.querySelectorAll('#log > li')].map(line =>"
    "[line.dataset.type, line.querySelector('.answer').textContent])"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """What the panel shows."""

    browser: Browser

    def lines(self) -> list[tuple[str, str]]:
        """Type and answer of each event, newest first."""
        return [(kind, answer) for kind, answer in self.browser.run(IN_PANEL + LINES)]

    def shows(self, *types: str) -> None:
        """Wait until there is a line of each type."""
        wait_until(lambda: set(types) <= {kind for kind, _ in self.lines()}, f"the panel shows {types}", 10)

    def text(self, selector: str) -> str:
        """The text that can be seen of an element."""
        return str(self.browser.run(IN_PANEL + "return panel.querySelector(arguments[0]).innerText", selector))


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """As `make run` serves it, but with a port of its own."""
    folder = tmp_path_factory.mktemp("demo")
    sites = {"demo": {"allow_localhost": True}}
    with serving(folder, sites, storage={"flush_interval_s": 1}, tracker={"demo_dir": str(SHOP)}) as process:
        yield process


def test_all_twenty_types_can_be_caused_and_become_rows(shared: Shared, collector: Process) -> None:
    browser, _ = shared.browser()
    panel = Panel(browser)
    browser.open(f"{collector.url}/demo/?automation")
    panel.shows("pageview")
    # A clock that can be put forward, for the page as it is from here on.
    browser.run("document.head.append(Object.assign(document.createElement('script'), {text: arguments[0]}))", CLOCK)
    # Nor does the click open a mail program or a telephone: Chromium takes no more input after that.
    browser.run("addEventListener('click', e => e.target.matches('[href^=mailto],[href^=tel]') && e.preventDefault())")

    browser.click("h3 a[href='#/teapot']")
    panel.shows("click", "exit")
    browser.click("#product-text")
    panel.shows("heatmap_click")
    browser.click("#compare", times=3)
    browser.run("return window.advanceClock(3000)")
    panel.shows("rage_click", "dead_click")
    browser.run("return window.advanceClock(13000)")
    panel.shows("heartbeat")
    browser.click("a[href^='mailto:']")
    browser.click("a[href^='tel:']")
    panel.shows("email_click", "phone_click", "scroll")
    browser.click(".code", times=3)
    browser.press("c", hold=Key.CONTROL)
    panel.shows("copy")

    browser.click("#letter button")
    panel.shows("form_error")
    browser.click("#name")
    browser.press("Ada", Key.TAB)
    panel.shows("form_start", "form_field")
    browser.press("ada@example.com")
    browser.click("#letter button")
    panel.shows("form_submit")
    browser.click("#name")
    browser.press("!")
    browser.click(".crumbs a")
    panel.shows("form_abandon", "time_on_page")

    # Late, because the list of downloads takes the focus in Firefox.
    browser.click("h3 a[href='#/mug']")
    browser.click("a[download]")
    panel.shows("file_download")

    here = browser.window
    browser.click("a[target=_blank]")
    wait_until(lambda: len(browser.windows) > 1, "the other site has a window", 10)
    tidy(browser)
    browser.switch(here)
    panel.shows("outbound_link")
    browser.open(f"{collector.url}/healthz")
    browser.back()
    panel.shows("cwv")

    wait_until(lambda: not {"waiting"} & {answer for _, answer in panel.lines()}, "every answer is there", 10)
    lines = panel.lines()
    assert TYPES == {kind for kind, _ in lines}
    assert {"201", "sent by beacon"} == {answer for _, answer in lines}
    assert "20 of 20 types seen" == panel.text("#seen")
    collector.published()
    assert sorted(kind for kind, _ in lines) == sorted(row["event_type"] for row in collector.rows())
    assert ["WELCOME-TEA"] == [row["copied_text"] for row in collector.rows() if row["event_type"] == "copy"]
    assert "ada" not in json.dumps(collector.rows(), default=str).lower()
    browser.delete_cookies()


def show(visit: Visit, query: str = "?automation", *, script: str = "") -> Panel:
    """Open the demo as a page of the test's site; `script`: where the tracker is looked for."""
    for name, content in read_demo(Tracker(demo_dir=str(SHOP))).items():
        body = content.decode().replace("/public/demo/t.js", script or f"/public/{visit.site}/t.js")
        visit.serve(f"/demo/{name.removesuffix('index.html')}", body, content_type=CONTENT_TYPES[Path(name).suffix])
    visit.go(f"/demo/{query}")
    return Panel(visit.browser)


def test_panel_is_no_part_of_the_page_that_is_tracked(visit: Visit) -> None:
    panel = show(visit)
    panel.shows("pageview")
    with visit.browser.frame("#panel"):
        visit.browser.click("#types-box summary")
        visit.browser.click("#types li")
        visit.browser.click("#log summary")
    visit.browser.click("#cart")
    visit.wait("click")
    assert ["cart"] == [event["click_element_id"] for event in visit.events("click", "heatmap_click", "scroll")]


def test_line_opens_to_the_whole_event(visit: Visit) -> None:
    panel = show(visit)
    panel.shows("pageview")
    assert "" == panel.text("#log pre").strip()
    with visit.browser.frame("#panel"):
        visit.browser.click("#log summary")
    assert visit.first("pageview") == json.loads(panel.text("#log pre"))


def test_refusal_has_its_reason_and_a_retry_is_the_same_line(visit: Visit) -> None:
    visit.fail("status", status=429, headers={"Retry-After": "1", "Collect-Reason": "rate_limited"}, times=1)
    panel = show(visit)
    wait_until(lambda: [("pageview", "429 rate_limited")] == panel.lines(), "the refusal is shown", 10)
    wait_until(lambda: [("pageview", "201")] == panel.lines(), "the retry is shown", 10)
    with visit.browser.frame("#panel"):
        visit.browser.click("#log summary")
    assert "Sent 2 times." == panel.text("#log .note")


def test_log_is_there_after_a_reload_until_it_is_cleared(visit: Visit) -> None:
    panel = show(visit)
    visit.browser.click("#cart")
    wait_until(lambda: ("click", "201") in panel.lines(), "the click has its answer", 10)
    visit.browser.reload()
    wait_until(lambda: ("pageview", "201") == panel.lines()[0], "the page has been announced anew", 10)
    assert {("click", "201"), ("exit", "sent by beacon")} <= set(panel.lines())
    with visit.browser.frame("#panel"):
        visit.browser.click("#clear")
    assert [] == panel.lines()
    visit.browser.reload()
    panel.shows("pageview")
    assert "click" not in {kind for kind, _ in panel.lines()}


TROUBLES = [
    pytest.param("?automation", "/missing/t.js", "blocked", id="blocked"),
    pytest.param("", "", "automated", id="automated"),
]


@pytest.mark.parametrize(("query", "script", "said"), TROUBLES)
def test_panel_says_why_nothing_is_sent_and_the_shop_works(visit: Visit, query: str, script: str, said: str) -> None:
    panel = show(visit, query, script=script)
    reasons = "return [...panel.querySelectorAll('.trouble:not([hidden])')].map(reason => reason.id)"
    wait_until(lambda: [said] == panel.browser.run(IN_PANEL + reasons), "the panel says why", 10)
    visit.browser.click("h3 a[href='#/mug']")
    visit.browser.click("#add")
    assert ["1", "Morning mug"] == visit.browser.run(
        "return [document.querySelector('#cart-count').innerText, document.querySelector('#product-name').innerText]"
    )
    assert [] == visit.events()


def test_panel_is_a_drawer_on_a_phone(visit: Visit) -> None:
    visit.needs("cdp")
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    visit.browser.cdp("Emulation.setDeviceMetricsOverride", **size)
    try:
        panel = show(visit)
        panel.shows("pageview")
        wide, room = visit.browser.run(
            "const {scrollWidth, clientWidth} = document.documentElement; return [scrollWidth, clientWidth]"
        )
        assert wide == room
        wait_until(lambda: "pageview, 201" == panel.text("#latest"), "the last event is shown", 10)
        height = "return document.getElementById('panel').getBoundingClientRect().height"
        assert visit.browser.run(height) < 100
        with visit.browser.frame("#panel"):
            visit.browser.click("#drawer")
        wait_until(lambda: visit.browser.run(height) > 500, "the drawer is open", 5)
    finally:
        visit.browser.cdp("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(visit: Visit, scheme: str) -> None:
    """In the shop, on a product, and in the panel with every part of it open."""
    visit.needs("cdp")
    if not AXE.exists():
        why = "no axe-core: `make tracker` installs it"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    scheme_of = {"name": "prefers-color-scheme", "value": scheme}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    visit.browser.cdp("Emulation.setEmulatedMedia", features=[scheme_of, still])
    try:
        panel = show(visit)
        panel.shows("pageview")
        assert {} == barriers(visit.browser)
        visit.browser.click("h3 a[href='#/mug']")
        panel.shows("exit")
        assert {} == barriers(visit.browser)
        with visit.browser.frame("#panel"):
            visit.browser.click("#log summary")
            visit.browser.click("#types-box summary")
            assert {} == barriers(visit.browser)
    finally:
        visit.browser.cdp("Emulation.setEmulatedMedia", features=[])


def barriers(browser: Browser) -> dict[str, Any]:
    """What axe-core finds in this document, by rule. Frames are looked at one by one."""
    browser.run("if (!window.axe) (0, eval)(arguments[0])", AXE.read_text())
    found = browser.run_async(
        "const done = arguments[0];"
        "axe.run(document, {iframes: false}).then(({violations}) => done(violations), error => done(String(error)))"
    )
    assert isinstance(found, list), found
    return {each["id"]: [node["html"] for node in each["nodes"]] for each in found}
