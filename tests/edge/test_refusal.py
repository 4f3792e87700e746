"""Heads: which are refused, with what response and counts, and which are accepted, however long a line is."""

import logging

import pytest

from collector.edge.framing import MAX_FRAME_BYTES
from collector.edge.refusal import MAX_HEAD_BYTES, MAX_HEAD_LINES, is_host, read_refusal
from collector.edge.routes import Routes
from tests.edge.conftest import Arrivals, Connect, Serve
from tests.edge.wire import Answer, Wire, chunk, head, request, tally, until
from tests.support import Running, body

ORIGIN = b"Origin: https://shop.example"
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = chunk(body()) + chunk(b"")
LENGTH = b"Content-Length: %d" % len(body())
HOST = b"Host: collector.example"
HIDDEN = request(body(), site="hidden")
ROUTES = Routes(["e"])
PATH = "/public/demo/analytics/collect"


def hosted(*lines: bytes, version: str = "1.1") -> bytes:
    """A complete request with these lines instead of its Host."""
    return request(body(), ORIGIN, version=version).replace(HOST + b"\r\n", b"".join(line + b"\r\n" for line in lines))


def bad_requests(collector: Running) -> float | None:
    return collector.stages.metrics.registry.get_sample_value("collector_bad_requests_total")


# Each names the site `demo` and an origin, and violates RFC 9112 or RFC 9110.
BROKEN: dict[str, bytes] = {
    "host with a blank": hosted(b"Host: bad host"),
    "host with a tab": hosted(b"Host: bad\thost"),
    "host with a path": hosted(b"Host: a/b"),
    "host with a user": hosted(b"Host: a@b"),
    "host with a query": hosted(b"Host: a?b"),
    "host with a scheme": hosted(b"Host: http://a"),
    "host in quotes": hosted(b'Host: "a"'),
    "host not ASCII": hosted(b"Host: b\xc3\xbcro.example"),
    "host with a broken escape": hosted(b"Host: a%zz"),
    "host with a port of letters": hosted(b"Host: a:b"),
    "host with two ports": hosted(b"Host: a:80:80"),
    "host IPv6 without brackets": hosted(b"Host: ::1"),
    "host with an open bracket": hosted(b"Host: [::1"),
    "host not IPv6": hosted(b"Host: [1:2]"),
    "host with a control character": hosted(b"Host: a\x01b"),
    "host with NUL": hosted(b"Host: a\0b"),
    "no host": hosted(),
    "same host twice": hosted(HOST, HOST),
    "two hosts": hosted(HOST, b"host: other.example"),
    "two hosts in HTTP/1.0": hosted(HOST, b"host: other.example", version="1.0"),
    "host folded": hosted(b"Host: a", b" b"),
    "blank before the colon of the host": hosted(b"Host : a"),
    "bad host in HTTP/1.0": hosted(b"Host: bad host", version="1.0"),
    "bad host and an absolute target": request(body(), ORIGIN, target=f"http://collector.example{PATH}").replace(
        HOST, b"Host: a b"
    ),
    "chunked in HTTP/1.0": head(ORIGIN, CHUNKED, version="1.0") + CHUNKS,
    "chunked in HTTP/1.0, kept": head(ORIGIN, CHUNKED, b"Connection: keep-alive", version="1.0") + CHUNKS,
    "encoded and chunked in HTTP/1.0": head(ORIGIN, b"Transfer-Encoding: gzip, chunked", version="1.0") + CHUNKS,
    "empty encoding in HTTP/1.0": request(body(), ORIGIN, b"Transfer-Encoding:", version="1.0"),
    "empty encoding": request(body(), ORIGIN, b"Transfer-Encoding:"),
    "empty encoding and no length": head(ORIGIN, b"Transfer-Encoding:") + CHUNKS,
    "empty encoding twice": head(ORIGIN, b"Transfer-Encoding: ", b"Transfer-Encoding:") + CHUNKS,
    "identity": head(ORIGIN, b"Transfer-Encoding: identity") + CHUNKS,
    "chunked not last": head(ORIGIN, b"Transfer-Encoding: chunked, gzip") + CHUNKS,
    "chunked twice": head(ORIGIN, CHUNKED, CHUNKED) + CHUNKS,
    "length and chunks": request(CHUNKS, ORIGIN, CHUNKED),
    "same length twice": request(body(), ORIGIN, LENGTH),
    "two lengths": request(body(), ORIGIN, b"Content-Length: 4"),
    "list of lengths": head(ORIGIN, b"Content-Length: 4, 4") + body(),
    "length with a sign": head(ORIGIN, b"Content-Length: +4") + body(),
    "length below zero": head(ORIGIN, b"Content-Length: -1") + body(),
    "empty length": head(ORIGIN, b"Content-Length:") + body(),
    "two numbers": head(ORIGIN, b"Content-Length: 4 4") + body(),
    "very long length": head(ORIGIN, b"Content-Length: " + b"9" * 5_000) + body(),
    "no colon": request(body(), ORIGIN, b"<script>alert(1)</script>"),
    "no name": request(body(), ORIGIN, b": a"),
    "blank in a name": request(body(), ORIGIN, b"X y: a"),
    "blank before the colon": request(body(), ORIGIN, b"X : a"),
    "blank before the first name": request(body(), ORIGIN).replace(HOST, b" X: a\r\n" + HOST),
    "folded": request(body(), ORIGIN, b"X: a", b" b"),
    "NUL": request(body(), ORIGIN, b"X: a\0b"),
    "control character": request(body(), ORIGIN, b"X: a\x1bb"),
    "CR alone": request(body(), ORIGIN, b"X: a\rY: b"),
    "LF alone": request(body(), ORIGIN, b"X: a\nY: b"),
    "LF alone at the end": request(body(), ORIGIN).replace(b"\r\n\r\n", b"\r\n\n"),
    "old websocket": request(body(), ORIGIN, b"Sec-WebSocket-Key1: x"),
    "future version": request(body(), ORIGIN, version="1.2"),
    "unknown method": request(body(), ORIGIN, method="SMUGGLE"),
    "method in lower case": request(body(), ORIGIN, method="post"),
    "chunk size not a number": head(ORIGIN, CHUNKED) + b"z\r\nabc\r\n",
    "chunk size with LF alone": head(ORIGIN, CHUNKED) + b"3\nabc\n0\n\n",
    "chunk size and a blank": head(ORIGIN, CHUNKED) + b"3 \r\nabc\r\n0\r\n\r\n",
    "chunk longer than its size": head(ORIGIN, CHUNKED) + b"3\r\nabcdef\r\n0\r\n\r\n",
    "LF in a chunk extension": head(ORIGIN, CHUNKED) + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "length among the trailers": head(ORIGIN, CHUNKED) + b"0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_head_that_violates_http_gets_a_refusal_that_its_page_can_read(
    collector: Running, wire: Wire, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted for its site, and nothing behind it is read."""
    answer = await wire.ask(sent + HIDDEN)
    assert_refused(answer, 400, "invalid", "BAD_REQUEST")
    assert b"" == await wire.rest()
    assert ({"received": 1, "invalid": 1}, {}) == (tally(collector), tally(collector, "(unknown)"))
    assert 0 == bad_requests(collector) == collector.stages.decider.in_flight.count
    assert not caplog.records


def assert_refused(answer: Answer, status: int, reason: str, code: str) -> None:
    assert (status, reason, "close") == (answer.status, answer.reason, answer.headers["Connection"])
    (error,) = answer.json["errors"]
    assert (code, answer.json["message"]) == (error["code"], error["message"])
    assert "https://shop.example" == answer.headers["Access-Control-Allow-Origin"]
    assert ("Origin", "true") == (answer.headers["Vary"], answer.headers["Access-Control-Allow-Credentials"])


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("before", ["in pieces", "behind one", "behind chunks", "behind one of the standard path"])
async def test_head_that_violates_http_is_refused_at_any_place(
    arrivals: Arrivals, collector: Running, wire: Wire, sent: bytes, before: str
) -> None:
    first = {
        "behind one": request(body()),
        "behind chunks": head(CHUNKED) + CHUNKS,
        "behind one of the standard path": request(body(), b"X: a", b"X: b"),
    }.get(before, b"")
    origin_at = sent.index(ORIGIN) + len(ORIGIN) + len(b"\r\n")
    await arrivals.send(wire, *((first + sent,) if first else (sent[:origin_at], sent[origin_at:])))
    answer = await wire.answer()
    if first:
        assert 201 == answer.status
        answer = await wire.answer()
    assert_refused(answer, 400, "invalid", "BAD_REQUEST")
    assert b"" == await wire.rest()
    assert 1 == tally(collector)["invalid"]


NO_HTTP = {
    "HTTP/2": request(body(), version="2.0"),
    "HTTP/9": request(body(), version="9.9"),
    "HTTP/0.9": request(body(), version="0.9"),
    "HTTP/0.0": request(body(), version="0.0"),
    "HTTP/11": request(body(), version="11.1"),
    "two digits": request(body(), version="1.10"),
    "no minor version": request(body(), version="1"),
    "blank behind the version": request(body(), version="1.1 "),
    "lower case": request(body()).replace(b"HTTP/", b"http/", 1),
    "another protocol": request(body(), version="1.0").replace(b"HTTP/", b"RTSP/", 1),
    "a third": request(body(), version="1.0").replace(b"HTTP/", b"ICE/", 1),
    "no version": request(body()).replace(b" HTTP/1.1", b"", 1),
    "no version and no header": f"POST {PATH}\r\n\r\n".encode(),
    "only the version missing": request(body()).replace(b"HTTP/1.1", b"", 1),
    "HTTP/0.9 as it was": b"GET /\r\n\r\n",
    "two blanks": request(body()).replace(b"POST ", b"POST  ", 1),
    "tab": request(body()).replace(b"POST ", b"POST\t", 1),
    "blank before the method": b" " + request(body()),
    "blank in the target": request(body(), target=f"{PATH}?a b"),
    "CR alone": request(body()).replace(b"\r\n", b"\r"),
    "LF alone": request(body()).replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
@pytest.mark.parametrize(
    "first", [b"", request(body()), head(CHUNKED) + CHUNKS], ids=["", "behind one", "behind chunks"]
)
async def test_request_line_that_is_not_http_1_gets_the_fixed_400(
    collector: Running, wire: Wire, sent: bytes, first: bytes
) -> None:
    wire.send(first + sent + HIDDEN)
    answer = await wire.answer()
    if first:
        assert 201 == answer.status
        answer = await wire.answer()
    assert (400, b"Bad request\n", None) == (answer.status, answer.body, answer.reason)
    assert b"" == await wire.rest()
    assert (len(first) > 0, {}) == ("stored" in tally(collector), tally(collector, "(unknown)"))
    assert 1 == bad_requests(collector)


TAKEN: dict[str, bytes] = {
    "empty host": hosted(b"Host:"),
    "empty host and a blank": hosted(b"Host: "),
    "host and port": hosted(b"Host: a.example:8080"),
    "empty port": hosted(b"Host: a.example:"),
    "address": hosted(b"Host: 192.0.2.1:80"),
    "IPv6": hosted(b"Host: [2001:db8::1]:80"),
    "IPv6 with IPv4": hosted(b"Host: [::ffff:192.0.2.1]"),
    "underscore": hosted(b"Host: my_collector"),
    "escape": hosted(b"Host: a%20b"),
    "host without a blank": hosted(b"host:a.example"),
    "blanks around the host": hosted(b"Host: \ta.example\t "),
    "absolute target of another host": request(body(), target=f"http://other.example{PATH}"),
    "HTTP/1.0 without a host": hosted(version="1.0"),
    "blank line before": b"\r\n" + request(body()),
    "blank lines before": b"\r\n\r\n" + request(body()),
    "three blank lines before": 3 * b"\r\n" + request(body()),
    "chunk extension": head(CHUNKED) + b'%x;a="b;c"\r\n' % len(body()) + body() + b"\r\n0\r\n\r\n",
    "empty element before chunked": head(b"Transfer-Encoding: ,chunked") + CHUNKS,
    "header without a value": request(body(), b"X:"),
}


@pytest.mark.parametrize("sent", TAKEN.values(), ids=TAKEN)
async def test_head_that_http_allows_is_accepted(collector: Running, wire: Wire, sent: bytes) -> None:
    assert 201 == (await wire.ask(sent)).status


@pytest.mark.parametrize("value", ["v1.a:b", "[v1.a:b]", "[V7.x]", "a", "", "a,b", "xn--bro-hoa.example", "[::]"])
@pytest.mark.parametrize("port", ["", ":", ":0", ":65536"])
def test_host_may_have_a_port(value: str, port: str) -> None:
    assert is_host(value + port) == (value != "v1.a:b")


# Headers that pages or proxies make long.
LONG = [
    b"Cookie: " + b"; ".join(b"%d=" % n + 2_990 * b"c" for n in range(3)),
    b"Cookie: " + b"c" * 30_000,
    b"X-Forwarded-For: " + b"203.0.113.7, " * 700 + b"203.0.113.9",
    b"Referer: https://shop.example/?" + b"r" * 9_000,
    b"User-Agent: " + b"u" * 9_000,
    b"Sec-CH-UA: " + b'"Brand";v="1", ' * 800,
    b"Forwarded: " + b"for=203.0.113.7;proto=https, " * 400,
    b"Via: " + b"1.1 proxy.example, " * 600,
    b"x" * 9_000 + b": y",
]


@pytest.mark.parametrize("line", LONG, ids=[line[:9].decode() for line in LONG])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_line_may_fill_the_head(
    arrivals: Arrivals, serve: Serve, connect: Connect, line: bytes, pieces: int
) -> None:
    """Lines have no limit of their own. The connection stays open."""
    collector = await serve(server={"trusted_proxies": ["127.0.0.1"]}, privacy={"client_ip": "full"})
    wire = await connect(collector)
    sent = request(body(), line)
    step = -(-len(sent) // pieces)
    for _ in range(2):
        await arrivals.send(wire, *(sent[at : at + step] for at in range(0, len(sent), step)))
        assert 201 == (await wire.answer()).status
    await collector.flush()
    expected = "203.0.113.9" if line.startswith(b"X-F") else "127.0.0.1"
    assert 2 * [expected] == [row["client_ip"] for row in collector.rows()]


async def test_long_query_is_accepted(wire: Wire) -> None:
    assert 201 == (await wire.ask(request(body(), target=f"{PATH}?{'q' * 20_000}"))).status
    assert 201 == (await wire.ask(request(body(), target=f"{PATH}?{'q=%20&' * 2_000}"))).status


def sized(bytes_: int, *lines: bytes) -> bytes:
    """A complete request whose head has this many bytes."""
    sent = request(body(), ORIGIN, *lines, b"Cookie: ")
    return sent.replace(b"Cookie: ", b"Cookie: " + b"c" * (bytes_ - len(sent) + len(body())))


def numbered(lines: int) -> bytes:
    """A complete request with this many header lines."""
    return request(body(), ORIGIN, *(b"X%d: y" % number for number in range(lines - 3)))


TOO_LARGE: dict[str, tuple[bytes, bool]] = {
    "largest": (sized(MAX_HEAD_BYTES), False),
    "a byte more": (sized(MAX_HEAD_BYTES + 1), True),
    "largest, without a blank": (sized(MAX_HEAD_BYTES).replace(b"Cookie: ", b"Cookie:c"), False),
    "a byte more without a blank": (sized(MAX_HEAD_BYTES + 1).replace(b"Cookie: ", b"Cookie:c"), True),
    "largest, in many lines": (sized(MAX_HEAD_BYTES, *[b"X: " + b"x" * 250] * 100), False),
    "a byte more in many lines": (sized(MAX_HEAD_BYTES + 1, *[b"X: " + b"x" * 250] * 100), True),
    "much more": (sized(100_000), True),
    "most lines": (numbered(MAX_HEAD_LINES), False),
    "a line more": (numbered(MAX_HEAD_LINES + 1), True),
    "many lines more": (numbered(1_000), True),
    "long query": (request(body(), ORIGIN, target=f"{PATH}?{'q' * 40_000}"), True),
}


@pytest.mark.parametrize(("sent", "is_too_large"), TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("step", [1 << 20, 7_000])
async def test_head_size_limits_are_exact(
    arrivals: Arrivals, collector: Running, wire: Wire, sent: bytes, is_too_large: bool, step: int
) -> None:
    """In one piece and in several."""
    await arrivals.send(wire, *(sent[at : at + step] for at in range(0, len(sent), step)))
    answer = await wire.answer()
    if not is_too_large:
        assert 201 == answer.status
        assert 201 == (await wire.ask(request(body()))).status
        return
    allowed = answer.headers["Access-Control-Allow-Origin"]
    if step > len(sent) or "q" * 9 not in sent.decode():  # otherwise it is refused before its origin arrives
        assert "https://shop.example" == allowed
    assert (431, "too_large", "close") == (answer.status, answer.reason, answer.headers["Connection"])
    assert "HEADERS_TOO_LARGE" == answer.json["errors"][0]["code"]
    assert ({"received": 1, "too_large": 1}, {}) == (tally(collector), tally(collector, "(unknown)"))
    assert 0 == bad_requests(collector)


@pytest.mark.parametrize("step", [1 << 20, 7_000])
async def test_endless_request_line_is_counted_for_no_site(
    arrivals: Arrivals, collector: Running, wire: Wire, step: int
) -> None:
    """Without the end of its path, the site it names is unknown."""
    sent = b"POST /public/demo/analytics/collect/" + b"x" * 40_000
    await arrivals.send(wire, *(sent[at : at + step] for at in range(0, len(sent), step)))
    answer = await wire.answer()
    assert (431, "too_large", "*") == (answer.status, answer.reason, answer.headers["Access-Control-Allow-Origin"])
    assert ({}, {"received": 1, "too_large": 1}) == (tally(collector), tally(collector, "(unknown)"))


@pytest.mark.parametrize(
    ("target", "site"),
    [
        (PATH, "demo"),
        (f"{PATH}/", "demo"),
        (f"{PATH}?t=1", "demo"),
        ("/public/d%65mo/analytics/collect", "demo"),
        (f"http://collector.example{PATH}", "demo"),
        (f"HTTPS://[::1]:80{PATH}?t", "demo"),
        ("/public/nobody/analytics/collect", "(unknown)"),
        ("/public/%FF/analytics/collect", "(unknown)"),
        ("/public/demo/e", "demo"),
        ("/public/d%65mo/e/?t", "demo"),
        ("https://collector.example/public/demo/e", "demo"),
        ("/public/demo/t.js", "(unknown)"),
        ("/public/demo/ee", "(unknown)"),
        ("/e", "(unknown)"),
        (f"{PATH}//", "(unknown)"),
        (f"/x{PATH}", "(unknown)"),
        ("/public//analytics/collect", "(unknown)"),
        ("/", "(unknown)"),
        ("/healthz", "(unknown)"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_refused_head_is_counted_for_the_site_it_names(
    serve: Serve, connect: Connect, target: str, site: str, method: str
) -> None:
    collector = await serve({"demo": {}, "x": {}})
    wire = await connect(collector)
    assert 400 == (await wire.ask(request(body(), b"X: a\0", target=target, method=method))).status
    assert {"received": 1, "invalid": 1} == tally(collector, site)
    assert 1 == collector.stages.metrics.counts.received


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ((ORIGIN,), "https://shop.example"),
        ((b"origin:null \t",), "null"),
        ((b"X: a", b"ORIGIN:   https://a.example:80"), "https://a.example:80"),
        ((b"Origin: https://a.example", b"Origin: https://b.example"), "https://a.example"),
        ((b"Origin: \xff",), "*"),
        ((b"Origin: a\x01",), "*"),
        ((b"Origin:",), "*"),
        ((b"X-Origin: https://a.example",), "*"),
        ((), "*"),
    ],
)
async def test_response_to_a_refused_head_echoes_its_origin(wire: Wire, lines: tuple[bytes, ...], allowed: str) -> None:
    answer = await wire.ask(request(body(), *lines, b"X: a\0"))
    assert (400, allowed) == (answer.status, answer.headers["Access-Control-Allow-Origin"])


def test_refusal_reads_any_partial_head() -> None:
    """An attacker chooses the bytes."""
    assert read_refusal(b"", "why", ROUTES) is None
    assert read_refusal(b"\r\n\r\n", "why", ROUTES) is None
    assert read_refusal(b"POST /", "why", ROUTES) is None
    assert read_refusal(b"\xff" * 40_000, "why", ROUTES) is None
    assert read_refusal(b"POST " + b"/" * 40_000 + b"\0", "why", ROUTES) is None
    cut = read_refusal(head(ORIGIN)[:-7], "why", ROUTES)
    assert cut is not None
    assert ("demo", None) == (cut.site_id, cut.origin)  # its line has no end yet


@pytest.mark.parametrize(
    "trailers", [b"Origin: http://localhost\r\n", b"A: b\r\nHost: x\r\n", b"X-Forwarded-For: 192.0.2.9\r\n"]
)
async def test_trailer_is_not_a_header_of_the_next_request(
    arrivals: Arrivals, serve: Serve, connect: Connect, trailers: bytes
) -> None:
    """aiohttp's parser adds the last trailer to the next head, maybe another client's. So the connection closes."""
    collector = await serve(server={"trusted_proxies": ["127.0.0.1"]}, privacy={"client_ip": "full"})
    sent = head(CHUNKED) + chunk(body()) + b"0\r\n" + trailers + b"\r\n"
    behind = sent + request(body())
    # Cut within the trailers. No piece is sent once the connection may be closed.
    cuts: list[tuple[bytes, ...]] = [(sent,), (behind,), tuple(sent[at : at + 7] for at in range(0, len(sent), 7))]
    cuts += [(behind[: len(sent) - at], behind[len(sent) - at :]) for at in (1, 2, 3, 4, 9, 30)]
    for pieces in cuts:
        wire = await connect(collector)
        await arrivals.send(wire, *pieces)
        answer = await wire.answer()
        assert (201, "close") == (answer.status, answer.headers["Connection"])
        assert b"" == await wire.rest()
    assert {"received": len(cuts), "stored": len(cuts)} == tally(collector)
    await collector.flush()
    assert len(cuts) * ["127.0.0.1"] == [row["client_ip"] for row in collector.rows()]


async def test_requests_before_one_with_trailers_get_their_responses(collector: Running, wire: Wire) -> None:
    """So does the one with trailers; the request behind it does not."""
    before = [request(body()), head(CHUNKED) + CHUNKS, head(CHUNKED) + CHUNKS, request(b"{")]
    wire.send(b"".join(before) + head(CHUNKED) + chunk(body()) + b"0\r\nX: y\r\n\r\n" + request(body()))
    assert [201, 201, 201, 202, 201] == [(await wire.answer()).status for _ in range(5)]
    assert b"" == await wire.rest()


@pytest.mark.parametrize(
    "more",
    [
        b"1;" + MAX_FRAME_BYTES * b"x",
        b"0\r\n" + 40 * (b"X: " + 1_000 * b"y" + b"\r\n"),
        b"0\r\nX: " + MAX_FRAME_BYTES * b"y",
    ],
    ids=["extension", "trailers", "trailer"],
)
@pytest.mark.parametrize("site", ["demo", "nobody", "demo, in one piece"])
async def test_chunk_lines_and_trailers_are_bounded(
    collector: Running, connect: Connect, more: bytes, site: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Even when the body is not wanted any more."""
    wire = await connect(collector)
    site, _, at_once = site.partition(", ")
    first = head(ORIGIN, CHUNKED, site=site)
    if at_once:
        wire.send(first + more)
        assert 400 == (await wire.answer()).status
        wire.send_eof()
        assert b"" == await wire.rest()
        return
    wire.send(first)
    if site == "demo":
        await until(lambda: collector.stages.decider.in_flight.count)
        wire.send(more)
        assert (400, "invalid") == ((answer := await wire.answer()).status, answer.reason)
        assert {"received": 1, "invalid": 1} == tally(collector)
    else:
        assert 404 == (await wire.answer()).status
        wire.send(more)
    assert b"" == await wire.rest()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
