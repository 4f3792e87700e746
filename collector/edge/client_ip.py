"""Who is asking: the client's address, through proxies that are trusted and through no others.

The peer's address is the client's, unless the peer is a trusted proxy. Then `X-Forwarded-For` is read from the
right, each proxy having added the address it saw: the first that is not itself trusted is the client's. What
stands further left was written by the client, and would lift every limit and exclusion if it were believed. Empty
elements, and so empty headers too, are skipped (RFC 9110, 5.6.1): some proxies end the list with a comma.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address

from collector.addresses import Address, AddressSet, parse_address

# A peer that is gone before it was asked has no address; its request will not be answered either.
NO_ADDRESS = IPv4Address(0)


def client_address(peer: str | None, forwarded_for: Sequence[str], trusted: AddressSet) -> Address:
    """The client's address. `forwarded_for` holds the values of all `X-Forwarded-For` headers, in order.

    An entry that is no address (`unknown`, a host name) ends the walk: the last proxy that is known is then
    all that is known. If every address is trusted, the left-most is the client's.
    """
    client = (parse_address(peer) if peer else None) or NO_ADDRESS
    if not forwarded_for or client not in trusted:
        return client
    for entry in reversed(",".join(forwarded_for).split(",")):
        entry = entry.strip(" \t")
        if not entry:
            continue
        address = parse_address(_without_port(entry))
        if address is None:
            break
        client = address
        if client not in trusted:
            break
    return client


def _without_port(entry: str) -> str:
    """Some proxies add the port: `192.0.2.7:4711`, `[2001:db8::7]:4711`."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
