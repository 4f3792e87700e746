"""The connection limit: a maximum in total, and one per client. Beyond either, the oldest idle connection is evicted.

A client is the same as in the rate limit: an IPv4 address, or an IPv6 network. A client over its own limit only loses
its own connections.
"""

from collections.abc import Hashable
from itertools import islice
from typing import Protocol

# How many of the oldest connections are checked for an idle one when there is no room for a new one.
OLDEST_ASKED = 100


class LimitedConnection(Protocol):
    """What the limit needs of a connection."""

    @property
    def is_idle(self) -> bool: ...

    def evict(self) -> None:
        """Close the connection."""
        ...


LimitedConnections = dict[LimitedConnection, None]
"""Ordered by when they connected, or were last found busy in a search for one to evict."""


class ConnectionLimit:
    """The connections of a process, at most `most` in total."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: LimitedConnections = {}
        self._of: dict[Hashable, LimitedConnections] = {}
        self._client_of: dict[LimitedConnection, Hashable] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(
        self, connection: LimitedConnection, client: Hashable | None, most_of_client: int
    ) -> tuple[LimitedConnection, str] | None:
        """Add the connection. Return the one to evict, which may be this one, and the limit that was hit.

        `client` None: only the total limit applies.
        """
        self._all[connection] = None
        if client is not None:
            self._client_of[connection] = client
            of_client = self._of.setdefault(client, {})
            of_client[connection] = None
            if len(of_client) > most_of_client:
                return _oldest_idle(of_client) or connection, "client"
        if len(self._all) > self._most:
            return _oldest_idle(self._all) or connection, "all"
        return None

    def leave(self, connection: LimitedConnection) -> None:
        """Remove a connection that has closed."""
        self._all.pop(connection, None)
        client = self._client_of.pop(connection, None)
        if client is not None:
            of_client = self._of[client]
            del of_client[connection]
            if not of_client:
                del self._of[client]


def _oldest_idle(connections: LimitedConnections) -> LimitedConnection | None:
    """An idle one of the 100 oldest. Busy ones move to the end, or a hundred of them would shield all others."""
    for connection in list(islice(connections, OLDEST_ASKED)):
        if connection.is_idle:
            return connection
        del connections[connection]
        connections[connection] = None
    return None
