"""How long a new connection waits for its first response while others are busy: `python -m bench.newcomers`.

libuv accepts one connection per turn of the event loop, so a new connection waits as long as a turn lasts. The busy
connections send again as soon as they get a response. New connections open at a fixed rate, send once, and close.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich import print_json

from bench.openloop import quantiles
from bench.requests import COUNT, read_requests, write_requests
from bench.results import Result
from bench.server import NoResult
from bench.subject import Setup, collecting
from bench.wrk import run_wrk

BUSY_FIRST_S = 1.0
LONGEST_S = 30.0  # timeout of a new connection


def newcomers(setup: Setup, connections: int, rate: float, seconds: float) -> Result:
    """Measure the latencies of new connections, in milliseconds from when each was due. Raises NoResult."""
    with tempfile.TemporaryDirectory() as name, collecting(Path(name), setup) as collector:
        file = Path(name) / "requests"
        write_requests(file, COUNT)
        url = urlsplit(collector.url)
        assert url.hostname is not None
        assert url.port is not None
        requests = read_requests(file)[: round(rate * seconds)]

        async def run(host: str, port: int) -> tuple[list[float], int]:
            busy = asyncio.create_task(
                asyncio.to_thread(run_wrk, collector.url, file, seconds + 2 * BUSY_FIRST_S, connections=connections)
            )
            await asyncio.sleep(BUSY_FIRST_S)
            latencies_s = await _come(host, port, requests, rate)
            return latencies_s, (await busy).acknowledged

        latencies_s, acknowledged = asyncio.run(run(url.hostname, url.port))
        collector.finish(acknowledged + len(latencies_s))
    return {
        "busy_connections": connections,
        "newcomers": len(latencies_s),
        "per_second": rate,
        "answered_to_busy": acknowledged,
        "quantiles_ms": quantiles([1e3 * latency_s for latency_s in latencies_s]),
    }


async def _come(host: str, port: int, requests: Sequence[bytes], rate: float) -> list[float]:
    """Send each request on a new connection when it is due; return the latencies in seconds."""
    began = time.monotonic()

    async def one(number: int, request: bytes) -> float:
        due = began + number / rate
        await asyncio.sleep(due - time.monotonic())
        async with asyncio.timeout(LONGEST_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
        latency_s = time.monotonic() - due
        writer.close()
        if not head.startswith(b"HTTP/1.1 201"):
            raise NoResult(f"a new connection got {head!r} instead of a 201")
        return latency_s

    return await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.newcomers", description=__doc__)
    parser.add_argument("--connections", type=int, default=128, help="busy connections; default: %(default)s")
    parser.add_argument("--rate", type=float, default=300, help="new connections per second; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5, help="default: %(default)s")
    parser.add_argument("--durability", default="fsync", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    first, *others = sorted(os.sched_getaffinity(0))
    if others:
        os.sched_setaffinity(0, others)  # wrk inherits this; the collector has the first core to itself
    setup = Setup(settings={"storage": {"durability": arguments.durability}}, cores=str(first))
    print_json(data=newcomers(setup, arguments.connections, arguments.rate, arguments.seconds))


if __name__ == "__main__":
    main()
