"""A connection that speaks HTTP with the public: aiohttp's, with a way of ours past its handler.

All that this project takes from inside aiohttp is here, in PRIVATE_NAMES. The tests of tests/edge fail if these change
their meaning; setup.cfg admits only the version they were tested with, and `fits` looks at them at start.

A connection passes ordinary requests (collector/edge/fast_path.py) by aiohttp's handler while that is idle and at the
border of two requests; everything else it hands on, and aiohttp never learns of the others.
"""

import asyncio
import logging
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

import aiohttp
from aiohttp import StreamReader, hdrs, web, web_protocol
from aiohttp.http_parser import RawRequestMessage

from collector.edge import responses
from collector.edge.fast_path import OrdinaryRequests
from collector.edge.framing import Framing
from collector.edge.parser import ENOUGH, Parser, RefusedHead
from collector.edge.refusal import MAX_HEAD_BYTES, Refusal
from collector.edge.turn_budget import TurnBudget

log = logging.getLogger(__name__)

# How much of its answers a client may leave unread once they fill the system's buffers, and how long.
MAX_UNREAD_BYTES = 16_384
UNREAD_S = 10.0

ANSWERED_POLL_S = 0.02

# How many requests of one connection are parsed ahead. aiohttp's 32 heads of 128 short lines take 1.4 MB; and of those
# that are parsed together none is answered if one is broken.
PARSED_AHEAD = 1

TESTED_AIOHTTP = "3.14."
PRIVATE_NAMES = (
    "_parser",
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


# The only way to tell aiohttp's parser; it is looked at for each connection that is made.
web_protocol.MAX_MSG_QUEUE_SIZE = PARSED_AHEAD


class Connection(web.RequestHandler):
    """One connection. What is not HTTP gets a fixed text: aiohttp's own quotes what was sent, and logs 11 lines."""

    count_bad_request: Callable[[], None]
    refuse: Callable[[Refusal | None], web.Response]
    head_timeout_s: Callable[[], float]
    turn_budget: TurnBudget
    ordinary: OrdinaryRequests | None = None  # None: everything goes the plain way
    peer: str | None = None
    closes = False  # nothing is read behind the request that is being answered; its answer says so
    _answering = False  # an ordinary request, behind aiohttp's back; or one may wait for its turn
    _held: bytes = b""  # what came meanwhile, or waits for its turn; the client is not read while there is any
    _is_new = True  # nothing was handed to aiohttp, whose handler may not even have begun to wait
    # Bytes that the last request handed to aiohttp still lacks. None: not known, because it was no single request with
    # a known length; then aiohttp's parser may hold half a head, and everything goes its way from now on.
    _owed: int | None = 0
    _payload: StreamReader | None = None  # of the latest request, whether it is answered or not
    _patience: asyncio.TimerHandle | None = None  # runs while the client does not read
    _rest: StreamReader | None = None  # of a request that is refused: it is dropped, until aiohttp closes
    _drops = False  # the parser will drop what comes in one piece with the end of the present request
    _head_bytes = 0  # of a head that has begun to come and is not complete
    _head_timer: asyncio.TimerHandle | None = None  # runs meanwhile; an ordinary request needs none

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request to begin, or for the rest of one's head."""
        return self._waiter is not None and not self._waiter.done() and not self._answering

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._framing = Framing()
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else None
        super().connection_made(transport)
        self._parser = cast(Any, Parser(self._parser, self._framing))
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=MAX_UNREAD_BYTES)
        if self._task_handler is not None:
            self._task_handler.add_done_callback(lambda _: _end(transport))

    def data_received(self, data: bytes) -> None:
        if self._answering:
            # A client that does not wait for its answers; it is read again when it has this one.
            self._hold(data)
        elif self._owed != 0 or self.ordinary is None or not self._is_free():
            self._hand_on(data)
        elif self.turn_budget.take_up(len(data), self._go_on):
            self._take_up(data)
        else:
            self._answering = True
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if self.transport is not None:
            self.transport.pause_reading()

    def _release(self) -> bytes:
        """What was held; the client is read again."""
        held, self._held = self._held, b""
        if self.transport is not None:
            self.transport.resume_reading()
        return held

    def _go_on(self) -> None:
        """Take up what had to wait for its turn. Whoever calls must not fail with this connection."""
        self._answering = False
        try:
            self._take_up(self._release())
        except Exception:
            log.exception("a connection failed")
            self._abort()

    def _take_up(self, data: bytes) -> None:
        """What has come at the border of two requests."""
        assert self.ordinary is not None
        request = self.ordinary.find(data)
        if request is None:
            self._hand_on(data)
        else:
            self._answering = True
            self.ordinary.answer(request, self.peer, self._write)

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
            if self._held:
                self.data_received(self._release())
        except Exception:
            log.exception("a connection failed")
            self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _process_keepalive(self) -> None:
        if self._answering:
            self._keepalive_handle = None  # the answer sets it anew
        else:
            super()._process_keepalive()

    def _hand_on(self, data: bytes) -> None:
        """Let aiohttp have it."""
        if self._rest is not None:
            return
        within_a_head = self._is_new or (self.is_idle and not self._messages)
        if within_a_head and self._owed == 0:
            self._framing.restart()
        self._is_new = False
        known = len(self._messages)
        payload = self._payload
        is_late = payload is not None and not payload.is_eof() and not self._messages
        self._feed(data)
        if is_late and payload is not None and payload.is_eof():
            # aiohttp's parser counts a message when its body is complete; that this one is taken it was told before. It
            # would wait with what is behind it until more comes.
            cast(Any, self._parser).message_consumed()
            self._feed(b"")
        if within_a_head:
            self._watch_head(len(data))
        if self._owed is not None and data:  # aiohttp calls us itself, without any, to look at what it has kept
            self._owed = self._still_owed(data, self._owed, list(self._messages)[known:])
        self._stop_where_more_is_dropped(list(self._messages)[known:])
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._refuse_behind(self._messages[-1][0])

    def _feed(self, data: bytes) -> None:
        """Let aiohttp's parser have it. Bound what frames a body, and read nothing behind one that has trailers."""
        super().data_received(data)
        for message, payload in self._messages:
            if isinstance(message, RawRequestMessage):
                self._payload = payload
        if self._framing.is_endless:
            self._framing.is_endless = False
            super().data_received(ENOUGH)
        elif self._framing.taken is not None and self._framing.taken.closes:
            self._framing.taken = None
            requests = [message for message, _ in self._messages if isinstance(message, RawRequestMessage)]
            self._close_behind(requests[-1] if requests else None)

    def _refuse_behind(self, error: Any) -> None:
        """aiohttp has queued the answer to what cannot be read."""
        if _refusal_of(error.exc) is not None:
            # The rest may be on its way: closing at once would reset the connection under the answer.
            self._rest = StreamReader(self, 1, loop=self._loop)
            self._messages[-1] = error, self._rest
        if self._payload is not None and not self._payload.is_eof():
            # The framing of a body broke. The request under way would wait for a body that can no longer come.
            self._payload.set_exception(web.RequestPayloadError("bad framing"))

    def _stop_where_more_is_dropped(self, parsed: list[Any]) -> None:
        """Take no more on this connection if the parser may drop a part of it, and read on within a request."""
        if any(_drops_what_is_behind(message) for message, _ in parsed):
            self._drops = True
        if self._drops and self._owed is None:
            self._close_behind(next((each for each, _ in self._messages if _drops_what_is_behind(each)), None))
        elif not self._owed:
            self._drops = False

    def _close_behind(self, request: Any) -> None:
        """Close the connection when that request is answered; None: the one that is being answered."""
        for at, (message, payload) in enumerate(self._messages):
            if message is request:
                self._messages[at] = cast(Any, message)._replace(should_close=True), payload
                return
        self._close = self.closes = True

    def _watch_head(self, more_bytes: int) -> None:
        """Bound the time and the size of a head that is not complete with so many more bytes."""
        if self._messages:
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            return
        self._head_bytes += more_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            super().data_received(ENOUGH)
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self.head_timeout_s(), self._give_up_head)

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self.transport is not None and self.is_idle and not self._messages:
            self.count_bad_request()
            self.transport.write(responses.late_head().to_bytes(formatdate(usegmt=True), close=True))
            self.force_close()

    @staticmethod
    def _still_owed(data: bytes, owed: int, parsed: list[Any]) -> int | None:
        """What the request still lacks once `data` has come; None where that is not known."""
        if owed:
            return owed - len(data) if owed >= len(data) else None
        if len(parsed) != 1 or not isinstance(parsed[0][0], RawRequestMessage):
            return None
        message = parsed[0][0]
        if message.chunked or (message.upgrade and not _drops_what_is_behind(message)):
            return None
        length = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
        lacking = data.find(b"\r\n\r\n") + len(b"\r\n\r\n") + length - len(data)
        return lacking if lacking >= 0 else None

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes a bool; aiohttp says None, and means False
        """A client that has sent all of its requests may close its side; it still gets its responses."""
        self._end_rest()
        if not self._is_answered():
            self._close_when_answered()
            return True
        return not self.turn_budget.take_up(0, self._close_when_answered)

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.feed_eof()

    def _close_when_answered(self) -> None:
        if self._is_answered():
            self.force_close()
        elif self.transport is not None:
            asyncio.get_running_loop().call_later(ANSWERED_POLL_S, self._close_when_answered)

    def _is_answered(self) -> bool:
        """Whether no more answers can come, now that no more requests do."""
        if self._answering or self._held or self._messages:
            return False
        payload = self._payload
        body_is_lost = payload is not None and not payload.is_eof() and payload.exception() is None
        return body_is_lost or self.is_idle

    def make_room(self) -> None:
        """Close it, idle as it is. A client that has not read its last answers by now does not get them."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.force_close()

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
        self._end_rest()
        # With a request that came in the same turn of the loop its handler would go on, and fail.
        woken = self._task_handler if self._waiter is not None and self._waiter.done() else None
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)
        if woken is not None:
            woken.cancel()
        self._payload = None  # it knows this connection

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """A broken frame of a body that nobody reads is the client's affair; aiohttp logs eleven lines."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)
        return self.refuse(_refusal_of(exc))


def _refusal_of(exc: BaseException | None) -> Refusal | None:
    return exc.refusal if isinstance(exc, RefusedHead) else None


def _drops_what_is_behind(message: Any) -> bool:
    """Of what is behind an upgrade that it does not know (`h2c`) aiohttp's parser drops as much as comes with it."""
    if not isinstance(message, RawRequestMessage):
        return False
    known = message.method == hdrs.METH_CONNECT or message.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
    return bool(message.upgrade) and not known


def _end(transport: asyncio.BaseTransport) -> None:
    """A connection is closed, and may still have something to send: closing waits for its client, but not for ever."""
    if cast(asyncio.Transport, transport).get_write_buffer_size():
        asyncio.get_running_loop().call_later(UNREAD_S, cast(asyncio.Transport, transport).abort)
