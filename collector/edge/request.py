"""What the edge knows of a request, and how its body is read."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion11, hdrs, web

from collector.addresses import Address
from collector.events import Reason, Refused
from collector.sites import Site

SITE: web.RequestKey[Site] = web.RequestKey("site", Site)
CLIENT: web.RequestKey[Address] = web.RequestKey("client", object)  # type: ignore[arg-type]  # a union is no class

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What a middleware wraps."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyLost(Exception):
    """The rest of the body cannot come: the client has gone, or what it sends are no chunks."""


async def read_body(request: web.BaseRequest, max_bytes: int, timeout_s: float) -> bytes | Refused:
    """The whole body, or why not. Nothing is read of a body that is declared too large, or encoded.

    Raises BodyLost.
    """
    refused = too_large(request.content_length or 0, max_bytes)
    if refused:
        return refused
    encodings = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).split(",")
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings):
        return Refused(Reason.ENCODING, "Content-Encoding is not supported")
    try:
        if request.content.is_eof():  # nearly always: a beacon's head and body come in one segment
            body = request.content.read_nowait(-1)
        else:
            async with asyncio.timeout(timeout_s):  # aiohttp has no limit of its own
                body = await _receive(request, max_bytes)
    except TimeoutError:
        return Refused(Reason.TIMEOUT, "Body was not received in time")
    except (web.RequestPayloadError, ConnectionError) as exc:
        raise BodyLost from exc
    return too_large(len(body), max_bytes) or body


def too_large(size_bytes: int, max_bytes: int) -> Refused | None:
    """The refusal of a body of that size, declared or received, if it is one."""
    return Refused(Reason.TOO_LARGE, f"Body is larger than {max_bytes} bytes") if size_bytes > max_bytes else None


async def _receive(request: web.BaseRequest, max_bytes: int) -> bytes:
    """The body, or a little more than `max_bytes` of it."""
    expected = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.version >= HttpVersion11
    if expected and request.transport is not None:
        # Only now: whatever could be answered without the body has been, and the client kept its body.
        request.transport.write(CONTINUE)
    chunks = bytearray()
    while len(chunks) <= max_bytes and (chunk := await request.content.readany()):
        chunks += chunk
    return bytes(chunks)
