"""Who is asking: the client's address, through proxies that are trusted and through no others.

The peer's address is the client's, unless the peer is a trusted proxy. Then `X-Forwarded-For` is read from the
right, each proxy having added the address it saw: the first that is not itself trusted is the client's. What
stands further left was written by the client, and would lift every limit and exclusion if it were believed. Empty
elements, and so empty headers too, are skipped (RFC 9110, 5.6.1): some proxies end the list with a comma.
"""

from ipaddress import IPv4Address

from collector.addresses import Address, AddressSet, parse_address

# A peer that is gone before it was asked has no address; its request will not be answered either.
NO_ADDRESS = IPv4Address(0)


MAX_KNOWN_PEERS = 4_096  # 1 MB


class Peers(dict[str | None, tuple[Address, bool]]):
    """By the other end of a connection, as asyncio names it: its address, and whether it is a trusted proxy."""

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
        """The client's address. `forwarded_for`: all values of `X-Forwarded-For`, in their order, joined by commas.

        An entry that is no address (`unknown`, a host name) ends the walk: the last proxy that is known is then
        all that is known. If every address is trusted, the left-most is the client's.
        """
        client, is_trusted = self[peer]
        if forwarded_for is None or not is_trusted:
            return client
        if "," not in forwarded_for and (address := parse_address(forwarded_for)) is not None:  # nearly always
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
    """Some proxies add the port: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
