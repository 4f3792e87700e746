"""The page of docs/sending-events.md, in a real browser."""

import asyncio
import re
from pathlib import Path

from tests.system.process import serving, wait_until
from tests.system.test_browser import PATIENCE_S, PageServer, browsing, find_browser, stored

SENDING = (Path(__file__).parents[2] / "docs" / "sending-events.md").read_text()


def test_page_of_the_docs_sends_a_pageview(tmp_path: Path) -> None:
    """From 127.0.0.1, because browsers have `crypto.randomUUID` only there and over HTTPS."""
    browser = find_browser()
    found = re.search(r"```html\n(.*?)```", SENDING, re.DOTALL)
    assert found is not None
    (tmp_path / "browser").mkdir()

    async def visit(url: str) -> None:
        pages = PageServer()
        pages.page = "<!doctype html><title>Shop</title>" + found[1].replace("https://collector.example", url)
        async with pages.listening() as port, browsing(browser, f"http://127.0.0.1:{port}/", tmp_path / "browser"):
            await asyncio.to_thread(wait_until, lambda: stored(collector, "example") == 1, "it is stored", PATIENCE_S)

    with serving(tmp_path, {"example": {"allow_localhost": True}}) as collector:
        asyncio.run(visit(collector.url))
        assert 0 == collector.stop()
    (row,) = collector.rows("example")
    assert ("pageview", "/", "Shop", None) == tuple(
        row[name] for name in ("event_type", "page_path", "page_title", "event_time_raw")
    )
    assert 36 == len(row["visitor_id"]) == len(row["session_id"])
