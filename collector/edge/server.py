"""The server that the public connects to: what its connections share, and how many there may be."""

import asyncio
import time
from contextlib import suppress
from email.utils import formatdate

from collector.edge.bodies import Bodies
from collector.edge.connection import Connection
from collector.edge.connection_limit import ConnectionLimit
from collector.edge.decide import Decider
from collector.edge.fast_path import FastPath
from collector.edge.standard_path import StandardPath
from collector.edge.turn_budget import TurnBudget
from collector.metrics import Metrics


class Date:
    """The value of `Date`, rendered once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._end = b""

    def end_of_head(self) -> bytes:
        """The value, and the end of a head."""
        second = int(time.time())
        if second != self._second:
            self._second, self._end = second, f"{formatdate(second, usegmt=True)}\r\n\r\n".encode()
        return self._end


class Server:
    """Makes connections, and ends them; at most `max_connections`."""

    def __init__(self, decider: Decider, *, fast_path: bool, keepalive_timeout_s: float, max_connections: int) -> None:
        self.decider = decider
        self.metrics: Metrics = decider.metrics
        self.bodies = Bodies()
        self.fast_path = FastPath() if fast_path else None
        self.standard_path = StandardPath(decider, self.bodies)
        self.turn_budget = TurnBudget()
        self.date = Date()
        self.keepalive_timeout_s = keepalive_timeout_s
        self._limit = ConnectionLimit(max_connections)
        self._connections: set[Connection] = set()

    @property
    def patience_s(self) -> float:
        """How long a head may take to come, and then its body."""
        return self.decider.rules.body_timeout_s

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def open(self) -> None:
        await self.standard_path.open()

    async def close(self, patience_s: float) -> None:
        """Close every connection once no request is under way, at the latest after `patience_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self.decider.in_flight.none()
        for connection in list(self._connections):
            connection.evict()
        await self.standard_path.close()

    def __call__(self) -> Connection:
        return Connection(self)

    def enter(self, connection: Connection) -> None:
        """Take it; where there are too many, one of the oldest that is idle makes room, or else it goes itself."""
        self._connections.add(connection)
        self.metrics.connections.inc()
        rules = self.decider.rules
        address, is_trusted = rules.peers[connection.peer]
        is_bounded = rules.max_connections_per_client and not is_trusted
        client = rules.buckets.client_of(address) if is_bounded else None
        evicted = self._limit.enter(connection, client, rules.max_connections_per_client)
        if evicted is not None:
            leaver, bound = evicted
            self.metrics.evicted.labels(bound).inc()
            leaver.evict()

    def leave(self, connection: Connection) -> None:
        """It is closed."""
        self._connections.discard(connection)
        self.metrics.connections.dec()
        self._limit.leave(connection)
