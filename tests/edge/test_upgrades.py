"""Requests behind a declined upgrade are processed like all others."""

import pytest

from collector.edge.refusal import MAX_HEAD_BYTES
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import chunk, head, request, tally
from tests.support import body

CHUNKED = b"Transfer-Encoding: chunked"
UPGRADES = {
    "websocket": head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", method="GET"),
    "h2c": head(b"Connection: Upgrade", b"Upgrade: h2c", method="GET"),
    "a header alone": head(b"Upgrade: x", method="GET"),
}
HEADER_ONLY = UPGRADES["a header alone"]  # no `Connection: Upgrade`: requests in the same piece are processed too


@pytest.mark.parametrize(
    ("first", "at_once"),
    [*((first, False) for first in UPGRADES.values()), (HEADER_ONLY, True)],
    ids=[*UPGRADES, "in one piece"],
)
async def test_trailer_behind_an_upgrade_is_not_a_header_of_the_next_request(
    serve: Serve, connect: Connect, first: bytes, at_once: bool
) -> None:
    """On a proxy's connection, the next request may be another client's."""
    collector = await serve({"demo": {"allowed_origins": ["https://shop.example"]}})
    wire = await connect(collector)
    trailed = head(CHUNKED) + chunk(body()) + b"0\r\nA: b\r\nOrigin: https://evil.example\r\n\r\n"
    if at_once:
        wire.send(first + trailed)
        assert 405 == (await wire.answer("GET")).status
    else:
        assert 405 == (await wire.ask(first)).status
        wire.send(trailed)
    answer = await wire.answer()
    assert (201, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await wire.rest()
    assert {"received": 1, "stored": 1} == tally(collector)


@pytest.mark.parametrize(
    ("behind", "status", "reason"),
    [
        (request(body(), b"Cookie: " + MAX_HEAD_BYTES * b"c"), 431, "too_large"),
        (head(*(b"X%d: " % n + 30_000 * b"x" for n in range(20))), 431, "too_large"),
        (request(body(), b"Host: bad host"), 400, "invalid"),
    ],
    ids=["a large head", "a huge head", "a bad host"],
)
async def test_head_behind_an_upgrade_is_bounded_and_counted(
    serve: Serve, connect: Connect, behind: bytes, status: int, reason: str
) -> None:
    collector = await serve()
    wire = await connect(collector)
    wire.send(HEADER_ONLY + behind)
    assert 405 == (await wire.answer("GET")).status
    answer = await wire.answer()
    assert (status, reason) == (answer.status, answer.reason)
    assert {"received": 1, reason: 1} == tally(collector)


async def test_other_protocol_behind_an_upgrade_is_refused(serve: Serve, connect: Connect) -> None:
    collector = await serve()
    wire = await connect(collector)
    wire.send(HEADER_ONLY + request(body()).replace(b"HTTP/1.1", b"RTSP/1.0"))
    assert 405 == (await wire.answer("GET")).status
    assert 400 == (await wire.answer()).status
    assert {} == tally(collector)


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_body_of_many_chunks_is_accepted_however_it_is_cut(serve: Serve, connect: Connect, size: int) -> None:
    """Framing has a shortcut for complete chunks."""
    collector = await serve()
    data = body(page_title=499 * "t")
    chunks = b"".join(chunk(data[at : at + size]) for at in range(0, len(data), size)) + chunk(b"")
    sent = head(CHUNKED) + chunks + request(body())
    for cuts in ([], [len(sent) // 3], [5, 60, 200, 301, 302, 303, 304, 305], range(1, len(sent), 97)):
        wire = await connect(collector)
        ends = [*cuts, len(sent)]
        for start, end in zip([0, *ends], ends, strict=False):
            wire.send(sent[start:end])
        assert [201, 201] == [(await wire.answer()).status for _ in range(2)]
    assert {"received": 8, "stored": 8} == tally(collector)
