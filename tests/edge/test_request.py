"""Bodies: late, too large, chunked, cut, encoded, and announced with `Expect`."""

import asyncio
import gzip
import logging
import re
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from collector.edge.bodies import MAX_INCOMING_BYTES, Bodies
from collector.edge.standard_path import BodyLost, read_body
from tests.edge.conftest import Connect, Serve
from tests.edge.test_framing import BROKEN
from tests.edge.wire import PATIENCE_S, Wire, chunk, head, request, soon, tally, until
from tests.support import Running, body

CHUNKED = b"Transfer-Encoding: chunked"
EXPECT = b"Expect: 100-continue"
LAST_CHUNK = chunk(b"")
LENGTH = b"Content-Length: %d" % len(body())


def sized(size: int) -> bytes:
    """A valid event of exactly this many bytes."""
    return body().ljust(size)


@pytest.fixture
async def small(serve: Serve, no_lingering: None) -> Running:
    """A collector that accepts bodies of up to 512 bytes and waits 0.3 s for them."""
    return await serve(server={"max_body_bytes": 512, "body_timeout_s": 0.3})


@pytest.mark.parametrize(
    "sent",
    [head(LENGTH), head(LENGTH) + b"{", head(CHUNKED), head(CHUNKED) + chunk(b"{")],
    ids=["not begun", "cut", "chunks not begun", "chunks cut"],
)
async def test_missing_body_is_a_timeout(small: Running, connect: Connect, sent: bytes) -> None:
    wire = await connect(small)
    answer = await wire.ask(sent)
    message = "Body was not received in time"
    assert (408, "timeout", "close") == (answer.status, answer.reason, answer.headers["Connection"])
    assert {"message": message, "errors": [{"message": message, "code": "TIMEOUT"}]} == answer.json
    assert b"" == await wire.rest()
    assert {"received": 1, "timeout": 1} == tally(small)


async def test_timeout_covers_the_entire_body(small: Running, connect: Connect) -> None:
    """A client that sends a byte every millisecond gets no more time."""
    wire = await connect(small)
    wire.send(head(b"Content-Length: 512"))
    pieces = 0

    def dribbled_to_the_end() -> bool:
        nonlocal pieces
        pieces += 1
        if pieces < 500:
            wire.send(b" ")
        return bool(tally(small))

    await until(dribbled_to_the_end)
    assert 408 == (await wire.answer()).status


@pytest.mark.parametrize(("size", "status"), [(512, 201), (513, 413)])
@pytest.mark.parametrize("framing", ["declared", "chunked", "one chunk a byte"])
async def test_body_limit_is_exact_to_the_byte(
    small: Running, connect: Connect, size: int, status: int, framing: str
) -> None:
    data = sized(size)
    pieces = [data] if framing == "chunked" else [bytes([byte]) for byte in data]
    chunked = head(CHUNKED) + b"".join(map(chunk, pieces)) + LAST_CHUNK
    wire = await connect(small)
    answer = await wire.ask(request(data) if framing == "declared" else chunked)
    assert (status, "close" if status == 413 else None) == (answer.status, answer.headers.get("Connection"))
    if status == 413:
        assert b"" == await wire.rest()


@pytest.mark.parametrize(
    "sent", [head(b"Content-Length: 513"), head(CHUNKED) + chunk(bytes(513))], ids=["declared", "in chunks"]
)
async def test_body_too_large_is_refused_before_its_end(small: Running, connect: Connect, sent: bytes) -> None:
    """Declared: before its first byte. In chunks: at the first byte too many."""
    wire = await connect(small)
    assert 413 == (await wire.ask(sent)).status
    assert b"" == await wire.rest()
    assert {"received": 1, "too_large": 1} == tally(small)


async def test_client_that_keeps_sending_can_read_its_refusal(collector: Running, wire: Wire) -> None:
    """4 MB follow a 413. Closing at once would reset the connection before the client reads the response."""
    wire.send(head(b"Content-Length: 4194304"))
    wire.send(bytes(4194304))
    assert 413 == (await wire.answer()).status
    assert b"" == await wire.rest()


async def test_body_may_arrive_byte_by_byte(collector: Running, wire: Wire) -> None:
    for sent in (request(body()), head(CHUNKED) + chunk(body()) + LAST_CHUNK):
        for byte in sent:
            wire.send(bytes([byte]))
            await until(lambda: True)
        assert 201 == (await wire.answer()).status


@pytest.mark.parametrize("begun", [b"", b"3\r\nab", chunk(b"{")], ids=["before the first", "within one", "after one"])
async def test_broken_chunks_are_answered_at_once(serve: Serve, connect: Connect, begun: bytes) -> None:
    """Nothing after a broken chunk can be parsed, so waiting for more is pointless."""
    collector = await serve(server={"body_timeout_s": 1})
    wire = await connect(collector)
    wire.send(head(CHUNKED) + begun)
    await until(lambda: collector.stages.decider.in_flight.count)
    wire.send(b"no chunk\r\n")
    answer = await wire.answer()
    assert (400, "invalid") == (answer.status, answer.reason)
    wire.send_eof()
    assert b"" == await wire.rest()
    assert {"received": 1, "invalid": 1} == tally(collector)


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("leaves", [False, True])
async def test_broken_body_releases_its_memory_and_connection(
    serve: Serve, connect: Connect, broken: bytes, leaves: bool
) -> None:
    """The handler already waits for the body when the broken chunk arrives."""
    collector = await serve()
    wire = await connect(collector)
    wire.send(head(CHUNKED))
    await until(lambda: collector.stages.decider.in_flight.count)
    wire.send(broken)
    if leaves:
        wire.send_eof()
    elif broken.endswith(b"\n"):
        assert (400, "invalid") == ((answer := await wire.answer()).status, answer.reason)
        wire.send_eof()
        assert b"" == await wire.rest()
    else:
        wire.close()
    await until(lambda: tally(collector))
    await soon(collector.stages.decider.in_flight.none())
    await until(lambda: 0 == collector.stages.metrics.registry.get_sample_value("collector_connections"))
    assert collector.server.bodies.take(MAX_INCOMING_BYTES)


async def test_body_that_only_aiohttp_refuses_is_refused_at_once(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If aiohttp's parser is stricter than Framing, Framing fails the body: aiohttp does not notify the handler."""
    monkeypatch.setattr("collector.edge.framing._TRAILER", re.compile(rb"[^\n]*\n"))
    wire.send(head(CHUNKED))
    await until(lambda: collector.stages.decider.in_flight.count)
    wire.send(chunk(body()) + b"0\r\nfoo\r\n\r\n")
    assert (400, "invalid") == ((answer := await wire.answer()).status, answer.reason)
    wire.send_eof()
    assert b"" == await wire.rest()


async def test_broken_chunks_of_an_unwanted_body_are_not_logged(
    collector: Running, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp would log 11 lines for each, and anybody can send them."""
    assert 404 == (await wire.ask(head(CHUNKED, site="nobody"))).status
    wire.send(b"no chunk\r\n")
    await wire.rest()
    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "sent", [request(body())[:-1], head(CHUNKED) + chunk(b"{"), head(LENGTH)], ids=["cut", "in chunks", "not begun"]
)
async def test_client_that_leaves_before_its_body_is_counted_and_not_logged(
    collector: Running, wire: Wire, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """This happens all day; a traceback for each would bury real problems."""
    wire.send(sent)
    await until(lambda: collector.stages.decider.in_flight.count)
    wire.close()
    await until(lambda: tally(collector))
    await soon(collector.stages.decider.in_flight.none())
    assert {"received": 1, "aborted": 1} == tally(collector)
    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_connection_lost_between_two_pieces_of_a_body_raises_body_lost() -> None:
    """aiohttp raises RuntimeError, which would otherwise be counted and logged as an internal error."""
    protocol = Mock(connected=False)
    begun = StreamReader(protocol, 2**16, loop=asyncio.get_running_loop())
    begun.feed_data(b"{")
    headers = CIMultiDict({"Content-Length": "5"})
    lost_request = make_mocked_request("POST", "/", headers, transport=None, protocol=protocol, payload=begun)
    with pytest.raises(BodyLost):
        await read_body(lost_request, Bodies(), max_bytes=512, timeout_s=PATIENCE_S)


WANTED = head(EXPECT, LENGTH)
EXPECTATIONS = {
    "length": (WANTED, 100),
    "chunks": (head(EXPECT, CHUNKED), 100),
    "case": (head(b"expect: 100-CONTINUE", LENGTH), 100),
    "unknown site": (head(EXPECT, LENGTH, site="nobody"), 404),
    "other path": (head(EXPECT, LENGTH, target="/"), 404),
    "method": (head(EXPECT, LENGTH, method="PUT"), 405),
    "too large": (head(EXPECT, b"Content-Length: 513"), 413),
    "encoded": (head(EXPECT, LENGTH, b"Content-Encoding: br"), 415),
    "localhost": (head(EXPECT, LENGTH, b"Origin: http://localhost"), 202),
    "already here": (WANTED + body(), 201),
}


@pytest.mark.parametrize(("sent", "status"), EXPECTATIONS.values(), ids=EXPECTATIONS)
async def test_100_continue_is_sent_only_for_a_wanted_body(
    small: Running, connect: Connect, sent: bytes, status: int
) -> None:
    """The first response is 100, or the refusal. A body that arrives with its head needs no 100."""
    wire = await connect(small)
    assert status == (await wire.ask(sent)).status


async def test_body_sent_after_100_continue_is_stored(collector: Running, wire: Wire) -> None:
    assert 100 == (await wire.ask(WANTED)).status
    assert 201 == (await wire.ask(body())).status


async def test_body_that_arrives_after_the_disk_became_full_is_refused(collector: Running, wire: Wire) -> None:
    """There was room when the head arrived."""
    wire.send(head(LENGTH))
    await until(lambda: collector.stages.decider.in_flight.count)
    collector.stages.journal.blocked_reason = "disk space is low"
    assert 503 == (await wire.ask(body())).status
    assert {"received": 1, "unavailable": 1} == tally(collector)


@pytest.mark.parametrize("refusing", ["rate", "disk"])
async def test_100_continue_is_not_sent_before_a_429_or_503(serve: Serve, connect: Connect, refusing: str) -> None:
    collector = await serve(rate_limit={"burst": 1, "requests_per_minute": 1})
    wire = await connect(collector)
    if refusing == "rate":
        await wire.ask(request(body()))
    collector.stages.journal.blocked_reason = "disk space is low" if refusing == "disk" else None
    assert {"rate": 429, "disk": 503}[refusing] == (await wire.ask(WANTED)).status


async def test_http_1_0_client_never_gets_100_continue(small: Running, connect: Connect) -> None:
    """It would read the 100 as its response (RFC 9110, 10.1.1: servers MUST ignore the expectation)."""
    wire = await connect(small)
    assert 408 == (await wire.ask(head(EXPECT, LENGTH, version="1.0"))).status


@pytest.mark.parametrize("encoding", [b"deflate", b"br", b"ZSTD", b"gzip, gzip", b"gzip, br", b"x", b"gzip;q=1"])
async def test_encoded_body_is_refused_and_never_decoded(collector: Running, wire: Wire, encoding: bytes) -> None:
    """Decoding this body would fail and close the connection."""
    answer = await wire.ask(request(b"not encoded at all", b"Content-Encoding: " + encoding))
    assert (415, "encoding", "gzip") == (answer.status, answer.reason, answer.headers["Accept-Encoding"])
    assert 201 == (await wire.ask(request(body()))).status


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Encoding: br", b"Content-Encoding: gzip"),
        (b"Content-Encoding: gzip", b"Content-Encoding: gzip"),
    ],
)
async def test_encoding_is_found_in_any_of_several_headers(
    collector: Running, wire: Wire, lines: tuple[bytes, ...]
) -> None:
    """RFC 9110, 5.3: several fields with one name are one list."""
    assert 415 == (await wire.ask(request(gzip.compress(body()), *lines))).status


@pytest.mark.parametrize("line", [b"Content-Encoding: identity", b"Content-Encoding: Identity", b"Content-Encoding:"])
async def test_identity_encoding_is_accepted(collector: Running, wire: Wire, line: bytes) -> None:
    assert 201 == (await wire.ask(request(body(), line))).status
