"""A connection below HTTP: its idle timeout, its limit on unread responses, and how it closes."""

import asyncio
import logging
import socket
from typing import Final, cast

from collector.addresses import UNIX
from collector.edge.responses import Replier

log = logging.getLogger(__name__)

# How many bytes of its responses a client may leave unread, beyond the system's buffers, and for how long.
MAX_UNREAD_BYTES: Final = 16_384
UNREAD_S = 10.0


class ClientProtocol(Replier):
    """The part of a connection that is not HTTP. Subclasses define `is_idle`, and call `_idle` after each request.

    It has all methods of asyncio.Protocol, but is no subclass: mypyc compiles no class with an interpreted base.
    """

    def __init__(self, keepalive_timeout_s: float) -> None:
        self.peer: str | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None  # None: not connected
        self._timer: asyncio.TimerHandle | None = None  # limits how long the client may take
        self._unread_timer: asyncio.TimerHandle | None = None  # runs while responses are unread
        self._keepalive_timeout_s = keepalive_timeout_s
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request is in flight."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0])
        elif _is_unix(transport):
            self.peer = UNIX
        self._idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for timer in (self._timer, self._unread_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Allow the client UNREAD_S to read its responses."""
        if self._unread_timer is None:
            self._unread_timer = self._loop.call_later(UNREAD_S, self._abort)

    def resume_writing(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def evict(self) -> None:
        """Close the connection to make room. Responses that the client has not read yet are dropped."""
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._abort()
        else:
            self._close()

    def _close(self) -> None:
        """Close once all written data is sent. Reset the connection if the client does not read it within UNREAD_S."""
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                self.pause_writing()
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _fail(self) -> None:
        log.exception("a connection failed")
        self._abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _idle(self) -> None:
        """Start the idle time. To save work, requests do not move the timer; it re-arms itself if it fires early."""
        self._idle_since = self._loop.time()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._keepalive_timeout_s, self._idled)

    def _idled(self) -> None:
        due = self._idle_since + self._keepalive_timeout_s
        self._idle_timer = None
        if not self.is_idle:
            return  # the next response starts it again
        if self._loop.time() < due:
            self._idle_timer = self._loop.call_at(due, self._idled)
        else:
            self._close()


def _is_unix(transport: asyncio.BaseTransport) -> bool:
    bound = transport.get_extra_info("socket")
    return bound is not None and bound.family == socket.AF_UNIX
