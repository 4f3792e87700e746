"""IP addresses: parsing, and sets with look-ups in constant time."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET, inet_pton
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX: Final = "unix"
"""Stands for a peer on the Unix socket, which has no address: in `trusted_proxies`, and as a connection's peer."""

# The longest text of an IPv6 address is 45 characters; a zone adds an interface name of at most 15.
LONGEST_ADDRESS: Final = 64


def parse_address(text: str) -> Address | None:
    """Parse an address; None if `text` is not one.

    An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`, as dual-stack sockets report it) becomes the IPv4 address, so a
    client has one address. An IPv6 zone (`%eth0`) is dropped.
    """
    if len(text) > LONGEST_ADDRESS:
        return None
    # The C library first: `ip_address` takes 1.5 us for an IPv4 address.
    try:
        return IPv4Address(int.from_bytes(inet_pton(AF_INET, text)))
    except (OSError, ValueError):  # ValueError: a NUL or a surrogate
        pass
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def parse_network(text: str) -> Network:
    """Parse a network or a single address; IPv4-mapped networks become IPv4, as in `parse_address`.

    Raises ValueError with a message for users.
    """
    try:
        return _unmapped(ip_network(text))
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError('should be an address or a network, such as "192.0.2.7" or "2001:db8::/32"') from None
        raise ValueError(f'has bits set to the right of its prefix; the network is "{meant}"') from None


def _unmapped(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        address = network.network_address.ipv4_mapped
        if address is not None:
            return IPv4Network((address, network.prefixlen - 96))
    return network


class AddressSet:
    """A set of addresses and networks. `address in set` costs one look-up per distinct prefix length."""

    def __init__(self, networks: Iterable[Network]) -> None:
        by_version: dict[type[Address], dict[int, set[int]]] = {IPv4Address: {}, IPv6Address: {}}
        for network in networks:
            host_bits = network.max_prefixlen - network.prefixlen
            prefixes = by_version[type(network.network_address)].setdefault(host_bits, set())
            prefixes.add(int(network.network_address) >> host_bits)
        self._prefixes = {kind: tuple(prefixes.items()) for kind, prefixes in by_version.items()}

    def __contains__(self, address: Address) -> bool:
        number = None
        for host_bits, known in self._prefixes[type(address)]:
            if number is None:
                number = int(address)
            if number >> host_bits in known:
                return True
        return False
