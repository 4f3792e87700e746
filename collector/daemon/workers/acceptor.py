"""The acceptor of one of several workers. It accepts one connection at a time, and lets workers with fewer go first.

Each worker publishes its number of connections in shared memory. A worker with more than the others waits HOLD_BACK_S,
so the others can accept. If none does (one may hang, or be busier than its connections show), the worker that waited
accepts.

An event loop's own server accepts all waiting connections in one turn, and connections live long. With uvloop and two
workers, one got only 3 of 64 connections that came at once under load, and 9 of 64 that came one by one while idle.
With this acceptor each got at least 25.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from mmap import mmap

from collector.config import MAX_WORKERS

log = logging.getLogger(__name__)

HOLD_BACK_S = 0.002
OUT_OF_DESCRIPTORS_S = 1.0  # by then some descriptors may be free
UNEVEN = 2  # a worker holds back if it leads by more than this many connections and by more than an eighth of its own

_ABSENT = 1 << 32  # the count of a worker that is not running, so no other holds back for it


class ConnectionCounts:
    """The number of connections of each worker, in memory that all workers share."""

    def __init__(self, file: int, workers: int) -> None:
        self._of = memoryview(mmap(file, CONNECTION_COUNTS_BYTES)).cast("Q")[:workers]

    def set(self, worker: int, connections: int) -> None:
        self._of[worker] = connections

    def set_absent(self, worker: int) -> None:
        """Record that the worker is not running."""
        self._of[worker] = _ABSENT

    def has_more(self, worker: int) -> bool:
        """Whether this worker has enough connections to leave the next one to another worker."""
        mine = self._of[worker]
        return mine > min(self._of) + max(UNEVEN, mine >> 3)


CONNECTION_COUNTS_BYTES = 8 * MAX_WORKERS


class Acceptor:
    """Accepts connections from the shared sockets for one worker."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        connections: Callable[[], int],
        connection_counts: ConnectionCounts,
        worker: int,
    ) -> None:
        self._sockets = sockets
        self._factory = factory
        self._connections = connections
        self._connection_counts = connection_counts
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._holding_back: asyncio.TimerHandle | None = None
        self._entering: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Start to accept connections, in the next turn of the loop."""
        self._connection_counts.set(self._worker, self._connections())
        self._listen()

    def close(self) -> None:
        """Stop accepting, and close the sockets."""
        if self._holding_back is not None:
            self._holding_back.cancel()
        for bound in self._sockets:
            self._loop.remove_reader(bound)
            bound.close()
        self._connection_counts.set_absent(self._worker)

    def _listen(self) -> None:
        for bound in self._sockets:
            self._loop.add_reader(bound, self._connection_waits, bound)

    def _connection_waits(self, bound: socket.socket) -> None:
        """Accept one connection, or hold back for a moment."""
        self._connection_counts.set(self._worker, self._connections() + len(self._entering))
        if self._connection_counts.has_more(self._worker):
            self._hold_back(HOLD_BACK_S)
        else:
            self._accept(bound)

    def _hold_back(self, seconds: float) -> None:
        for bound in self._sockets:
            self._loop.remove_reader(bound)
        if self._holding_back is not None:
            self._holding_back.cancel()
        self._holding_back = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._holding_back = None
        self._listen()
        for bound in self._sockets:  # whatever still waits, no other worker has accepted
            if not self._accept(bound):
                break

    def _accept(self, bound: socket.socket) -> bool:
        """Accept a connection, if one waits. Returns whether there are descriptors for more."""
        try:
            connection, _ = bound.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return True  # another worker was faster, or the client has gone
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            log.error("cannot accept connections: %s", exc)
            self._hold_back(OUT_OF_DESCRIPTORS_S)
            return False
        connection.setblocking(False)
        task = self._loop.create_task(self._enter(connection))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)
        return True

    async def _enter(self, connection: socket.socket) -> None:
        with suppress(OSError):  # the client has gone
            await self._loop.connect_accepted_socket(self._factory, connection)
