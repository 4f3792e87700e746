"""A client that is as fast as the collector: it writes complete requests at once and reads the responses in order."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

# How many requests wait for their responses on one connection.
PIPELINE = 32


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: status, headers with names in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        return self.headers.get("collect-reason", "")


def request(site: str, data: bytes) -> bytes:
    """A complete collect request."""
    return head(site, len(data)) + data


def head(site: str, length: int) -> bytes:
    """A collect request without its body."""
    return f"POST /public/{site}/analytics/collect HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n".encode()


async def connect(url: str) -> tuple[StreamReader, StreamWriter]:
    if url.startswith("unix:"):
        return await asyncio.open_unix_connection(url.removeprefix("unix:"))
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port)


async def read_reply(reader: StreamReader) -> Reply:
    """The next response. Raises ConnectionError or IncompleteReadError if there is none."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"])))


async def send_all(url: str, requests: Sequence[bytes], connections: int = 8) -> list[Reply]:
    """Send all requests; returns the responses in the order of the requests."""
    replies: list[Reply | None] = [None] * len(requests)

    async def one_connection(mine: Sequence[int]) -> None:
        reader, writer = await connect(url)
        try:
            for start in range(0, len(mine), PIPELINE):
                group = mine[start : start + PIPELINE]
                writer.write(b"".join(requests[index] for index in group))
                for index in group:
                    replies[index] = await read_reply(reader)
        finally:
            writer.close()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for first in range(connections):
            group.create_task(one_connection(range(first, len(requests), connections)))
    return [reply for reply in replies if reply is not None]
