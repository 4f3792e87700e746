"""Heads on the fast path: aiohttp's parser reads each of them the same way."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given
from hypothesis import strategies as st

from bench.requests import requests
from collector.edge import fast_path
from collector.edge.fast_path import END, LONGEST_HEAD_BYTES, LONGEST_KNOWN_LINE_BYTES, MOST_LINES, FastPath
from collector.edge.request import ONCE
from collector.edge.routes import Route, Routes
from tests.edge.wire import head, request

ROUTES = Routes(["e"], ["t.js"])

Read = tuple[str, Route, list[tuple[str, str]], int, bool]


def read(data: bytes, reader: FastPath | None = None) -> Read | None:
    """Method, route, headers in ONCE by name, body length, and whether the connection closes after the response."""
    found = (reader or FastPath(ROUTES)).read(data, data.index(END), None)
    if found is None:
        return None
    return found.method, found.route, sorted(found.headers.items()), found.body_bytes or 0, found.close


def parsed(data: bytes) -> Read | None:
    """The same from aiohttp's parser. None if it refuses, or finds anything but this one request."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20, auto_decompress=False)
        messages, upgraded, tail = parser.feed_data(data)
    except HttpProcessingError:
        return None
    finally:
        loop.close()
    if len(messages) != 1 or upgraded or tail:
        return None
    message, payload = messages[0]
    if message.chunked or message.upgrade or not payload.is_eof():
        return None
    fields = sorted((name.lower(), value) for name, value in message.headers.items() if name.lower() in ONCE)
    length = int(message.headers.get("Content-Length", 0))
    return message.method, ROUTES.find(message.method, message.url.raw_path), fields, length, message.should_close


# Bytes with a meaning in a head, and some without.
PIECES = st.one_of(
    st.sampled_from(
        [b":", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\x7f", b"\xff", b",", b";", b'"', b"(", "é".encode()]
    ),
    st.sampled_from(
        [b"Content-Length", b"Host", b"Transfer-Encoding", b"chunked", b"Connection", b"Upgrade", b"close"]
    ),
    st.binary(min_size=1, max_size=3),
    st.text("abcXYZ019-_", min_size=1, max_size=5).map(str.encode),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            b"Origin",
            b"Referer",
            b"User-Agent",
            b"X-Forwarded-For",
            b"Cookie",
            b"Connection",
            b"Host",
            b"TE",
            b"Content-Type",
            b"Content-Encoding",
            b"Transfer-Encoding",
            b"Expect",
            b"Upgrade",
            b"Trailer",
            b"Sec-WebSocket-Key1",
            b"Content-Length",
            b"Keep-Alive",
            b"Proxy-Connection",
            b"HTTP2-Settings",
        ]
    ),
    st.lists(PIECES, max_size=3).map(b"".join),
)
LINES = st.one_of(
    st.tuples(NAMES, st.sampled_from([b": ", b":", b" : ", b":  "]), st.lists(PIECES, max_size=4).map(b"".join)).map(
        b"".join
    ),
    st.lists(PIECES, max_size=5).map(b"".join),
    st.sampled_from(
        [
            b"Content-Length: 0",
            b"content-length: 00",
            b"Connection: Keep-Alive",
            b"Connection: close",
            b"Proxy-Connection: close",
            b"X: y",
        ]
    ),
)
FIRST = st.one_of(
    st.just(b"POST /public/demo/analytics/collect HTTP/1.1"),
    st.sampled_from(
        [
            b"POST /public/a-_9/analytics/collect HTTP/1.1",
            b"POST  /public/demo/analytics/collect HTTP/1.1",
            b"POST /public//analytics/collect HTTP/1.1",
            b"POST /public/demo/analytics/collect HTTP/1.0",
            b"post /public/demo/analytics/collect HTTP/1.1",
            b"POST /public/d%65/analytics/collect HTTP/1.1",
            b"POST /public/a-_9/analytics/collect/ HTTP/1.1",
            b"POST /public/a-_9/analytics/collect// HTTP/1.1",
            b"GET /healthz HTTP/1.1",
            b"OPTIONS /public/demo/analytics/collect?a=b&c HTTP/1.1",
            b"HEAD /?/public/demo/analytics/collect HTTP/1.1",
            b"PATCH //x/../%41%zz?%zz HTTP/1.1",
            b"POST /a#b HTTP/1.1",
            b"POST /?a#b HTTP/1.1",
            b"POST http://a/public/demo/analytics/collect HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"TRACE / HTTP/1.1",
            b"DELETE /\\[]{}|^ HTTP/1.1",
        ]
    ),
)


@given(FIRST, st.lists(LINES, max_size=6), st.booleans())
def test_aiohttp_reads_the_same_head(first: bytes, lines: list[bytes], hosted: bool) -> None:
    """A generated line may be empty or contain a line break; the head then ends there."""
    data = b"\r\n".join((first, *([b"Host: a"] if hosted else []), *lines, b"Content-Length: 0", b"", b""))
    data = data[: data.index(END) + len(END)]
    found = read(data)
    if found is not None and found[3] == 0:
        assert parsed(data) == found


@given(st.lists(LINES, max_size=4), st.lists(LINES, max_size=4))
def test_known_lines_change_nothing(before: list[bytes], lines: list[bytes]) -> None:
    """A reader that knows some of the lines reads a head as a new reader does."""
    reader = FastPath(ROUTES)
    for some in (before, lines, [*before, *lines]):
        data = head(b"Content-Length: 0", *some)
        data = data[: data.index(END) + len(END)]
        assert read(data) == read(data, reader) == read(data, reader)


def test_heads_of_browsers_take_the_fast_path() -> None:
    reader = FastPath(ROUTES)
    for sent in requests(200):
        assert parsed(sent) == read(sent, reader)
        assert read(sent) is not None


@pytest.mark.parametrize(
    "lines",
    [
        (b"Transfer-Encoding: chunked",),
        (b"Expect: 100-continue",),
        (b"Upgrade: h2c",),
        (b"Connection: upgrade",),
        (b"Proxy-Connection: close",),
        (b"Content-Length: 0",),
        (b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.2"),
        (b"Origin: https://a.example", b"origin: https://b.example"),
        (b"X: a", b" folded"),
        (b"X:tight",),
        (b"X: tab\t",),
        (b"X: \xc3\xa9",),
        (b"X: ",),
        (b"X : y",),
        (b"X: a\nY: b",),
        (b"X: a\rY: b",),
        (b"Host: bad host",),
    ],
)
def test_unusual_heads_are_left_to_aiohttp(lines: tuple[bytes, ...]) -> None:
    assert read(head(b"Content-Length: 0")) is not None
    assert read(head(b"Content-Length: 0", *lines)) is None


@pytest.mark.parametrize("length", [b"", b"+1", b"-1", b"0x1", b"1 1", b"1,1", b"123456789", "\u0661".encode(), b"1.0"])
def test_length_must_be_plain_digits(length: bytes) -> None:
    assert read(head(b"Content-Length: " + length)) is None


@pytest.mark.parametrize(
    ("host", "is_read"),
    [(b"a.example:80", True), (b"[::1]:80", True), (b"a b", False), (b"[1:2]", False), (b"a/b", False), (b"", False)],
)
def test_host_must_be_valid(host: bytes, is_read: bool) -> None:
    reader = FastPath(ROUTES)
    for _ in range(2):
        found = read(head(b"Content-Length: 0").replace(b"collector.example", host), reader)
        assert is_read == (found is not None)


def test_head_without_host_is_left_to_aiohttp() -> None:
    assert read(request(b"").replace(b"Host: collector.example\r\n", b"")) is None


def test_aiohttp_accepts_the_longest_heads_of_the_fast_path() -> None:
    """Longer ones, in bytes or lines, are left to aiohttp."""
    fill = b"X: " + b"x" * (LONGEST_HEAD_BYTES - len(head(b"Content-Length: 0", b"X: ")) + len(END) - 2 + 2)
    longest = head(b"Content-Length: 0", fill)
    assert LONGEST_HEAD_BYTES == longest.index(END)
    assert parsed(longest) == read(longest) is not None
    assert read(head(b"Content-Length: 0", fill + b"x")) is None
    lines = [b"X%d: y" % number for number in range(MOST_LINES - 2)]
    assert read(head(b"Content-Length: 0", *lines[:-1])) == parsed(head(b"Content-Length: 0", *lines[:-1])) is not None
    assert read(head(b"Content-Length: 0", *lines)) is None


def test_remembered_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and length. Lines that differ for every request are not remembered."""
    monkeypatch.setattr(fast_path, "MAX_KNOWN_LINES", 20)
    monkeypatch.setattr(fast_path, "MAX_KNOWN_REQUEST_LINES", 20)
    reader = FastPath(ROUTES)
    for number in range(100):
        usual, own = b"X: %d" % number, b"Cookie: %d" % number
        longest = b"Y: %03d" % number + b"y" * (LONGEST_KNOWN_LINE_BYTES - 6)
        for line in (usual, own, longest, longest + b"y"):
            assert read(head(b"Content-Length: 0", line), reader) is not None
        assert [True, False, True, False] == [line in reader._lines for line in (usual, own, longest, longest + b"y")]
        assert len(reader._lines) <= 40
        first = b"POST /public/%d/analytics/collect HTTP/1.1" % number
        endless = b"POST /%d?" % number + 200 * b"x" + b" HTTP/1.1"
        for line in (first, endless):
            assert read(head(b"Content-Length: 0", target=line.split()[1].decode()), reader) is not None
        assert [True, False] == [line in reader._known for line in (first, endless)]
        assert len(reader._known) <= 40
