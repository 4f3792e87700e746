"""The server: how many connections it keeps open, and how they close."""

import asyncio
import gc
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from collector.edge.bodies import MAX_INCOMING_BYTES
from collector.edge.connection import Connection
from collector.edge.connection_limit import OLDEST_ASKED
from collector.edge.decide import UNREAD_KEPT_BYTES
from collector.edge.exchange import Exchange
from tests.edge.conftest import Arrivals, Connect, Serve
from tests.edge.wire import Wire, chunk, head, request, tally, until
from tests.support import Running, body, config, running

LENGTH = b"Content-Length: %d" % len(body())


def evicted(collector: Running, bound: str = "all") -> float | None:
    return collector.stages.metrics.registry.get_sample_value("collector_evicted_connections_total", {"bound": bound})


def bad_requests(collector: Running) -> float | None:
    return collector.stages.metrics.registry.get_sample_value("collector_bad_requests_total")


async def test_edge_tests_run_on_uvloop_as_workers_do() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_newcomer_evicts_the_oldest_idle_connection(tmp_path: Path, connect: Connect) -> None:
    """A connection is busy from the head of a request to its response."""
    async with running(config(tmp_path), max_connections=3) as collector:
        busy, idle, answered = [await connect(collector) for _ in range(3)]
        busy.send(head(LENGTH) + body()[:10])
        assert 201 == (await answered.ask(request(body()))).status
        await until(lambda: collector.stages.decider.in_flight.count)
        newcomer = await connect(collector)
        assert b"" == await idle.rest()
        assert [201, 201] == [(await wire.ask(request(body()))).status for wire in (newcomer, answered)]
        busy.send(body()[10:])
        assert 201 == (await busy.answer()).status
        assert 1 == evicted(collector)


async def test_newcomer_is_closed_when_all_others_are_busy(tmp_path: Path, connect: Connect) -> None:
    async with running(config(tmp_path), max_connections=3) as collector:
        busy = [await connect(collector) for _ in range(3)]
        for wire in busy:
            wire.send(head(LENGTH) + body()[:10])
        await until(lambda: 3 == collector.stages.decider.in_flight.count)
        assert b"" == await (await connect(collector)).rest()
        for wire in busy:
            wire.send(body()[10:])
        assert [201, 201, 201] == [(await wire.answer()).status for wire in busy]
        assert 201 == (await busy[0].ask(request(body()))).status


async def test_closed_connection_leaves_no_garbage(collector: Running, connect: Connect) -> None:
    """No reference cycles, so the garbage collector can run rarely."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            wire = await connect(collector)
            assert 201 == (await wire.ask(request(body()))).status
            wire.send(head(LENGTH))
            assert 201 == (await wire.ask(body())).status
            assert 202 == (await wire.ask(request(b"{broken"))).status
            assert 201 == (await wire.ask(head(b"Transfer-Encoding: chunked") + chunk(body()) + chunk(b""))).status
            wire.close()
        await until(lambda: 0 == collector.stages.metrics.registry.get_sample_value("collector_connections"))
        # aiohttp's handler ends a turn or two later.
        await until(lambda: not [each for each in gc.get_objects() if isinstance(each, Connection | Exchange)])
    finally:
        gc.enable()


async def test_requests_that_wait_for_their_turn_get_responses(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a turn, pipelined, and one from a client that has closed its side."""
    monkeypatch.setattr("collector.edge.turn_budget.TURN_BYTES", 1)
    collector = await serve()
    wires = [await connect(collector) for _ in range(20)]
    for wire in wires:
        wire.send(2 * request(body()))
    wires[0].send_eof()
    assert 40 * [201] == [(await wire.answer()).status for wire in wires for _ in range(2)]
    assert 40 == tally(collector)["stored"]


async def test_event_is_stored_if_its_client_leaves_before_its_turn(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.edge.turn_budget.TURN_BYTES", 1)
    collector = await serve()
    for wire in [await connect(collector) for _ in range(20)]:
        wire.send(request(body()))
        wire.close()
    await until(lambda: 20 == tally(collector).get("stored"))


async def test_connections_closed_together_are_all_released(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.edge.turn_budget.TURN_BYTES", 1)
    collector = await serve()
    wires = [await connect(collector) for _ in range(20)]
    for wire in wires:
        wire.send(request(body()))
    assert 20 * [201] == [(await wire.answer()).status for wire in wires]
    for wire in wires:
        wire.close()
    registry = collector.stages.metrics.registry
    await until(lambda: registry.get_sample_value("collector_connections") == 0)


async def test_flood_of_connections_stays_within_the_limit(tmp_path: Path, connect: Connect) -> None:
    async with running(config(tmp_path), max_connections=10) as collector:
        for _ in range(2 * OLDEST_ASKED):
            await connect(collector)
        registry = collector.stages.metrics.registry
        await until(lambda: registry.get_sample_value("collector_connections") == 10)
        assert 201 == (await (await connect(collector)).ask(request(body()))).status


@pytest.mark.parametrize("data", [request(body()), head(b"Transfer-Encoding: chunked") + chunk(body()) + b"0\r\n\r\n"])
async def test_client_that_closes_its_side_still_gets_its_response(
    collector: Running, connect: Connect, data: bytes
) -> None:
    wire = await connect(collector)
    wire.send(data)
    wire.send_eof()
    assert 201 == (await wire.answer()).status
    assert b"" == await wire.rest()


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (3 * request(body()), [201, 201, 201]),
        (request(body()) + request(b"{}") + request(body(), site="none"), [201, 202, 404]),
        (2 * request(body()) + request(body())[:-1], [201, 201]),
        (2 * request(body()) + head(b"Transfer-Encoding: chunked"), [201, 201]),
        (b"no HTTP\r\n\r\n", [400]),
        (2 * request(body()) + b"no HTTP\r\n\r\n", [201, 201, 400]),
        (head(b"Transfer-Encoding: chunked") + b"no chunk\r\n", [400]),
    ],
)
async def test_client_that_closes_its_side_gets_all_its_responses(
    collector: Running, connect: Connect, data: bytes, statuses: list[int]
) -> None:
    wire = await connect(collector)
    wire.send(data)
    wire.send_eof()
    assert statuses == [(await wire.answer()).status for _ in statuses]
    assert b"" == await wire.rest()


async def test_late_head_is_a_timeout(serve: Serve, connect: Connect) -> None:
    """A client that sends a byte every millisecond gets no more time, even after an earlier request."""
    collector = await serve(server={"body_timeout_s": 0.3})
    wire = await connect(collector)
    assert 201 == (await wire.ask(request(body()))).status
    wire.send(head(LENGTH)[:-2] + b"X: ")

    def dribbled_to_the_end() -> bool:
        wire.send(b"x")
        return bool(bad_requests(collector))

    await until(dribbled_to_the_end)
    answer = await wire.answer()
    assert (408, "close", b"Request timeout\n") == (answer.status, answer.headers["Connection"], answer.body)
    with suppress(ConnectionResetError):  # caused by the last bytes it sent
        assert b"" == await wire.rest()


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", 100 * b"\r\n"])
async def test_blank_lines_alone_are_a_timeout(serve: Serve, connect: Connect, blank: bytes) -> None:
    """Blank lines may precede a request. A client that sends nothing else must not keep its connection."""
    wire = await connect(await serve(server={"body_timeout_s": 0.2}))
    wire.send(blank)
    assert 408 == (await wire.answer()).status


@pytest.mark.parametrize("line", [b"Content-Length: 1_0", b"Content-Length : 9000", b"Host: bad host"])
async def test_rest_of_a_refused_request_is_read_until_the_client_closes(
    arrivals: Arrivals, collector: Running, connect: Connect, line: bytes
) -> None:
    """Its length is unknown. Closing at once would reset the connection before the client reads the response."""
    wire = await connect(collector)
    assert 400 == (await wire.ask(head(line))).status
    for _ in range(5):
        await arrivals.send(wire, 2_000 * b"x")
        assert 1 == collector.stages.metrics.registry.get_sample_value("collector_connections")
    wire.send_eof()
    assert b"" == await wire.rest()


async def test_size_limit_counts_all_pieces_of_a_head(arrivals: Arrivals, collector: Running, connect: Connect) -> None:
    """No single line is too long."""
    line = b"X: " + 1_000 * b"x" + b"\r\n"
    wire = await connect(collector)
    await arrivals.send(wire, head(LENGTH)[:-2], 30 * line, line + b"\r\n" + body())
    assert 201 == (await wire.answer()).status
    await arrivals.send(wire, head(LENGTH)[:-2], *10 * [4 * line])
    assert 431 == (await wire.answer()).status
    assert {"received": 2, "stored": 1, "too_large": 1} == tally(collector)


async def test_client_over_its_connection_limit_loses_its_own_oldest(serve: Serve, connect: Connect) -> None:
    collector = await serve(server={"max_connections_per_client": 3})
    busy, idle, other = [await connect(collector) for _ in range(3)]
    busy.send(head(LENGTH) + body()[:10])
    await until(lambda: collector.stages.decider.in_flight.count)
    newcomer = await connect(collector)
    assert b"" == await idle.rest()
    busy.send(body()[10:])
    assert 201 == (await busy.answer()).status
    assert [201, 201] == [(await wire.ask(request(body()))).status for wire in (newcomer, other)]
    assert (1, 0) == (evicted(collector, "client"), evicted(collector))


@pytest.mark.parametrize("server", [{"max_connections_per_client": 0}, {"trusted_proxies": ["127.0.0.0/8"]}])
async def test_trusted_proxies_and_limit_0_mean_no_limit_per_client(
    serve: Serve, connect: Connect, server: dict[str, Any]
) -> None:
    collector = await serve(server={"max_connections_per_client": 3} | server)
    wires = [await connect(collector) for _ in range(6)]
    assert 6 * [201] == [(await wire.ask(request(body()))).status for wire in wires]


@pytest.mark.parametrize("leaves", [False, True])
async def test_request_behind_the_rest_of_an_unwanted_body_gets_its_response(
    collector: Running, connect: Connect, leaves: bool
) -> None:
    wire = await connect(collector)
    first, late = request(body()), request(body(), site="nobody")
    assert 201 == (await wire.ask(first + late[:-5])).status
    wire.send(late[-5:] + request(body()))
    if leaves:
        wire.send_eof()
    assert [404, 201] == [(await wire.answer()).status for _ in range(2)]


async def test_requests_around_a_declined_upgrade_get_their_responses(wire: Wire) -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: h2c")
    wire.send(request(body()) + request(body(), site="nobody") + request(body(), *upgrade, site="nobody"))
    assert [201, 404, 404] == [(await wire.answer()).status for _ in range(3)]
    assert 201 == (await wire.ask(request(body()))).status


async def test_client_that_reads_no_responses_is_cut_off(collector: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it could keep its connection, and memory for its responses, forever."""
    monkeypatch.setattr("collector.edge.client_protocol.UNREAD_S", 0.2)
    unread = socket.socket()
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    unread.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(unread, (collector.host, collector.port))
    registry = collector.stages.metrics.registry
    await until(lambda: registry.get_sample_value("collector_connections") == 1)
    for _ in range(200):
        try:
            async with asyncio.timeout(0.05):
                await loop.sock_sendall(unread, 200 * head(method="GET"))
        except (TimeoutError, ConnectionError):
            break
    await until(lambda: registry.get_sample_value("collector_connections") == 0)
    unread.close()


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size_bytes", [UNREAD_KEPT_BYTES, UNREAD_KEPT_BYTES + 1, 250_000])
async def test_idle_connection_holds_no_large_body(
    serve: Serve, connect: Connect, method: str, size_bytes: int
) -> None:
    """A connection closes after a large body that was not wanted, and stays open after a small one."""
    wire = await connect(await serve({"demo": {"tracking": False}}, server={"max_body_bytes": 1 << 20}))
    answer = await wire.ask(request(bytes(size_bytes), method=method))
    assert answer.reason in ("tracking_disabled", "method")
    if size_bytes > UNREAD_KEPT_BYTES:
        assert "close" == answer.headers["Connection"]
        assert b"" == await wire.rest()
    else:
        assert "Connection" not in answer.headers
        assert 202 == (await wire.ask(request(body()))).status


async def test_connection_stays_open_after_a_large_body_that_is_read(serve: Serve, connect: Connect) -> None:
    wire = await connect(await serve(server={"max_body_bytes": 1 << 20}))
    sent = request(body() + b" " * 250_000)
    assert [201, 201] == [(await wire.ask(sent)).status for _ in range(2)]


async def test_client_that_closes_its_side_within_its_body_is_aborted(collector: Running, connect: Connect) -> None:
    wire = await connect(collector)
    wire.send(request(body())[:-1])
    wire.send_eof()
    assert b"" == await wire.rest()
    await until(lambda: tally(collector))
    assert {"received": 1, "aborted": 1} == tally(collector)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip,chunked"])
async def test_transfer_encoding_other_than_chunked_is_refused(
    collector: Running, connect: Connect, coding: bytes
) -> None:
    wire = await connect(collector)
    answer = await wire.ask(head(b"Transfer-Encoding: " + coding) + chunk(body()) + b"0\r\n\r\n")
    assert (415, "encoding") == (answer.status, answer.reason)


async def test_incoming_bodies_share_one_memory_limit(serve: Serve, connect: Connect) -> None:
    """One too many gets 503 and `Retry-After`. A body that arrives with its head does not count."""
    collector = await serve()
    assert collector.server.bodies.take(MAX_INCOMING_BYTES - 2 * len(body()))
    slow = [await connect(collector) for _ in range(2)]
    for wire in slow:
        wire.send(head(LENGTH) + body()[:10])
    await until(lambda: 2 == collector.stages.decider.in_flight.count)
    third = await connect(collector)
    answer = await third.ask(head(LENGTH) + body()[:10])
    assert (503, "unavailable", "5") == (answer.status, answer.reason, answer.headers["Retry-After"])
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    for wire in slow:
        wire.send(body()[10:])
    assert [201, 201] == [(await wire.answer()).status for wire in slow]
    again = await connect(collector)
    again.send(head(LENGTH) + body()[:10])
    await until(lambda: collector.stages.decider.in_flight.count)
    again.send(body()[10:])
    assert 201 == (await again.answer()).status


async def test_empty_site_id_is_unknown(collector: Running, connect: Connect) -> None:
    answer = await (await connect(collector)).ask(request(body(), site=""))
    assert (404, "Site not found", "unknown_site") == (answer.status, answer.json["message"], answer.reason)
