"""The server that speaks HTTP to the public: aiohttp's, with connections of ours.

All that this project takes from inside aiohttp is here, in PRIVATE_NAMES. The tests of tests/edge fail if these change
their meaning; setup.cfg admits only the version they were tested with, and `fits` looks at them at start.

A connection passes ordinary requests (collector/edge/ordinary.py) by aiohttp's handler while that is idle and at the
border of two requests; everything else it hands on, and aiohttp never learns of the others.
"""

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

import aiohttp
from aiohttp import StreamReader, hdrs, web
from aiohttp.http_parser import RawRequestMessage

from collector.edge import answers
from collector.edge.ordinary import OrdinaryRequests
from collector.edge.pace import Pace
from collector.metrics import Metrics

log = logging.getLogger(__name__)

# After an answer that did not wait for the body, the rest of it is read and dropped for so long, then the
# connection is closed: closing at once would reset it, and the client would never see the answer.
LINGERING_S = 2.0

# How long a client may leave its answers unread once they fill the system's buffers.
UNREAD_S = 10.0

ANSWERED_POLL_S = 0.02

NO_HTTP = b"\0\r\n\r\n"

# How many of the oldest connections are asked whether they are idle, when there is no room for a new one.
OLDEST_ASKED = 100


TESTED_AIOHTTP = "3.14."
PRIVATE_NAMES = (
    "_messages",  # what aiohttp has parsed and not begun to answer
    "_waiter",  # what its handler waits with for the next request
    "_force_close",
    "_close",
    "_keepalive_timeout",
    "_keepalive_handle",  # the timer of _process_keepalive
    "_next_keepalive_close_time",
    "_process_keepalive",
)


def fits() -> bool:
    """Whether this aiohttp is one that ordinary requests were tested to pass by."""
    return aiohttp.__version__.startswith(TESTED_AIOHTTP) and all(
        hasattr(web.RequestHandler, name) for name in PRIVATE_NAMES
    )


class Connection(web.RequestHandler):
    """One connection. What is not HTTP gets a fixed text: aiohttp's own quotes what was sent, and logs 11 lines."""

    count_bad_request: Callable[[], None]
    pace: Pace
    ordinary: OrdinaryRequests | None = None  # None: everything goes the plain way
    _peer: str | None = None
    _answering = False  # an ordinary request, behind aiohttp's back
    _held: bytes = b""  # what came meanwhile, or waits for its turn
    _holds_back = False  # the client is not read, because of that
    _is_new = True  # nothing was handed to aiohttp, whose handler may not even have begun to wait
    # Bytes that the last request handed to aiohttp still lacks. None: not known, because it was no single request with
    # a known length; then aiohttp's parser may hold half a head, and everything goes its way from now on.
    _owed: int | None = 0
    _payload: StreamReader | None = None  # of the latest request, whether it is answered or not
    _patience: asyncio.TimerHandle | None = None  # runs while the client does not read

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request to begin, or for the rest of one's head."""
        return self._waiter is not None and not self._waiter.done() and not self._answering

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else None

    def data_received(self, data: bytes) -> None:
        if self._answering:
            # A client that does not wait for its answers; it is read again when it has this one.
            self._held += data
            self._holds_back = True
            if self.transport is not None:
                self.transport.pause_reading()
        elif self.pace.take_up(len(data), self._go_on):
            self._take_up(data)
        else:
            self._answering, self._held = True, data

    def _go_on(self) -> None:
        """Take up what had to wait for its turn."""
        self._answering = False
        self._take_up(self._release())

    def _release(self) -> bytes:
        """What came meanwhile; the client is read again, unless it is aiohttp that does not want to."""
        held, self._held = self._held, b""
        if self._holds_back and self.transport is not None:
            self.transport.resume_reading()
        self._holds_back = False
        return held

    def _take_up(self, data: bytes) -> None:
        if self._owed == 0 and self.ordinary is not None and self._is_free():
            request = self.ordinary.find(data)
            if request is not None:
                self._answering = True
                self.ordinary.answer(request, self._peer, self._write)
                return
        self._hand_on(data)

    def _is_free(self) -> bool:
        """Whether aiohttp has nothing to do with this connection at the moment, and need not wait for the client."""
        if self._close or self._force_close or self._patience is not None:
            return False
        return self._is_new or (self.is_idle and not self._messages)

    def _write(self, answer: bytes, close: bool) -> None:
        """Send the answer to an ordinary request, and go on. Whoever calls must not fail with this connection."""
        self._answering = False
        if self.transport is None:
            return
        try:
            self.transport.write(answer)
            if close:
                self.force_close()
                return
            # As aiohttp's handler does behind an answer of its own.
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
            if self._holds_back:
                self.data_received(self._release())
        except Exception:
            log.exception("a connection failed")
            if self.transport is not None:
                self.transport.abort()

    def _process_keepalive(self) -> None:
        if self._answering:
            self._keepalive_handle = None  # the answer sets it anew
        else:
            super()._process_keepalive()

    def _hand_on(self, data: bytes) -> None:
        """Let aiohttp have it."""
        self._is_new = False
        known = len(self._messages)
        try:
            super().data_received(data)
        except Exception:  # noqa: BLE001 - whichever it is
            # aiohttp's parser fails instead of refusing, as with the IndexError that yarl has for `http://[::1]..@`.
            # Whatever comes next it refuses.
            super().data_received(NO_HTTP)
        if self._owed is not None and data:  # aiohttp calls us itself, without any, to look at what it has kept
            self._owed = self._still_owed(data, self._owed, list(self._messages)[known:])
        if not self._messages:
            return
        message, payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._payload = payload
        elif self._payload is not None and not self._payload.is_eof():
            # The framing of a body broke. aiohttp queues its 400 behind the request under way, and would leave that
            # waiting for a body that can no longer come.
            self._payload.set_exception(web.RequestPayloadError("bad framing"))

    @staticmethod
    def _still_owed(data: bytes, owed: int, parsed: list[Any]) -> int | None:
        """What the request still lacks once `data` has come; None where that is not known."""
        if owed:
            return owed - len(data) if owed >= len(data) else None
        if len(parsed) != 1 or not isinstance(parsed[0][0], RawRequestMessage):
            return None
        message = parsed[0][0]
        if message.chunked or message.upgrade:
            return None
        length = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        lacking = data.find(b"\r\n\r\n") + len(b"\r\n\r\n") + length - len(data)
        return lacking if lacking >= 0 else None

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes a bool; aiohttp says None, and means False
        """A client that has sent all of its requests may close its side; it still gets its answers."""
        payload = self._payload
        if self._answering:
            self._close_when_answered()
            return True
        body_is_lost = payload is not None and not payload.is_eof() and payload.exception() is None
        if body_is_lost or (self.is_idle and not self._messages):
            return False
        self._close_when_answered()
        return True

    def _close_when_answered(self) -> None:
        if self.is_idle and not self._messages and not self._held:
            self.force_close()
        elif self.transport is not None:
            asyncio.get_running_loop().call_later(ANSWERED_POLL_S, self._close_when_answered)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - so aiohttp has it
        """An ordinary request that is under way has as long to end as aiohttp gives those of its own."""
        until = self._loop.time() + (timeout or 0.0)
        while self._answering and self._loop.time() < until:  # noqa: ASYNC110 - to be told costs every event
            await asyncio.sleep(ANSWERED_POLL_S)
        await super().shutdown(timeout)

    def pause_writing(self) -> None:
        """The client does not read its answers: aiohttp would wait for it as long as it likes."""
        super().pause_writing()
        if self.transport is not None and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        self._payload = None  # it knows this connection

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)
        self.count_bad_request()
        return answers.not_http()


class Server(web.Server):
    """The connections to an application that is set up; at most `max_connections` of them."""

    def __init__(
        self,
        app: web.AppRunner,
        metrics: Metrics,
        *,
        keepalive_timeout_s: float,
        max_connections: int,
        ordinary: OrdinaryRequests | None,
    ) -> None:
        assert app.server is not None
        super().__init__(app.server.request_handler, request_factory=app.server.request_factory)
        self._metrics = metrics
        self._ordinary = ordinary
        self._pace = Pace()
        self._max_connections = max_connections
        self._options: dict[str, Any] = {
            "keepalive_timeout": keepalive_timeout_s,
            "lingering_time": LINGERING_S,
            "auto_decompress": False,  # an encoding is refused, never unpacked
            "access_log": None,
        }

    def __call__(self) -> web.RequestHandler:
        connection = Connection(self, loop=asyncio.get_running_loop(), **self._options)
        connection.count_bad_request = self._metrics.bad_requests.inc
        connection.ordinary = self._ordinary
        connection.pace = self._pace
        return connection

    @property
    def open_connections(self) -> int:
        """How many there are. (`connections` would list them.)"""
        return len(self._connections)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection; where there are too many, one of the oldest that is idle makes room, or else it goes."""
        super().connection_made(handler, transport)
        self._metrics.connections.inc()
        if len(self._connections) > self._max_connections:
            self._metrics.crowded_out.inc()
            oldest = islice(self._connections, OLDEST_ASKED)
            idle = next((each for each in oldest if isinstance(each, Connection) and each.is_idle), None)
            if idle is not None:
                unsent = idle.transport
                idle.force_close()
                if unsent is not None:  # closing waits for a client that does not read; not for ever
                    asyncio.get_running_loop().call_later(UNREAD_S, unsent.abort)
            else:
                # Not yet: its task has not begun, and would find it lost.
                asyncio.get_running_loop().call_soon(handler.force_close)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._metrics.connections.dec()
