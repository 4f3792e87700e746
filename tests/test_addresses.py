"""Addresses and sets of them."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.addresses import Address, AddressSet, Network, parse_address, parse_network


@st.composite
def networks_and_neighbour(draw: st.DrawFn) -> tuple[list[Network], Address]:
    """Networks, and an address that is in the first one or differs in one bit from such an address."""
    networks: list[Network] = []
    for address in draw(st.lists(st.ip_addresses(), min_size=1, max_size=6)):
        prefix = draw(st.integers(0, address.max_prefixlen))
        networks.append(ip_network((int(address), prefix) if address.version == 4 else (address, prefix), strict=False))
    first = networks[0]
    number = int(first.network_address) + draw(st.integers(0, first.num_addresses - 1))
    if draw(st.booleans()):
        number ^= 1 << draw(st.integers(0, first.max_prefixlen - 1))
    return networks, IPv4Address(number) if first.version == 4 else IPv6Address(number)


@given(networks_and_neighbour())
def test_set_contains_the_addresses_of_all_its_networks(case: tuple[list[Network], Address]) -> None:
    networks, address = case
    assert any(address in network for network in networks) == (address in AddressSet(networks))


@given(st.lists(st.ip_addresses(network="10.0.0.0/28") | st.ip_addresses(network="2001:db8::/124")))
def test_set_of_single_addresses_contains_only_these(addresses: list[Address]) -> None:
    known = AddressSet(parse_network(str(address)) for address in addresses)
    everyone = [*ip_network("10.0.0.0/28"), *ip_network("2001:db8::/124")]
    assert set(addresses) == {address for address in everyone if address in known}


def test_addresses_of_different_versions_never_match() -> None:
    assert IPv6Address(1) not in AddressSet([IPv4Network("0.0.0.1/32")])
    assert IPv4Address(1) not in AddressSet([IPv6Network("::1/128")])
    assert IPv4Address(1) not in AddressSet([])


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "::ffff:192.0.2.7"),
        ("192.0.2.7", "::FFFF:c000:207"),
        ("2001:db8::7", "2001:DB8:0:0::7"),
        ("fe80::1", "fe80::1%eth0"),
    ],
)
def test_spellings_of_one_address_are_equal(address: str, text: str) -> None:
    assert ip_address(address) == parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "unknown", "192.0.2", "192.0.2.256", "192.0.2.07", "1", " 192.0.2.7", "٤.٤.٤.٤", "::1" * 40),
        "::1%" + "x" * 61,  # longer than any address with a zone
    ],
)
def test_invalid_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize("text", ["::ffff:192.0.2.0/120", "::ffff:192.0.2.7", "192.0.2.0/24"])
def test_ipv4_mapped_network_contains_the_ipv4_address(text: str) -> None:
    """Client addresses are IPv4, however they were written, so the networks must be too."""
    client = parse_address("::ffff:192.0.2.7")
    assert client is not None
    assert client in AddressSet([parse_network(text)])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("should be an address or a network", ""),
        ("should be an address or a network", "192.0.2.0/33"),
        ("should be an address or a network", "example.com"),
        ('the network is "10.0.0.0/8"', "10.0.0.1/8"),
        ('the network is "2001:db8::/32"', "2001:db8::1/32"),
    ],
)
def test_bad_network_says_what_would_be_right(message: str, text: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_network(text)
