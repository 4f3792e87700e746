"""A connection that speaks HTTP/1 with the public.

It collects a head and passes it to the fast path (collector/edge/fast_path.py). Requests that the fast path does not
read go to aiohttp, one at a time (collector/edge/exchange.py). The next request begins when this one has its response.
So all limits on unparsed bytes are here:

    a head             32 KB and 128 lines, within `body_timeout_s`
    a body             `max_body_bytes`, within `body_timeout_s`; all incoming bodies together: Bodies
    requests ahead     what one read brings; the client is then not read until it has its response
    unread responses   16 KB beyond the system's buffers, for 10 s
    idle time          `keepalive_timeout_s`
"""

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from collector.edge import responses
from collector.edge.client_protocol import ClientProtocol
from collector.edge.exchange import Exchange
from collector.edge.fast_path import END
from collector.edge.framing import Framing
from collector.edge.outcomes import late_body, unavailable
from collector.edge.refusal import MAX_HEAD_BYTES, is_broken, is_http_1, is_too_large
from collector.edge.request import Request
from collector.edge.responses import Response
from collector.edge.shared import Shared

# After a response that did not wait for the body, the rest of the body is read and dropped for this long before the
# connection closes. Closing at once would reset the connection, and the client would never see the response.
LINGERING_S = 2.0

# The delay between a client's end of stream and the check whether aiohttp still waits for a body.
ENDED_S: Final = 0.02


class State(Enum):
    """How the next bytes are used."""

    HEAD = auto()  # as a new head, or more of it
    BODY = auto()  # as the body of a request on the fast path
    HELD = auto()  # held, because a request waits for its turn or its response
    AIOHTTP = auto()  # passed to aiohttp, which has the request
    DROPPED = auto()  # dropped, as the rest of an unwanted body
    CLOSING = auto()  # dropped, because the last response is sent


# Looking up an Enum's member costs 50 ns.
HEAD: Final = State.HEAD
HELD: Final = State.HELD


class Connection(ClientProtocol):
    """One connection, on both paths."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.keepalive_timeout_s)
        self._shared = shared
        self._decider = shared.decider
        self._fast_path = shared.fast_path
        self._turn_budget = shared.turn_budget
        self._date = shared.date
        self._state = HEAD
        self._buffer = b""  # received, and not processed yet
        self._is_advancing = False
        self._has_ended = False  # the client has closed its side
        self._body = bytearray()  # received so far, in state BODY
        self._request: Request | None = None  # whose body that is
        self._left_bytes = 0  # of a body, in the states BODY, DROPPED and CLOSING
        self._exchange: Exchange | None = None  # the request that aiohttp has
        self._dropping: Framing | None = None  # of a finished exchange whose body is dropped

    @property
    def is_idle(self) -> bool:
        # A partial head does not count as a request, as the client may never complete it.
        return self._state in (State.HEAD, State.DROPPED, State.CLOSING)

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._shared.enter(self)

    def data_received(self, data: bytes) -> None:
        try:
            if self._state is not HEAD or self._unread_timer is not None:
                self._receive(data)
                return
            if self._buffer:
                data, self._buffer = self._buffer + data, b""
            if self._turn_budget.take(len(data)):
                self._begin_request(data)
                if self._buffer:
                    self._advance()
            else:  # Keep reading: a second read is rare, and `_receive` pauses the connection then.
                self._state, self._buffer = HELD, data
                self._turn_budget.wait(len(data), self._take_turn)
        except Exception:  # noqa: BLE001 - `_fail` logs it
            self._fail()

    def _receive(self, data: bytes) -> None:
        """Receive bytes that do not begin a request."""
        match self._state:
            case State.BODY:
                self._gather(data)
            case State.AIOHTTP if not self._buffer:
                self._feed(data)
            case State.DROPPED:
                self._drop(data)
            case State.CLOSING:
                self._left_bytes -= len(data)
                if self._left_bytes <= 0:
                    self._close()
            case _:
                self._hold(self._buffer + data)

    def eof_received(self) -> bool:
        """The client may close its side after its last request; it still gets its responses."""
        self._has_ended = True
        match self._state:
            case State.AIOHTTP:
                self._loop.call_later(ENDED_S, self._end_lost_exchange)
            case State.HEAD if self._may_begin_request() or self._unread_timer is not None:
                pass  # the buffered requests come first
            case State.HELD:
                pass
            case _:
                self._close()
        return True  # else asyncio closes it, and waits forever if the client reads nothing

    def resume_writing(self) -> None:
        super().resume_writing()
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._state is State.BODY:
            self._decider.lose(self._gathered())
        if self._exchange is not None:
            self._exchange.lose(exc)
            self._exchange = None
        if self._state is not HELD:  # a request that waits for its turn is still processed
            self._state = State.CLOSING
        self._shared.leave(self)

    # One request after the other.

    def _advance(self) -> None:
        """Begin the requests in the buffer. Resume reading when there are none."""
        if self._is_advancing or self._transport is None:
            return
        self._is_advancing = True
        try:
            while self._may_begin_request():
                if not self._turn_budget.take(0):
                    self._state = HELD
                    self._turn_budget.wait(0, self._take_turn)
                    return
                data, self._buffer = self._buffer, b""
                self._begin_request(data)
        finally:
            self._is_advancing = False
        if self._has_ended and self._state is HEAD and self._unread_timer is None:
            self._close()
        elif self._unread_timer is None and (not self._buffer or self._state is HEAD):
            self._transport.resume_reading()

    def _may_begin_request(self) -> bool:
        # With a timer, the buffer is a partial head.
        return bool(self._buffer) and self._state is HEAD and self._timer is None and self._unread_timer is None

    def _take_turn(self) -> None:
        """Begin the request that waited for its turn. Never raises: the caller serves other connections too."""
        self._state = HEAD
        data, self._buffer = self._buffer, b""
        try:
            self._begin_request(data)
            self._advance()
        except Exception:  # noqa: BLE001 - `_fail` logs it
            self._fail()

    def _begin_request(self, data: bytes) -> None:
        """Begin the next request. `data` is everything since the last one: part of a head, or a head and more."""
        # Nearly all bodies begin with `{`. Searching for one byte takes 0.03 us, and for END 0.3 us. If END also comes
        # earlier, the fast path finds an empty line, so the request takes the standard path.
        end = data.find(b"{") - len(END)
        if not data.startswith(END, max(end, 0)):
            end = data.find(END)
        fast_path = self._fast_path
        request = None if fast_path is None or end < 0 else fast_path.read(data, end, self.peer)
        if request is None:
            begun, data = data, data.lstrip(b"\r\n")  # RFC 9112, 2.2
            end = data.find(END)
            if end < 0:
                self._wait_for_head(begun, data)
                return
        if self._timer is not None:
            self._stop_timer()
        at = end + len(END)
        if request is None:
            self._begin_exchange(data, at)
            return
        self._state = HELD
        end = at + request.body_bytes  # type: ignore[operator]  # the fast path reads no chunked bodies
        self._left_bytes = left_bytes = end - len(data)
        self._buffer = b"" if left_bytes >= 0 else data[end:]
        response = self._decider.before_body(request)
        if response is not None:
            self.reply(request, response)
        elif left_bytes <= 0:
            self._decider.with_body(request, data[at:end], self)
        else:
            self._begin_body(request, data[at:])

    def _begin_body(self, request: Request, begun: bytes) -> None:
        decider = self._decider
        if self._transport is None or self._has_ended:
            decider.lose(request)
            self._close()
        elif self._shared.bodies.take(request.body_bytes or 0):
            self._state, self._request = State.BODY, request
            self._body += begun
            self._timer = self._loop.call_later(self._decider.rules.body_timeout_s, self._give_up_body)
        else:
            self.reply(request, decider.drop(request, unavailable()))

    def _gather(self, data: bytes) -> None:
        self._body += data[: self._left_bytes]
        self._buffer = data[self._left_bytes :]
        self._left_bytes -= len(data)
        if self._left_bytes <= 0:
            self._state, body = HELD, bytes(self._body)
            self._decider.with_late_body(self._gathered(), body, self)

    def _give_up_body(self) -> None:
        request = self._gathered()
        self.reply(request, self._decider.drop(request, late_body()))

    def _gathered(self) -> Request:
        """Leave state BODY: release the body's memory and return its request."""
        request, self._request = self._request, None
        assert request is not None
        self._stop_timer()
        self._body.clear()
        self._shared.bodies.release(request.body_bytes or 0)
        return request

    def reply(self, request: Request, response: Response | None) -> None:
        """Send the response of the fast path and continue. Never raises: the caller serves other connections too."""
        if self._transport is None:
            return
        try:
            if response is None:
                self._abort()
                return
            close = request.close
            self._transport.write(response.to_bytes(self._date.end_of_head(), close, request.method != "HEAD"))
            if close:
                self._close_behind(self._left_bytes)
            elif self._left_bytes > 0:
                self._begin_to_drop()
            else:
                self._state = HEAD
                self._idle_since = self._loop.time()
                if self._idle_timer is None:
                    self._idle()
                if self._buffer or self._has_ended:
                    self._advance()
        except Exception:  # noqa: BLE001 - `_fail` logs it
            self._fail()

    def _begin_to_drop(self) -> None:
        """Drop the rest of the body. Keep the connection if it arrives within LINGERING_S."""
        self._state = State.DROPPED
        self._timer = self._loop.call_later(LINGERING_S, self._close)
        if self._has_ended:
            self._close()
        elif self._transport is not None:
            self._transport.resume_reading()

    def _drop(self, data: bytes) -> None:
        if self._dropping is not None:
            end = self._dropping.follow(data, 0)
            is_whole = self._dropping.is_whole
            if self._dropping.is_broken or (is_whole and self._dropping.closes):
                self._close()
                return
        else:
            end = self._left_bytes
            self._left_bytes -= len(data)
            is_whole = self._left_bytes <= 0
        if is_whole:
            self._dropping = None
            self._stop_timer()
            self._state, self._buffer = HEAD, data[end:]
            self._idle()
            self._advance()

    # Heads.

    def _wait_for_head(self, begun: bytes, head: bytes) -> None:
        """Keep a partial head, or blank lines before one, and enforce its limits of time and size."""
        self._buffer = begun
        if len(begun) > MAX_HEAD_BYTES or is_too_large(head) or (head and is_broken(head)):
            self._refuse(head)
        elif self._timer is None and self._transport is not None:
            self._timer = self._loop.call_later(self._decider.rules.body_timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        self._decider.metrics.bad_requests.inc()
        self._send_last(responses.late_head())

    def _refuse(self, head: bytes) -> None:
        self._send_last(self._decider.refuse_head(head, "Bad request"))

    def _send_last(self, response: Response) -> None:
        """Respond to bytes that are not a request, and close."""
        if self._transport is not None:
            self._transport.write(response.to_bytes(self._date.end_of_head(), True))
            self._close_behind(None)

    # Requests on the standard path.

    def _begin_exchange(self, data: bytes, at: int) -> None:
        head = data[:at]
        if is_too_large(head) or not is_http_1(head):
            self._refuse(head)
        elif self._transport is not None:
            self._state = State.AIOHTTP
            self._exchange = Exchange(self._transport, self.peer, head, self._end_exchange)
            self._shared.standard_path.begin(self._exchange)
            self._feed(data, at)

    def _feed(self, data: bytes, at: int = 0) -> None:
        exchange = self._exchange
        assert exchange is not None
        try:
            end = exchange.feed(data, at)
        except Exception:  # noqa: BLE001 - aiohttp's parser raises, for example for a target that is not a URL
            exchange.lose(None)
            self._exchange = None
            self._decider.metrics.bad_requests.inc()
            self._send_last(responses.not_http())
            return
        if end < len(data):
            self._hold(data[end:])
        elif self._has_ended:
            self._loop.call_later(ENDED_S, self._end_lost_exchange)

    def _end_exchange(self, goes_on: bool) -> None:
        """aiohttp has responded. Drop the rest of the request here."""
        exchange, self._exchange = self._exchange, None
        if exchange is None or self._transport is None:
            return
        exchange.lose(None)
        if not goes_on:
            has_no_end = exchange.is_refused or exchange.framing.is_broken or not exchange.framing.is_whole
            self._close_behind(None if has_no_end else 0)
        elif not exchange.framing.is_whole:
            self._dropping = exchange.framing
            self._begin_to_drop()
        else:
            self._state = HEAD
            self._idle()
            self._loop.call_soon(self._advance)

    def _end_lost_exchange(self) -> None:
        """Close if the client has closed its side within a request, which then never gets a response."""
        if self._exchange is not None and self._exchange.waits_for_body:
            self._close()

    # Closing.

    def _close_behind(self, rest_bytes: int | None) -> None:
        """Close once the rest of the request has arrived, at the latest after LINGERING_S. None: its end is unknown."""
        assert self._transport is not None
        self._buffer = b""
        self._stop_timer()
        if self._has_ended or (rest_bytes is not None and rest_bytes <= 0):
            self._close()
            return
        self._state, self._left_bytes = State.CLOSING, rest_bytes or 1 << 62
        self._timer = self._loop.call_later(LINGERING_S, self._close)
        with suppress(OSError):  # the client has disconnected
            self._transport.write_eof()  # the client sees that no response follows
        self._transport.resume_reading()

    def _hold(self, data: bytes) -> None:
        """Buffer the bytes and pause reading."""
        self._buffer = data
        if self._transport is not None:
            self._transport.pause_reading()
