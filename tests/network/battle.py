"""Helpers for attacks: attackers' connections, regular clients alongside, and limits on memory and log lines."""

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import body
from tests.system.process import Process
from tests.system.wire import connect, read_reply, request

# Attackers use separate addresses. Regular clients use 127.0.0.1, as does the HTTP client of the tests.
ATTACKERS = tuple(f"127.0.0.{number}" for number in range(2, 12))
REGULAR_CLIENTS = 4
PATIENCE_S = 60.0
LOG_LINES = 40  # at most this many lines for start-up, an attack and shutdown together

MB = 1 << 20


class Enemy:
    """One connection of an attacker, which may or may not read responses while it sends."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, *, reads: bool) -> None:
        self._writer = writer
        self._received = bytearray()
        self._reading = asyncio.create_task(self._read(reader)) if reads else None

    @classmethod
    async def at(cls, process: Process, source: str, *, reads: bool = True) -> "Enemy":
        address = urlsplit(process.url)
        sock = socket.socket()
        if not reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        sock.bind((source, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
        # A StreamReader stops reading from its socket once it buffers twice its limit.
        return cls(*await asyncio.open_connection(sock=sock, limit=1 << 16 if reads else 1), reads=reads)

    async def _read(self, reader: StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self._received += data

    @property
    def is_stopped(self) -> bool:
        return self._writer.is_closing() or (self._reading is not None and self._reading.done())

    async def send(self, data: bytes) -> bool:
        """Send, and return whether the connection is still open."""
        with suppress(ConnectionError, TimeoutError):
            self._writer.write(data)
            async with asyncio.timeout(PATIENCE_S):  # drain() never returns if the collector stops reading
                await self._writer.drain()
        return not self.is_stopped

    async def received(self) -> bytes:
        """Return everything received until the connection closes."""
        assert self._reading is not None
        async with asyncio.timeout(PATIENCE_S):
            await self._reading
        return bytes(self._received)

    def leave(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._writer.transport.abort()


@asynccontextmanager
async def enemies(process: Process, many: int, *, reads: bool = True) -> AsyncIterator[list[Enemy]]:
    """Open `many` connections, from each attacker's address in turn; abort them at the end."""
    there: list[Enemy] = []
    try:
        for number in range(many):
            enemy = await Enemy.at(process, ATTACKERS[number % len(ATTACKERS)], reads=reads)
            there.append(enemy)
        yield there
    finally:
        for each in there:
            each.leave()


@asynccontextmanager
async def regular_clients(process: Process) -> AsyncIterator[None]:
    """Send events throughout the block, over kept and over new connections; every response must be a 201."""
    over = asyncio.Event()
    statuses: list[int] = []

    async def one(keeps: bool) -> None:
        while not over.is_set() or not statuses:
            reader, writer = await connect(process.url)
            try:
                for served in count():
                    writer.write(request("demo", body()))
                    try:
                        statuses.append((await read_reply(reader)).status)
                    except (asyncio.IncompleteReadError, ConnectionError):
                        if not served:
                            raise
                        break  # closed while idle: retry on a new connection, as a browser does
                    await asyncio.sleep(0.005)  # leave the core to the collector and the attackers
                    if not keeps or over.is_set():
                        break
            finally:
                writer.close()

    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
        for number in range(REGULAR_CLIENTS):
            group.create_task(one(keeps=number % 2 == 0))
        try:
            yield
        finally:
            over.set()
    assert {201} == set(statuses)


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll a condition without blocking the event loop. Raises AssertionError after PATIENCE_S."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await true():  # noqa: ASYNC110 - the condition depends on another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"still not true after {PATIENCE_S:g} s: {what}") from None


def peak_bytes(process: Process) -> int:
    """Return the peak resident memory of the collector's largest process."""
    pids = [process.popen.pid, *_children(process.popen.pid)]
    return max(_peak_bytes(pid) for pid in pids)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"/proc/{pid}/status has no VmHWM")


@contextmanager
def costs_at_most(process: Process, more_bytes: int) -> Iterator[None]:
    """Check that no process grows by more than that, and that the collector logs at most LOG_LINES lines."""
    before, lines = peak_bytes(process), len(process.log().splitlines())
    yield
    grown = peak_bytes(process) - before
    print(f"grown by {grown / MB:.1f} MB")
    assert grown <= more_bytes, f"grown by {grown / MB:.1f} MB"
    written = process.log().splitlines()[lines:]
    assert len(written) <= LOG_LINES, written[-LOG_LINES:]
