"""What the edge knows of a request, and how its body is read."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import HttpVersion11, hdrs, web

from collector.addresses import Address
from collector.events import Reason, Refused
from collector.sites import Site

SITE: web.RequestKey[Site] = web.RequestKey("site", Site)
CLIENT: web.RequestKey[Address] = web.RequestKey("client", object)  # type: ignore[arg-type]  # a union is no class

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What a middleware wraps."""

RETRY_STORING_S = 5

# A body takes twice its size while it comes in. A thousand of the largest at once are an attack; bodies that come
# with their head, as nearly all do, need no room.
MAX_INCOMING_BYTES = 64 << 20

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyLost(Exception):
    """The rest of the body cannot come: the client has gone, or (`BodyBroken`) what it sends are no chunks."""


class BodyBroken(BodyLost):
    """Its client may still be there to be told."""


class Bodies:
    """The bodies that are still coming in, and what they may take together."""

    def __init__(self, max_bytes: int = MAX_INCOMING_BYTES) -> None:
        self._left_bytes = max_bytes

    @contextmanager
    def room_for(self, size_bytes: int) -> Iterator[bool]:
        """Whether there is room for one more of that size; if so it is taken until the body is read."""
        fits = size_bytes <= self._left_bytes
        taken = size_bytes if fits else 0
        self._left_bytes -= taken
        try:
            yield fits
        finally:
            self._left_bytes += taken


async def read_body(request: web.BaseRequest, bodies: Bodies, max_bytes: int, timeout_s: float) -> bytes | Refused:
    """The whole body, or why not. Nothing is read of a body that is declared too large, or encoded.

    Raises BodyLost.
    """
    refused = too_large(request.content_length or 0, max_bytes)
    if refused:
        return refused
    if _codings(request, hdrs.CONTENT_ENCODING) - {"identity"} or _codings(request, hdrs.TRANSFER_ENCODING) - {
        "chunked"
    }:
        return Refused(Reason.ENCODING, "Content-Encoding is not supported")
    try:
        if request.content.is_eof():  # nearly always: a beacon's head and body come in one segment
            body = request.content.read_nowait(-1)
        else:
            size_bytes = max_bytes if request.content_length is None else request.content_length
            with bodies.room_for(size_bytes) as there_is_room:
                if not there_is_room:
                    return unavailable()
                async with asyncio.timeout(timeout_s):  # aiohttp has no limit of its own
                    body = await _receive(request, max_bytes)
    except TimeoutError:
        return Refused(Reason.TIMEOUT, "Body was not received in time")
    except web.RequestPayloadError as exc:
        raise BodyBroken from exc
    except ConnectionError as exc:
        raise BodyLost from exc
    except RuntimeError as exc:  # so aiohttp says it of a connection that was lost before it was waited for
        if request.transport is not None:
            raise
        raise BodyLost from exc
    return too_large(len(body), max_bytes) or body


def unavailable() -> Refused:
    """The refusal of an event for which there is no room now."""
    return Refused(Reason.UNAVAILABLE, "Collector temporarily unavailable", retry_after_s=RETRY_STORING_S)


def too_large(size_bytes: int, max_bytes: int) -> Refused | None:
    """The refusal of a body of that size, declared or received, if it is one."""
    return Refused(Reason.TOO_LARGE, f"Body is larger than {max_bytes} bytes") if size_bytes > max_bytes else None


def _codings(request: web.BaseRequest, header: str) -> set[str]:
    """What the header names in all its lines, in lower case."""
    if header not in request.headers:
        return set()
    named = ",".join(request.headers.getall(header)).lower().split(",")
    return {coding.strip() for coding in named} - {""}


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
