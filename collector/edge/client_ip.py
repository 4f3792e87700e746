"""The client's address, found behind trusted proxies only.

The client's address is the peer's, unless the peer is a trusted proxy. Each proxy appends the address it saw to
`X-Forwarded-For`, so the header is read from the right: the first address that is not trusted is the client's. The
client itself can write entries further left; believing them would let it bypass every limit and exclusion. Empty
elements and empty headers are skipped (RFC 9110, 5.6.1), because some proxies end the list with a comma.
"""

from ipaddress import IPv4Address
from typing import Final

from collector.addresses import Address, AddressSet, parse_address

# A peer that has disconnected has no address. Its request gets no response either.
NO_ADDRESS: Final = IPv4Address(0)


MAX_KNOWN_PEERS = 4_096  # 1 MB


class Peers(dict[str | None, tuple[Address, bool]]):
    """A cache. Key: the peer's address as asyncio gives it. Value: the address, and whether it is a trusted proxy."""

    def __init__(self, trusted: AddressSet) -> None:
        super().__init__()
        self._trusted = trusted

    def __missing__(self, peer: str | None) -> tuple[Address, bool]:
        if len(self) >= MAX_KNOWN_PEERS:
            self.clear()
        address = (parse_address(peer) if peer else None) or NO_ADDRESS
        known = self[peer] = address, address in self._trusted
        return known

    def client(self, peer: str | None, forwarded_for: str | None) -> Address:
        """The client's address. `forwarded_for`: all values of `X-Forwarded-For` in order, joined by commas.

        An entry that is not an address (`unknown`, a host name) ends the search: the proxy that added it is the client.
        If every address is trusted, the left-most is the client's.
        """
        client, is_trusted = self[peer]
        if forwarded_for is None or not is_trusted:
            return client
        if "," not in forwarded_for and (address := parse_address(forwarded_for)) is not None:  # the usual case
            return address
        for entry in reversed(forwarded_for.split(",")):
            entry = entry.strip(" \t")
            if not entry:
                continue
            address = parse_address(_without_port(entry))
            if address is None:
                break
            client = address
            if client not in self._trusted:
                break
        return client


def _without_port(entry: str) -> str:
    """Strip the port that some proxies add: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
