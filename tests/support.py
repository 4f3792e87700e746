"""Shared helpers: a valid event, a clock that tests advance, a configuration, a collector in the test's process."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq

from collector.config import Config
from collector.daemon.demo import read_demo
from collector.daemon.resources import DataDir, listen
from collector.daemon.wiring import Stages, build_stages
from collector.daemon.worker import accept_all
from collector.edge.server import Server

NOON_US = 1_780_000_000_000_000  # 2026-05-28T20:26:40Z
SERVER_DEFAULTS: dict[str, Any] = {"port": 0}
LISTENING = re.compile(r"listening on (http://\S+|unix:\S+)")
ADMIN = re.compile(r"admin on (http://\S+)")


def event(**changes: Any) -> dict[str, Any]:
    """A valid event, with changes."""
    return {
        "session_id": "session-1",
        "visitor_id": "visitor-0001",
        "event_type": "pageview",
        "page_path": "/pricing",
        "event_time": "2026-05-12T10:00:00Z",
    } | changes


def body(**changes: Any) -> bytes:
    """A valid event as a request body."""
    return json.dumps(event(**changes)).encode()


def config(data_dir: Path, sites: dict[str, dict[str, Any]] | None = None, **sections: dict[str, Any]) -> Config:
    """A configuration; by default with one site `demo` and free ports."""
    tree: dict[str, Any] = {
        "server": SERVER_DEFAULTS | sections.pop("server", {}),
        "admin": {"port": 0} | sections.pop("admin", {}),
        "storage": {"data_dir": data_dir, "min_free_bytes": 0} | sections.pop("storage", {}),
        "sites": sites or {"demo": {}},
    }
    return Config.model_validate(tree | sections)


UNUSED_DATA_DIR = DataDir(Path(), -1, -1)
"""For code that needs a data_dir but in the test never checks whether it was moved."""


class FakeClock:
    """A clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self.us = NOON_US
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []
        self._ns = 1_000_000_000

    def now_us(self) -> int:
        return self.us

    def monotonic_ns(self) -> int:
        return self._ns

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._ns + round(seconds * 1e9), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake the sleepers whose time has come."""
        self.us += round(seconds * 1e6)
        self._ns += round(seconds * 1e9)
        for due, woken in self._sleepers:
            if due <= self._ns and not woken.done():
                woken.set_result(None)
        self._sleepers = [(due, woken) for due, woken in self._sleepers if not woken.done()]


@dataclass(frozen=True, slots=True)
class Running:
    """A collector that serves in the process and event loop of the test."""

    stages: Stages
    server: Server
    clock: FakeClock
    client: aiohttp.ClientSession
    host: str
    port: int
    data_dir: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def collect_url(self, site: str = "demo") -> str:
        return f"{self.url}/public/{site}/analytics/collect"

    async def post(
        self, data: bytes | dict[str, Any], site: str = "demo", headers: dict[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """Send an event and read the complete response."""
        if isinstance(data, dict):
            data = json.dumps(data).encode()
        async with self.client.post(self.collect_url(site), data=data, headers=headers) as response:
            await response.read()
            return response

    async def raw(self, data: bytes, *, eof: bool = False) -> bytes:
        """Send bytes on a new connection. Return everything received until it was closed."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(data)
        if eof:
            writer.write_eof()
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()

    async def flush(self) -> None:
        """Publish all stored events."""
        await self.stages.journal.seal()
        assert await self.stages.flusher.flush()

    def rows(self, site: str = "demo") -> list[dict[str, Any]]:
        """The published events of a site."""
        return read_rows(self.data_dir / "events" / f"site={site}")

    def rejected(self, site: str = "demo") -> list[dict[str, Any]]:
        """The invalid events of a site that were kept."""
        return read_rows(self.data_dir / "rejected" / f"site={site}")


def protocol_of(server: Server) -> asyncio.Protocol:
    """The protocol of the next connection. Tests of the edge replace this function to watch connections."""
    return server()


@asynccontextmanager
async def running(
    settings: Config,
    clock: FakeClock | None = None,
    max_connections: int = 1_000,
    keepalive_timeout_s: float = 75,
) -> AsyncIterator[Running]:
    """Serve with these settings on a free port of 127.0.0.1, without timers or signals."""
    clock = clock or FakeClock()
    settings.storage.data_dir.mkdir(exist_ok=True)
    stages = build_stages(settings, clock, demo=read_demo(settings.tracker))
    stages.open()
    server = Server(
        stages.decider,
        fast_path=settings.server.fast_path,
        keepalive_timeout_s=keepalive_timeout_s,
        max_connections=max_connections,
    )
    await server.open()
    bound = listen("127.0.0.1", 0, "server")
    host, port = bound.getsockname()
    stop_accepting = await accept_all([bound], lambda: protocol_of(server))
    try:
        async with aiohttp.ClientSession() as client:
            yield Running(stages, server, clock, client, host, port, settings.storage.data_dir)
    finally:
        stop_accepting()
        await server.close(patience_s=1)
        await stages.journal.close()


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows of all parts below a folder, in order of receipt."""
    tables = [pq.ParquetFile(path).read() for path in sorted(folder.rglob("*.parquet"))]
    if not tables:
        return []
    rows: list[dict[str, Any]] = pa.concat_tables(tables).sort_by("received_at").to_pylist()
    return rows
