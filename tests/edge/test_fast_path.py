"""The fast path: which requests take it, and that the standard path answers them alike."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.wiring import build_rules
from collector.edge import responses
from collector.edge.exchange import Exchange
from collector.edge.fast_path import END, LONGEST_HEAD_BYTES, FastPath
from collector.edge.standard_path import StandardPath
from collector.ingest import pipeline
from tests.edge.conftest import Connect, Serve
from tests.edge.faults import FAULTS, collector_with, faulty
from tests.edge.wire import Wire, chunk, head, request, tally
from tests.support import SERVER_DEFAULTS, Running, body, config, event

ORIGIN = b"Origin: https://shop.example"
ALLOWED = "Access-Control-Allow-Origin"
PREFLIGHT = head(ORIGIN, b"Access-Control-Request-Method: POST", method="OPTIONS")


class Handed:
    """The heads of the requests that were given to aiohttp."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on: list[bytes] = []
        begin = StandardPath.begin

        def begun(standard_path: StandardPath, exchange: Exchange) -> None:
            self.on.append(exchange.head)
            begin(standard_path, exchange)

        monkeypatch.setattr(StandardPath, "begin", begun)


@pytest.fixture(autouse=True)
def http_path() -> str:
    """These tests are about this path alone (the edge's other tests run both)."""
    return "fast"


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


@pytest.mark.parametrize("fault", ["none", *FAULTS])
@pytest.mark.parametrize("lines", [(ORIGIN,), (), (b"Connection: close", ORIGIN), (b"Origin: \xff",)])
async def test_both_ways_give_the_same_answer(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, fault: str, lines: tuple[bytes, ...]
) -> None:
    """To the letter of the body, and every header but the moment of the Date."""
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
    "escape": request(body(), target="/public/d%65mo/analytics/collect"),
    "preflight": PREFLIGHT,
    "health": head(method="GET", target="/healthz"),
    "health without a body": head(method="HEAD", target="/healthz"),
    "unknown site": request(body(), site="nobody"),
    "other path": request(body(), target="/"),
    "method": request(body(), method="PUT"),
    "encoded": request(body(), b"Content-Encoding: gzip"),
    "identity": request(body(), b"Content-Encoding: identity"),
    "no length": head(),
    "large body": request(body() + bytes(b" " * 60_000)),
}


@pytest.mark.parametrize("sent", FAST.values(), ids=FAST)
@pytest.mark.parametrize("cuts", [(), (10,), (-1,), (3, 70, 150, 200)])
async def test_request_of_the_fast_path_is_never_aiohttps(
    wire: Wire, handed: Handed, sent: bytes, cuts: tuple[int, ...]
) -> None:
    """However it is cut, and whether it is stored or not. Behind it the connection goes on."""
    ends = sorted(cut % len(sent) for cut in cuts)
    for start, end in zip([0, *ends], [*ends, len(sent)], strict=True):
        wire.send(sent[start:end])
        await asyncio.sleep(0.001)
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
    "twice": request(body(), b"X: a", b"X: b"),
    "no ASCII": request(body(), b"X: \xff"),
    "absolute": request(body(), target="http://x/public/demo/analytics/collect"),
    "unknown site": request(body(), b"X: a", b"X: b", site="nobody"),
    "method": request(body(), b"X: a", b"X: b", method="PUT"),
}


@pytest.mark.parametrize("sent", STANDARD.values(), ids=STANDARD)
async def test_everything_else_is_aiohttps_for_that_one_request(wire: Wire, handed: Handed, sent: bytes) -> None:
    """Behind a proxy all clients share its connections; one odd request must not slow them down for good."""
    first = sent[: sent.index(END) + len(END)]
    for count in (1, 2):
        assert 201 == (await wire.ask(request(body()))).status
        assert "close" != (await wire.ask(sent)).headers.get("Connection")
        assert count * [first] == handed.on
    assert 201 == (await wire.ask(request(body()))).status


async def test_one_after_the_other_each_takes_its_path(collector: Running, wire: Wire, handed: Handed) -> None:
    """All in one piece."""
    wire.send(b"".join(request(body()) + sent for sent in STANDARD.values()) + request(b"{"))
    statuses = [(await wire.answer()).status for _ in range(2 * len(STANDARD) + 1)]
    assert (len(STANDARD), 202) == (len(handed.on), statuses[-1])
    assert len(STANDARD) * [201] == statuses[:-1:2]


async def test_border_of_two_requests_is_never_guessed(collector: Running, wire: Wire) -> None:
    """Half a head and then what looks like a whole request: the second is a header of the first."""
    wire.send(b"POST /nowhere HTTP/1.1\r\nX: ")
    await asyncio.sleep(0.02)
    assert 404 == (await wire.ask(request(body()))).status
    assert {} == tally(collector)


async def test_half_a_head_behind_a_whole_request_is_no_border(collector: Running, wire: Wire) -> None:
    """They come in one piece, the first is answered, and what comes next still belongs to the half."""
    whole = request(body(), site="nobody")
    assert 404 == (await wire.ask(whole + b"POST /nowhere HTTP/1.1\r\nX: ")).status
    await asyncio.sleep(0.02)
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
async def test_what_aiohttp_refuses_is_refused_however_often_it_comes(
    collector: Running, wire: Wire, line: bytes, connect: Connect
) -> None:
    """Behind requests of the fast path that have all its other lines; the second length is smuggling."""
    assert 201 == (await wire.ask(request(body()))).status
    for _ in range(2):
        other = await connect(collector)
        assert 400 == (await other.ask(request(body(), line))).status
        assert b"" == await other.rest()
    assert {"received": 3, "stored": 1, "invalid": 2} == tally(collector)


async def test_bad_host_is_refused_however_often_it_comes(collector: Running, connect: Connect) -> None:
    """It is no line that is remembered."""
    sent = request(body()).replace(b"collector.example", b"bad host")
    for _ in range(3):
        wire = await connect(collector)
        assert 201 == (await wire.ask(request(body()))).status
        assert 400 == (await wire.ask(sent)).status
        assert b"" == await wire.rest()
    assert {"received": 6, "stored": 3, "invalid": 3} == tally(collector)


@pytest.mark.parametrize(("peers", "status"), [(["127.0.0.1"], 202), (["198.51.100.1"], 201)])
async def test_forwarded_address_is_believed_of_a_trusted_peer_only(
    serve: Serve, connect: Connect, peers: list[str], status: int
) -> None:
    collector = await serve({"demo": {"excluded_ips": ["192.0.2.7"]}}, server={"trusted_proxies": peers})
    sent = request(body(), b"X-Forwarded-For: 192.0.2.7")
    assert status == (await (await connect(collector)).ask(sent)).status


async def test_known_heads_are_judged_anew_after_a_reload(collector: Running, wire: Wire, tmp_path: Path) -> None:
    assert 201 == (await wire.ask(request(body(), ORIGIN))).status
    decider = collector.stages.decider
    sites: dict[str, dict[str, Any]] = {"demo": {"allowed_origins": ["https://other.example"]}}
    decider.rules = build_rules(config(tmp_path, sites), collector.clock, decider.rules.buckets.table)
    assert 403 == (await wire.ask(request(body(), ORIGIN))).status
    decider.rules = build_rules(config(tmp_path, {"other": {}}), collector.clock, decider.rules.buckets.table)
    assert 404 == (await wire.ask(request(body(), ORIGIN))).status


async def test_known_peers_are_judged_anew_after_a_reload(collector: Running, wire: Wire, tmp_path: Path) -> None:
    """One that was a client may be a proxy now."""
    sites: dict[str, dict[str, Any]] = {"demo": {"excluded_ips": ["192.0.2.7"]}}
    sent = request(body(), b"X-Forwarded-For: 192.0.2.7")
    decider = collector.stages.decider
    for trusted, status in (([], 201), (["127.0.0.1"], 202), ([], 201)):
        settings = config(tmp_path, sites, server={"trusted_proxies": trusted})
        decider.rules = build_rules(settings, collector.clock, decider.rules.buckets.table)
        assert status == (await wire.ask(sent)).status


@pytest.mark.parametrize("data", [body(), b"{"])
async def test_draining_collector_closes_behind_every_answer(collector: Running, wire: Wire, data: bytes) -> None:
    """What is not stored as well."""
    assert "Connection" not in (await wire.ask(request(data))).headers
    collector.stages.decider.in_flight.draining = True
    assert "close" == (await wire.ask(request(data))).headers["Connection"]
    assert b"" == await wire.rest()


@pytest.mark.parametrize("data", [body(), b"{"])
async def test_date_is_that_of_the_second(wire: Wire, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    for now, date in ((1.5, "Thu, 01 Jan 1970 00:00:01 GMT"), (86_400.0, "Fri, 02 Jan 1970 00:00:00 GMT")):
        monkeypatch.setattr("collector.edge.date.time.time", lambda now=now: now)
        assert date == (await wire.ask(request(data))).headers["Date"]


async def test_origins_that_are_remembered_are_bounded(collector: Running, wire: Wire) -> None:
    """In number and length; each is allowed in its own name."""
    for number in range(50):
        answer = await wire.ask(request(body(), b"Origin: https://%d.example" % number))
        assert f"https://{number}.example" == answer.headers[ALLOWED]
    known = [cache.cache_info() for cache in (responses._known_stored, pipeline._known_on_localhost)]
    assert all(info.maxsize and info.currsize <= info.maxsize for info in known)
    endless = "https://" + 1_000 * "x" + ".example"
    assert endless == (await wire.ask(request(body(), b"Origin: " + endless.encode()))).headers[ALLOWED]
    assert known == [cache.cache_info() for cache in (responses._known_stored, pipeline._known_on_localhost)]


@pytest.mark.parametrize("origin", [b"null", b"", b"https://", b"shop"])
async def test_origin_that_names_no_host_leaves_it_to_the_referer(
    collector: Running, wire: Wire, origin: bytes
) -> None:
    """So it is not the origin's verdict that may be remembered."""
    for referer, status in ((b"http://localhost/", 202), (b"https://shop.example/", 201), (b"http://127.0.0.1/", 202)):
        assert status == (await wire.ask(request(body(), b"Origin: " + origin, b"Referer: " + referer))).status


async def test_head_that_cannot_be_read_takes_the_standard_path(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FastPath, "_read_request_line", lambda *_: 1 / 0)
    assert 201 == (await wire.ask(request(body()))).status
    assert "ZeroDivisionError" in caplog.text


async def test_switched_off_nothing_takes_it(serve: Serve, connect: Connect, handed: Handed) -> None:
    collector = await serve(server={"fast_path": False})
    wire = await connect(collector)
    assert 201 == (await wire.ask(request(body()))).status
    assert 1 == len(handed.on)


async def test_rows_of_both_ways_are_the_same(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
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
