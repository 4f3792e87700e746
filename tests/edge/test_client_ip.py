"""The client's address: found behind trusted proxies, and never spoofed."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.addresses import UNIX, Address, AddressSet, parse_network
from collector.config import CLIENT_IP_HEADERS
from collector.edge.client_ip import LIST_HEADERS, LONGEST_KNOWN_VALUE, SINGLE_HEADERS, Peers
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import request
from tests.support import FakeClock, body

# Two single proxies, an IPv4 network, an IPv6 network, and a proxy on the same machine.
TRUSTED = AddressSet(map(parse_network, ("192.0.2.1", "192.0.2.2", "10.0.0.0/8", "2001:db8:ffff::/48", "::1")))
PROXY = "192.0.2.1"
BLANKS = " \t"

CASES = {
    # (peer, X-Forwarded-For headers, client)
    "no proxy": ("198.51.100.7", [], "198.51.100.7"),
    "no proxy, invented header": ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
    "no proxy, header names a proxy": ("198.51.100.7", ["203.0.113.9, 192.0.2.1"], "198.51.100.7"),
    "neighbour of a proxy": ("192.0.2.3", ["203.0.113.9"], "192.0.2.3"),
    "proxy without header": (PROXY, [], PROXY),
    "proxy": (PROXY, ["203.0.113.9"], "203.0.113.9"),
    "proxy of a network": ("10.200.3.4", ["203.0.113.9"], "203.0.113.9"),
    "spoofed behind a proxy": (PROXY, ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
    "spoofed trusted address": (PROXY, ["192.0.2.2, 203.0.113.9"], "203.0.113.9"),
    "spoofed zone": (PROXY, ["2001:db8::1%, 203.0.113.9"], "203.0.113.9"),
    "spoofed zone of a trusted address": (PROXY, ["::1%x, 203.0.113.9"], "203.0.113.9"),
    "spoofed garbage": (PROXY, ["'; drop, 203.0.113.9"], "203.0.113.9"),
    "two proxies": (PROXY, ["203.0.113.9, 192.0.2.2"], "203.0.113.9"),
    "two proxies, spoofed": (PROXY, ["1.1.1.1, 203.0.113.9, 10.0.0.9"], "203.0.113.9"),
    "second proxy not trusted": (PROXY, ["203.0.113.9, 192.0.2.99"], "192.0.2.99"),
    "several headers": (PROXY, ["1.1.1.1", "203.0.113.9", "192.0.2.2"], "203.0.113.9"),
    "several headers, the last with two": (PROXY, ["1.1.1.1", "203.0.113.9, 192.0.2.2"], "203.0.113.9"),
    "all trusted": (PROXY, ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
    "no blanks": (PROXY, ["1.1.1.1,203.0.113.9,10.0.0.2"], "203.0.113.9"),
    "blanks and tabs": (PROXY, ["  1.1.1.1 ,\t203.0.113.9  "], "203.0.113.9"),
    "port": (PROXY, ["203.0.113.9:4711"], "203.0.113.9"),
    "IPv6": (PROXY, ["2001:db8::7"], "2001:db8::7"),
    "IPv6 with brackets": (PROXY, ["[2001:db8::7]"], "2001:db8::7"),
    "IPv6 with port": (PROXY, ["[2001:db8::7]:4711"], "2001:db8::7"),
    "IPv6 with zone": (PROXY, ["fe80::1%eth0"], "fe80::1"),
    "IPv6 peer": ("2001:db8::7", [], "2001:db8::7"),
    "IPv6 proxies": ("::1", ["2001:db8::7, 2001:db8:ffff::5"], "2001:db8::7"),
    "mapped peer": ("::ffff:198.51.100.7", ["203.0.113.9"], "198.51.100.7"),
    "mapped proxy": ("::ffff:192.0.2.1", ["203.0.113.9"], "203.0.113.9"),
    "mapped entry": (PROXY, ["::ffff:203.0.113.9"], "203.0.113.9"),
    "mapped proxy in the header": (PROXY, ["203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9"),
    # RFC 9110, 5.6.1: empty list elements are ignored.
    "empty element behind the client": (PROXY, ["203.0.113.9, "], "203.0.113.9"),
    "empty element before the client": (PROXY, [", 203.0.113.9"], "203.0.113.9"),
    "empty elements between proxies": (PROXY, ["203.0.113.9, ,, \t,10.0.0.2,"], "203.0.113.9"),
    "empty header behind the client": (PROXY, ["203.0.113.9", ""], "203.0.113.9"),
    "blank header behind the client": (PROXY, ["203.0.113.9", " \t "], "203.0.113.9"),
    "empty header before the client": (PROXY, ["", "203.0.113.9"], "203.0.113.9"),
    "empty headers alone": (PROXY, ["", " "], PROXY),
    "commas alone": (PROXY, [",, ,"], PROXY),
    "spoofed behind an empty element": (PROXY, ["1.1.1.1, , 203.0.113.9, "], "203.0.113.9"),
    "no-break space is not whitespace in HTTP": (PROXY, ["203.0.113.9, \xa0"], PROXY),
    "nothing in brackets": (PROXY, ["203.0.113.9, []"], PROXY),
    "port alone": (PROXY, ["203.0.113.9, :80"], PROXY),
    # Entries left of garbage cannot be trusted, so the last known address stays.
    "garbage": (PROXY, ["unknown"], PROXY),
    "garbage behind the client": (PROXY, ["203.0.113.9, unknown"], PROXY),
    "garbage between proxies": (PROXY, ["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
    "no entry": (PROXY, [""], PROXY),
    "leading zeros": (PROXY, ["203.0.113.09"], PROXY),
    "number": (PROXY, ["3405803785"], PROXY),
    "network": (PROXY, ["203.0.113.0/24"], PROXY),
    "other digits": (PROXY, ["２0３.0.113.9"], PROXY),  # noqa: RUF001 - the test needs characters that look like digits
    "bytes that are not UTF-8": (PROXY, ["\udcff"], PROXY),
    "very long": (PROXY, ["1" * 8000], PROXY),
    "open bracket": (PROXY, ["["], PROXY),
    "no peer": (None, ["203.0.113.9"], None),
}


def client_of(peers: Peers, peer: str | None, header: str | None, name: str = "x-forwarded-for") -> Address | None:
    return peers.client(peer, {} if header is None else {name: header}).address


@pytest.mark.parametrize(("peer", "forwarded_for", "client"), CASES.values(), ids=CASES)
def test_client_is_the_rightmost_address_that_is_not_trusted(
    peer: str | None, forwarded_for: list[str], client: str | None
) -> None:
    header = ",".join(forwarded_for) if forwarded_for else None
    peers = Peers(TRUSTED)
    for _ in range(2):  # the second time, the peer comes from the cache
        assert (client and ip_address(client)) == client_of(peers, peer, header)


@pytest.mark.parametrize(("peer", "forwarded_for", "client"), CASES.values(), ids=CASES)
def test_forwarded_means_the_same_as_the_other_list(
    peer: str | None, forwarded_for: list[str], client: str | None
) -> None:
    """Each entry as an element, in quotation marks."""
    elements = [
        f'for="{entry.strip(BLANKS)}"' if entry.strip(BLANKS) else entry for entry in ",".join(forwarded_for).split(",")
    ]
    header = ",".join(elements) if forwarded_for else None
    assert (client and ip_address(client)) == client_of(Peers(TRUSTED, "Forwarded"), peer, header, "forwarded")


@pytest.mark.parametrize("name", ["X-Real-IP", "CF-Connecting-IP", "True-Client-IP"])
@pytest.mark.parametrize(
    ("peer", "value", "client"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, " 2001:db8::7\t", "2001:db8::7"),
        (PROXY, "[2001:db8::7]:80", "2001:db8::7"),
        (PROXY, "10.0.0.9", "10.0.0.9"),
        # A list: someone else has written a part of it.
        (PROXY, "1.1.1.1, 203.0.113.9", PROXY),
        (PROXY, "1.1.1.1:80, 203.0.113.9", PROXY),
        (PROXY, "[2001:db8::7], 203.0.113.9", PROXY),
        (PROXY, "2001:db8::7%, 203.0.113.9", PROXY),
        (PROXY, "203.0.113.9,", PROXY),
        (PROXY, "unknown", PROXY),
        (PROXY, "", PROXY),
        (PROXY, None, PROXY),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
        (UNIX, "203.0.113.9", None),
    ],
)
def test_header_of_one_address_is_believed_from_a_trusted_proxy(
    name: str, peer: str, value: str | None, client: str | None
) -> None:
    assert (client and ip_address(client)) == client_of(Peers(TRUSTED, name), peer, value, name.lower())


def test_only_the_configured_header_counts() -> None:
    headers = {name: f"203.0.113.{number}" for number, name in enumerate((*LIST_HEADERS, *SINGLE_HEADERS))}
    headers["forwarded"] = f"for={headers['forwarded']}"
    found = [Peers(TRUSTED, name).client(PROXY, headers).address for name in CLIENT_IP_HEADERS]
    assert {f"203.0.113.{number}" for number in range(len(headers))} == {str(address) for address in found}
    assert {name.lower() for name in CLIENT_IP_HEADERS} == headers.keys()
    for name in CLIENT_IP_HEADERS:
        del (others := dict(headers))[name.lower()]
        assert ip_address(PROXY) == Peers(TRUSTED, name).client(PROXY, others).address


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ("For=203.0.113.9;Proto=https;By=192.0.2.1", "203.0.113.9"),
        ('by=192.0.2.1;host="a";FOR="203.0.113.9"', "203.0.113.9"),
        ('for="203.0.113.9:4711"', "203.0.113.9"),
        ('for="203.0.113.9:_port"', "203.0.113.9"),
        ("for=203.0.113.9:4711", "203.0.113.9"),
        ('for="[2001:db8::7]"', "2001:db8::7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="[2001:db8::7]:_port"', "2001:db8::7"),
        ("for=2001:db8::7", "2001:db8::7"),
        ("for=[2001:db8::7]:80", "2001:db8::7"),
        ('for="2\\0\\3.0.113.9"', "203.0.113.9"),
        ('for="[2001:db8::7%25eth0]"', "2001:db8::7"),
        ("for=203.0.113.9 ; proto=https ", "203.0.113.9"),
        (";;for=203.0.113.9;", "203.0.113.9"),
        ("for=1.1.1.1, for=203.0.113.9", "203.0.113.9"),
        ("for=203.0.113.9, for=192.0.2.2", "203.0.113.9"),
        ("for=203.0.113.9, for=192.0.2.2,", "203.0.113.9"),
        ('for=203.0.113.9;host="a, for=1.1.1.1"', "203.0.113.9"),
        ('for=203.0.113.9;host="a;for=1.1.1.1"', "203.0.113.9"),
        (r'for=203.0.113.9;host="\", for=1.1.1.1, \""', "203.0.113.9"),
        (r'for=203.0.113.9;host="a=\", for=1.1.1.1;b=\"c"', "203.0.113.9"),
        ('for=203.0.113.9;a="";b="",for="192.0.2.2";c=""', "203.0.113.9"),
        # What a client writes in front of the proxy's element.
        ('for="1.1.1.1, for=203.0.113.9', "203.0.113.9"),
        ('for=1.1.1.1;x=", for="203.0.113.9"', "203.0.113.9"),
        ('for=1.1.1.1;x="\\, for="203.0.113.9";host="a"', "203.0.113.9"),
        ("for=1.1.1.1;;==, for=203.0.113.9", "203.0.113.9"),
        # What names no client ends the search.
        ("for=unknown", PROXY),
        ("for=_hidden", PROXY),
        ('for="_hidden:_port"', PROXY),
        ("proto=https", PROXY),
        ("for=", PROXY),
        ('for=""', PROXY),
        ('for=203.0.113.9, for=" "', PROXY),
        (r'for=203.0.113.9, for="\ "', PROXY),
        ("for", PROXY),
        ("203.0.113.9", PROXY),
        ("for=203.0.113.9;for=203.0.113.9", PROXY),
        ("for = 203.0.113.9", PROXY),
        ('for="203.0.113.9', PROXY),
        ('203.0.113.9"', PROXY),
        ('"', PROXY),
        ("for=203.0.113.9 1", PROXY),
        ("for=203.0.113.9, for=unknown, for=192.0.2.2", "192.0.2.2"),
        ("for=203.0.113.9, proto=https, for=192.0.2.2", "192.0.2.2"),
        ("for=192.0.2.2, for=10.0.0.9", "192.0.2.2"),
        ("", PROXY),
        (" , ,", PROXY),
    ],
)
def test_forwarded_is_read_from_the_right(header: str, client: str) -> None:
    assert ip_address(client) == client_of(Peers(TRUSTED, "Forwarded"), PROXY, header, "forwarded")


EMPTY = st.sampled_from(["", " ", "\t", " \t "])
ELEMENTS = st.sampled_from(
    [
        "203.0.113.9",
        "1.1.1.1",
        "192.0.2.2",
        "10.0.0.2",
        "2001:db8::7",
        "[2001:db8:ffff::1]:80",
        "unknown",
        "\xa0",
        ":80",
    ]
)


@given(st.lists(st.lists(st.one_of(ELEMENTS, EMPTY), min_size=1, max_size=4), max_size=3))
def test_empty_list_elements_are_ignored(headers: list[list[str]]) -> None:
    """In any number of headers, at any place."""
    sent = [",".join(header) for header in headers]
    without = [element for header in headers for element in header if element.strip(" \t")]
    peers = Peers(TRUSTED)
    for comma in (",", ", "):
        assert client_of(peers, PROXY, comma.join(without)) == client_of(peers, PROXY, ",".join(sent))


def test_header_is_ignored_when_no_proxy_is_trusted() -> None:
    assert ip_address(PROXY) == client_of(Peers(AddressSet(())), PROXY, "203.0.113.9")


async def test_spoofed_header_bypasses_neither_limit_nor_exclusion(serve: Serve, connect: Connect) -> None:
    """Each request claims another address; all count as one client, which is excluded."""
    sites = {"demo": {}, "closed": {"excluded_ips": ["127.0.0.0/8"]}}
    wire = await connect(await serve(sites, rate_limit={"burst": 3, "requests_per_minute": 1}))
    claims = [b"X-Forwarded-For: 203.0.113.%d" % n for n in range(5)]
    answers = [await wire.ask(request(body(), claim, site="closed")) for claim in claims[:2]]
    assert ["excluded_ip"] * 2 == [answer.reason for answer in answers]
    assert [201, 429, 429] == [(await wire.ask(request(body(), claim))).status for claim in claims[2:]]


async def test_header_of_a_trusted_proxy_separates_clients(serve: Serve, connect: Connect, clock: FakeClock) -> None:
    """Entries that the client added itself are further left, and are ignored."""
    sites = {"demo": {}, "closed": {"excluded_ips": ["203.0.113.1"]}}
    collector = await serve(
        sites,
        server={"trusted_proxies": ["127.0.0.1"]},
        rate_limit={"burst": 2, "requests_per_minute": 1},
        privacy={"client_ip": "full"},
    )
    wire = await connect(collector)

    async def ask(*forwarded_for: bytes, site: str = "demo") -> int:
        headers = [b"X-Forwarded-For: " + value for value in forwarded_for]
        return (await wire.ask(request(body(), *headers, site=site))).status

    assert 202 == await ask(b"203.0.113.2, 203.0.113.1", site="closed")
    assert 202 == await ask(b"203.0.113.2", b"203.0.113.1", site="closed")
    assert 429 == await ask(b"203.0.113.1")
    clock.advance(60)
    assert [201, 429] == [await ask(b"8.8.8.%d, 203.0.113.1" % n) for n in range(2)]
    assert 201 == await ask(b"203.0.113.2", site="closed")
    assert 201 == await ask(b"203.0.113.1, 2001:db8::7")
    clock.advance(120)
    assert 202 == await ask(b"203.0.113.1, ", site="closed")
    assert 202 == await ask(b"203.0.113.1", b"", site="closed")
    await collector.flush()
    assert ["203.0.113.1", "2001:db8::7"] == [row["client_ip"] for row in collector.rows()]


def test_remembered_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and length."""
    monkeypatch.setattr("collector.edge.client_ip.MAX_KNOWN_CLIENTS", 10)
    peers = Peers(TRUSTED)
    for number in range(50):
        address = ip_address(number)
        assert [address, address] == [
            client_of(peers, str(address), None),
            client_of(peers, PROXY, str(address)),
        ]
        assert len(peers._peers) <= 20
        assert len(peers._forwarded) <= 20
        endless = f"{'1' * LONGEST_KNOWN_VALUE}, {address}"
        assert address == client_of(peers, PROXY, endless)
        wide = f"\U0001f600, {address}"  # its text takes four bytes for each character
        assert address == client_of(peers, PROXY, wide)
        assert [True, False, False] == [text in peers._forwarded for text in (str(address), endless, wide)]


def test_header_without_an_address_gives_each_peer_its_own_client() -> None:
    """What is remembered of a header must not depend on the peer that sent it."""
    peers = Peers(TRUSTED)
    for _ in range(2):
        for peer in (PROXY, "10.0.0.2"):
            assert ip_address(peer) == client_of(peers, peer, "unknown")
    assert ip_address("203.0.113.9") == client_of(peers, PROXY, "203.0.113.9")
    assert ip_address("203.0.113.1") == client_of(peers, "203.0.113.1", "203.0.113.9")
