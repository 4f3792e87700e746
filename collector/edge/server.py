"""The server that speaks HTTP to the public: aiohttp's, with connections of ours.

All that this project takes from inside aiohttp is here: `_messages`, `_waiter` and `_connections`. The tests of
tests/edge/test_request.py and test_server.py fail if they change their meaning; setup.cfg admits only the version they
were tested with.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http_parser import RawRequestMessage

from collector.edge import answers
from collector.metrics import Metrics

# After an answer that did not wait for the body, the rest of it is read and dropped for so long, then the
# connection is closed: closing at once would reset it, and the client would never see the answer.
LINGERING_S = 2.0

# How long a client may leave its answers unread once they fill the system's buffers.
UNREAD_S = 10.0

ANSWERED_POLL_S = 0.02

# How many of the oldest connections are asked whether they are idle, when there is no room for a new one.
OLDEST_ASKED = 100


class Connection(web.RequestHandler):
    """One connection. What is not HTTP gets a fixed text: aiohttp's own quotes what was sent, and logs 11 lines."""

    count_bad_request: Callable[[], None]
    _payload: StreamReader | None = None  # of the latest request, whether it is answered or not
    _patience: asyncio.TimerHandle | None = None  # runs while the client does not read

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request to begin, or for the rest of one's head."""
        return self._waiter is not None and not self._waiter.done()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._messages:
            return
        message, payload = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._payload = payload
        elif self._payload is not None and not self._payload.is_eof():
            # The framing of a body broke. aiohttp queues its 400 behind the request under way, and would leave that
            # waiting for a body that can no longer come.
            self._payload.set_exception(web.RequestPayloadError("bad framing"))

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes a bool; aiohttp says None, and means False
        """A client that has sent all of its requests may close its side; it still gets its answers."""
        payload = self._payload
        body_is_lost = payload is not None and not payload.is_eof() and payload.exception() is None
        if body_is_lost or (self.is_idle and not self._messages):
            return False
        self._close_when_answered()
        return True

    def _close_when_answered(self) -> None:
        if self.is_idle and not self._messages:
            self.force_close()
        elif self.transport is not None:
            asyncio.get_running_loop().call_later(ANSWERED_POLL_S, self._close_when_answered)

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
        self, app: web.AppRunner, metrics: Metrics, *, keepalive_timeout_s: float, max_connections: int
    ) -> None:
        assert app.server is not None
        super().__init__(app.server.request_handler, request_factory=app.server.request_factory)
        self._metrics = metrics
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
        return connection

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
