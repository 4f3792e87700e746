"""A real browser as the client: what a page of another origin can send, and what it can read of the responses.

There is no driver. The test serves a page under a made-up host name. The page does its work and reports the results to
its own server. Chromium resolves `*.example` to 127.0.0.1 and resolves no other name.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from collector.daemon.resources import listen
from tests.system.process import Process, serving, wait_until

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 40.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

# The page. COLLECT and LIMITED stand for `http://collect.example:<port>/public/`.
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Shop</title>
<script>
const collect = site => COLLECT + site + "/analytics/collect";
const limited = LIMITED + "demo/analytics/collect";
const sent = {};

function event(id, more) {
  sent[id] = new Date().toISOString();
  return JSON.stringify({
    session_id: id, visitor_id: "visitor-0001", event_type: "pageview", page_path: location.pathname,
    page_title: "Schuhe 😀", event_time: sent[id], viewport_width: innerWidth, is_entry: true, ...more});
}

async function ask(url, body, options) {
  try {
    const response = await fetch(url, {method: "POST", body, ...options});
    const {message, errors} = await response.json();
    return {status: response.status, message, codes: errors?.map(error => error.code),
            reason: response.headers.get("Collect-Reason"), retryAfter: response.headers.get("Retry-After")};
  } catch (error) {
    return {failed: String(error)};
  }
}

async function run() {
  const json = {headers: {"Content-Type": "application/json"}};
  const seen = {
    "beacon": navigator.sendBeacon(collect("demo"), event("beacon")),
    "beacon-json": navigator.sendBeacon(collect("demo"), new Blob([event("beacon-json")], {type: "application/json"})),
    "plain": await ask(collect("demo"), event("plain")),
    "keepalive": await ask(collect("demo"), event("keepalive"), {...json, keepalive: true}),
    "credentials": await ask(collect("demo"), event("credentials"), {...json, credentials: "include"}),
    "cut-title": await ask(collect("demo"), event("cut-title", {page_title: "Schuhe 😀".slice(0, 8)}), json),
    "listed-origin": await ask(collect("listed"), event("listed-origin"), json),
    "invalid": await ask(collect("demo"), event("invalid", {visitor_id: "short"}), json),
    "excluded-path": await ask(collect("demo"), event("excluded-path", {page_path: "/admin/users"}), json),
    "tracking-off": await ask(collect("off"), event("tracking-off"), json),
    "strict": await ask(collect("strict"), event("strict", {event_type: "nothing"}), json),
    "unlisted-origin": await ask(collect("elsewhere"), event("unlisted-origin"), json),
    "unknown-site": await ask(collect("nosuch"), event("unknown-site"), json),
    "first-of-two": await ask(limited, event("first-of-two"), json),
    "second-of-two": await ask(limited, event("second-of-two"), json),
  };
  addEventListener("pagehide", () => navigator.sendBeacon(collect("demo"), event("pagehide")));
  await fetch("/report", {method: "POST", body: JSON.stringify({seen, sent})});
  location.href = "/next";
}
run();
</script>
"""
NEXT_PAGE = '<!doctype html><title>Next</title><script>fetch("/arrived", {method: "POST"})</script>'


def answer(status: int, message: str, reason: str | None = None, code: str | None = None) -> dict[str, Any]:
    """What `ask` reports. Without codes if the body has no errors."""
    codes = {"codes": [code]} if code else {}
    return {"status": status, "message": message, "reason": reason, "retryAfter": None} | codes


STORED = answer(201, "Event received")
EXPECTED: dict[str, Any] = {
    "beacon": True,
    "beacon-json": True,
    "plain": STORED,
    "keepalive": STORED,
    "credentials": STORED,
    "cut-title": STORED,
    "listed-origin": STORED,
    "invalid": answer(202, "Validation error: visitor_id must have at least 8 characters", "invalid"),
    "excluded-path": answer(202, "Page path is excluded", "excluded_path"),
    "tracking-off": answer(202, "Tracking is disabled for this site", "tracking_disabled"),
    "unlisted-origin": answer(403, "Origin not allowed", "origin_not_allowed", "FORBIDDEN"),
    "unknown-site": answer(404, "Site not found", "unknown_site", "NOT_FOUND"),
    "first-of-two": STORED,
}
ROWS = {"beacon", "beacon-json", "plain", "keepalive", "credentials", "cut-title", "pagehide"}


@dataclass(frozen=True, slots=True)
class Visit:
    """What the page saw and sent (event id to time), what was counted, and the two collectors after their stop."""

    seen: dict[str, Any]
    sent: dict[str, str]
    received: dict[str, int]
    collector: Process
    limited: Process
    exit_codes: tuple[int, int]


class PageServer:
    """Serves the page and receives its report."""

    def __init__(self) -> None:
        self.page = ""
        self.report: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Event()

    async def serve_page(self, request: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type="text/html")

    async def serve_next(self, request: web.Request) -> web.Response:
        return web.Response(text=NEXT_PAGE, content_type="text/html")

    async def take_report(self, request: web.Request) -> web.Response:
        self.report.set_result(await request.json())
        return web.Response()

    async def take_arrival(self, request: web.Request) -> web.Response:
        self.arrived.set()
        return web.Response()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_get("/", self.serve_page)
        app.router.add_get("/next", self.serve_next)
        app.router.add_get("/pages/{name}", self.serve_page)
        app.router.add_post("/report", self.take_report)
        app.router.add_post("/arrived", self.take_arrival)
        runner = web.AppRunner(app)
        await runner.setup()
        bound = listen("127.0.0.1", 0, "page")
        await web.SockSite(runner, bound).start()
        try:
            yield bound.getsockname()[1]
        finally:
            await runner.cleanup()


def find_browser() -> str:
    """The path of a browser. Without one the tests are skipped, but fail in CI, which installs it."""
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return path
    why = f"no browser: none of {', '.join(BROWSERS)} is on the PATH (.ci/run installs chromium)"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)  # a developer needs no browser; CI installs one


@asynccontextmanager
async def browsing(browser: str, url: str, home: Path, *flags: str) -> AsyncIterator[None]:
    """A headless browser that shows the page, with its own profile and in its own session."""
    with open(home / "log", "wb") as log:  # noqa: ASYNC230 - opened once, before anything is served
        process = await asyncio.create_subprocess_exec(
            browser,
            *FLAGS,
            *flags,
            f"--user-data-dir={home / 'profile'}",
            url,
            env=os.environ | {"HOME": str(home)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the rest of its session
        await process.wait()


def address_of(process: Process) -> str:
    """The URL of the collector under its made-up name."""
    return f"http://collect.example:{process.url.rpartition(':')[2]}/public/"


async def visit_page(browser: str, folder: Path) -> Visit:
    pages = PageServer()
    async with pages.listening() as port:
        origin = f"http://shop.example:{port}"
        sites: dict[str, dict[str, Any]] = {
            "demo": {"excluded_paths": ["/admin/*"]},
            "listed": {"allowed_origins": [origin]},
            "elsewhere": {"allowed_origins": ["http://other.example"]},
            "off": {"tracking": False},
            "strict": {"strict": True},
        }
        with (
            serving(folder / "main", sites) as collector,
            serving(folder / "limited", rate_limit={"requests_per_minute": 1, "burst": 1}) as limited,
        ):
            urls = {"COLLECT": address_of(collector), "LIMITED": address_of(limited)}
            pages.page = PAGE
            for name, url in urls.items():
                pages.page = pages.page.replace(name, json.dumps(url))
            async with browsing(browser, f"{origin}/", folder / "browser"), asyncio.timeout(PATIENCE_S):
                report = await pages.report
                await pages.arrived.wait()
                with contextlib.suppress(AssertionError):  # the tests below say which event is missing
                    await asyncio.to_thread(wait_until, lambda: stored(collector) >= len(ROWS), "all is stored", 5.0)
            received = collector.metrics().by("site", "collector_received_events_total")
            exit_codes = collector.stop(), limited.stop()
    return Visit(report["seen"], report["sent"], received, collector, limited, exit_codes)


def stored(collector: Process, site: str = "demo") -> int:
    return int(collector.metrics().value("collector_stored_events_total", site=site))


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """One visit, shared by all tests."""
    browser = find_browser()
    folder = tmp_path_factory.mktemp("visit")
    for name in ("main", "limited", "browser"):
        (folder / name).mkdir()
    return asyncio.run(visit_page(browser, folder))


@pytest.mark.parametrize("kind", EXPECTED)
def test_page_of_another_origin_reads_the_response(visit: Visit, kind: str) -> None:
    assert EXPECTED[kind] == visit.seen[kind]


def test_page_can_read_every_error_of_a_strict_site(visit: Visit) -> None:
    seen = visit.seen["strict"]
    assert (422, "invalid", ["VALIDATION_ERROR"]) == (seen["status"], seen["reason"], seen["codes"])
    assert seen["message"].startswith("Validation error: event_type must be one of ")


def test_page_over_the_limit_reads_when_to_retry(visit: Visit) -> None:
    seen = visit.seen["second-of-two"]
    assert (429, "rate_limited", ["RATE_LIMITED"]) == (seen["status"], seen["reason"], seen["codes"])
    assert 1 <= int(seen["retryAfter"]) <= 60
    assert ["first-of-two"] == [row["session_id"] for row in visit.limited.rows()]


def test_every_way_to_send_makes_one_row(visit: Visit) -> None:
    """Pages cannot read the responses to beacons. The last beacon is sent while its page closes."""
    assert sorted(ROWS) == sorted(row["session_id"] for row in visit.collector.rows())
    assert (0, 0) == visit.exit_codes
    assert ["listed-origin"] == [row["session_id"] for row in visit.collector.rows("listed")]


def test_row_holds_what_the_browser_sent(visit: Visit) -> None:
    for row in visit.collector.rows():
        assert "Chrome/" in row["user_agent"]
        assert (True, None, None) == (row["is_entry"], row["client_ip"], row["event_time_raw"])
        assert row["viewport_width"] > 0
        if row["session_id"] in visit.sent:  # not in the report: events sent while the page closed
            assert datetime.fromisoformat(visit.sent[row["session_id"]]) == row["event_time"]


def test_title_cut_within_an_emoji_is_stored_with_a_replacement(visit: Visit) -> None:
    titles = {row["session_id"]: row["page_title"] for row in visit.collector.rows()}
    assert dict.fromkeys(ROWS, "Schuhe 😀") | {"cut-title": "Schuhe \N{REPLACEMENT CHARACTER}"} == titles


def test_preflights_are_not_counted(visit: Visit) -> None:
    """For each site, the collector received exactly what the page sent. It logged none of that."""
    assert {"demo": len(ROWS) + 2, "listed": 1, "off": 1, "strict": 1, "elsewhere": 1, "(unknown)": 1} == visit.received
    assert [] == [line for line in visit.collector.log().splitlines() if " INFO " not in line]


def test_without_a_browser_ci_fails_and_others_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        find_browser()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        find_browser()
