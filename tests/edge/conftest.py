"""Fixtures of the edge: collectors and connections that close when the test ends, passed or failed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial, reduce
from pathlib import Path
from typing import Any, Protocol

import pytest

from collector.edge.server import Server
from tests import support
from tests.edge.wire import Wire, until
from tests.support import SERVER_DEFAULTS, FakeClock, Running, config, running


class Serve(Protocol):
    """Start a collector with these sites and sections."""

    async def __call__(self, sites: dict[str, dict[str, Any]] | None = None, **sections: dict[str, Any]) -> Running: ...


Connect = Callable[[Running], Awaitable[Wire]]
"""Open a connection to a collector."""


class Watched(asyncio.Protocol):
    """A connection that a test watches or breaks. Subclasses override the calls that interest them."""

    def __init__(self, connection: asyncio.Protocol) -> None:
        self.connection = connection

    def connection_made(self, transport: Any) -> None:
        self.connection.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.connection.data_received(data)

    def eof_received(self) -> bool | None:
        return self.connection.eof_received()

    def pause_writing(self) -> None:
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        self.connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.connection_lost(exc)


Watch = Callable[[Callable[[asyncio.Protocol], asyncio.Protocol]], None]
"""Wrap every connection that the collector accepts, such as with a `Watched`. Call it before the collector starts."""


class FaultyTransport:
    """A transport whose calls named in `faults` raise."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.faults: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in self.faults:
            raise ZeroDivisionError(name)
        return getattr(self._transport, name)


class Arrivals:
    """What the collector's connections have read so far."""

    def __init__(self) -> None:
        self.transports: list[asyncio.Transport] = []
        self.pieces: list[bytes] = []

    def watch(self, connection: asyncio.Protocol) -> asyncio.Protocol:
        seen = self

        class Seen(Watched):
            def connection_made(self, transport: Any) -> None:
                seen.transports.append(transport)
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                seen.pieces.append(data)

        return Seen(connection)

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
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    wraps: list[Callable[[asyncio.Protocol], asyncio.Protocol]] = []

    def wrapped(server: Server) -> asyncio.Protocol:
        return reduce(lambda connection, wrap: wrap(connection), wraps, server())

    monkeypatch.setattr(support, "protocol_of", wrapped)
    return wraps.append


@pytest.fixture
def arrivals(watch: Watch) -> Arrivals:
    """What connections read. Request it before the collector."""
    seen = Arrivals()
    watch(seen.watch)
    return seen


@pytest.fixture
def faulty_transports(watch: Watch) -> list[FaultyTransport]:
    """The transports of all connections, in order. Request it before the collector."""
    transports: list[FaultyTransport] = []

    class Faulty(Watched):
        def connection_made(self, transport: Any) -> None:
            transports.append(FaultyTransport(transport))
            super().connection_made(transports[-1])

    watch(Faulty)
    return transports


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
