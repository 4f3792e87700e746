"""The client's address, found behind trusted proxies only.

The client's address is the peer's, unless the peer is a trusted proxy. Each proxy appends the address it saw to
`X-Forwarded-For` or `Forwarded`, so these are read from the right: the first address that is not trusted is the
client's. The client itself can write entries further left; believing them would let it bypass every limit and
exclusion. Empty elements and empty headers are skipped (RFC 9110, 5.6.1), because some proxies end the list with a
comma. Other headers, such as `X-Real-IP`, hold one address; a list in one of them is not believed.

A peer on the Unix socket has no address. Neither has one that has disconnected; its request gets no response.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from collector.addresses import UNIX, Address, AddressSet, parse_address
from collector.config import CLIENT_IP_HEADERS
from collector.edge.forwarded import clients_from_the_right
from collector.recent import Recent

LIST_HEADERS: Final = ("x-forwarded-for", "forwarded")
SINGLE_HEADERS: Final = tuple(name for name in map(str.lower, CLIENT_IP_HEADERS) if name not in LIST_HEADERS)
"""The headers that can hold the client's address. One of SINGLE_HEADERS that comes twice is not believed."""

# 10 MB with 32,768 IPv4 addresses, 24 MB at most. A hit takes 0.05 us. Parsing an address takes 0.5 us, and
# finding its bucket 0.3 us more.
MAX_KNOWN_CLIENTS = 16_384
LONGEST_KNOWN_VALUE: Final = 256


class Client:
    """A client, and where the rate limit (collector/edge/rate_limit.py) last found its bucket.

    All clients without an address share a bucket.
    """

    def __init__(self, address: Address | None) -> None:
        self.address: Final = address
        self.limiter: object = None  # the TokenBuckets that set the rest
        self.key = 0
        self.slot = 0
        self.uses_left = 0  # how many more requests may use the slot without a search


class Peers:
    """Finds the client of a request, and remembers clients and peers."""

    def __init__(self, trusted: AddressSet, header: str = "X-Forwarded-For", *, trusts_unix: bool = False) -> None:
        """`header`: the one that trusted proxies fill. `trusts_unix`: whether peers on the Unix socket are trusted."""
        self._trusted: Final = trusted
        self._trusts_unix: Final = trusts_unix
        self._header: Final = header.lower()
        self._peers: Final[Recent[str, tuple[Client, bool]]] = Recent(MAX_KNOWN_CLIENTS)
        self._forwarded: Final[Recent[str, Client]] = Recent(MAX_KNOWN_CLIENTS)  # by value of the header

    def peer(self, text: str | None) -> tuple[Client, bool]:
        """The peer with this address, as asyncio gives it, and whether it is a trusted proxy."""
        known = self._peers.get(text or "")
        if known is None:
            address = parse_address(text) if text else None
            known = Client(address), text == UNIX and self._trusts_unix if address is None else address in self._trusted
            self._peers.put(text or "", known)
        return known

    def client(self, peer: str | None, headers: Mapping[str, str]) -> Client:
        """The client of a request. `headers`: by name in lower case; the values of a list are joined by commas.

        An entry that is not an address (`unknown`, a host name) ends the search: the proxy that added it is the client.
        If every address is trusted, the left-most is the client's.
        """
        client, is_trusted = self.peer(peer)
        if not is_trusted:
            return client
        value = headers.get(self._header)
        if value is None:
            return client
        known = self._forwarded.get(value)
        if known is not None:
            return known
        address = self._right_most(value)
        if address is None:
            return client
        known = Client(address)
        if len(value) <= LONGEST_KNOWN_VALUE and value.isascii():  # others take up to four bytes each
            self._forwarded.put(value, known)
        return known

    def _entries(self, value: str) -> Iterator[str]:
        """The entries of the header, from the right."""
        if self._header == "forwarded":
            return clients_from_the_right(value)
        if self._header in SINGLE_HEADERS:
            # A comma means that a proxy joined several headers into one (RFC 9110, 5.3).
            return iter([] if "," in value else [value])
        return iter(value.split(",")[::-1])

    def _right_most(self, value: str) -> Address | None:
        """The client's address; None if the header has none before the first entry that is not an address."""
        found = None
        for entry in self._entries(value):
            entry = entry.strip(" \t")
            if not entry:
                continue
            address = parse_address(_without_port(entry))
            if address is None:
                break
            found = address
            if found not in self._trusted:
                break
        return found


def _without_port(entry: str) -> str:
    """Strip the port that some proxies add: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
