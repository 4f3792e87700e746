"""Prerendering: the browser renders a page before its visitor goes there.

Chromium does this only without a driver. So its pages drive themselves: they ask the page server for what the test
serves as signals, and report in the paths that they ask for.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest

from tests.system.process import wait_until
from tests.tracker import google
from tests.tracker.conftest import World
from tests.tracker.engines import CHROMIUM, CHROMIUM_FLAGS, chosen, end_group
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Browser

PATIENCE_S = 20.0
PRERENDERED_MS = 700  # how long the page is prerendered at least, and shown at least

RULES = '<script type="speculationrules">{"prerender": [{"urls": ["/next"], "eagerness": "immediate"}]}</script>'
# Go to a URL once the test serves a path.
GO = """<script>
(async () => {{ while (!(await fetch('{0}')).ok) await new Promise(done => setTimeout(done, 50)); {1} }})();
</script>"""
# What the prerendered page has stored, after its load and a while.
LOOK = """
window.leave = () => {
  const [{activationStart}] = performance.getEntriesByType("navigation");
  const report = {shown: performance.now() - activationStart, activationStart, google: window.google.load};
  addEventListener("pagehide", () => navigator.sendBeacon("/left?" + encodeURIComponent(JSON.stringify(report))));
  // The library reports when the page is hidden, which comes after pagehide.
  addEventListener("visibilitychange", () =>
    navigator.sendBeacon("/values?" + encodeURIComponent(JSON.stringify(window.google.load))));
  location.href = "/last";
};
const report = () => fetch("/seen?" + encodeURIComponent(JSON.stringify({
  prerendering: document.prerendering, cookie: document.cookie, stored: localStorage.length,
  loaded: typeof window.collector})));
if (document.prerendering) addEventListener("load", () => setTimeout(report, PRERENDERED_MS));
""".replace("PRERENDERED_MS", str(PRERENDERED_MS))

EARLY = "window.collector = {q: [['trackEvent', {type: 'early'}]]};"

Start = Callable[[str], None]


@pytest.fixture
def prerendering(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Visit, Start]]:
    """A visit without a driver, and what starts its browser on a path."""
    if CHROMIUM.name not in chosen():
        pytest.skip("only Chromium prerenders")
    CHROMIUM.require()
    no_browser = cast(Browser, None)  # nobody drives it
    visit = Visit(CHROMIUM, no_browser, world.next_site(), world.servers, world.collector, tmp_path, request.node.name)
    world.visits.append(visit)
    with ExitStack() as stack:
        yield visit, lambda path: stack.enter_context(browsing(visit.origin() + path, tmp_path))
    visit.answered()
    visit.check()


@contextmanager
def browsing(url: str, folder: Path) -> Iterator[None]:
    """A headless Chromium with its own profile, on a page."""
    found = CHROMIUM.find()
    assert not isinstance(found, str), found
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [found[0], "--headless", *CHROMIUM_FLAGS, f"--user-data-dir={folder / 'profile'}", url],
            env=os.environ | {"HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        end_group(process)


def reported(visit: Visit, path: str) -> dict[str, Any]:
    """Wait for what a page reports at this path."""

    def found() -> list[str]:
        asked = visit.servers.requests[f"{visit.site}.localhost"]
        return [each.partition("?")[2] for each in asked if each.partition("?")[0] == path]

    wait_until(lambda: bool(found()), f"the page asks for {path}", PATIENCE_S)
    report: dict[str, Any] = json.loads(unquote(found()[0]))
    return report


def test_prerendered_page_is_a_view_once_it_is_shown(prerendering: tuple[Visit, Start]) -> None:
    """Before that nothing is sent nor stored. Its times and vitals count from then, as those of web-vitals do."""
    visit, start = prerendering
    visit.page("", "/first", tracker=False, head=RULES + GO.format("/go", "location.href = '/next'"))
    beside = google.head(visit, google.library()) + GO.format("/leave", "window.leave()")
    visit.page("<h1>Next</h1>", "/next", title="Next", before=LOOK, head=beside)
    start("/first")

    seen = {"prerendering": True, "cookie": "", "stored": 0, "loaded": "object"}
    assert seen == reported(visit, "/seen")
    assert [] == visit.events()

    visit.serve("/go")
    view = visit.first("pageview")
    assert ("/next", "Next", True) == (view["page_path"], view["page_title"], view["visible"])
    assert visit.origin() + "/first" == view["page_referrer"]

    visit.serve("/leave")
    left, exit_ = reported(visit, "/left"), visit.first("exit")
    assert left["activationStart"] >= PRERENDERED_MS
    assert exit_["time_on_page"] * 1000 == pytest.approx(left["shown"], abs=200)
    assert exit_["engaged_time"] <= exit_["time_on_page"]
    values = google.ours(visit.first("cwv"))
    assert reported(visit, "/values") == values
    assert {"lcp", "cls", "ttfb"} <= set(values)
    assert (0, True) == (values["ttfb"], values["lcp"] < 1000)


def test_prerendered_page_that_is_never_shown_sends_nothing(prerendering: tuple[Visit, Start]) -> None:
    """Not even what the page itself asks for."""
    visit, start = prerendering
    visit.page("", "/first", tracker=False, head=RULES + GO.format("/go", "location.href = '/other'"))
    visit.page("<h1>Next</h1>", "/next", before="window.google = {load: {}};" + EARLY + LOOK)
    visit.page("<h1>Other</h1>", "/other")
    start("/first")
    seen = reported(visit, "/seen")
    assert (True, "", 0) == (seen["prerendering"], seen["cookie"], seen["stored"])
    visit.serve("/go")
    assert "/other" == visit.first("pageview")["page_path"]
    assert {"/other"} == {event["page_path"] for event in visit.events()}
