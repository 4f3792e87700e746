"""Fixtures of the edge: collectors and connections that close when the test ends, passed or failed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from collector.edge.connection import Connection
from tests.edge.wire import Wire, until
from tests.support import SERVER_DEFAULTS, FakeClock, Running, config, running


class Serve(Protocol):
    """Start a collector with these sites and sections."""

    async def __call__(self, sites: dict[str, dict[str, Any]] | None = None, **sections: dict[str, Any]) -> Running: ...


Connect = Callable[[Running], Awaitable[Wire]]
"""Open a connection to a collector."""


class Arrivals:
    """What the collector's connections have read so far."""

    def __init__(self) -> None:
        self.transports: list[asyncio.Transport] = []
        self.pieces: list[bytes] = []

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.pieces))

    async def send(self, wire: Wire, *pieces: bytes) -> None:
        """Send each piece once the collector has read the one before, and wait until it has read the last."""
        for piece in pieces:
            expected_bytes = self.size_bytes + len(piece)
            wire.send(piece)
            await until(partial(self._has_read, expected_bytes))

    def _has_read(self, size_bytes: int) -> bool:
        return self.size_bytes >= size_bytes


@pytest.fixture(params=["fast", "standard"])
def http_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test that starts a collector twice: with the fast path on, and with the standard path only.

    Modules that test one path override this fixture.
    """
    which: str = request.param
    if which == "standard":
        monkeypatch.setitem(SERVER_DEFAULTS, "fast_path", False)
    return which


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    """What connections read. Request it before the connection."""
    seen = Arrivals()
    connection_made, data_received = Connection.connection_made, Connection.data_received

    def made(connection: Connection, transport: asyncio.Transport) -> None:
        seen.transports.append(transport)
        connection_made(connection, transport)

    def received(connection: Connection, data: bytes) -> None:
        data_received(connection, data)
        seen.pieces.append(data)

    monkeypatch.setattr(Connection, "connection_made", made)
    monkeypatch.setattr(Connection, "data_received", received)
    return seen


@pytest.fixture
async def serve(http_path: str, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as started:

        async def start(sites: dict[str, dict[str, Any]] | None = None, **sections: dict[str, Any]) -> Running:
            return await started.enter_async_context(running(config(tmp_path / "data", sites, **sections), clock))

        yield start


@pytest.fixture
async def collector(serve: Serve) -> Running:
    """A collector with the site `demo` and every default."""
    return await serve()


@pytest.fixture
async def connect(http_path: str) -> AsyncIterator[Connect]:
    opened: list[Wire] = []

    async def to(collector: Running) -> Wire:
        opened.append(Wire(*await asyncio.open_connection(collector.host, collector.port)))
        return opened[-1]

    yield to
    for wire in opened:
        wire.close()


@pytest.fixture
async def wire(collector: Running, connect: Connect) -> Wire:
    """A connection to `collector`."""
    return await connect(collector)


@pytest.fixture
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close connections soon after a response that did not wait for the body. Request it before the collector."""
    monkeypatch.setattr("collector.edge.connection.LINGERING_S", 0.05)
