"""The fast path: which requests take it, answered as the standard path answers them; and their order."""

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.wiring import build_rules
from collector.edge import responses
from collector.edge.connection import Connection
from collector.edge.exchange import Exchange
from collector.edge.fast_path import END, LONGEST_HEAD_BYTES, FastPath
from collector.edge.standard_path import StandardPath
from collector.ingest import pipeline
from tests.edge.conftest import Connect, Serve
from tests.edge.faults import FAULTS, collector_with, faulty
from tests.edge.wire import Wire, chunk, head, request, tally, until
from tests.support import SERVER_DEFAULTS, Running, body, config, event, running

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


async def test_answers_keep_their_order_when_a_client_does_not_wait(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second and third come while the first waits for its commit."""
    submitted: list[Any] = []
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: submitted.append(of))
    wire.send(request(body(page_title="first")))
    await until(lambda: submitted)
    monkeypatch.setattr(collector.stages.journal, "submit", submit)
    wire.send(request(b"{"))
    await asyncio.sleep(0.02)
    wire.send(request(body(), site="nobody") + request(body(page_title="last")))
    await asyncio.sleep(0.02)
    assert {} == tally(collector)
    submit(*submitted[0])
    assert [201, 202, 404, 201] == [(await wire.answer()).status for _ in range(4)]
    assert {"received": 3, "stored": 2, "invalid": 1} == tally(collector)


async def test_client_that_does_not_wait_is_read_no_further(
    collector: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held for it is no more than what one look into its socket brings."""
    submitted: list[Any] = []
    held: list[int] = []
    data_received = Connection.data_received

    def seen(connection: Connection, data: bytes) -> None:
        data_received(connection, data)
        held.append(len(connection._buffer))

    monkeypatch.setattr(Connection, "data_received", seen)
    wire = await connect(collector)
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: submitted.append(of))
    wire.send(request(body()))
    await until(lambda: submitted)
    monkeypatch.setattr(collector.stages.journal, "submit", submit)
    behind = 400 * request(b"{" + bytes(1_000))
    for start in range(0, len(behind), 10_000):
        wire.send(behind[start : start + 10_000])
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert 2 == len(held)
    assert 0 < held[1] < 260_000 < len(behind)
    submit(*submitted[0])
    assert [201, *400 * [202]] == [(await wire.answer()).status for _ in range(401)]


@pytest.mark.parametrize("target", ["http://[::1]..@", "/\xff"])
async def test_whatever_comes_behind_a_request_fails_its_own_connection_alone(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """It is looked at when the journal has stored the one before, which must not take it for a fault of its own."""
    submitted: list[Any] = []
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: submitted.append(of))
    wire.send(request(body()))
    await until(lambda: submitted)
    monkeypatch.setattr(collector.stages.journal, "submit", submit)
    wire.send(head(target=target))
    await asyncio.sleep(0.02)
    submit(*submitted[0])
    assert [201, 400] == [(await wire.answer()).status for _ in range(2)]
    assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert 0 == collector.stages.decider.in_flight.count


@pytest.mark.parametrize("place", ["responses.stored", "date.Date.end_of_head"])
async def test_answer_that_fails_is_no_fault_of_the_journals(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The event is stored; its connection is closed, which has no other way to tell."""
    with monkeypatch.context() as broken:
        broken.setattr(f"collector.edge.{place}", lambda *_: 1 / 0)
        wire.send(request(body()))
        assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert {"received": 2, "stored": 2} == tally(collector)


async def test_fault_in_a_connection_ends_it_alone(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Connection, "_close_behind", lambda *_: 1 / 0)
        wire.send(request(body(), b"Connection: close"))
        assert (await wire.rest()).startswith(b"HTTP/1.1 201 ")
    assert "a connection failed" in caplog.text
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count


async def test_event_of_a_client_that_is_gone_is_stored(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    submitted: list[Any] = []
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: submitted.append(of))
    connections = collector.stages.metrics.connections
    wire.send(request(body()))
    await until(lambda: submitted)
    wire.abort()
    await until(lambda: connections._value.get() == 0)
    submit(*submitted[0])
    await until(lambda: tally(collector))
    assert {"received": 1, "stored": 1} == tally(collector)
    assert 0 == collector.stages.decider.in_flight.count
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_request_in_flight_when_the_server_ends_is_answered(tmp_path: Path, connect: Connect) -> None:
    """As aiohttp waits for those of its own."""
    submitted: list[Any] = []
    async with running(config(tmp_path)) as collector:
        wire = await connect(collector)
        submit = collector.stages.journal.submit
        collector.stages.journal.submit = lambda *of: submitted.append(of)  # type: ignore[method-assign]
        wire.send(request(body()))
        await until(lambda: submitted)
        collector.stages.decider.in_flight.draining = True
        asyncio.get_running_loop().call_later(0.1, lambda: submit(*submitted[0]))
    answer = await wire.answer()
    assert (201, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await wire.rest()


async def test_server_ends_though_a_request_is_never_answered(tmp_path: Path, connect: Connect) -> None:
    submitted: list[Any] = []
    async with running(config(tmp_path)) as collector:
        wire = await connect(collector)
        collector.stages.journal.submit = lambda *of: submitted.append(of)  # type: ignore[method-assign]
        wire.send(request(body()))
        await until(lambda: submitted)
    assert b"" == await wire.rest()


async def test_client_that_has_closed_its_side_gets_its_answer(collector: Running) -> None:
    answer = await collector.raw(request(body()), eof=True)
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_client_that_reads_no_answers_is_answered_no_more(
    collector: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is cut off for that, its answers would wait in memory, as many as it can ask for."""
    made: list[Connection] = []
    connection_made = Connection.connection_made

    def with_small_buffers(connection: Connection, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        made.append(connection)
        connection_made(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", with_small_buffers)
    loop = asyncio.get_running_loop()
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        unread.setblocking(False)
        await loop.sock_connect(unread, (collector.host, collector.port))
        counted = collector.stages.metrics.of_site("demo")
        with suppress(TimeoutError):
            for number in range(1, 1_000):
                await loop.sock_sendall(unread, request(b"{"))
                async with asyncio.timeout(0.5):
                    await until(lambda number=number: counted.received == number)  # type: ignore[misc]
        transport = made[0]._transport
        assert transport is not None
        _, high_bytes = transport.get_write_buffer_limits()
        assert high_bytes < transport.get_write_buffer_size() < high_bytes + 2_000


async def test_connection_idles_for_the_keepalive_timeout_and_no_longer(tmp_path: Path, connect: Connect) -> None:
    """Counted from the last answer; a request in flight is not idle, however long its commit takes."""
    async with running(config(tmp_path), keepalive_timeout_s=0.4) as collector:
        submitted: list[Any] = []
        journal = collector.stages.journal
        idle, slow = await connect(collector), await connect(collector)
        assert 201 == (await idle.ask(request(body()))).status
        submit, journal.submit = journal.submit, lambda *of: submitted.append(of)  # type: ignore[method-assign]
        slow.send(request(body()))
        assert b"" == await idle.rest()
        await asyncio.sleep(0.5)
        submit(*submitted[0])
        assert 201 == (await slow.answer()).status
        assert b"" == await slow.rest()


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
