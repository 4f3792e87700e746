"""The open loop counts latency from when a request was due."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bench.openloop import Paced, quantiles, run
from bench.requests import requests

ANSWER = b"HTTP/1.1 %d Whatever\r\nContent-Length: 2\r\n\r\nok"
STALL_S = 0.4
RATE = 500


@asynccontextmanager
async def stub(answer: Callable[[int, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """Run a server that calls `answer` with the number of each request; yield its port."""
    seen = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
                seen += 1
                await answer(seen, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def paced(port: int, seconds: float = 1.0) -> Paced:
    return await asyncio.to_thread(run, "127.0.0.1", port, list(requests(10)), RATE, seconds, 4)


async def test_stall_delays_every_request_that_was_due_during_it() -> None:
    """A closed loop of four connections would have counted only four slow responses."""

    async def stall_once(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 100:
            time.sleep(STALL_S)  # noqa: ASYNC251 - stall the entire server
        writer.write(ANSWER % 201)

    async with stub(stall_once) as port:
        seen = await paced(port)
    assert (500, 0, 0) == (seen.acknowledged, seen.refused, seen.failed)
    assert STALL_S * 1e3 <= seen.quantiles["p100"]
    # 200 of the 500 requests were due during the stall; the first 100 waited for at least half of it.
    assert STALL_S * 1e3 / 2 <= seen.quantiles["p90"]


async def test_responses_are_counted_by_status_even_in_pieces() -> None:
    async def one_in_five(number: int, writer: asyncio.StreamWriter) -> None:
        answer = ANSWER % (201 if number % 5 else 429)
        writer.write(answer[:20])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(answer[20:])

    async with stub(one_in_five) as port:
        seen = await paced(port, 0.2)
    assert (80, 20, 0) == (seen.acknowledged, seen.refused, seen.failed)


async def test_request_fails_if_its_connection_closes() -> None:
    async def close_once(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 50:
            writer.close()
        else:
            writer.write(ANSWER % 201)

    async with stub(close_once) as port:
        seen = await paced(port, 0.2)
    assert (99, 0, 1) == (seen.acknowledged, seen.refused, seen.failed)


def test_quantiles_are_latencies_that_occurred() -> None:
    found = quantiles([float(number) for number in range(1, 101)])
    assert (50.0, 99.0, 100.0, 100.0) == (found["p50"], found["p99"], found["p99.9"], found["p100"])
