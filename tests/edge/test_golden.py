"""Golden responses: the exact bytes of every row of the table of responses, in tests/golden/responses.txt.

The file shows each request and its response as they cross the wire. To change it on purpose, rewrite it and read the
difference:

    UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/edge/test_golden.py && git diff tests/golden/responses.txt

Both paths must give the same bytes. Only the fast path writes the file; the standard path is then compared with it.
"""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import pytest

from collector.edge.refusal import MAX_HEAD_BYTES, MAX_HEAD_LINES
from collector.edge.script import current, pinned_name
from collector.events import Reason
from collector.sender_keys import fingerprint
from tests.edge.conftest import Serve
from tests.edge.faults import LOOPBACK
from tests.edge.wire import PATIENCE_S, chunk, head, request
from tests.support import Running, body

GOLDEN = Path(__file__).parents[1] / "golden" / "responses.txt"
UPDATE = os.environ.get("UPDATE_GOLDEN") == "1"

ORIGIN = b"Origin: https://shop.example"
LOCALHOST = b"Origin: http://localhost:3000"
CHUNKED = b"Transfer-Encoding: chunked"
KEY = b"Idempotency-Key: orders-2026-05-12"
UNSENT = b"Content-Length: 210"  # the body is not sent
END = b"\r\n\r\n"
FOLDED_FROM = 4  # this many equal lines in a row are shown as one
LONG_RUN = re.compile(r"(.)\1{999,}")  # of one character; shown as one

INTRODUCTION = """\
Every response of the collector, byte for byte. tests/edge/test_golden.py sends the requests and says how to rewrite
this file. `>` begins a line of the request, `<` one of the response. Lines end in CR LF, except the last of each; other
control characters are escaped. The value of `Date` is replaced.
"""


def batch(data: bytes, *headers: bytes) -> bytes:
    return request(data, ORIGIN, *headers, target="/public/demo/batch")


def fail(*_: object) -> NoReturn:
    raise RuntimeError("injected bug")


def drain_bucket(collector: Running, _: pytest.MonkeyPatch) -> None:
    collector.stages.decider.rules.buckets.take(LOOPBACK)


def fill_disk(collector: Running, _: pytest.MonkeyPatch) -> None:
    collector.stages.journal.blocked_reason = "disk space is low"


def break_code(collector: Running, _: pytest.MonkeyPatch) -> None:
    decider = collector.stages.decider
    decider.rules = replace(decider.rules, client_ip=fail)


@dataclass(frozen=True, slots=True)
class Row:
    """A request, and the conditions of its response. The file shows `when`."""

    when: str
    sent: bytes
    site: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    prepare: Callable[[Running, pytest.MonkeyPatch], None] = lambda collector, patch: None
    demo: dict[str, bytes] = field(default_factory=dict)
    before: bytes = b""  # another request, answered before this one
    hides: tuple[tuple[bytes, bytes], ...] = ()  # patterns of what differs by version, and what is shown instead


EVENT = request(body(), ORIGIN)
HEALTH = "/healthz"
BOT = b"User-Agent: Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


def pixel(*headers: bytes, query: str = "", site: str = "demo", method: str = "GET") -> bytes:
    return head(*headers, method=method, target=f"/public/{site}/p.gif{query}")


PINNED = f"/{pinned_name('t.js', current())}"
SCRIPT = (
    (PINNED.encode(), b"/t-(hash).js"),
    (rb'Etag: "[0-9a-f]{16}"', b'Etag: "(tag)"'),
    (rb"Content-Length: \d+", b"Content-Length: (length)"),
    (rb"(\r\n\r\n).+", rb"\1(content)"),
)

ROWS = {
    "201 stored": Row("The event is stored.", EVENT),
    "201 stored, slash at the end": Row(
        "One slash at the end of the path is accepted.",
        request(body(), ORIGIN, target="/public/demo/analytics/collect/"),
    ),
    "201 stored, short path": Row(
        "`/public/{siteId}/e` is the same in everything.", request(body(), ORIGIN, target="/public/demo/e")
    ),
    "201 batch": Row("A batch, here as NDJSON.", batch(body() + b"\n" + body())),
    "202 batch, in part": Row("Some events of a batch are not stored.", batch(body() + b"\n{}\n" + body())),
    "202 batch, repeated": Row(
        "A batch with this `Idempotency-Key` was answered before, and stored in part. This one is not read.",
        batch(body(), KEY),
        before=batch(body() + b"\n{}\n" + body(), KEY),
    ),
    "202 batch, not JSON": Row("A batch begins as a JSON array, but is not one.", batch(b"[{}")),
    "422 batch, strict": Row("The same in part, and the site is `strict`.", batch(b"{}\n" + body()), {"strict": True}),
    "413 batch": Row(
        "The batch has more than `server.max_batch_bytes`, here 100.",
        batch(body()),
        sections={"server": {"max_batch_bytes": 100}},
    ),
    "429 batch": Row(
        "The client cannot pay for the batch. It has `rate_limit.burst`, here 1.",
        batch(body() + b"\n" + body()),
        sections={"rate_limit": {"burst": 1}},
    ),
    "202 not JSON": Row("The body is not one JSON object.", request(b"{", ORIGIN)),
    "202 breaks the schema": Row("The event breaks the schema.", request(body(session_id=1), ORIGIN)),
    "202 tracking disabled": Row("The site has `tracking = false`.", EVENT, {"tracking": False}),
    "202 localhost": Row("The page is on localhost, and the site does not allow that.", request(body(), LOCALHOST)),
    "202 excluded address": Row('The site has `excluded_ips = ["127.0.0.1"]`.', EVENT, {"excluded_ips": ["127.0.0.1"]}),
    "202 excluded path": Row('The site has `excluded_paths = ["/pri*"]`.', EVENT, {"excluded_paths": ["/pri*"]}),
    "202 opted out": Row(
        "The site has `respect_gpc = true`.", request(body(), ORIGIN, b"Sec-GPC: 1"), {"respect_gpc": True}
    ),
    "202 bot": Row('The site has `bots = "drop"`.', request(body(), ORIGIN, BOT), {"bots": "drop"}),
    "401 wrong key": Row(
        "The site has `keys`, and this is none of them.",
        request(body(), ORIGIN, b"Authorization: Bearer wrong"),
        {"keys": [fingerprint("right")]},
    ),
    "403 origin not allowed": Row(
        'The site has `allowed_origins = ["https://www.example"]`.', EVENT, {"allowed_origins": ["https://www.example"]}
    ),
    "404 unknown site": Row("No site has this name.", request(body(), ORIGIN, site="nobody")),
    "404 not found": Row("The collector does not have this path.", request(body(), ORIGIN, target="/collect")),
    "405 method": Row("The method is neither POST nor OPTIONS.", request(body(), ORIGIN, method="PUT")),
    "408 body": Row(
        "The body does not arrive within `server.body_timeout_s`.",
        head(ORIGIN, UNSENT),
        sections={"server": {"body_timeout_s": 0.01}},
    ),
    "413 body too large": Row(
        "The body has more than `server.max_body_bytes`, here 200. The response does not wait for it.",
        head(ORIGIN, UNSENT),
        sections={"server": {"max_body_bytes": 200}},
    ),
    "415 encoding": Row("The body has another encoding than gzip.", request(b"", ORIGIN, b"Content-Encoding: br")),
    "422 strict site": Row(
        "The event breaks the schema, and the site has `strict = true`. Every error is named.",
        request(body(session_id=1, page_path=None), ORIGIN),
        {"strict": True},
    ),
    "429 rate limited": Row(
        "The client is over the rate limit, here one request a minute.",
        EVENT,
        sections={"rate_limit": {"requests_per_minute": 1, "burst": 1}},
        prepare=drain_bucket,
    ),
    "503 unavailable": Row("The disk or the journal is full, or fails.", EVENT, prepare=fill_disk),
    "500 internal": Row("The collector has a bug.", EVENT, prepare=break_code),
    "431 head of too many lines": Row(
        f"The head has more than {MAX_HEAD_LINES} lines.",
        request(body(), ORIGIN, *MAX_HEAD_LINES * [b"X-Same: line"]),
    ),
    "431 head of too many bytes": Row(
        f"The head has more than {MAX_HEAD_BYTES} bytes.",
        request(body(), ORIGIN, b"X-Long: " + MAX_HEAD_BYTES * b"x"),
    ),
    "400 unknown method": Row("HTTP does not know the method.", request(body(), ORIGIN, method="COLLECT")),
    "400 head breaks HTTP": Row("A header breaks RFC 9112.", request(body(), ORIGIN, b"X-Blank : before the colon")),
    "400 body breaks HTTP": Row(
        "The framing of the body breaks RFC 9112.", head(ORIGIN, CHUNKED) + chunk(b"{") + b"no chunk\r\n"
    ),
    "400 not HTTP": Row("The request line is not valid HTTP/1.0 or HTTP/1.1.", request(body(), ORIGIN, version="2.0")),
    "408 head": Row(
        "The head does not arrive within `server.body_timeout_s`.",
        head(ORIGIN).removesuffix(b"\r\n"),
        sections={"server": {"body_timeout_s": 0.01}},
    ),
    "204 preflight": Row(
        "A browser asks what it may send.",
        head(
            ORIGIN,
            b"Access-Control-Request-Method: POST",
            b"Access-Control-Request-Headers: content-type",
            method="OPTIONS",
        ),
    ),
    "204 preflight, short path": Row(
        "The same at the short path.",
        head(ORIGIN, b"Access-Control-Request-Method: POST", method="OPTIONS", target="/public/demo/e"),
    ),
    "200 pixel": Row(
        "A page or a mail shows the image, and its event is stored.",
        pixel(b"Referer: https://shop.example/sale", query="?utm_source=news"),
    ),
    "200 pixel, head": Row("A mail proxy asks for the head. Nothing is stored or counted.", pixel(method="HEAD")),
    "200 pixel, not stored": Row("The event of the image is not stored, for any reason.", pixel(site="nobody")),
    "200 script": Row(
        "A page loads the tracker. Its content, tag and length are those of this version.",
        head(b"Accept-Encoding: gzip, br", method="GET", target="/public/demo/t.js"),
        hides=SCRIPT,
    ),
    "200 script, pinned": Row(
        "One version of the tracker, for ever. The client takes no encoding.",
        head(method="GET", target=PINNED),
        hides=SCRIPT,
    ),
    "200 script, HEAD": Row("The same without a body.", head(method="HEAD", target=PINNED), hides=SCRIPT),
    "304 script": Row(
        "The browser has this version.",
        head(b"Accept-Encoding: br", b"If-None-Match: *", method="GET", target="/t.js"),
        hides=SCRIPT,
    ),
    "404 script of an unknown site": Row("No site has this name.", head(method="GET", target="/public/nobody/t.js")),
    "404 script of an unknown version": Row(
        "No release had this version.", head(method="GET", target="/t-0123456789ab.js")
    ),
    "405 script": Row("The script is only read.", head(method="OPTIONS", target="/t.js")),
    "200 demo": Row(
        "`tracker.demo_dir` names a folder with this page.",
        head(method="GET", target="/demo/"),
        demo={"index.html": b"<!doctype html>"},
    ),
    "304 demo": Row(
        "The browser has this page.",
        head(b"If-None-Match: *", method="GET", target="/demo/"),
        demo={"index.html": b"<!doctype html>"},
    ),
    "308 demo": Row(
        "The slash at the end is missing.", head(method="GET", target="/demo"), demo={"index.html": b"<!doctype html>"}
    ),
    "404 demo": Row("Without the setting there is no demo.", head(method="GET", target="/demo/")),
    "200 health": Row("A load balancer asks; events are accepted.", head(method="GET", target=HEALTH)),
    "200 health, HEAD": Row("The same without a body.", head(method="HEAD", target=HEALTH)),
    "503 health": Row(
        "A load balancer asks; no event is accepted.", head(method="GET", target=HEALTH), prepare=fill_disk
    ),
    "503 health, HEAD": Row("The same without a body.", head(method="HEAD", target=HEALTH), prepare=fill_disk),
}


def sections() -> dict[str, str]:
    """The texts of the golden file, by row name."""
    titles_and_texts = re.split(r"^=== (.*) ===\n", GOLDEN.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(titles_and_texts[::2], titles_and_texts[1::2], strict=True))


def rewrite(name: str, text: str) -> None:
    """Write the text of this row into the file, in the order of ROWS."""
    texts = (sections() if GOLDEN.exists() else {}) | {name: text}
    rows = "".join(f"=== {row} ===\n{texts[row]}" for row in ROWS if row in texts)
    GOLDEN.write_text(f"{INTRODUCTION}\n{rows}")


def shown(data: bytes, mark: str) -> str:
    """Show bytes as text, with `mark` before each line. Repeated lines, and long runs of a character, are folded."""
    lines = [line.decode("latin-1").encode("unicode_escape").decode() for line in data.split(b"\r\n")]
    lines = [LONG_RUN.sub(lambda run: f"{run[1]}   ({len(run[0])} times)", line) for line in lines]
    text = ""
    for line, equal in groupby(lines):
        count = len(list(equal))
        folded = [f"{line}   ({count} times)"] if count >= FOLDED_FROM else count * [line]
        text += "".join(f"{mark} {each}\n" if each else f"{mark}\n" for each in folded)
    return text


async def respond(collector: Running, sent: bytes) -> bytes:
    """Send a request, and return everything that comes back, with a fixed date."""
    reader, writer = await asyncio.open_connection(collector.host, collector.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            response = await reader.readuntil(END)
            length = re.search(rb"\r\nContent-Length: (\d+)\r\n", response)
            if length is not None and not sent.startswith(b"HEAD "):
                response += await reader.readexactly(int(length[1]))
            writer.write_eof()
            response += await reader.read()  # must be nothing, or the golden bytes show it
    finally:
        writer.close()
    return re.sub(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", b"\r\nDate: (now)\r\n", response)


@pytest.mark.parametrize("name", ROWS)
async def test_response_is_the_golden_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, http_path: str, name: str
) -> None:
    row = ROWS[name]
    for file, content in row.demo.items():
        (tmp_path / file).write_bytes(content)
    tracker = {"demo_dir": str(tmp_path)} if row.demo else {}
    collector = await serve({"demo": row.site}, tracker=tracker, **row.sections)
    row.prepare(collector, monkeypatch)
    if row.before:
        await respond(collector, row.before)
    sent, response = row.sent, await respond(collector, row.sent)
    for pattern, instead in row.hides:
        sent, response = (re.sub(pattern, instead, data, flags=re.DOTALL) for data in (sent, response))
    text = f"{row.when}\n\n{shown(sent, '>')}\n{shown(response, '<')}\n"
    if UPDATE and http_path == "fast":
        rewrite(name, text)
    assert sections()[name] == text


def test_golden_file_has_every_row_and_no_other() -> None:
    assert [*ROWS] == [*sections()]
    assert GOLDEN.read_text().startswith(INTRODUCTION)


def test_every_reason_is_among_the_golden_responses() -> None:
    """`aborted` has no response: the client has left."""
    seen = set(re.findall(r"^< Collect-Reason: (\w+)$", GOLDEN.read_text(), re.MULTILINE))
    assert {reason.value for reason in Reason} - {Reason.ABORTED.value} == seen
