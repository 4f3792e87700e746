"""The fast path: which requests take it, and that the standard path responds to them identically."""

from pathlib import Path
from typing import Any

import pytest
from aiohttp.http_parser import SINGLETON_HEADERS

from collector import sites
from collector.daemon.wiring import build_rules
from collector.edge import responses
from collector.edge.exchange import Exchange
from collector.edge.fast_path import END, LONGEST_HEAD_BYTES
from collector.edge.standard_path import StandardPath
from tests.edge.conftest import Arrivals, Connect, Serve
from tests.edge.faults import FAULTS, collector_with, faulty
from tests.edge.wire import Wire, chunk, head, request, tally
from tests.support import SERVER_DEFAULTS, Running, body, config, event

ORIGIN = b"Origin: https://shop.example"
ALLOWED = "Access-Control-Allow-Origin"
PREFLIGHT = head(ORIGIN, b"Access-Control-Request-Method: POST", method="OPTIONS")


class Handed:
    """The heads of the requests that aiohttp got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on: list[bytes] = []
        begin = StandardPath.begin

        def begun(standard_path: StandardPath, exchange: Exchange) -> None:
            self.on.append(exchange.head)
            begin(standard_path, exchange)

        monkeypatch.setattr(StandardPath, "begin", begun)


@pytest.fixture
def http_path() -> str:
    """These tests use the fast path only; the edge's other tests run both."""
    return "fast"


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


@pytest.mark.parametrize("fault", ["none", *FAULTS])
@pytest.mark.parametrize("lines", [(ORIGIN,), (), (b"Connection: close", ORIGIN), (b"Origin: \xff",)])
async def test_both_paths_give_the_same_response(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, fault: str, lines: tuple[bytes, ...]
) -> None:
    """Every header but the time in `Date`, and every byte of the body."""
    faults = () if fault == "none" else (fault,)
    sent = faulty(*faults)
    data = sent.whole if fault in ("localhost", "origin") else request(sent.body, *lines, target=_target(sent.head))
    if fault in ("encoding", "method"):
        data = sent.whole
    answers = []
    for is_fast in (True, False):
        monkeypatch.setitem(SERVER_DEFAULTS, "fast_path", is_fast)
        collector = await collector_with(serve, *faults)
        wire = await connect(collector)
        answer = await wire.ask(data)
        date = answer.headers.pop("Date")
        assert date.endswith(" GMT")
        closed = b"" == await wire.rest() if answer.headers.get("Connection") == "close" else None
        answers.append((answer.status, dict(answer.headers), answer.body, closed, tally(collector, sent.counted_for)))
        await collector.stages.journal.close()
    fast, standard = answers
    assert standard == fast


def _target(text: bytes) -> str:
    return text.split(b" ")[1].decode()


FAST: dict[str, bytes] = {
    "stored": request(body()),
    "invalid": request(b"{"),
    "slash at the end": request(body(), target="/public/demo/analytics/collect/"),
    "query": request(body(), target="/public/demo/analytics/collect?a=b"),
    "short path": request(body(), target="/public/demo/e"),
    "short path, slash at the end": request(body(), target="/public/demo/e/"),
    "escape": request(body(), target="/public/d%65mo/analytics/collect"),
    "preflight": PREFLIGHT,
    "health": head(method="GET", target="/healthz"),
    "health without a body": head(method="HEAD", target="/healthz"),
    "unknown site": request(body(), site="nobody"),
    "other path": request(body(), target="/"),
    "method": request(body(), method="PUT"),
    "method of the script": request(body(), method="PUT", target="/t.js"),
    "encoded": request(body(), b"Content-Encoding: gzip"),
    "identity": request(body(), b"Content-Encoding: identity"),
    "no length": head(),
    "a header that nobody reads, twice": request(body(), b"X: a", b"X: b"),
    "large body": request(body() + bytes(b" " * 60_000)),
}


@pytest.mark.parametrize("sent", FAST.values(), ids=FAST)
@pytest.mark.parametrize("cuts", [(), (10,), (-1,), (3, 70, 150, 200)])
async def test_request_of_the_fast_path_never_reaches_aiohttp(
    arrivals: Arrivals, wire: Wire, handed: Handed, sent: bytes, cuts: tuple[int, ...]
) -> None:
    """However it is cut, and whether it is stored or not. The connection then serves the next request."""
    ends = sorted(cut % len(sent) for cut in cuts)
    pieces = [sent[start:end] for start, end in zip([0, *ends], [*ends, len(sent)], strict=True)]
    await arrivals.send(wire, *pieces)
    answer = await wire.answer("HEAD" if sent.startswith(b"HEAD") else "POST")
    assert "Connection" not in answer.headers
    assert 201 == (await wire.ask(request(body()))).status
    assert [] == handed.on


STANDARD: dict[str, bytes] = {
    "HTTP/1.0": request(body(), b"Connection: keep-alive", version="1.0"),
    "chunks": head(b"Transfer-Encoding: chunked") + chunk(body()) + chunk(b""),
    "expected": request(body(), b"Expect: 100-continue"),
    "upgrade": request(body(), b"Connection: Upgrade", b"Upgrade: h2c"),
    "long head": request(body(), b"X: " + b"x" * LONGEST_HEAD_BYTES),
    "twice": request(body(), b"Referer: a", b"Referer: b"),
    "no ASCII": request(body(), b"X: \xff"),
    "script": head(method="GET", target="/t.js"),
    "script of a site": head(method="GET", target="/public/demo/t.js"),
    "absolute": request(body(), target="http://x/public/demo/analytics/collect"),
    "unknown site": request(body(), b"Referer: a", b"Referer: b", site="nobody"),
    "method": request(body(), b"Referer: a", b"Referer: b", method="PUT"),
}


@pytest.mark.parametrize("sent", STANDARD.values(), ids=STANDARD)
async def test_aiohttp_serves_each_other_request_and_no_more(wire: Wire, handed: Handed, sent: bytes) -> None:
    """All clients of a proxy share its connections; one unusual request must not slow the rest down."""
    first = sent[: sent.index(END) + len(END)]
    for count in (1, 2):
        assert 201 == (await wire.ask(request(body()))).status
        assert "close" != (await wire.ask(sent)).headers.get("Connection")
        assert count * [first] == handed.on
    assert 201 == (await wire.ask(request(body()))).status


@pytest.mark.parametrize("name", sorted(SINGLETON_HEADERS - {"transfer-encoding"}))
async def test_header_that_must_come_once_is_refused_when_it_is_repeated(wire: Wire, handed: Handed, name: str) -> None:
    value = str(len(body())) if name == "content-length" else "a"
    sent = request(body(), *2 * [f"{name}: {value}".encode()])
    assert 400 == (await wire.ask(sent)).status
    assert 1 == len(handed.on)


async def test_pipelined_requests_each_take_their_own_path(collector: Running, wire: Wire, handed: Handed) -> None:
    """All arrive in one piece."""
    wire.send(b"".join(request(body()) + sent for sent in STANDARD.values()) + request(b"{"))
    statuses = [(await wire.answer()).status for _ in range(2 * len(STANDARD) + 1)]
    assert (len(STANDARD), 202) == (len(handed.on), statuses[-1])
    assert len(STANDARD) * [201] == statuses[:-1:2]


async def test_request_within_an_unfinished_head_is_not_a_request(
    arrivals: Arrivals, collector: Running, wire: Wire
) -> None:
    """Half a head, then text like a complete request: the text is a header of the first."""
    await arrivals.send(wire, b"POST /nowhere HTTP/1.1\r\nX: ")
    assert 404 == (await wire.ask(request(body()))).status
    assert {} == tally(collector)


async def test_head_that_began_behind_a_request_goes_on_after_its_response(collector: Running, wire: Wire) -> None:
    """A complete request and half a head arrive in one piece. The bytes after the response belong to the half."""
    whole = request(body(), site="nobody")
    assert 404 == (await wire.ask(whole + b"POST /nowhere HTTP/1.1\r\nX: ")).status
    assert 404 == (await wire.ask(request(body()))).status
    assert {} == tally(collector)


@pytest.mark.parametrize(
    "line",
    [
        b"Content-Length: 4",
        b"content-length: 4",
        b"Transfer-Encoding: chunked",
        b"Host: elsewhere.example",
        b"no colon",
        b"X: a\0b",
        b"Host: bad host",
    ],
)
async def test_line_that_aiohttp_refuses_is_refused_every_time(
    collector: Running, wire: Wire, line: bytes, connect: Connect
) -> None:
    """The fast path knows all the other lines. A second length is request smuggling."""
    assert 201 == (await wire.ask(request(body()))).status
    for _ in range(2):
        other = await connect(collector)
        assert 400 == (await other.ask(request(body(), line))).status
        assert b"" == await other.rest()
    assert {"received": 3, "stored": 1, "invalid": 2} == tally(collector)


async def test_bad_host_is_refused_every_time(collector: Running, connect: Connect) -> None:
    """The fast path does not remember the line."""
    sent = request(body()).replace(b"collector.example", b"bad host")
    for _ in range(3):
        wire = await connect(collector)
        assert 201 == (await wire.ask(request(body()))).status
        assert 400 == (await wire.ask(sent)).status
        assert b"" == await wire.rest()
    assert {"received": 6, "stored": 3, "invalid": 3} == tally(collector)


@pytest.mark.parametrize(("peers", "status"), [(["127.0.0.1"], 202), (["198.51.100.1"], 201)])
async def test_forwarded_address_is_used_from_a_trusted_peer_only(
    serve: Serve, connect: Connect, peers: list[str], status: int
) -> None:
    collector = await serve({"demo": {"excluded_ips": ["192.0.2.7"]}}, server={"trusted_proxies": peers})
    sent = request(body(), b"X-Forwarded-For: 192.0.2.7")
    assert status == (await (await connect(collector)).ask(sent)).status


async def test_known_heads_get_the_new_rules_after_a_reload(collector: Running, wire: Wire, tmp_path: Path) -> None:
    assert 201 == (await wire.ask(request(body(), ORIGIN))).status
    decider = collector.stages.decider
    sites: dict[str, dict[str, Any]] = {"demo": {"allowed_origins": ["https://other.example"]}}
    decider.rules = build_rules(config(tmp_path, sites), collector.clock, decider.rules.buckets.table)
    assert 403 == (await wire.ask(request(body(), ORIGIN))).status
    decider.rules = build_rules(config(tmp_path, {"other": {}}), collector.clock, decider.rules.buckets.table)
    assert 404 == (await wire.ask(request(body(), ORIGIN))).status


async def test_known_peers_get_the_new_rules_after_a_reload(collector: Running, wire: Wire, tmp_path: Path) -> None:
    """A known client may have become a trusted proxy."""
    sites: dict[str, dict[str, Any]] = {"demo": {"excluded_ips": ["192.0.2.7"]}}
    sent = request(body(), b"X-Forwarded-For: 192.0.2.7")
    decider = collector.stages.decider
    for trusted, status in (([], 201), (["127.0.0.1"], 202), ([], 201)):
        settings = config(tmp_path, sites, server={"trusted_proxies": trusted})
        decider.rules = build_rules(settings, collector.clock, decider.rules.buckets.table)
        assert status == (await wire.ask(sent)).status


@pytest.mark.parametrize("data", [body(), b"{"])
async def test_draining_collector_closes_after_every_response(collector: Running, wire: Wire, data: bytes) -> None:
    """Whether the event is stored or not."""
    assert "Connection" not in (await wire.ask(request(data))).headers
    collector.stages.decider.in_flight.draining = True
    assert "close" == (await wire.ask(request(data))).headers["Connection"]
    assert b"" == await wire.rest()


@pytest.mark.parametrize("data", [body(), b"{"])
async def test_date_changes_with_the_second(wire: Wire, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    for now, date in ((1.5, "Thu, 01 Jan 1970 00:00:01 GMT"), (86_400.0, "Fri, 02 Jan 1970 00:00:00 GMT")):
        monkeypatch.setattr("collector.edge.date.time.time", lambda now=now: now)
        assert date == (await wire.ask(request(data))).headers["Date"]


async def test_remembered_origins_are_bounded(collector: Running, wire: Wire) -> None:
    """In length; tests/test_recent.py has their number. Each response echoes its own origin."""
    for number in range(50):
        answer = await wire.ask(request(body(), b"Origin: https://%d.example" % number))
        origin = f"https://{number}.example"
        assert origin == answer.headers[ALLOWED]
        assert [True, True] == [origin in cache for cache in (responses._known_stored, sites._known_hosts)]
    endless = "https://" + 1_000 * "x" + ".example"
    assert endless == (await wire.ask(request(body(), b"Origin: " + endless.encode()))).headers[ALLOWED]
    assert [False, False] == [endless in cache for cache in (responses._known_stored, sites._known_hosts)]


@pytest.mark.parametrize("origin", [b"null", b"", b"https://", b"shop"])
async def test_referer_decides_when_the_origin_has_no_host(collector: Running, wire: Wire, origin: bytes) -> None:
    """So the cache must not remember a result for such an origin."""
    for referer, status in ((b"http://localhost/", 202), (b"https://shop.example/", 201), (b"http://127.0.0.1/", 202)):
        assert status == (await wire.ask(request(body(), b"Origin: " + origin, b"Referer: " + referer))).status


async def test_request_takes_the_standard_path_when_the_fast_path_fails(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults: list[object] = [ZeroDivisionError("injected bug")]

    def unquote_later(text: str) -> str:
        if faults:
            raise faults.pop()  # type: ignore[misc]
        return text

    monkeypatch.setattr("collector.edge.routes.unquote", unquote_later)
    assert 201 == (await wire.ask(request(body()))).status
    assert "ZeroDivisionError" in caplog.text


async def test_no_request_takes_the_fast_path_when_it_is_off(serve: Serve, connect: Connect, handed: Handed) -> None:
    collector = await serve(server={"fast_path": False})
    wire = await connect(collector)
    assert 201 == (await wire.ask(request(body()))).status
    assert 1 == len(handed.on)


async def test_both_paths_store_the_same_row(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = event(lcp=12, page_title="\ud800", event_time="yesterday", screen_width=2**60, is_entry=True)
    rows = []
    for is_fast in (True, False):
        monkeypatch.setitem(SERVER_DEFAULTS, "fast_path", is_fast)
        collector = await serve(privacy={"client_ip": "full"})
        assert 201 == (await collector.post(sent, headers={"User-Agent": "Agent/1 é"})).status
        await collector.flush()
        rows.append([row for row in collector.rows() if row.pop("received_at")])
        await collector.stages.journal.close()
    assert rows[1] == rows[0] * 2
