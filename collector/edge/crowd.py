"""Who is connected: so many in all and so many of one client; where there is no room, the oldest that is idle goes.

A client is what it is to the rate limit: an IPv4 address, or an IPv6 network. Its connections beyond its bound cost
nobody else theirs.
"""

from collections.abc import Hashable
from itertools import islice
from typing import Protocol

# How many of the oldest connections are asked whether they are idle, when there is no room for a new one.
OLDEST_ASKED = 100


class Guest(Protocol):
    """A connection."""

    @property
    def is_idle(self) -> bool: ...


Guests = dict[Guest, None]
"""In the order in which they came, or were last found busy when someone had to go."""


class Crowd:
    """The connections of a process, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: Guests = {}
        self._of: dict[Hashable, Guests] = {}
        self._client_of: dict[Guest, Hashable] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, guest: Guest, client: Hashable | None, most_of_client: int) -> tuple[Guest, str] | None:
        """Count one more; who has to go for it, which may be itself, and by which bound.

        The client may be None, which nothing bounds but the whole.
        """
        self._all[guest] = None
        if client is not None:
            self._client_of[guest] = client
            of_client = self._of.setdefault(client, {})
            of_client[guest] = None
            if len(of_client) > most_of_client:
                return _oldest_idle(of_client) or guest, "client"
        if len(self._all) > self._most:
            return _oldest_idle(self._all) or guest, "all"
        return None

    def leave(self, guest: Guest) -> None:
        """It is gone."""
        self._all.pop(guest, None)
        client = self._client_of.pop(guest, None)
        if client is not None:
            of_client = self._of[client]
            del of_client[guest]
            if not of_client:
                del self._of[client]


def _oldest_idle(guests: Guests) -> Guest | None:
    """One of the oldest that is idle. Those that are busy go to the end: a hundred of them could shield all others."""
    for guest in list(islice(guests, OLDEST_ASKED)):
        if guest.is_idle:
            return guest
        del guests[guest]
        guests[guest] = None
    return None
