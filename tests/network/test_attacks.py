"""Attacks on a real process, one kind at a time: each is ended cheaply, and regular clients still get their 201.

The collector runs with a timeout of one second for heads and bodies instead of ten, which keeps the slow attacks short.
"""

import asyncio
import gzip
from collections.abc import Iterator

import pytest

from tests.edge.wire import chunk, head, request
from tests.network.battle import MB, Enemy, costs_at_most, enemies, regular_clients
from tests.support import body
from tests.system.process import Process, serving, wait_until

CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d" % len(body())
TIMEOUT_S = 1
DRIBBLE_S = 0.1
EACH = 40  # connections per kind of slow client

# A request smuggled behind an attack. The collector must never process it.
HIDDEN = request(body(), site="hidden")


@pytest.fixture(scope="module", params=["fast", "standard"])
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One collector for all attacks. Each test checks what its attack leaves behind."""
    folder = tmp_path_factory.mktemp(request.param)
    server = {"body_timeout_s": TIMEOUT_S, "fast_path": request.param == "fast"}
    with serving(folder, {"demo": {}, "hidden": {}}, server=server) as started:
        yield started
        assert 0 == started.stop()
        assert [] == started.rows("hidden")
        assert len(started.rows())


def statuses(data: bytes) -> list[int]:
    return [int(line.split()[1]) for line in data.replace(b"HTTP/", b"\nHTTP/").split(b"\n") if line[:5] == b"HTTP/"]


BOMB = gzip.compress(bytes(40 * MB))

# The bytes sent, and the statuses of all responses until the collector closes the connection.
BROKEN: dict[str, tuple[bytes, list[int]]] = {
    "both lengths": (request(b"0\r\n\r\n", CHUNKED) + HIDDEN, [400]),
    "both lengths, chunks first": (head(CHUNKED, b"Content-Length: 5") + b"0\r\n\r\n" + HIDDEN, [400]),
    "two lengths": (request(body(), b"Content-Length: 3") + HIDDEN, [400]),
    "a list of lengths": (head(b"Content-Length: 3, 3") + b"abc" + HIDDEN, [400]),
    "a length with a sign": (head(b"Content-Length: +3") + b"abc" + HIDDEN, [400]),
    "a length in hexadecimal": (head(b"Content-Length: 0x3") + b"abc" + HIDDEN, [400]),
    "a length beyond 64 bits": (head(b"Content-Length: 99999999999999999999999") + HIDDEN, [400]),
    "a length in Arabic digits": (head("Content-Length: \u0663".encode()) + b"abc" + HIDDEN, [400]),
    "chunked twice": (head(CHUNKED, CHUNKED) + chunk(body()) + chunk(b"") + HIDDEN, [400]),
    "chunked and more": (head(b"Transfer-Encoding: chunked, x") + chunk(body()) + chunk(b"") + HIDDEN, [400]),
    "almost chunked": (head(b"Transfer-Encoding: xchunked") + chunk(body()) + chunk(b"") + HIDDEN, [400]),
    "chunked in HTTP/1.0": (head(CHUNKED, version="1.0") + chunk(b"{") + chunk(b"") + HIDDEN, [400]),
    "chunked in HTTP/1.0, kept alive": (
        head(CHUNKED, b"Connection: keep-alive", version="1.0") + chunk(b"{") + chunk(b"") + HIDDEN,
        [400],
    ),
    "empty encoding": (head(b"Transfer-Encoding:") + HIDDEN, [400]),
    "empty encoding next to a length": (request(b"0\r\n\r\n", b"Transfer-Encoding:") + HIDDEN, [400]),
    "trailers": (head(CHUNKED) + chunk(body()) + b"0\r\nHost: x\r\n\r\n" + HIDDEN, [201]),
    "chunk size not a number": (head(CHUNKED) + b"z\r\nabc\r\n" + HIDDEN, [400]),
    "chunk size with a sign": (head(CHUNKED) + b"-1\r\nabc\r\n" + HIDDEN, [400]),
    "chunk size with a prefix": (head(CHUNKED) + b"0x3\r\nabc\r\n" + HIDDEN, [400]),
    "chunk size beyond 64 bits": (head(CHUNKED) + b"ffffffffffffffffff\r\nabc\r\n" + HIDDEN, [400]),
    "chunk size and LF": (head(CHUNKED) + b"3\nabc\n0\n\n" + HIDDEN, [400]),
    "chunk longer than its size": (head(CHUNKED) + b"3\r\nabcdef\r\n" + HIDDEN, [400]),
    "folded header": (request(body(), b"X: a", b" Content-Length: 3") + HIDDEN, [400]),
    "folded length": (head(b"Content-Length:", b" 3") + b"abc" + HIDDEN, [400]),
    "LF alone": (request(body()).replace(b"\r\n", b"\n") + HIDDEN, [400]),
    "LF in a value": (head(b"X: a\nContent-Length: 3") + b"abc" + HIDDEN, [400]),
    "CR in a value": (head(b"X: a\rContent-Length: 3") + b"abc" + HIDDEN, [400]),
    "NUL in a name": (head(b"X\0: a") + HIDDEN, [400]),
    "NUL in a value": (head(b"X: a\0") + HIDDEN, [400]),
    "space before the colon": (request(b"abc", b"Content-Length : 129") + HIDDEN, [400]),
    "space before the name": (head(b" Content-Length: 3") + b"abc" + HIDDEN, [400]),
    "no name": (head(b": a") + HIDDEN, [400]),
    "no colon": (head(b"Content-Length 3") + b"abc" + HIDDEN, [400]),
    "two hosts": (request(body(), b"Host: other.example") + HIDDEN, [400]),
    "no host": (request(body()).replace(b"Host: collector.example\r\n", b"") + HIDDEN, [400]),
    "no version": (b"POST /public/demo/analytics/collect\r\n\r\n" + HIDDEN, [400]),
    "HTTP/0.9": (b"GET /\r\n\r\n" + HIDDEN, [400]),
    "another protocol": (b"POST / RTSP/1.0\r\n\r\n" + HIDDEN, [400]),
    "bad host": (request(body()).replace(b"collector.example", b"bad host") + HIDDEN, [400]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, [400]),
    "HTTP/1.2": (request(body(), version="1.2") + HIDDEN, [400]),
    "unknown method": (request(body(), method="SMUGGLE") + HIDDEN, [400]),
    "long target": (head(target="/" + "x" * 40_000) + HIDDEN, [431]),
    "long name": (head(b"x" * 40_000 + b": y") + HIDDEN, [431]),
    "long value": (head(b"X: " + b"y" * 40_000) + HIDDEN, [431]),
    "many headers": (head(*[b"X%d: y" % n for n in range(200)]) + HIDDEN, [431]),
    "behind a valid request": (request(body()) + request(b"0\r\n\r\n", CHUNKED) + HIDDEN, [201, 400]),
    "length over the limit": (head(b"Content-Length: 1000000000000") + body(), [413]),
    "chunk over the limit": (head(CHUNKED) + b"ffffffff\r\n" + bytes(100_000), [413]),
    "bomb": (request(BOMB, b"Content-Encoding: gzip", b"Connection: close"), [413]),
    "bomb in chunks": (
        head(CHUNKED, b"Content-Encoding: gzip", b"Connection: close") + chunk(BOMB) + chunk(b""),
        [413],
    ),
    "bomb as transfer encoding": (
        head(b"Transfer-Encoding: gzip, chunked", b"Connection: close") + chunk(BOMB) + chunk(b""),
        [415],
    ),
}


@pytest.mark.parametrize(("sent", "expected"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
async def test_malformed_request_closes_its_connection(
    process: Process, sent: bytes, expected: list[int], whole: bool
) -> None:
    """Both in one piece, which the fast path might accept, and in two."""
    before = hidden_requests(process)
    with costs_at_most(process, 16 * MB):
        async with enemies(process, 1) as (enemy,):
            for piece in (sent,) if whole else (sent[:60], sent[60:]):
                await enemy.send(piece)
                await asyncio.sleep(0.001)
            assert expected == statuses(await enemy.received())
    assert 201 == process.post(body()).status
    assert before == hidden_requests(process)


def hidden_requests(process: Process) -> float:
    return process.metrics().value("collector_received_events_total", site="hidden")


async def _dribble(enemy: Enemy, begin: bytes, more: bytes) -> None:
    await enemy.send(begin)
    while await enemy.send(more):  # noqa: ASYNC110 - each turn sends
        await asyncio.sleep(DRIBBLE_S)


async def _pour(enemy: Enemy, begin: bytes, more: bytes) -> None:
    """Send as fast as the collector reads."""
    await enemy.send(begin)
    while await enemy.send(more):  # noqa: ASYNC110 - each turn sends
        await asyncio.sleep(0)


HEAD = head()[:-2]
DRIBBLES: dict[str, tuple[bytes, bytes, set[int]]] = {
    "slow request line": (b"POST /", b"x", {408}),
    "slow header": (HEAD + b"X: ", b"x", {408}),
    "slow headers": (HEAD, b"X: y\r\n", {408}),
    "slow blank lines": (b"", b"\r\n", {408}),
    "slow body": (head(LENGTH), b" ", {408}),
    "slow chunks": (head(CHUNKED), chunk(b" "), {408}),
    "slow chunk size": (head(CHUNKED), b"0", {408}),
    "slow chunk extension": (head(CHUNKED) + b"1;", b"x", {408, 400}),
    "slow trailers": (head(CHUNKED) + chunk(body()) + b"0\r\n", b"X: y\r\n", {408}),
    "slow body to an unknown site": (head(LENGTH, site="nobody"), b" ", {404}),
}
FLOODS: dict[str, tuple[bytes, bytes, set[int]]] = {
    "headers": (HEAD, 100 * (b"X: " + 1_000 * b"y" + b"\r\n"), {431}),
    "one header": (HEAD + b"X: ", 100_000 * b"y", {431}),
    "name": (HEAD, 100_000 * b"y", {431}),
    "request line": (b"POST /", 100_000 * b"y", {431}),
    "blank lines": (b"", 50_000 * b"\r\n", {400, 408}),
    "body": (head(b"Content-Length: 1000000000"), bytes(100_000), {413}),
    "chunks": (head(CHUNKED), 10_000 * chunk(b" "), {413, 408}),
    "chunk extensions": (head(CHUNKED), 100 * (b"1;" + 1_000 * b"x" + b"\r\n \r\n"), {413, 400, 408}),
    "one chunk extension": (head(CHUNKED) + b"1;", 100_000 * b"x", {400, 408}),
    "trailers": (head(CHUNKED) + chunk(body()) + b"0\r\n", 10_000 * b"X: y\r\n", {400}),
    "long trailers": (head(CHUNKED) + chunk(body()) + b"0\r\n", 3 * (b"X: " + 30_000 * b"y" + b"\r\n"), {400}),
    "body to an unknown site": (head(b"Content-Length: 1000000000", site="nobody"), bytes(100_000), {404}),
    "not HTTP": (b"\0", bytes(100_000), {400}),
}


async def test_slow_clients_get_one_response_and_are_closed(process: Process) -> None:
    """All kinds attack at the same time."""
    with costs_at_most(process, 32 * MB):
        async with regular_clients(process), enemies(process, EACH * len(DRIBBLES)) as slow:
            kinds = {kind: slow[number :: len(DRIBBLES)] for number, kind in enumerate(DRIBBLES)}
            async with asyncio.TaskGroup() as group:
                for kind, these in kinds.items():
                    for enemy in these:
                        group.create_task(_dribble(enemy, *DRIBBLES[kind][:2]))
            received = {kind: [statuses(await enemy.received()) for enemy in these] for kind, these in kinds.items()}
    for kind, (_, _, expected) in DRIBBLES.items():
        assert EACH * [1] == [len(each) for each in received[kind]], kind
        assert expected >= {status for (status,) in received[kind]}, kind
    assert_all_closed(process)


@pytest.mark.parametrize(("begin", "more", "expected"), FLOODS.values(), ids=FLOODS)
async def test_flood_is_stopped(process: Process, begin: bytes, more: bytes, expected: set[int]) -> None:
    """A reset can discard a response before the client reads it, so some of the 20 may get none."""
    with costs_at_most(process, 64 * MB):
        async with regular_clients(process), enemies(process, 20) as flooding:
            async with asyncio.TaskGroup() as group:
                for enemy in flooding:
                    group.create_task(_pour(enemy, begin, more))
            received = [statuses(await enemy.received()) for enemy in flooding]
    assert any(received), "no flooder got a response"
    assert all(len(each) <= 1 for each in received)
    assert expected >= {status for each in received for status in each}
    assert_all_closed(process)


def assert_all_closed(process: Process) -> None:
    wait_until(lambda: process.metrics().value("collector_connections") == 0, "every connection is closed")
    assert 0 == process.metrics().value("collector_requests_in_flight")
