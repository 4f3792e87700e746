"""Pixels of the real collector: in a browser without JavaScript, and as the proxies of mail providers fetch them."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.edge.responses import PIXEL
from tests.system.process import Process, serving, wait_until
from tests.system.test_browser import PATIENCE_S, PageServer, browsing, find_browser, stored

DOCS = (Path(__file__).parents[2] / "docs" / "pixels.md").read_text()
IN_PAGE, IN_MAIL = re.findall(r"```html\n(.*?)```", DOCS, re.DOTALL)
WITHOUT_JAVASCRIPT = "--blink-settings=scriptEnabled=false"
ARRIVED = '<script>fetch("/arrived", {method: "POST"})</script>'


def page_with(image: str, collector: Process) -> str:
    address = f"http://collect.example:{collector.url.rpartition(':')[2]}"
    return "<!doctype html><title>Shop</title>" + image.replace("https://collector.example", address)


async def show(page: str, folder: Path, seen: Callable[[PageServer], Awaitable[object]], *flags: str) -> None:
    """Show the page in a browser, until `seen` returns. The page has another origin than the collector."""
    browser = find_browser()
    pages = PageServer()
    pages.page = page
    async with pages.listening() as port:
        url = f"http://shop.example:{port}/pages/may%20sale?utm_source=x#top"
        async with browsing(browser, url, folder, *flags), asyncio.timeout(PATIENCE_S):
            await seen(pages)


def test_page_without_javascript_is_counted_by_its_path(tmp_path: Path) -> None:
    """With JavaScript, the browser does not load the image."""
    with serving(tmp_path, {"example": {}}) as collector:
        page = page_with(IN_PAGE, collector) + ARRIVED

        async def counted(_: PageServer) -> None:
            await asyncio.to_thread(wait_until, lambda: stored(collector, "example") == 1, "it is stored", PATIENCE_S)

        for folder in ("with", "without"):
            (tmp_path / folder).mkdir()
        asyncio.run(show(page, tmp_path / "with", lambda pages: pages.arrived.wait()))
        assert 0 == stored(collector, "example")
        asyncio.run(show(page, tmp_path / "without", counted, WITHOUT_JAVASCRIPT))
        assert 0 == collector.stop()
    (row,) = collector.rows("example")
    assert ("pageview", "/pages/may%20sale", "fingerprint") == tuple(
        row[name] for name in ("event_type", "page_path", "visitor_id_source")
    )
    assert "Chrome/" in row["user_agent"]
    assert row["visitor_id"] == row["session_id"]


def test_mail_in_a_browser_is_counted_without_a_referer(tmp_path: Path) -> None:
    with serving(tmp_path, {"example": {"allowed_origins": ["https://www.example"]}}) as collector:
        page = '<meta name="referrer" content="no-referrer">' + page_with(IN_MAIL, collector)

        async def counted(_: PageServer) -> None:
            await asyncio.to_thread(wait_until, lambda: stored(collector, "example") == 1, "it is stored", PATIENCE_S)

        (tmp_path / "mail").mkdir()
        asyncio.run(show(page, tmp_path / "mail", counted, WITHOUT_JAVASCRIPT))
        assert 0 == collector.stop()
    (row,) = collector.rows("example")
    expected = {"page_path": "/mail/may", "utm_source": "newsletter", "utm_campaign": "may"}
    assert expected == {name: row[name] for name in expected}


def fetch(process: Process, *lines: str) -> tuple[int, str | None, bytes]:
    """One request on a connection of its own."""
    address = urlsplit(process.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode())
        response = HTTPResponse(connection, method=lines[0].partition(" ")[0])
        response.begin()
        return response.status, response.headers["Content-Type"], response.read()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "lines",
    [
        ("User-Agent: Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",),
        ("User-Agent: YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "Connection: close"),
        ("Accept: image/*", "Accept-Encoding: gzip, br"),
        (),
    ],
    ids=["Google", "Yahoo", "a mail program", "no header"],
)
def test_image_that_a_mail_proxy_fetches_counts_once(tmp_path: Path, lines: tuple[str, ...], workers: int) -> None:
    """HEAD first, then GET, without Referer and cookies."""
    target = "/public/demo/p.gif?page_path=/mail/may&utm_campaign=may"
    with serving(tmp_path, server={"port": 0, "workers": workers}) as process:
        for version in ("1.1", "1.0"):
            head = (f" {target} HTTP/{version}", "Host: collector.example", *lines)
            assert (200, "image/gif", b"") == fetch(process, "HEAD" + head[0], *head[1:])
            assert (200, "image/gif", PIXEL) == fetch(process, "GET" + head[0], *head[1:])
        assert 2 == process.metrics().value("collector_received_events_total", site="demo")
        assert 0 == process.stop()
    rows = process.rows()
    assert 2 * [("/mail/may", "may")] == [(row["page_path"], row["utm_campaign"]) for row in rows]
    assert 1 == len({row["visitor_id"] for row in rows}), "all workers know one visitor"


def test_visitor_is_the_same_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        with serving(tmp_path) as process:
            assert 200 == fetch(process, "GET /public/demo/p.gif HTTP/1.1", "Host: x", "User-Agent: Mail/1")[0]
            assert 0 == process.stop()
    assert 1 == len({row["visitor_id"] for row in process.rows()})
    assert 2 == len(process.rows())
