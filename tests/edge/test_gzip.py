"""gzip on every POST: unpacked within the limit of the body, so that a bomb costs no more than the largest event."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest

from collector.edge.content_coding import MAX_MEMBERS, BrokenCoding, UnpackedTooLarge, unpack
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Wire, chunk, head, request, tally
from tests.support import Running, body

GZIP = b"Content-Encoding: gzip"
GB = 1 << 30

PACKED = gzip.compress(body())
BROKEN = {
    "empty": b"",
    "plain": body(),
    "no end": PACKED[:-1],
    "no content": PACKED[:12],
    "rubbish behind": PACKED + b"x",
}


def bomb(size_bytes: int) -> bytes:
    """gzip of that many zeros, about a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    return b"".join([*(packer.compress(zeros) for _ in range(size_bytes >> 20)), packer.flush()])


@pytest.fixture(scope="session")
def bomb_of_1_gb() -> bytes:
    return bomb(GB)


@pytest.mark.parametrize("path", ["analytics/collect", "e"])
@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"x-gzip", b"identity, gzip", b"gzip,"])
async def test_packed_event_is_stored(collector: Running, wire: Wire, path: str, coding: bytes) -> None:
    sent = request(gzip.compress(body()), b"Content-Encoding: " + coding, target=f"/public/demo/{path}")
    assert 201 == (await wire.ask(sent)).status
    await collector.flush()
    assert ["/pricing"] == [row["page_path"] for row in collector.rows()]


async def test_packed_event_may_come_in_chunks(collector: Running, wire: Wire) -> None:
    packed = gzip.compress(body())
    sent = head(GZIP, b"Transfer-Encoding: chunked") + chunk(packed[:20]) + chunk(packed[20:]) + chunk(b"")
    assert 201 == (await wire.ask(sent)).status


async def test_transfer_coding_gzip_is_refused(collector: Running, wire: Wire) -> None:
    """It is not a coding of the content, and proxies disagree about it."""
    packed = gzip.compress(body())
    assert 415 == (await wire.ask(head(b"Transfer-Encoding: gzip, chunked") + chunk(packed) + chunk(b""))).status


@pytest.mark.parametrize("max_body_bytes", [65_536, 1 << 20])
async def test_event_is_limited_unpacked(serve: Serve, connect: Connect, max_body_bytes: int) -> None:
    collector = await serve(server={"max_body_bytes": max_body_bytes})
    wire = await connect(collector)
    title = "x" * (max_body_bytes - len(body(page_referrer="")))
    assert 201 == (await wire.ask(request(gzip.compress(body(page_referrer=title)), GZIP))).status
    answer = await wire.ask(request(gzip.compress(body(page_referrer=title + "x")), GZIP))
    assert (413, "too_large") == (answer.status, answer.reason)
    assert {"received": 2, "stored": 1, "too_large": 1} == tally(collector)


@pytest.mark.parametrize("max_body_bytes", [65_536, 1 << 20])
@pytest.mark.parametrize("packed", BROKEN.values(), ids=BROKEN)
async def test_broken_gzip_is_an_invalid_event(
    serve: Serve, connect: Connect, packed: bytes, max_body_bytes: int
) -> None:
    collector = await serve(server={"max_body_bytes": max_body_bytes})
    wire = await connect(collector)
    answer = await wire.ask(request(packed, GZIP))
    assert (202, "invalid") == (answer.status, answer.reason)
    assert {"message": "Validation error: body is not gzip, or its end is missing"} == answer.json
    assert 201 == (await wire.ask(request(body()))).status


@pytest.mark.parametrize("max_bytes", [65_536, 4 << 20])
def test_bomb_of_1_gb_takes_no_more_memory_than_the_limit(bomb_of_1_gb: bytes, max_bytes: int) -> None:
    """zlib stops at the limit, and never makes the rest. It keeps a copy of the input that it has not read."""
    tracemalloc.start()
    try:
        with pytest.raises(UnpackedTooLarge):
            unpack(bomb_of_1_gb, max_bytes)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * max_bytes + 2 * len(bomb_of_1_gb)


async def test_bomb_of_1_gb_leaves_the_loop_to_others(serve: Serve, connect: Connect, bomb_of_1_gb: bytes) -> None:
    """It is unpacked beside the loop: a single event that comes later is answered first."""
    collector = await serve(server={"max_batch_bytes": 16 << 20})
    bombs, single = await connect(collector), await connect(collector)
    order: list[tuple[str, int]] = []

    async def ask(name: str, wire: Wire, sent: bytes) -> None:
        order.append((name, (await wire.ask(sent)).status))

    started = asyncio.Event()
    unpacking = collector.stages.decider.batches.unpack

    async def unpack_and_tell(packed: bytes, max_bytes: int) -> bytes:
        started.set()
        return await unpacking(packed, max_bytes)

    collector.stages.decider.batches.unpack = unpack_and_tell  # type: ignore[method-assign]
    asked = asyncio.create_task(ask("bomb", bombs, request(bomb_of_1_gb, GZIP, target="/public/demo/batch")))
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.gather(asked, ask("single", single, request(body())))
    assert [("single", 201), ("bomb", 413)] == order


def test_members_are_joined_up_to_a_limit() -> None:
    """A file may have several. Empty ones are the dearest way to make a server work."""
    assert b"ab" == unpack(gzip.compress(b"a") + gzip.compress(b"b"), 2)
    assert b"a" == unpack(gzip.compress(b"a") + bytes(512), 2)  # padding
    assert b"" == unpack(gzip.compress(b"") * MAX_MEMBERS, 2)
    with pytest.raises(BrokenCoding):
        unpack(gzip.compress(b"") * (MAX_MEMBERS + 1), 2)
    with pytest.raises(UnpackedTooLarge):
        unpack(gzip.compress(b"ab") + gzip.compress(b"c"), 2)
