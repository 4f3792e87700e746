"""A visit: a browser on the pages of one site, and what the collector was told of it. What tests use.

    def test_title_is_sent(visit: Visit) -> None:
        visit.open("<h1>Prices</h1>", title="Prices")
        assert "Prices" == visit.first("pageview")["page_title"]

Every test has a site and a host of its own. `visit.browser` is the WebDriver client: click, type, scroll.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.system.process import Process, wait_until
from tests.tracker import site as pages
from tests.tracker.engines import HEIGHT, WIDTH, Engine
from tests.tracker.recorder import Event, Fault, Received
from tests.tracker.site import Problem, Resource, Servers
from tests.tracker.webdriver import Browser

PATIENCE_S = 10.0  # longest an event may take from the page to the recorder


@dataclass(slots=True, repr=False)
class Visit:
    """A browser on one site. See the module."""

    engine: Engine
    browser: Browser
    site: str
    servers: Servers
    collector: Process
    folder: Path
    test: str = ""
    allowed: set[str] = field(default_factory=set)

    # What may go wrong, if the test says so with `allow`; otherwise the test fails at its end.
    KINDS: ClassVar = frozenset({"refused", "preflights", "problems"})

    # Pages

    def origin(self, host: str = "") -> str:
        """The site's origin; `host` is a label before it, such as `www`."""
        return f"http://{host + '.' if host else ''}{self.site}.localhost:{self.servers.pages_port}"

    @property
    def collector_origin(self) -> str:
        """The origin that the script comes from, and that events go to."""
        return f"http://collect.localhost:{self.servers.recorder_port}"

    @property
    def errors_url(self) -> str:
        return f"{self.origin()}/errors/{self.site}"

    def page(
        self,
        body: str = "",
        path: str = "/",
        *,
        title: str = "Page",
        attributes: dict[str, Any] | None = None,
        tracker: bool | str = True,
        before: str = "",
        clock: bool = False,
        head: str = "",
        csp: str | None = None,
        headers: dict[str, str] | None = None,
        first_party: bool = False,
        delay_s: float = 0.0,
    ) -> str:
        """Serve a page with the tracker; returns its URL.

        `attributes`: of the script, without `data-`. `automation` is among them unless it is set to None.
        `tracker`: False leaves it out; a text is an inline script in its place.
        `before`: an inline script that runs before the tracker. `head`: more markup, after it.
        `clock`: the page has a clock that `advance` puts forward.
        `csp`: a Content-Security-Policy. COLLECTOR stands for the collector's origin. What the page needs to watch
        itself is added.
        `first_party`: the script comes from the page's own origin, and so do its events go there.
        """
        source = f"{'' if first_party else self.collector_origin}/public/{self.site}/t.js"
        if isinstance(tracker, str):
            tag = f'<script nonce="{pages.NONCE}">{tracker}</script>'
        else:
            tag = pages.script_tag(source, {"automation": True} | (attributes or {})) if tracker else ""
        first = (pages.CLOCK if clock else "") + before
        prelude = f'<script nonce="{pages.NONCE}">{first}</script>\n' if first else ""
        more = dict(headers or {})
        if csp is not None:
            policy = csp.replace("COLLECTOR", self.collector_origin)
            more["Content-Security-Policy"] = pages.with_harness(policy, self.errors_url)
        document = pages.page(body, title=title, head=f"{prelude}{tag}\n{head}", errors=self.errors_url)
        self.servers.serve(self.site, path, Resource(document, headers=more, delay_s=delay_s))
        return self.origin() + path

    def serve(
        self,
        path: str,
        body: bytes | str = b"",
        *,
        content_type: str = "text/html; charset=utf-8",
        status: int = 200,
        headers: dict[str, str] | None = None,
        delay_s: float = 0.0,
    ) -> str:
        """Serve something else at a path: a file, a redirect (`status`, `Location`), a script; returns its URL."""
        content = body.encode() if isinstance(body, str) else body
        self.servers.serve(self.site, path, Resource(content, content_type, status, headers or {}, delay_s))
        return self.origin() + path

    def download(self, path: str) -> str:
        """Serve a file that browsers save; returns its URL."""
        disposition = {"Content-Disposition": "attachment"}
        return self.serve(path, b"file", content_type="application/octet-stream", headers=disposition)

    def open(self, body: str = "", path: str = "/", *, host: str = "", query: str = "", **page: Any) -> "Visit":
        """Serve a page as `page` does, and open it. `query` is added to its URL: `?utm_source=x`, `#part`."""
        self.page(body, path, **page)
        self.go(path + query, host=host)
        return self

    def go(self, path: str, *, host: str = "") -> None:
        """Open a path that is served already, as if its address was typed."""
        self.browser.open(self.origin(host) + path)

    def leave(self) -> None:
        """Go to a blank page of another site: the page gets pagehide, and may be kept in the bfcache."""
        self.browser.open(f"http://elsewhere.localhost:{self.servers.pages_port}/blank")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """The page is hidden, then visible again: its window is minimised. The session stays on the page."""
        self.browser.minimise()
        self.until("document.visibilityState === 'hidden'")
        try:
            yield
        finally:
            self.browser.resize(WIDTH, HEIGHT)
        self.until("document.visibilityState === 'visible'")

    def advance(self, seconds: float) -> None:
        """Put the clock of the page forward, which has one (`clock=True`). Timeouts that come due run at their time."""
        self.browser.run("return window.advanceClock(arguments[0])", seconds * 1000)

    def needs(self, ability: str) -> None:
        """Skip the test in an engine that cannot do this under its driver (engines.py has the list)."""
        if ability not in self.engine.can:
            pytest.skip(f"{self.engine.name} cannot do this under its driver: {ability}")

    def until(self, condition: str) -> None:
        """Wait until an expression is true on the page."""
        ended = self.browser.run_async(
            "const done = arguments[0], until = performance.now() + 10000;"
            f"(function look() {{ if ({condition}) done(true);"
            "else if (performance.now() > until) done(false); else setTimeout(look, 10); })();"
        )
        assert ended, f"still not true on the page: {condition}"

    def settle(self) -> None:
        """Wait until the page has painted twice and is idle, and every request so far has its response.

        Then what a click or key causes at once has been sent. It does not cover timers.
        """
        self.browser.run_async(
            "const done = arguments[0], idle = window.requestIdleCallback || (run => setTimeout(run, 50));"
            "requestAnimationFrame(() => requestAnimationFrame(() => idle(() => setTimeout(done, 0))));"
        )
        self.answered()

    # What was sent

    def requests(self, method: str | None = None) -> list[Received]:
        """Every request to the collector so far, in order."""
        received = self.servers.recorder.received(self.site)
        return [each for each in received if method is None or each.method == method]

    def events(self, *types: str) -> list[Event]:
        """The events sent so far, in order, each time it was sent: all, or those of some types."""
        events = [each.event for each in self.requests() if each.is_event]
        return [each for each in events if not types or each["event_type"] in types]

    def types(self) -> list[str]:
        """The types of the events so far."""
        return [str(event["event_type"]) for event in self.events()]

    def wait_for(self, true: Callable[[list[Event]], bool], what: str, within_s: float = PATIENCE_S) -> list[Event]:
        """Wait until this is true of the events so far; returns them. `what` is the condition in words."""
        self._wait(lambda: true(self.events()), what, within_s)
        return self.events()

    def wait(self, kind: str, count: int = 1, within_s: float = PATIENCE_S) -> list[Event]:
        """Wait for so many events of a type; returns those that came so far."""
        self._wait(lambda: len(self.events(kind)) >= count, f"{count} x {kind}", within_s)
        return self.events(kind)

    def first(self, kind: str) -> Event:
        """The first event of a type, which is waited for."""
        return self.wait(kind)[0]

    def last(self, kind: str, count: int = 1) -> Event:
        """The last event of a type, once there are `count`."""
        return self.wait(kind, count)[-1]

    def _wait(self, true: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        if not self.servers.recorder.wait(true, within_s):
            sent = "\n".join(map(str, self.requests()))
            raise AssertionError(
                f"still not true after {within_s:g} s: {what}\nreceived:\n{sent}\nproblems on the page: {self.problems}"
            )

    def answered(self) -> None:
        """Wait until every request so far has its response."""
        self._wait(lambda: all(each.status is not None or each.faulty for each in self.requests()), "all are answered")

    def wait_for_request(self, true: Callable[[list[Received]], bool], what: str) -> list[Received]:
        """As `wait_for`, of all requests."""
        self._wait(lambda: true(self.requests()), what)
        return self.requests()

    def wait_for_problem(self) -> Problem:
        """Wait until something goes wrong on a page of the site; returns that."""
        self._wait(lambda: bool(self.problems), "a problem on the page")
        return self.problems[0]

    def wait_for_windows(self, count: int) -> list[str]:
        """Wait until there are so many other windows beside the present one; returns their handles, in no order."""
        here = self.browser.window

        def others() -> list[str]:
            return [window for window in self.browser.windows if window != here]

        wait_until(lambda: len(others()) >= count, f"{count} other windows", PATIENCE_S)
        return others()

    @property
    def refused(self) -> list[Received]:
        """Events that the collector answered with anything but 201."""
        return [
            each for each in self.requests() if each.is_event and not each.faulty and each.status not in (201, None)
        ]

    @property
    def preflights(self) -> list[Received]:
        return self.requests("OPTIONS")

    @property
    def problems(self) -> list[Problem]:
        """Uncaught errors, unhandled rejections and CSP violations on the site's pages."""
        return self.servers.problems[self.site]

    def allow(self, *kinds: str) -> None:
        """This test may cause `refused` events, `preflights` or `problems`."""
        assert self.KINDS >= set(kinds), kinds
        self.allowed |= set(kinds)

    def rows(self) -> list[dict[str, Any]]:
        """The site's rows in Parquet, once all events so far are published."""
        self.answered()
        self.collector.published()
        return self.collector.rows(self.site)

    # What goes wrong

    def fail(self, kind: str = "status", **fault: Any) -> None:
        """Events get a fault from now on: see `recorder.Fault`."""
        self.servers.recorder.fail(self.site, Fault(kind, **fault))

    def mend(self) -> None:
        """Events reach the collector again."""
        self.servers.recorder.mend(self.site)

    @contextmanager
    def offline(self) -> Iterator[None]:
        """The network is away. In Chromium the page is told so; elsewhere connections break, and it gets the events."""
        if "cdp" in self.engine.can:
            conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            self.browser.cdp("Network.enable")
            self.browser.cdp("Network.emulateNetworkConditions", offline=True, **conditions)
            try:
                yield
            finally:
                self.browser.cdp("Network.emulateNetworkConditions", offline=False, **conditions)
            return
        tell = "Object.defineProperty(navigator, 'onLine', {configurable: true, get: () => %s});"
        self.fail("broken")
        self.browser.run(tell % "false" + "window.dispatchEvent(new Event('offline'))")
        try:
            yield
        finally:
            self.mend()
        self.browser.run(tell % "true" + "window.dispatchEvent(new Event('online'))")

    # The end

    def finish(self) -> None:
        """Leave, and check that nothing went wrong that the test did not allow."""
        self.mend()
        self.leave()
        self.answered()
        self.check()

    def check(self) -> None:
        wrong = {"refused": self.refused, "preflights": self.preflights, "problems": self.problems}
        unexpected = {kind: found for kind, found in wrong.items() if found and kind not in self.allowed}
        assert not unexpected, json.dumps(unexpected, default=str, indent=1)
