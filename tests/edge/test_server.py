"""The server: how many connections it keeps, and how they end."""

import asyncio
import gc
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from collector.edge.connection import Connection
from collector.edge.connection_limit import OLDEST_ASKED
from collector.edge.decide import UNREAD_KEPT_BYTES
from collector.edge.exchange import Exchange
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Wire, chunk, head, request, tally, until
from tests.support import Running, body, config, running

LENGTH = b"Content-Length: %d" % len(body())


def evicted(collector: Running, bound: str = "all") -> float | None:
    return collector.stages.metrics.registry.get_sample_value("collector_evicted_connections_total", {"bound": bound})


def bad_requests(collector: Running) -> float | None:
    return collector.stages.metrics.registry.get_sample_value("collector_bad_requests_total")


async def test_edge_is_tested_on_the_loop_of_workers() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_newcomer_takes_the_place_of_the_oldest_idle_connection(tmp_path: Path, connect: Connect) -> None:
    """One that is sending its request is not idle, however old; one that has its answer is."""
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


async def test_newcomer_goes_where_every_connection_is_busy(tmp_path: Path, connect: Connect) -> None:
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


async def test_closed_connection_is_no_garbage(collector: Running, connect: Connect) -> None:
    """Full collections are rare, because there is nothing for them to find."""
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
        # Its handler ends a turn or two later.
        await until(lambda: not [each for each in gc.get_objects() if isinstance(each, Connection | Exchange)])
    finally:
        gc.enable()


async def test_requests_that_wait_for_their_turn_are_answered(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a turn: whole ones, pipelined ones, and one whose client says that it will send no more."""
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


async def test_connections_that_are_closed_together_all_go(
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
    await until(lambda: collector.stages.metrics.connections._value.get() == 0)


async def test_flood_of_connections_stays_within_the_bound(tmp_path: Path, connect: Connect) -> None:
    async with running(config(tmp_path), max_connections=10) as collector:
        for _ in range(2 * OLDEST_ASKED):
            await connect(collector)
        registry = collector.stages.metrics.registry
        await until(lambda: registry.get_sample_value("collector_connections") == 10)
        assert 201 == (await (await connect(collector)).ask(request(body()))).status


@pytest.mark.parametrize("data", [request(body()), head(b"Transfer-Encoding: chunked") + chunk(body()) + b"0\r\n\r\n"])
async def test_client_that_sends_no_more_still_gets_its_answer(
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
async def test_client_that_sends_no_more_gets_all_its_answers(
    collector: Running, connect: Connect, data: bytes, statuses: list[int]
) -> None:
    wire = await connect(collector)
    wire.send(data)
    wire.send_eof()
    assert statuses == [(await wire.answer()).status for _ in statuses]
    assert b"" == await wire.rest()


async def test_head_that_does_not_come_in_time_is_a_timeout(serve: Serve, connect: Connect) -> None:
    """However it dribbles; not even a request that was answered before buys it more time."""
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
    with suppress(ConnectionResetError):  # by what it dribbled last
        assert b"" == await wire.rest()


@pytest.mark.parametrize("blank", [b"\r\n", b"\n", 100 * b"\r\n"])
async def test_blank_lines_alone_are_a_timeout(serve: Serve, connect: Connect, blank: bytes) -> None:
    """A request may begin with some; whoever sends nothing else would hold a connection for ever."""
    wire = await connect(await serve(server={"body_timeout_s": 0.2}))
    wire.send(blank)
    assert 408 == (await wire.answer()).status


@pytest.mark.parametrize("line", [b"Content-Length: 1_0", b"Content-Length : 9000", b"Host: bad host"])
async def test_rest_of_a_refused_request_is_read_until_its_client_ends(
    collector: Running, connect: Connect, line: bytes
) -> None:
    """Nobody knows how long it is. To close at once would reset the connection under the response."""
    wire = await connect(collector)
    assert 400 == (await wire.ask(head(line))).status
    for _ in range(5):
        wire.send(2_000 * b"x")
        await asyncio.sleep(0.005)
        assert 1 == collector.stages.metrics.registry.get_sample_value("collector_connections")
    wire.send_eof()
    assert b"" == await wire.rest()


async def test_head_in_pieces_may_be_large_and_not_larger(collector: Running, connect: Connect) -> None:
    """Each of its lines is one that aiohttp takes."""
    line = b"X: " + 1_000 * b"x" + b"\r\n"
    wire = await connect(collector)
    for piece in (head(LENGTH)[:-2], 30 * line, line + b"\r\n" + body()):
        wire.send(piece)
        await asyncio.sleep(0)
    assert 201 == (await wire.answer()).status
    wire.send(head(LENGTH)[:-2])
    for _ in range(10):
        wire.send(4 * line)
        await asyncio.sleep(0)
    assert 431 == (await wire.answer()).status
    assert {"received": 2, "stored": 1, "too_large": 1} == tally(collector)


async def test_connections_beyond_those_of_one_client_cost_it_its_own(serve: Serve, connect: Connect) -> None:
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
async def test_no_bound_holds_for_trusted_proxies_nor_where_there_is_none(
    serve: Serve, connect: Connect, server: dict[str, Any]
) -> None:
    collector = await serve(server={"max_connections_per_client": 3} | server)
    wires = [await connect(collector) for _ in range(6)]
    assert 6 * [201] == [(await wire.ask(request(body()))).status for wire in wires]


@pytest.mark.parametrize("leaves", [False, True])
async def test_request_that_comes_with_the_end_of_a_body_that_was_not_waited_for_is_answered(
    collector: Running, connect: Connect, leaves: bool
) -> None:
    """The parser reads no further than the end of that body, and must be told to."""
    wire = await connect(collector)
    first, late = request(body()), request(body(), site="nobody")
    assert 201 == (await wire.ask(first + late[:-5])).status
    wire.send(late[-5:] + request(body()))
    if leaves:
        wire.send_eof()
    assert [404, 201] == [(await wire.answer()).status for _ in range(2)]


async def test_requests_around_an_upgrade_that_is_declined_are_answered(wire: Wire) -> None:
    upgrade = (b"Connection: Upgrade", b"Upgrade: h2c")
    wire.send(request(body()) + request(body(), site="nobody") + request(body(), *upgrade, site="nobody"))
    assert [201, 404, 404] == [(await wire.answer()).status for _ in range(3)]
    assert 201 == (await wire.ask(request(body()))).status


async def test_client_that_reads_no_answers_is_cut_off(collector: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold its connection, and all that waits to be written, as long as it likes."""
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
async def test_connection_that_idles_holds_no_large_body(
    serve: Serve, connect: Connect, method: str, size_bytes: int
) -> None:
    """aiohttp keeps a request until the next: where its body was not wanted, and is large, there is no next."""
    wire = await connect(await serve({"demo": {"tracking": False}}, server={"max_body_bytes": 1 << 20}))
    answer = await wire.ask(request(bytes(size_bytes), method=method))
    assert answer.reason in ("tracking_disabled", "method")
    if size_bytes > UNREAD_KEPT_BYTES:
        assert "close" == answer.headers["Connection"]
        assert b"" == await wire.rest()
    else:
        assert "Connection" not in answer.headers
        assert 202 == (await wire.ask(request(body()))).status


async def test_large_body_that_is_read_leaves_the_connection_open(serve: Serve, connect: Connect) -> None:
    wire = await connect(await serve(server={"max_body_bytes": 1 << 20}))
    sent = request(body() + b" " * 250_000)
    assert [201, 201] == [(await wire.ask(sent)).status for _ in range(2)]


async def test_client_that_ends_within_its_body_is_gone(collector: Running, connect: Connect) -> None:
    wire = await connect(collector)
    wire.send(request(body())[:-1])
    wire.send_eof()
    assert b"" == await wire.rest()
    await until(lambda: tally(collector))
    assert {"received": 1, "aborted": 1} == tally(collector)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip,chunked"])
async def test_encoding_of_the_transfer_is_not_taken_either(
    collector: Running, connect: Connect, coding: bytes
) -> None:
    wire = await connect(collector)
    answer = await wire.ask(head(b"Transfer-Encoding: " + coding) + chunk(body()) + b"0\r\n\r\n")
    assert (415, "encoding") == (answer.status, answer.reason)


async def test_bodies_that_are_coming_in_are_bounded_together(serve: Serve, connect: Connect) -> None:
    """One too many is refused and told to come again; bodies that come with their head need no room."""
    collector = await serve()
    collector.server.bodies._left_bytes = 2 * len(body())
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


async def test_site_without_a_name_is_no_site(collector: Running, connect: Connect) -> None:
    answer = await (await connect(collector)).ask(request(body(), site=""))
    assert (404, "Site not found", "unknown_site") == (answer.status, answer.json["message"], answer.reason)
