"""An exchange: one request that aiohttp serves, on a connection that the edge keeps.

aiohttp's protocol gets its own transport, which is this object. What aiohttp writes goes to the client. When it
closes this transport, the exchange ends; the client's connection then serves the next request, or closes.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import StreamReader, web

from collector.edge.framing import Framing

# The beginnings of status lines.
HTTP_1_0, HTTP_1_1 = b"HTTP/1.0 ", b"HTTP/1.1 "

End = Callable[[bool], None]
"""Called when the exchange is over. The argument says whether the connection may serve another request."""


class Exchange(asyncio.Transport):
    """The transport of one aiohttp protocol."""

    protocol: asyncio.Protocol  # set before the first byte

    def __init__(self, transport: asyncio.Transport, peer: str | None, head: bytes, end: End) -> None:
        super().__init__()
        self.peer = peer
        self.head = head
        self.framing = Framing(head)
        self._transport = transport
        self._end = end
        self._content: StreamReader | None = None  # aiohttp's stream of the body
        self._is_over = False
        self._is_paused = False  # by aiohttp, when its buffer is full
        self.is_refused = False  # the head was refused, so the end of its body is unknown

    def begin(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def feed(self, data: bytes, at: int = 0) -> int:
        """Pass bytes to aiohttp, the first `at` of which are the head. Return where its request ends in `data`.

        Raises whatever aiohttp's parser raises, such as yarl's IndexError for `http://[::1]..@`.
        """
        end = self.framing.follow(data, at)
        self.protocol.data_received(data[:end])
        self._fail_broken_body()
        return end

    def reading(self, content: StreamReader) -> None:
        """aiohttp has read the head. `content` is its stream of the body."""
        self._content = content
        self._fail_broken_body()

    def responded(self, keep_alive: bool) -> None:
        """aiohttp has written the response."""
        self._finish(keep_alive and not self.framing.closes)

    def lose(self, exc: Exception | None) -> None:
        """End the exchange: it is finished, or its connection is lost."""
        self._is_over = True
        del self._end  # breaks a reference cycle with the connection, to spare the garbage collector
        if self._content is None:
            # Defer by one turn: aiohttp's task has not started yet, and would fail on a closed transport.
            asyncio.get_running_loop().call_soon(self._disconnect, exc)
        else:
            self._disconnect(exc)

    def _disconnect(self, exc: Exception | None) -> None:
        self.protocol.connection_lost(exc)
        self._content = None
        del self.protocol  # another reference cycle

    @property
    def waits_for_body(self) -> bool:
        """Whether the request is incomplete, or aiohttp has not read all of its body."""
        if self.framing.is_broken:
            return False
        return not self.framing.is_whole or (self._content is not None and not self._content.is_eof())

    def _fail_broken_body(self) -> None:
        """Fail a broken body here, because aiohttp does not report broken chunks to a waiting handler."""
        content, framing = self._content, self.framing
        if content is None or content.is_eof() or content.exception() is not None or framing.is_connect:
            return
        if framing.is_broken or (framing.is_whole and not self._is_paused):
            framing.is_broken = framing.closes = True
            content.set_exception(web.RequestPayloadError("broken framing"))

    def _finish(self, goes_on: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._end(goes_on)

    # Called by aiohttp, as on any transport.

    def write(self, data: Any) -> None:
        if self._is_over:
            return
        if self.is_refused and data.startswith(HTTP_1_0):
            # aiohttp treats a request that it cannot parse as HTTP/1.0. RFC 9112, 2.3 wants the server's own version.
            data = HTTP_1_1 + data[len(HTTP_1_0) :]
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._is_over or self._transport.is_closing()

    def close(self) -> None:
        self._finish(goes_on=False)

    def abort(self) -> None:
        if not self._is_over:
            self._transport.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._is_over else self._transport.get_extra_info(name, default)  # uvloop fails once closed

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._is_paused = True
        if not self._is_over:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        if not self._is_over:
            self._transport.resume_reading()
