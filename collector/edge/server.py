"""The public server: it creates connections, limits their number, and closes them."""

import asyncio
from contextlib import suppress
from typing import cast

from collector.edge.bodies import Bodies
from collector.edge.connection import Connection
from collector.edge.connection_limit import ConnectionLimit
from collector.edge.date import Date
from collector.edge.decide import Decider
from collector.edge.fast_path import FastPath
from collector.edge.shared import Shared
from collector.edge.standard_path import StandardPath
from collector.edge.turn_budget import TurnBudget


class Server:
    """The protocol factory for asyncio's listeners. At most `max_connections` are open."""

    def __init__(self, decider: Decider, *, fast_path: bool, keepalive_timeout_s: float, max_connections: int) -> None:
        self.bodies = Bodies()
        self._decider = decider
        self._metrics = decider.metrics
        self._limit = ConnectionLimit(max_connections)
        self._connections: set[Connection] = set()
        self._shared = Shared(
            decider=decider,
            fast_path=FastPath(decider.routes) if fast_path else None,
            standard_path=StandardPath(decider, self.bodies),
            bodies=self.bodies,
            turn_budget=TurnBudget(),
            date=Date(),
            keepalive_timeout_s=keepalive_timeout_s,
            enter=self._enter,
            leave=self._leave,
        )

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def open(self) -> None:
        """Set up; call this before the first connection."""
        await self._shared.standard_path.open()

    async def close(self, patience_s: float) -> None:
        """Close every connection once no request is in flight, at the latest after `patience_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._decider.in_flight.none()
        for connection in list(self._connections):
            connection.evict()
        await self._shared.standard_path.close()

    def __call__(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, Connection(self._shared))

    def _enter(self, connection: Connection) -> None:
        """Add a connection. If there are too many, evict the oldest idle one, or else this one."""
        self._connections.add(connection)
        self._metrics.connections.inc()
        rules = self._decider.rules
        peer, is_trusted = rules.peers.peer(connection.peer)
        is_bounded = rules.max_connections_per_client and not is_trusted
        # A peer on the Unix socket is a proxy of this machine, trusted or not.
        client = rules.buckets.client_of(peer.address) if is_bounded and peer.address is not None else None
        evicted = self._limit.enter(connection, client, rules.max_connections_per_client)
        if evicted is not None:
            leaver, bound = evicted
            self._metrics.evicted.labels(bound).inc()
            leaver.evict()

    def _leave(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._metrics.connections.dec()
        self._limit.leave(connection)
