"""A model of the headers that give the client's address: the proxies decide, whatever the client writes.

Hypothesis makes chains of entries: each proxy appends one, in any form that proxies use. The model knows what each
entry means, and parses nothing. In front of the chain is anything that a client can send, in the same header or in
others.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.addresses import UNIX, Address, AddressSet, parse_network
from collector.config import CLIENT_IP_HEADERS
from collector.edge.client_ip import Peers
from tests.crash.conftest import times
from tests.edge.wire import Wire, request
from tests.support import body, config, running

PEER = "127.0.0.1"
PROXIES = [PEER, "192.0.2.2", "10.0.0.0/8", "2001:db8:ffff::/48"]
TRUSTED = AddressSet(map(parse_network, PROXIES))
LISTS = ("X-Forwarded-For", "Forwarded")
SINGLE = [name for name in CLIENT_IP_HEADERS if name not in LISTS]

CLIENTS = ["203.0.113.9", "192.0.2.3", "2001:db8::7", "2001:db8:fffe::1", "::", "fe80::1:2"]
BEHIND = ["192.0.2.2", "10.1.2.3", "2001:db8:ffff::5"]
HIDDEN = ["unknown", "Unknown", "unknown:80", "_hidden", "_a.b-C:_p", "localhost", "203.0.113", "203.0.113.256", "::g"]

BLANKS = st.sampled_from(["", "", " ", "\t", " \t "])
PORTS = st.sampled_from(["", "", ":80", ":65535", ":_x", ":_a.b-C_9"])


@dataclass(frozen=True, slots=True)
class Entry:
    """What a proxy appends, and the address that it names: None if it names none, or several."""

    text: str
    address: Address | None
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class Lines:
    """The values of all headers of one name, in order, and the client that they give."""

    values: list[str]
    client: Address


def client_of(entries: Sequence[Entry]) -> Address:
    found: Address = ip_address(PEER)
    for entry in reversed([entry for entry in entries if not entry.is_empty]):
        if entry.address is None:
            break
        found = entry.address
        if found not in TRUSTED:
            break
    return found


@st.composite
def nodes(draw: st.DrawFn, texts: list[str], *, bare: bool = True) -> tuple[str, Address]:
    """A node's name: its address, maybe with brackets, zone and port. `bare`: also IPv6 without brackets."""
    address = ip_address(draw(st.sampled_from(texts)))
    if isinstance(address, IPv4Address):
        port = draw(PORTS)
        if port or draw(st.integers(0, 4)):
            return f"{address}{port}", address
        text = f"::ffff:{address}"
    else:
        text = draw(st.sampled_from([str(address), address.exploded, str(address).upper()]))
        text += draw(st.sampled_from(["", "", "%eth0", "%25eth0"]))
    return (text if bare and draw(st.booleans()) else f"[{text}]{draw(PORTS)}"), address


def with_nobody(known: st.SearchStrategy[tuple[str, Address]]) -> st.SearchStrategy[tuple[str, Address | None]]:
    return st.one_of(known, known, known, st.tuples(st.sampled_from(HIDDEN), st.none()))


# Commas, semicolons and quotation marks in a proxy's own parameters, and in what clients write.
PIECES = st.sampled_from(
    [
        "for=1.1.1.1",
        'for="1.1.1.1',
        "for=",
        "by",
        "a",
        "1.1.1.1",
        "::1",
        ",",
        ";",
        '"',
        "\\",
        "=",
        " ",
        "\t",
        "[",
        "]",
        "\u00f6",
    ]
)
TEXT = st.lists(PIECES, max_size=6).map("".join)
NAMES = st.sampled_from(["by", "By", "host", "HOST", "proto", "secret", "x-1", "fork", "x.for"])
LENIENT = re.compile(r"[^\s;,=\"]+")
TOKEN = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@st.composite
def quoted(draw: st.DrawFn, text: str) -> str:
    """As a quoted-string (RFC 9110, 5.6.4), where any character may be escaped."""
    return '"' + "".join(f"\\{each}" if each in '"\\' or not draw(st.integers(0, 9)) else each for each in text) + '"'


@st.composite
def values(draw: st.DrawFn, text: str, *, lenient: bool = False) -> str:
    """`lenient`: also without the quotation marks that the RFC asks for around `:` and brackets."""
    plain = LENIENT if lenient else TOKEN
    is_plain = plain.fullmatch(text) is not None and draw(st.booleans())
    return text if is_plain else draw(quoted(text))


@st.composite
def elements(draw: st.DrawFn, texts: list[str]) -> Entry:
    """An element of `Forwarded`. One in ten names nobody, or several."""
    kind = draw(st.sampled_from([*10 * ["one"], "none", "several"]))
    pairs, address = [], None
    if kind != "none":
        text, address = draw(with_nobody(nodes(texts)))
        name = draw(st.sampled_from(["for", "For", "FOR"]))
        pairs = [f"{name}={draw(values(text, lenient=True))}"] * (1 if kind == "one" else 2)
    for name, other in draw(st.lists(st.tuples(NAMES, TEXT), min_size=kind == "none", max_size=3)):
        pairs.insert(draw(st.integers(0, len(pairs))), f"{name}={draw(values(other))}")
    if not draw(st.integers(0, 9)):
        pairs.insert(draw(st.integers(0, len(pairs))), "")  # `;;`, or one at an end
    text = pairs[0]
    for pair in pairs[1:]:
        text += f"{draw(BLANKS)};{draw(BLANKS)}{pair}"
    return Entry(text, address if kind == "one" else None)


def entries(name: str, texts: list[str]) -> st.SearchStrategy[Entry]:
    """Entries of a list that are not empty."""
    if name == "Forwarded":
        return elements(texts)
    return with_nobody(nodes(texts)).map(lambda node: Entry(*node))


# Whatever a client can send: header lines have no control characters but the tab.
WRITTEN = TEXT | st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\t"), max_size=30)


@st.composite
def lists(draw: st.DrawFn, name: str) -> Lines:
    """Headers that hold one list: what the client wrote, and the chain, which begins with an entry for the client."""
    first = draw(entries(name, CLIENTS))
    empty = BLANKS.map(lambda text: Entry(text, None, is_empty=True))
    behind = entries(name, BEHIND)
    chain = [first, *draw(st.lists(st.one_of(behind, behind, behind, entries(name, CLIENTS), empty), max_size=4))]
    pieces = [*draw(st.lists(WRITTEN, max_size=3)), *(entry.text for entry in chain)]
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if draw(st.integers(0, 2)):
            lines[-1] += f"{draw(BLANKS)},{draw(BLANKS)}{piece}"
        else:
            lines.append(piece)
    return Lines(lines, client_of(chain))


@st.composite
def singles(draw: st.DrawFn) -> Lines:
    """Headers that should hold one address. Several, even if they are equal or empty, and lists are not believed."""
    node = with_nobody(nodes(CLIENTS + BEHIND))
    text, address = draw(node)
    different = [other for other, _ in draw(st.lists(node, max_size=2))]
    choices: list[list[str]] = [[], different, [text], [""]]
    others = draw(st.sampled_from(choices))
    sent = draw(st.permutations([text, *others]))
    if draw(st.booleans()) and others:
        sent = [f"{draw(BLANKS)},{draw(BLANKS)}".join(sent)]
    return Lines(sent, address if address is not None and not others else ip_address(PEER))


def headers(name: str) -> st.SearchStrategy[Lines]:
    return lists(name) if name in LISTS else singles()


@pytest.mark.parametrize("name", LISTS)
@settings(max_examples=times(short=300, long=5_000))
@given(data=st.data())
def test_client_is_what_the_chain_of_proxies_says(name: str, data: st.DataObject) -> None:
    """Here clients write control characters too."""
    sent = data.draw(lists(name))
    written = data.draw(st.text(st.characters(exclude_characters="\r\n"), max_size=30))
    value = ",".join([written, *sent.values])
    peers = Peers(TRUSTED, name, trusts_unix=True)
    for _ in range(2):  # the second time it is known
        assert sent.client == peers.client(PEER, {name.lower(): value}).address
    over_unix = peers.client(UNIX, {name.lower(): value}).address
    assert over_unix == (None if sent.client == ip_address(PEER) else sent.client)


@given(TEXT | st.text(max_size=60), st.sampled_from(CLIENT_IP_HEADERS))
def test_any_value_gives_a_client(value: str, name: str) -> None:
    assert isinstance(Peers(TRUSTED, name).client(PEER, {name.lower(): value}).address, IPv4Address | IPv6Address)


async def converse(folder: Path, name: str, sent: list[Lines], *, fast_path: bool) -> list[dict[str, Any]]:
    """Send an event with each of the headers. Return the rows, in order."""
    settings = config(
        folder,
        server={"client_ip_header": name, "trusted_proxies": PROXIES, "fast_path": fast_path},
        rate_limit={"requests_per_minute": 0},
        privacy={"client_ip": "full"},
    )
    async with running(settings) as collector:
        wire = Wire(*await asyncio.open_connection(collector.host, collector.port))
        for number, each in enumerate(sent):
            lines = [f"{name}: {value}".encode() for value in each.values]
            assert 201 == (await wire.ask(request(body(session_id=f"s-{number:03}"), *lines))).status
        wire.close()
        await collector.flush()
        return sorted(collector.rows(), key=lambda row: row["session_id"])


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("name", CLIENT_IP_HEADERS)
def test_requests_have_the_client_of_the_model(name: str, fast_path: bool) -> None:
    """Each header in a line of its own."""

    @settings(max_examples=times(short=8, long=50), suppress_health_check=list(HealthCheck))
    @given(st.lists(headers(name), min_size=1, max_size=20))
    def check(sent: list[Lines]) -> None:
        with TemporaryDirectory() as folder:
            rows = asyncio.run(converse(Path(folder), name, sent, fast_path=fast_path))
        assert [str(each.client) for each in sent] == [row["client_ip"] for row in rows]

    check()
