"""A connection: the order of its responses, its limits, its faults, and how it ends."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.edge.connection import Connection
from tests.edge.conftest import Arrivals, Connect
from tests.edge.wire import PATIENCE_S, Wire, head, request, tally, until
from tests.support import Running, body, config, running


@pytest.fixture
def http_path() -> str:
    """These tests use the fast path only; the edge's other tests run both."""
    return "fast"


async def send_uncommitted(collector: Running, wire: Wire, data: bytes) -> Callable[[], None]:
    """Send an event whose commit waits. Returns the function that commits it."""
    journal, submitted = collector.stages.journal, list[Any]()
    submit = journal.submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "submit", lambda *arguments: submitted.append(arguments))
        wire.send(data)
        await until(lambda: submitted)
    return lambda: submit(*submitted[0])


async def test_pipelined_requests_are_answered_in_order(arrivals: Arrivals, collector: Running, wire: Wire) -> None:
    """The others arrive while the first waits for its commit."""
    commit = await send_uncommitted(collector, wire, request(body(page_title="first")))
    await arrivals.send(wire, request(b"{"))
    wire.send(request(body(), site="nobody") + request(body(page_title="last")))
    assert {} == tally(collector)
    commit()
    assert [201, 202, 404, 201] == [(await wire.answer()).status for _ in range(4)]
    assert {"received": 3, "stored": 2, "invalid": 1} == tally(collector)


async def test_pipelining_client_is_not_read_while_a_response_is_pending(
    arrivals: Arrivals, collector: Running, wire: Wire
) -> None:
    """The connection holds no more than one read from the socket brings."""
    commit = await send_uncommitted(collector, wire, request(body()))
    behind = 400 * request(b"{" + bytes(1_000))
    for start in range(0, len(behind), 10_000):
        wire.send(behind[start : start + 10_000])
        await asyncio.sleep(0)
    await until(lambda: len(arrivals.pieces) > 1)
    assert not arrivals.transports[0].is_reading()
    assert 2 == len(arrivals.pieces)
    assert len(arrivals.pieces[1]) < 300_000 < len(behind)
    commit()
    assert [201, *400 * [202]] == [(await wire.answer()).status for _ in range(401)]


@pytest.mark.parametrize("target", ["http://[::1]..@", "/\xff"])
async def test_bad_request_behind_another_fails_only_its_connection(
    arrivals: Arrivals, collector: Running, wire: Wire, connect: Connect, target: str
) -> None:
    """It is read within the journal's commit callback, and must not stop the journal."""
    commit = await send_uncommitted(collector, wire, request(body()))
    await arrivals.send(wire, head(target=target))
    commit()
    assert [201, 400] == [(await wire.answer()).status for _ in range(2)]
    assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert 0 == collector.stages.decider.in_flight.count


@pytest.mark.parametrize("place", ["responses.stored", "date.Date.end_of_head"])
async def test_failing_response_does_not_stop_the_journal(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The event is stored. The connection closes, because no response can be sent."""
    with monkeypatch.context() as broken:
        broken.setattr(f"collector.edge.{place}", lambda *_: 1 / 0)
        wire.send(request(body()))
        assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert {"received": 2, "stored": 2} == tally(collector)


async def test_fault_in_a_connection_closes_only_that_connection(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Connection, "_close_behind", lambda *_: 1 / 0)
        wire.send(request(body(), b"Connection: close"))
        assert (await wire.rest()).startswith(b"HTTP/1.1 201 ")
    assert "a connection failed" in caplog.text
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count


async def test_event_is_stored_although_its_client_has_left(
    collector: Running, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    registry = collector.stages.metrics.registry
    commit = await send_uncommitted(collector, wire, request(body()))
    wire.abort()
    await until(lambda: registry.get_sample_value("collector_connections") == 0)
    commit()
    await until(lambda: tally(collector))
    assert {"received": 1, "stored": 1} == tally(collector)
    assert 0 == collector.stages.decider.in_flight.count
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_closing_server_waits_for_the_request_in_flight(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight = collector.stages.decider.in_flight
    none = in_flight.none
    commit = await send_uncommitted(collector, wire, request(body()))

    async def commit_and_wait() -> None:
        commit()
        await none()

    monkeypatch.setattr(in_flight, "none", commit_and_wait)
    in_flight.draining = True
    await collector.server.close(patience_s=PATIENCE_S)
    answer = await wire.answer()
    assert (201, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await wire.rest()


async def test_server_closes_although_a_request_never_gets_its_response(collector: Running, wire: Wire) -> None:
    commit = await send_uncommitted(collector, wire, request(body()))
    await collector.server.close(patience_s=0.05)
    assert b"" == await wire.rest()
    commit()


async def test_client_that_has_closed_its_side_gets_its_response(collector: Running) -> None:
    answer = await collector.raw(request(body()), eof=True)
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_client_that_reads_no_responses_is_not_read_either(
    arrivals: Arrivals, collector: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its responses would fill memory until it is cut off."""
    connection_made = Connection.connection_made

    def with_small_buffers(connection: Connection, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        connection_made(connection, transport)

    monkeypatch.setattr(Connection, "connection_made", with_small_buffers)
    loop = asyncio.get_running_loop()
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        unread.setblocking(False)
        await loop.sock_connect(unread, (collector.host, collector.port))
        await until(lambda: arrivals.transports)
        (transport,) = arrivals.transports
        counted = collector.stages.metrics.of_site("demo")
        sent = 0
        while transport.is_reading():
            sent += 1
            assert sent < 1_000
            await loop.sock_sendall(unread, request(b"{"))
            await until(lambda number=sent: counted.received == number or not transport.is_reading())  # type: ignore[misc]
        _, high_bytes = transport.get_write_buffer_limits()
        assert high_bytes < transport.get_write_buffer_size() < high_bytes + 2_000


async def test_connection_closes_after_the_keepalive_timeout(tmp_path: Path, connect: Connect) -> None:
    """The timeout starts at the last response. A request in flight is not idle, however long its commit takes."""
    async with running(config(tmp_path), keepalive_timeout_s=0.4) as collector:
        slow, idle = await connect(collector), await connect(collector)
        commit = await send_uncommitted(collector, slow, request(body()))
        assert 201 == (await idle.ask(request(body()))).status
        assert b"" == await idle.rest()  # `slow` was idle before it, so its timeout has passed too
        commit()
        assert 201 == (await slow.answer()).status
        assert b"" == await slow.rest()
