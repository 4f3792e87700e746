"""Fixtures of the edge: collectors and connections that are closed again, however a test ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.edge.wire import Wire
from tests.support import SERVER_DEFAULTS, FakeClock, Running, config, running


class Serve(Protocol):
    """Start a collector with these sites and sections."""

    async def __call__(self, sites: dict[str, dict[str, Any]] | None = None, **sections: dict[str, Any]) -> Running: ...


Connect = Callable[[Running], Awaitable[Wire]]
"""Open a connection to a collector."""


@pytest.fixture(autouse=True, params=["fast", "standard"])
def http_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test of the edge runs twice: most requests take the fast path, or all take the standard path."""
    which: str = request.param
    if which == "standard":
        monkeypatch.setitem(SERVER_DEFAULTS, "fast_path", False)
    return which


@pytest.fixture
async def serve(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as started:

        async def start(sites: dict[str, dict[str, Any]] | None = None, **sections: dict[str, Any]) -> Running:
            return await started.enter_async_context(running(config(tmp_path / "data", sites, **sections), clock))

        yield start


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[Wire] = []

    async def to(collector: Running) -> Wire:
        opened.append(Wire(*await asyncio.open_connection(collector.host, collector.port)))
        return opened[-1]

    yield to
    for wire in opened:
        wire.close()


@pytest.fixture
async def wire(collector: Running, connect: Connect) -> Wire:
    """A connection to the collector with every default."""
    return await connect(collector)


@pytest.fixture
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections whose body was not wanted are closed at once; ask for it before the collector."""
    monkeypatch.setattr("collector.edge.connection.LINGERING_S", 0.05)
