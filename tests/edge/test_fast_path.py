"""Ordinary requests: known, answered as the plain way answers, and kept apart from everything else."""

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.wiring import build_rules
from collector.edge import connection, fast_path
from collector.edge.app import UNREAD_KEPT_BYTES
from collector.edge.connection import Connection
from collector.edge.head import LONGEST_HEAD_BYTES, HeadReader
from tests.edge.conftest import Connect, Serve
from tests.edge.faults import FAULTS, collector_with, faulty
from tests.edge.wire import Wire, chunk, head, request, tally, until
from tests.support import SERVER_DEFAULTS, Running, body, config, event, running

ORIGIN = b"Origin: https://shop.example"
ALLOWED = "Access-Control-Allow-Origin"
PREFLIGHT = head(ORIGIN, b"Access-Control-Request-Method: POST", method="OPTIONS")


class Handed:
    """What was handed on to aiohttp."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on: list[bytes] = []
        handing_on = Connection._hand_on

        def hand_on(connection: Connection, data: bytes) -> None:
            if data:  # without any it is aiohttp itself that calls
                self.on.append(data)
            handing_on(connection, data)

        monkeypatch.setattr(Connection, "_hand_on", hand_on)


@pytest.fixture(autouse=True)
def way() -> str:
    """This is all about the one way (the edge's other tests run both)."""
    return "fast"


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    return Handed(monkeypatch)


def requests_of(collector: Running) -> fast_path.OrdinaryRequests:
    assert collector.stages.ordinary is not None
    return collector.stages.ordinary


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
    for fast_path in (True, False):
        monkeypatch.setitem(SERVER_DEFAULTS, "fast_path", fast_path)
        collector = await collector_with(serve, *faults)
        wire = await connect(collector)
        answer = await wire.ask(data)
        date = answer.headers.pop("Date")
        assert date.endswith(" GMT")
        closed = b"" == await wire.rest() if answer.headers.get("Connection") == "close" else None
        answers.append((answer.status, dict(answer.headers), answer.body, closed, tally(collector, sent.counted_for)))
        await collector.stages.journal.close()
    fast, plain = answers
    assert plain == fast


def _target(text: bytes) -> str:
    return text.split(b" ")[1].decode()


@pytest.mark.parametrize("target", [None, "/public/demo/analytics/collect/"])
async def test_ordinary_request_is_never_aiohttps(
    collector: Running, wire: Wire, handed: Handed, target: str | None
) -> None:
    """Not even the first of a connection, and a refused one no more than a stored one."""
    sent = [request(data, target=target) for data in (body(), b"{", body())]
    assert [201, 202, 201] == [(await wire.ask(each)).status for each in sent]
    assert [] == handed.on


NOT_ORDINARY: dict[str, bytes] = {
    "preflight": PREFLIGHT,
    "unknown site": request(body(), site="nobody"),
    "other path": request(body(), target="/"),
    "query": request(body(), target="/public/demo/analytics/collect?a=b"),
    "method": request(body(), method="PUT"),
    "HTTP/1.0": request(body(), b"Connection: keep-alive", version="1.0"),
    "encoded": request(body(), b"Content-Encoding: gzip"),
    "chunks": head(b"Transfer-Encoding: chunked") + chunk(body()) + chunk(b""),
    "expected": request(body(), b"Expect: 100-continue"),
    "upgrade": request(body(), b"Connection: Upgrade", b"Upgrade: h2c"),
    "no length": head(),
    "long head": request(body(), b"X: " + b"x" * LONGEST_HEAD_BYTES),
    "large body": request(bytes(UNREAD_KEPT_BYTES + 1)),
    "two at once": request(body()) * 2,
    "one and a half": request(body()) + request(body())[:-9],
}


@pytest.mark.parametrize("sent", NOT_ORDINARY.values(), ids=NOT_ORDINARY)
async def test_everything_else_is_aiohttps(wire: Wire, handed: Handed, sent: bytes) -> None:
    await wire.ask(sent)
    assert sent == handed.on[0]


@pytest.mark.parametrize("between", [PREFLIGHT, request(body(), site="nobody"), request(body(), method="PUT")])
async def test_connection_is_ordinary_again_behind_a_request_of_known_length(
    wire: Wire, handed: Handed, between: bytes
) -> None:
    """Behind a proxy all clients share its connections; one preflight must not slow them down for good."""
    await wire.ask(request(body()))
    await wire.ask(between)
    assert 201 == (await wire.ask(request(body()))).status
    assert [between] == handed.on


async def test_connection_is_ordinary_again_behind_a_body_in_pieces(
    collector: Running, wire: Wire, handed: Handed
) -> None:
    whole = request(body())
    for piece in (whole[:-20], whole[-20:-10]):
        wire.send(piece)
        await until(lambda piece=piece: handed.on[-1:] == [piece])  # type: ignore[misc]
    assert 201 == (await wire.ask(whole[-10:])).status
    assert 201 == (await wire.ask(whole)).status
    assert 3 == len(handed.on)
    assert {"received": 2, "stored": 2} == tally(collector)


async def test_border_of_two_requests_is_never_guessed(collector: Running, wire: Wire, handed: Handed) -> None:
    """Half a head and then what looks like a whole request: to aiohttp the second is a header of the first."""
    wire.send(b"POST /nowhere HTTP/1.1\r\nX: ")
    await until(lambda: handed.on)
    assert 404 == (await wire.ask(request(body()))).status
    assert {} == tally(collector)


async def test_half_a_head_behind_a_whole_request_is_no_border(collector: Running, wire: Wire, handed: Handed) -> None:
    """They come in one piece, the first is answered, and what comes next still belongs to the half."""
    whole = request(body(), site="nobody")
    assert 404 == (await wire.ask(whole + b"POST /nowhere HTTP/1.1\r\nX: ")).status
    await asyncio.sleep(0.02)
    assert 404 == (await wire.ask(request(body()))).status
    assert 2 == len(handed.on)
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
    """Behind ordinary requests that have all its other lines; the second length is smuggling."""
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


@pytest.mark.parametrize("lacking", [1, -1])
async def test_length_must_be_the_bodys(collector: Running, lacking: int) -> None:
    data = body()
    assert requests_of(collector).find(request(data)) is not None
    assert requests_of(collector).find(head(b"Content-Length: %d" % (len(data) + lacking)) + data) is None


async def test_forwarded_address_is_believed_of_a_trusted_peer_only(serve: Serve) -> None:
    collector = await serve(
        {"demo": {"excluded_ips": ["192.0.2.7"]}},
        server={"trusted_proxies": ["127.0.0.1"]},
        privacy={"client_ip": "full"},
    )
    known = requests_of(collector)
    sent = known.find(request(body(), b"X-Forwarded-For: 192.0.2.7"))
    assert sent is not None
    answers: list[bytes] = []
    for peer in ("127.0.0.1", "198.51.100.1", None):
        known.answer(sent, peer, lambda answer, close: answers.append(answer))
    await until(lambda: len(answers) == 3)
    assert [b"202", b"201", b"201"] == [answer.split(b" ")[1] for answer in answers]


async def test_known_heads_are_judged_anew_after_a_reload(collector: Running, wire: Wire, tmp_path: Path) -> None:
    assert 201 == (await wire.ask(request(body(), ORIGIN))).status
    endpoint = collector.stages.endpoint
    sites: dict[str, dict[str, Any]] = {"demo": {"allowed_origins": ["https://other.example"]}}
    endpoint.rules = build_rules(config(tmp_path, sites), collector.clock, endpoint.rules.buckets.table)
    assert 403 == (await wire.ask(request(body(), ORIGIN))).status
    endpoint.rules = build_rules(config(tmp_path, {"other": {}}), collector.clock, endpoint.rules.buckets.table)
    assert 404 == (await wire.ask(request(body(), ORIGIN))).status


async def test_known_peers_are_judged_anew_after_a_reload(collector: Running, wire: Wire, tmp_path: Path) -> None:
    """One that was a client may be a proxy now."""
    sites: dict[str, dict[str, Any]] = {"demo": {"excluded_ips": ["192.0.2.7"]}}
    sent = request(body(), b"X-Forwarded-For: 192.0.2.7")
    endpoint = collector.stages.endpoint
    for trusted, status in (([], 201), (["127.0.0.1"], 202), ([], 201)):
        settings = config(tmp_path, sites, server={"trusted_proxies": trusted})
        endpoint.rules = build_rules(settings, collector.clock, endpoint.rules.buckets.table)
        assert status == (await wire.ask(sent)).status


@pytest.mark.parametrize("data", [body(), b"{"])
async def test_draining_collector_closes_behind_every_answer(collector: Running, wire: Wire, data: bytes) -> None:
    """What is not stored as well."""
    assert "Connection" not in (await wire.ask(request(data))).headers
    collector.stages.traffic.draining = True
    assert "close" == (await wire.ask(request(data))).headers["Connection"]
    assert b"" == await wire.rest()


@pytest.mark.parametrize("data", [body(), b"{"])
async def test_date_is_that_of_the_second(wire: Wire, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    for now, date in ((1.5, "Thu, 01 Jan 1970 00:00:01 GMT"), (86_400.0, "Fri, 02 Jan 1970 00:00:00 GMT")):
        monkeypatch.setattr("collector.edge.fast_path.time.time", lambda now=now: now)
        assert date == (await wire.ask(request(data))).headers["Date"]


async def test_pages_that_are_remembered_are_bounded(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_path, "MAX_KNOWN_PAGES", 10)
    for number in range(50):
        answer = await wire.ask(request(body(), b"Origin: https://%d.example" % number))
        assert f"https://{number}.example" == answer.headers[ALLOWED]
    known = requests_of(collector)
    assert 10 >= (before := len(known._pages))
    endless = "https://" + 1_000 * "x" + ".example"
    assert endless == (await wire.ask(request(body(), b"Origin: " + endless.encode()))).headers[ALLOWED]
    assert before == len(known._pages)


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
    told: list[Any] = []
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: told.append(of))
    wire.send(request(body(page_title="first")))
    await until(lambda: told)
    monkeypatch.setattr(collector.stages.journal, "submit", submit)
    wire.send(request(b"{"))
    await asyncio.sleep(0.02)
    wire.send(request(body(), site="nobody") + request(body(page_title="last")))
    await asyncio.sleep(0.02)
    assert {} == tally(collector)
    submit(*told[0])
    assert [201, 202, 404, 201] == [(await wire.answer()).status for _ in range(4)]
    assert {"received": 3, "stored": 2, "invalid": 1} == tally(collector)


async def test_client_that_does_not_wait_is_read_no_further(
    collector: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held for it is no more than what one look into its socket brings."""
    told: list[Any] = []
    held: list[int] = []
    data_received = Connection.data_received

    def seen(connection: Connection, data: bytes) -> None:
        data_received(connection, data)
        held.append(len(connection._held))

    monkeypatch.setattr(Connection, "data_received", seen)
    wire = await connect(collector)
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: told.append(of))
    wire.send(request(body()))
    await until(lambda: told)
    monkeypatch.setattr(collector.stages.journal, "submit", submit)
    behind = 400 * request(b"{" + bytes(1_000))
    for start in range(0, len(behind), 10_000):
        wire.send(behind[start : start + 10_000])
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert 2 == len(held)
    assert 0 < held[1] < 260_000 < len(behind)
    submit(*told[0])
    assert [201, *400 * [202]] == [(await wire.answer()).status for _ in range(401)]


@pytest.mark.parametrize("target", ["http://[::1]..@", "/\xff"])
async def test_whatever_comes_behind_a_request_fails_its_own_connection_alone(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """It is looked at when the journal has stored the one before, which must not take it for a fault of its own."""
    told: list[Any] = []
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: told.append(of))
    wire.send(request(body()))
    await until(lambda: told)
    monkeypatch.setattr(collector.stages.journal, "submit", submit)
    wire.send(head(target=target))
    await asyncio.sleep(0.02)
    submit(*told[0])
    assert [201, 400] == [(await wire.answer()).status for _ in range(2)]
    assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert 0 == collector.stages.traffic.in_flight


@pytest.mark.parametrize("place", ["OrdinaryRequests._stored_answer", "OrdinaryRequests._tell_time"])
async def test_answer_that_fails_is_no_fault_of_the_journals(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The event is stored; its connection is closed, which has no other way to tell."""
    with monkeypatch.context() as broken:
        broken.setattr(f"collector.edge.fast_path.{place}", lambda *_: 1 / 0)
        wire.send(request(body()))
        assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.traffic.in_flight
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert {"received": 2, "stored": 2} == tally(collector)


async def test_fault_in_a_connection_ends_it_alone(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Connection, "_keepalive_timeout", "no number", raising=False)
        wire.send(request(body()))
        assert (await wire.rest()).startswith(b"HTTP/1.1 201 ")
    assert "a connection failed" in caplog.text
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.traffic.in_flight


async def test_event_of_a_client_that_is_gone_is_stored(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []
    submit = collector.stages.journal.submit
    monkeypatch.setattr(collector.stages.journal, "submit", lambda *of: told.append(of))
    connections = collector.stages.metrics.connections
    wire.send(request(body()))
    await until(lambda: told)
    wire.abort()
    await until(lambda: connections._value.get() == 0)
    submit(*told[0])
    await until(lambda: tally(collector))
    assert {"received": 1, "stored": 1} == tally(collector)
    assert 0 == collector.stages.traffic.in_flight
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_request_that_is_under_way_when_the_server_ends_is_answered(tmp_path: Path, connect: Connect) -> None:
    """As aiohttp waits for those of its own."""
    told: list[Any] = []
    async with running(config(tmp_path)) as collector:
        wire = await connect(collector)
        submit = collector.stages.journal.submit
        collector.stages.journal.submit = lambda *of: told.append(of)  # type: ignore[method-assign]
        wire.send(request(body()))
        await until(lambda: told)
        collector.stages.traffic.draining = True
        asyncio.get_running_loop().call_later(0.1, lambda: submit(*told[0]))
    answer = await wire.answer()
    assert (201, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await wire.rest()


async def test_server_ends_though_a_request_is_never_answered(tmp_path: Path, connect: Connect) -> None:
    told: list[Any] = []
    async with running(config(tmp_path)) as collector:
        wire = await connect(collector)
        collector.stages.journal.submit = lambda *of: told.append(of)  # type: ignore[method-assign]
        wire.send(request(body()))
        await until(lambda: told)
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
        transport = made[0].transport
        assert transport is not None
        _, high_bytes = transport.get_write_buffer_limits()
        assert high_bytes < transport.get_write_buffer_size() < high_bytes + 2_000


async def test_connection_idles_for_the_keepalive_timeout_and_no_longer(tmp_path: Path, connect: Connect) -> None:
    """Counted from the last answer; a request under way is not idle, however long its commit takes."""
    async with running(config(tmp_path), keepalive_timeout_s=0.4) as collector:
        told: list[Any] = []
        journal = collector.stages.journal
        idle, slow = await connect(collector), await connect(collector)
        assert 201 == (await idle.ask(request(body()))).status
        submit, journal.submit = journal.submit, lambda *of: told.append(of)  # type: ignore[method-assign]
        slow.send(request(body()))
        assert b"" == await idle.rest()
        await asyncio.sleep(0.5)
        submit(*told[0])
        assert 201 == (await slow.answer()).status
        assert b"" == await slow.rest()


async def test_request_that_cannot_be_known_goes_the_plain_way(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HeadReader, "read", lambda *_: 1 / 0)
    assert 201 == (await wire.ask(request(body()))).status
    assert "ZeroDivisionError" in caplog.text


async def test_switched_off_nothing_is_ordinary(serve: Serve, connect: Connect, handed: Handed) -> None:
    collector = await serve(server={"fast_path": False})
    wire = await connect(collector)
    assert 201 == (await wire.ask(request(body()))).status
    assert 1 == len(handed.on)


@pytest.mark.parametrize(
    ("what", "value"), [("TESTED_AIOHTTP", "3.13."), ("PRIVATE_NAMES", ("_messages", "_no_such_name"))]
)
def test_ordinary_requests_pass_by_no_aiohttp_that_was_not_tested(
    monkeypatch: pytest.MonkeyPatch, what: str, value: object
) -> None:
    assert connection.fits()
    monkeypatch.setattr(connection, what, value)
    assert not connection.fits()


async def test_rows_of_both_ways_are_the_same(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = event(lcp=12, page_title="\ud800", event_time="yesterday", screen_width=2**60, is_entry=True)
    rows = []
    for fast_path in (True, False):
        monkeypatch.setitem(SERVER_DEFAULTS, "fast_path", fast_path)
        collector = await serve(privacy={"client_ip": "full"})
        assert 201 == (await collector.post(sent, headers={"User-Agent": "Agent/1 é"})).status
        await collector.flush()
        rows.append([row for row in collector.rows() if row.pop("received_at")])
        await collector.stages.journal.close()
    assert rows[1] == rows[0] * 2
