"""A connection: the order of its responses, its bounds, its faults, and how it ends."""

import asyncio
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from collector.edge.connection import Connection
from tests.edge.conftest import Connect
from tests.edge.wire import Wire, head, request, tally, until
from tests.support import Running, body, config, running


@pytest.fixture(autouse=True)
def http_path() -> str:
    """Of the fast path; the edge's other tests run both."""
    return "fast"


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
