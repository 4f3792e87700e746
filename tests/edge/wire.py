"""HTTP by hand: requests that no client library would send, raw responses, and the counts of each site."""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

from tests.support import Running

PATIENCE_S = 5


def head(
    *lines: bytes, method: str = "POST", site: str = "demo", target: str | None = None, version: str = "1.1"
) -> bytes:
    """The head of a request, without a Content-Length."""
    target = f"/public/{site}/analytics/collect" if target is None else target
    return b"\r\n".join((f"{method} {target} HTTP/{version}".encode(), b"Host: collector.example", *lines, b"", b""))


def request(
    data: bytes,
    *lines: bytes,
    method: str = "POST",
    site: str = "demo",
    target: str | None = None,
    version: str = "1.1",
) -> bytes:
    """A complete request, with its Content-Length."""
    lines = (*lines, b"Content-Length: %d" % len(data))
    return head(*lines, method=method, site=site, target=target, version=version) + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, final or interim."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str | None:
        return self.headers.get("Collect-Reason")


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self, to: str = "POST") -> Answer:
        """Read the next response. A response to HEAD has no body, whatever its Content-Length."""
        async with asyncio.timeout(PATIENCE_S):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in lines))
            length = 0 if to == "HEAD" else int(headers.get("Content-Length", 0))
            return Answer(int(first.split()[1]), headers, await self._reader.readexactly(length))

    async def ask(self, data: bytes) -> Answer:
        """Send a request and return the next response."""
        self.send(data)
        return await self.answer("HEAD" if data.startswith(b"HEAD ") else "POST")

    async def rest(self) -> bytes:
        """Read until the collector closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read()

    def send_eof(self) -> None:
        """Close the sending side; responses can still be read."""
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        """Reset the connection."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def soon(waiting: Awaitable[None]) -> None:
    """Wait for it, at most PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        await waiting


async def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds, at most PATIENCE_S."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - conditions send no event
            await asyncio.sleep(0.001)


def per_site(page: str) -> dict[str, dict[str, int]]:
    """The counts of each site that are not zero on a metrics page: `received`, `stored`, and each reason."""
    names = {"collector_received_events_total": "received", "collector_stored_events_total": "stored"}
    sites: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = names.get(sample.name) or sample.labels.get("reason")
            if name and sample.value:
                sites.setdefault(sample.labels["site"], {})[name] = int(sample.value)
    return sites


def tally(collector: Running, site: str = "demo") -> dict[str, int]:
    """The counts of one site on the metrics page, now."""
    return per_site(collector.stages.metrics.snapshot({}, {})().decode()).get(site, {})
