"""The pages on which the tracker is measured, each with and without its script, and the server of both.

The server takes the collector's place: it serves the script, keeps events and answers 201.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "www.shop.example"  # the browser resolves it to this machine; cookies are for shop.example
SCRIPT_PATH = "/public/shop/t.js"
EVENTS_PATH = "/public/shop/e"
ROWS = 3_000
FIELDS = 3_000

CONTROLS = """<p><button id="buy" type="button">Buy</button> <button id="dead" type="button">Nothing</button>
<input id="search" name="search" aria-label="Search"> <a id="route" href="/next">Next</a></p>
<p id="count" role="status">0</p>"""
# What a page does by itself: an answer to each click and key, and a route without a load.
APP = """
let count = 0;
const answer = () => { document.querySelector("#count").textContent = ++count; };
document.querySelector("#buy").addEventListener("click", answer);
document.querySelector("#search").addEventListener("input", answer);
document.querySelector("#route").addEventListener("click", event => {
  event.preventDefault();
  history.pushState({}, "", `/next/${++count}`);
  document.title = `Next ${count}`;
});
document.querySelector("form")?.addEventListener("submit", event => event.preventDefault());
document.querySelector("table")?.addEventListener("click", answer);
"""


def body_of(page: str) -> str:
    """The content of a page: `small`, `large` with a table of ROWS rows, `form` with FIELDS fields."""
    if page == "large":
        rows = "".join(
            f"<tr><td>{n}</td><td>Article {n}</td><td><button type=button>Add</button></td></tr>" for n in range(ROWS)
        )
        return f"{CONTROLS}<table><tbody>{rows}</tbody></table>"
    if page == "form":
        fields = "".join(f'<label>Field {n} <input name="field{n}"></label> ' for n in range(FIELDS))
        return f'{CONTROLS}<form id="order"><button id="send">Send</button>{fields}</form>'
    return CONTROLS + "<p>A paragraph of a page that is longer than the window.</p>" * 60


def document_of(page: str, *, tracked: bool) -> bytes:
    script = f'<script defer src="{SCRIPT_PATH}" data-automation></script>' if tracked else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{page}</title>'
        f'<link rel="icon" href="data:,">{script}</head><body>{body_of(page)}<script>{APP}</script></body></html>'
    ).encode()


class Pages:
    """A running server, and the types of the events that it got."""

    def __init__(self, script: bytes) -> None:
        self.script = script
        self.port = 0
        self.types: list[str] = []
        self.changed = threading.Condition()

    def url(self, page: str, *, tracked: bool) -> str:
        return f"http://{HOST}:{self.port}/{page}{'' if tracked else '?without'}"

    def wait_for(self, event_type: str, within_s: float) -> bool:
        """Wait until an event of the type has arrived. Returns whether it has."""
        with self.changed:
            return self.changed.wait_for(lambda: event_type in self.types, within_s)

    def take_types(self) -> list[str]:
        """Return the types since the last call."""
        with self.changed:
            types, self.types = self.types, []
        return types

    def add(self, event_type: str) -> None:
        with self.changed:
            self.types.append(event_type)
            self.changed.notify_all()


@contextmanager
def serving(script: Path) -> Iterator[Pages]:
    pages = Pages(script.read_bytes())
    documents = {
        (page, tracked): document_of(page, tracked=tracked)
        for page in ("small", "large", "form")
        for tracked in (True, False)
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == SCRIPT_PATH:
                self.answer(200, pages.script, "text/javascript; charset=utf-8")
            else:
                document = documents.get((path[1:], not query), b"<!doctype html><title>Blank</title>")
                self.answer(200, document, "text/html; charset=utf-8")

        def do_POST(self) -> None:
            event: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(201 if self.path == EVENTS_PATH else 404, b"", "text/plain")
            pages.add(event["event_type"])

        def answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *of: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    pages.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield pages
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
