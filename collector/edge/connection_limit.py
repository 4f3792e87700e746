"""Who is connected: so many in all and so many of one client; where there is no room, the oldest that is idle goes.

A client is what it is to the rate limit: an IPv4 address, or an IPv6 network. Its connections beyond its bound cost
nobody else theirs.
"""

from collections.abc import Hashable
from itertools import islice
from typing import Protocol

# How many of the oldest connections are asked whether they are idle, when there is no room for a new one.
OLDEST_ASKED = 100


class LimitedConnection(Protocol):
    """A connection, as the limit sees it."""

    @property
    def is_idle(self) -> bool: ...

    def evict(self) -> None:
        """Close it."""
        ...


LimitedConnections = dict[LimitedConnection, None]
"""In the order in which they came, or were last found busy when someone had to go."""


class ConnectionLimit:
    """The connections of a process, at most `most` of them."""

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
        """Add it. Return the connection to evict, which may be this one, and the limit that was hit.

        `client` None: only the limit of all connections holds.
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
        """It is gone."""
        self._all.pop(connection, None)
        client = self._client_of.pop(connection, None)
        if client is not None:
            of_client = self._of[client]
            del of_client[connection]
            if not of_client:
                del self._of[client]


def _oldest_idle(connections: LimitedConnections) -> LimitedConnection | None:
    """One of the oldest that is idle. Those that are busy go to the end: a hundred of them could shield all others."""
    for connection in list(islice(connections, OLDEST_ASKED)):
        if connection.is_idle:
            return connection
        del connections[connection]
        connections[connection] = None
    return None
