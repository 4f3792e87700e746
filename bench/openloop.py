"""The open loop: send requests at a fixed rate, whatever the server does, and count latency from when each was due.

A closed loop sends nothing while it waits, so a one-second stall shows as one slow response per connection. Here the
requests that fall due during a stall wait too, and each is counted with its wait (no coordinated omission).

The generator is a separate process (`python -m bench.openloop`) with one thread, plain sockets and epoll. It takes some
10 us per request, the kernel's share included. Each connection has one request in flight, as with browsers and proxies.
Every latency includes the generator's own delay, which is also reported as `late_ms`.
"""

import argparse
import gc
import json
import math
import re
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.requests import read_requests
from bench.server import ROOT, NoResult, environment, pinned

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
PROGRESS_EVERY_S = 0.5
WAKE_EVERY_S = 0.0002  # requests due within this time are sent together; waking for each one would be half of the work
GIVE_UP_S = 5.0  # once this far behind, the rate is not sustained and sending stops
ANSWER_S = 60.0  # longest wait without any response

_CREATED = b"HTTP/1.1 201"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Paced:
    """The measurements of one run. Latencies are in milliseconds."""

    rate: float
    seconds: float
    planned: int
    sent: int
    acknowledged: int  # answered with 201
    refused: int  # answered with another status
    failed: int  # not answered: the connection ended
    quantiles: dict[str, float]
    p99_each_second: list[float]
    late_ms: float  # how late the generator sent, on average, while a connection was free
    generator_cpu: float  # share of one core

    @property
    def p99_ms(self) -> float:
        return self.quantiles["p99"]


def quantiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return p50 to p100, in the unit of the input. Each is a latency that occurred, not an interpolation."""
    ordered = sorted(latencies)
    return {
        f"p{100 * quantile:g}": ordered[max(0, math.ceil(len(ordered) * quantile) - 1)] if ordered else math.nan
        for quantile in QUANTILES
    }


class Connections:
    """Open `count` connections to one server, each with at most one request in flight."""

    def __init__(self, host: str, port: int, count: int) -> None:
        self._address = (host, port)
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._received: dict[int, bytes] = {}  # responses received in part
        self.idle: deque[int] = deque()
        for _ in range(count):
            self._connect()

    def _connect(self) -> None:
        connection = socket.create_connection(self._address, timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        number = connection.fileno()
        self._sockets[number] = connection
        self._epoll.register(number, select.EPOLLIN)
        self.idle.append(number)

    def send(self, request: bytes) -> int | None:
        """Send on the longest-idle connection and return its number, or None if it was closed."""
        number = self.idle.popleft()
        try:
            sent = self._sockets[number].send(request)
        except OSError:
            self._replace(number)
            return None
        assert sent == len(request), "a request fits into any socket's send buffer"
        return number

    def wait(self, seconds: float) -> list[int]:
        """Return the connections that have data to read, after at most that long."""
        # epoll.poll() rounds its timeout up to milliseconds; select() takes microseconds.
        if seconds > 0:
            select.select([self._epoll], (), (), seconds)
        return [number for number, _ in self._epoll.poll(0)]

    def receive(self, number: int) -> bool | None:
        """Read from a connection: True for a complete 201, False for another response, None if it is incomplete.

        Raises ConnectionError if the connection was closed; a new one replaces it.
        """
        try:
            data = self._sockets[number].recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._replace(number)
            raise ConnectionError
        if number in self._received:
            data = self._received.pop(number) + data
        head = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, head + 2) if head >= 0 else None
        if length is None or len(data) < head + 4 + int(length[1]):
            self._received[number] = data
            return None
        self.idle.append(number)
        return data.startswith(_CREATED)

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
        self._epoll.close()

    def _replace(self, number: int) -> None:
        self._received.pop(number, None)
        self._sockets.pop(number).close()
        self._connect()


def run(
    host: str,
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    connections: int,
    *,
    start: int = 0,
    on_progress: Callable[[int, float], None] = lambda acknowledged, worst_ms: None,
) -> Paced:
    """Send `rate` evenly spaced requests per second for `seconds`, and wait for the responses."""
    planned = round(rate * seconds)
    latencies = array("d", bytes(8 * planned))  # by request number
    request_on: dict[int, int] = {}
    pool = Connections(host, port, connections)
    gc.collect()
    gc.disable()  # a collection would delay the generator, not the server
    clock = time.perf_counter
    acknowledged = refused = failed = number = 0
    late_s = worst_s = 0.0
    late_of = 0
    waited_for_connection = False
    cpu, began = time.process_time(), clock()
    next_progress = began + PROGRESS_EVERY_S
    last_answer = began
    try:
        while number < planned or request_on:
            now = clock()
            while number < planned and pool.idle and began + number / rate <= now:
                if not waited_for_connection:
                    late_s += now - (began + number / rate)
                    late_of += 1
                used = pool.send(requests[(start + number) % len(requests)])
                if used is None:
                    failed += 1
                else:
                    request_on[used] = number
                number += 1
            due = began + number / rate
            waited_for_connection = not pool.idle
            if number < planned and now - due > GIVE_UP_S:
                planned = number  # stop sending; still wait for what was sent
            if now - last_answer > ANSWER_S and request_on:
                failed += len(request_on)
                break
            wait_s = max(due - now, WAKE_EVERY_S) if number < planned and pool.idle else 1.0
            for connection in pool.wait(min(wait_s, 1.0)):
                try:
                    created = pool.receive(connection)
                except ConnectionError:
                    failed += request_on.pop(connection, None) is not None
                    continue
                if created is None:
                    continue
                answered = request_on.pop(connection)
                last_answer = clock()
                latency_s = last_answer - (began + answered / rate)
                latencies[answered] = latency_s
                worst_s = max(worst_s, latency_s)
                if created:
                    acknowledged += 1
                else:
                    refused += 1
            if now >= next_progress:
                on_progress(acknowledged, worst_s * 1e3)
                worst_s = 0.0
                next_progress = now + PROGRESS_EVERY_S
    finally:
        gc.enable()
        pool.close()
    took_s = clock() - began
    in_ms = [latency * 1e3 for latency in latencies[:number] if latency]
    each = max(1, round(rate))
    return Paced(
        rate=rate,
        seconds=seconds,
        planned=round(rate * seconds),
        sent=number,
        acknowledged=acknowledged,
        refused=refused,
        failed=failed,
        quantiles=quantiles(in_ms),
        p99_each_second=[
            round(quantiles(in_ms[at : at + each])["p99"], 2) for at in range(0, max(1, len(in_ms) - each // 2), each)
        ],
        late_ms=late_s / max(1, late_of) * 1e3,
        generator_cpu=(time.process_time() - cpu) / took_s,
    )


def run_paced(
    url: str,
    requests: Path,
    rate: float,
    seconds: float,
    *,
    connections: int,
    start: int = 0,
    cores: str | None = None,
    on_progress: Callable[[int, float], None] = lambda acknowledged, worst_ms: None,
) -> Paced:
    """Run the generator in a separate process. Raises NoResult."""
    command = [
        *(sys.executable, "-m", "bench.openloop", url, str(requests), "--rate", str(rate)),
        *("--seconds", str(seconds), "--connections", str(connections), "--start", str(start)),
    ]
    with subprocess.Popen(
        pinned(command, cores), stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = json.loads(line)
            if "quantiles" in found:
                return Paced(**found)
            on_progress(found["acknowledged"], found["worst_ms"])
    raise NoResult(f"the load generator exited with {process.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("requests", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--start", type=int, default=0)
    arguments = parser.parse_args()
    address = urlsplit(arguments.url)
    assert address.hostname is not None
    assert address.port is not None
    paced = run(
        address.hostname,
        address.port,
        read_requests(arguments.requests),
        arguments.rate,
        arguments.seconds,
        arguments.connections,
        start=arguments.start,
        on_progress=lambda acknowledged, worst_ms: print(
            json.dumps({"acknowledged": acknowledged, "worst_ms": worst_ms}), flush=True
        ),
    )
    print(json.dumps(asdict(paced)), flush=True)


if __name__ == "__main__":
    main()
