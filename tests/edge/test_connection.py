"""A connection: the order of its responses, its limits, its faults, and how it ends."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.build import CODE
from collector.site_counts import SiteCounts
from tests.edge.conftest import Arrivals, Connect, FaultyTransport, Serve, Watch, Watched
from tests.edge.wire import PATIENCE_S, Wire, head, request, tally, until
from tests.support import Running, body, config, running


@pytest.fixture
def http_path() -> str:
    """These tests use the fast path only; the edge's other tests run both."""
    return "fast"


async def send_uncommitted(wire: Wire, data: bytes) -> Callable[[], None]:
    """Send an event whose commit waits for its sync. Returns the function that lets it go on."""
    begun, released, fdatasync = threading.Event(), threading.Event(), os.fdatasync

    def held(descriptor: int) -> None:
        begun.set()
        released.wait(PATIENCE_S)
        fdatasync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", held)
        wire.send(data)
        await until(begun.is_set)
    return released.set


async def test_pipelined_requests_are_answered_in_order(arrivals: Arrivals, collector: Running, wire: Wire) -> None:
    """The others arrive while the first waits for its commit."""
    commit = await send_uncommitted(wire, request(body(page_title="first")))
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
    commit = await send_uncommitted(wire, request(body()))
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
    commit = await send_uncommitted(wire, request(body()))
    await arrivals.send(wire, head(target=target))
    commit()
    assert [201, 400] == [(await wire.answer()).status for _ in range(2)]
    assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert 0 == collector.stages.decider.in_flight.count


async def test_failing_response_does_not_stop_the_journal(
    faulty_transports: list[FaultyTransport], collector: Running, wire: Wire, connect: Connect
) -> None:
    """The event is stored. The connection closes, because no response can be sent."""
    await until(lambda: faulty_transports)
    faulty_transports[0].faults.add("write")
    wire.send(request(body()))
    assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert {"received": 2, "stored": 2} == tally(collector)


@pytest.mark.skipif(CODE == "compiled", reason="counting cannot be made to fail: a method of compiled code")
async def test_stored_event_that_cannot_be_counted_does_not_stop_the_journal(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is stored, but not counted, and its connection is reset."""
    with monkeypatch.context() as broken:
        broken.setattr(SiteCounts, "count_stored", lambda _: 1 / 0)
        wire.send(request(body()))
        assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    await collector.flush()
    assert 2 == len(collector.rows())


async def test_response_that_cannot_be_made_does_not_stop_the_journal(
    collector: Running, wire: Wire, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of `Date` cannot be made. The event is stored and counted, and its connection is reset."""
    with monkeypatch.context() as broken:
        broken.setattr("collector.edge.date.formatdate", lambda *_, **__: 1 / 0)
        wire.send(request(body()))
        assert b"" == await wire.rest()
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count
    assert {"received": 1, "stored": 1} == tally(collector)
    assert 201 == (await (await connect(collector)).ask(request(body()))).status
    assert {"received": 2, "stored": 2} == tally(collector)
    await collector.flush()
    assert 2 == len(collector.rows())


async def test_fault_in_a_connection_closes_only_that_connection(
    faulty_transports: list[FaultyTransport],
    collector: Running,
    wire: Wire,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await until(lambda: faulty_transports)
    faulty_transports[0].faults.add("close")
    wire.send(request(body(), b"Connection: close"))
    assert (await wire.rest()).startswith(b"HTTP/1.1 201 ")
    assert "a connection failed" in caplog.text
    assert not collector.stages.journal.broken.is_set()
    assert 0 == collector.stages.decider.in_flight.count


async def test_event_is_stored_although_its_client_has_left(
    collector: Running, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    registry = collector.stages.metrics.registry
    commit = await send_uncommitted(wire, request(body()))
    wire.abort()
    await until(lambda: registry.get_sample_value("collector_connections") == 0)
    commit()
    await until(lambda: tally(collector))
    assert {"received": 1, "stored": 1} == tally(collector)
    assert 0 == collector.stages.decider.in_flight.count
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_closing_server_waits_for_the_request_in_flight(collector: Running, wire: Wire) -> None:
    commit = await send_uncommitted(wire, request(body()))
    collector.stages.decider.in_flight.draining = True
    closing = asyncio.create_task(collector.server.close(patience_s=PATIENCE_S))
    await asyncio.sleep(0)
    assert not closing.done()
    commit()
    await closing
    answer = await wire.answer()
    assert (201, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await wire.rest()


async def test_server_closes_although_a_request_never_gets_its_response(collector: Running, wire: Wire) -> None:
    commit = await send_uncommitted(wire, request(body()))
    await collector.server.close(patience_s=0.05)
    assert b"" == await wire.rest()
    commit()


async def test_client_that_has_closed_its_side_gets_its_response(collector: Running) -> None:
    answer = await collector.raw(request(body()), eof=True)
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_client_that_reads_no_responses_is_not_read_either(
    watch: Watch, arrivals: Arrivals, serve: Serve
) -> None:
    """Otherwise its responses would fill memory until it is cut off."""

    class WithSmallBuffers(Watched):
        def connection_made(self, transport: Any) -> None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            super().connection_made(transport)

    watch(WithSmallBuffers)
    collector = await serve()
    loop = asyncio.get_running_loop()
    with socket.socket() as unread:
        unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        unread.setblocking(False)
        await loop.sock_connect(unread, (collector.host, collector.port))
        await until(lambda: arrivals.transports)
        (transport,) = arrivals.transports
        counted = collector.stages.metrics.counts.of_site("demo")
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
        commit = await send_uncommitted(slow, request(body()))
        assert 202 == (await idle.ask(request(b"{"))).status
        assert b"" == await idle.rest()  # `slow` was idle before it, so its timeout has passed too
        commit()
        assert 201 == (await slow.answer()).status
        assert b"" == await slow.rest()
