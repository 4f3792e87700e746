"""The client's address, found behind trusted proxies only.

The client's address is the peer's, unless the peer is a trusted proxy. Each proxy appends the address it saw to
`X-Forwarded-For`, so the header is read from the right: the first address that is not trusted is the client's. The
client itself can write entries further left; believing them would let it bypass every limit and exclusion. Empty
elements and empty headers are skipped (RFC 9110, 5.6.1), because some proxies end the list with a comma.
"""

from ipaddress import IPv4Address
from typing import Final

from collector.addresses import Address, AddressSet, parse_address
from collector.recent import Recent

# A peer that has disconnected has no address. Its request gets no response either.
NO_ADDRESS: Final = IPv4Address(0)

# 10 MB with 32,768 IPv4 addresses, 24 MB at most. A hit takes 0.05 us. Parsing an address takes 0.5 us, and
# finding its bucket 0.3 us more.
MAX_KNOWN_CLIENTS = 16_384
LONGEST_KNOWN_VALUE: Final = 256


class Client:
    """A client, and where the rate limit (collector/edge/rate_limit.py) last found its bucket."""

    def __init__(self, address: Address) -> None:
        self.address: Final = address
        self.limiter: object = None  # the TokenBuckets that set the rest
        self.key = 0
        self.slot = 0
        self.uses_left = 0  # how many more requests may use the slot without a search


class Peers:
    """Finds the client of a request, and remembers clients and peers."""

    def __init__(self, trusted: AddressSet) -> None:
        self._trusted: Final = trusted
        self._peers: Final[Recent[str, tuple[Client, bool]]] = Recent(MAX_KNOWN_CLIENTS)
        self._forwarded: Final[Recent[str, Client]] = Recent(MAX_KNOWN_CLIENTS)  # by value of `X-Forwarded-For`

    def peer(self, text: str | None) -> tuple[Client, bool]:
        """The peer with this address, as asyncio gives it, and whether it is a trusted proxy."""
        known = self._peers.get(text or "")
        if known is None:
            address = (parse_address(text) if text else None) or NO_ADDRESS
            known = Client(address), address in self._trusted
            self._peers.put(text or "", known)
        return known

    def client(self, peer: str | None, forwarded_for: str | None) -> Client:
        """The client of a request. `forwarded_for`: all values of `X-Forwarded-For` in order, joined by commas.

        An entry that is not an address (`unknown`, a host name) ends the search: the proxy that added it is the client.
        If every address is trusted, the left-most is the client's.
        """
        client, is_trusted = self.peer(peer)
        if forwarded_for is None or not is_trusted:
            return client
        known = self._forwarded.get(forwarded_for)
        if known is not None:
            return known
        address = self._right_most(forwarded_for)
        if address is None:
            return client
        known = Client(address)
        if len(forwarded_for) <= LONGEST_KNOWN_VALUE and forwarded_for.isascii():  # others take up to four bytes each
            self._forwarded.put(forwarded_for, known)
        return known

    def _right_most(self, forwarded_for: str) -> Address | None:
        """The client's address; None if the header has none before the first entry that is not an address."""
        found = None
        for entry in reversed(forwarded_for.split(",")):
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
