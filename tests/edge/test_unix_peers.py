"""Clients behind the Unix socket: the header gives their address, or else they have none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from collector.addresses import UNIX, AddressSet, parse_network
from collector.config import RateLimit
from collector.daemon.public_sockets import listening_at
from collector.daemon.wiring import build_rules
from collector.daemon.worker import accept_all
from collector.edge.client_ip import Client, Peers
from collector.edge.rate_limit import TokenBuckets
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Wire, request, tally, until
from tests.support import FakeClock, Running, body, config, running

EVERYONE = ["0.0.0.0/0", "::/0"]


OverUnix = Callable[..., Awaitable[list[Wire]]]
"""Open a number of connections to a collector over a Unix socket."""


@pytest.fixture
async def over_unix(http_path: str, tmp_path: Path) -> AsyncIterator[OverUnix]:
    path = tmp_path / "collector.sock"
    opened: list[Wire] = []
    with ExitStack() as closing:

        async def to(collector: Running, count: int = 1) -> list[Wire]:
            bound = closing.enter_context(listening_at(path, 0o600))
            closing.callback(await accept_all([bound], collector.server))
            wires = [Wire(*await asyncio.open_unix_connection(path)) for _ in range(count)]
            opened.extend(wires)
            return wires

        yield to
        for wire in opened:
            wire.close()


@pytest.mark.parametrize(
    ("trusts_unix", "value", "client"),
    [
        (True, "203.0.113.9", "203.0.113.9"),
        (True, "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (True, "203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (True, "10.0.0.1, 10.0.0.2", "10.0.0.1"),
        (True, "203.0.113.9, unknown", None),
        (True, "203.0.113.9, unknown, 10.0.0.1", "10.0.0.1"),
        (True, "203.0.113.9, unix", None),
        (True, "", None),
        (True, None, None),
        (False, "203.0.113.9", None),
        (False, None, None),
    ],
)
def test_client_has_the_address_of_the_header_or_none(trusts_unix: bool, value: str | None, client: str | None) -> None:
    peers = Peers(AddressSet([parse_network("10.0.0.0/8")]), trusts_unix=trusts_unix)
    found = peers.client(UNIX, {} if value is None else {"x-forwarded-for": value})
    assert (client and ip_address(client)) == found.address


def test_peer_without_an_address_is_not_the_unix_socket() -> None:
    """Such as one that has disconnected."""
    assert Peers(AddressSet(()), trusts_unix=True).client(None, {"x-forwarded-for": "203.0.113.9"}).address is None


def test_trusting_every_address_does_not_trust_the_unix_socket() -> None:
    peers = Peers(AddressSet(map(parse_network, EVERYONE)))
    assert peers.client(UNIX, {"x-forwarded-for": "203.0.113.9"}).address is None


@pytest.mark.parametrize("address", ["0.0.0.0", "0.0.0.1", "255.255.255.255", "::", "0:1::", "::1:0:0", "::1:0:0:0:0"])
@pytest.mark.parametrize("ipv6_prefix", [32, 64, 96, 128])
def test_clients_without_an_address_share_a_bucket_with_no_address(
    clock: FakeClock, address: str, ipv6_prefix: int
) -> None:
    buckets = TokenBuckets(RateLimit(burst=1, requests_per_minute=1, ipv6_prefix=ipv6_prefix), clock)
    assert 0 == buckets.take(Client(None))
    assert 0 == buckets.take(Client(ip_address(address)))
    assert buckets.take(Client(None)) > 0


@pytest.mark.parametrize("policy", ["none", "truncate", "hash", "full"])
@pytest.mark.parametrize("target", ["/public/demo/e", "/public/demo/batch"])
async def test_no_address_is_stored_as_null_and_never_excluded(
    serve: Serve, over_unix: OverUnix, policy: str, target: str
) -> None:
    collector = await serve({"demo": {"excluded_ips": EVERYONE}}, privacy={"client_ip": policy})
    (wire,) = await over_unix(collector)
    assert 201 == (await wire.ask(request(body(), b"X-Forwarded-For: 203.0.113.9", target=target))).status
    assert {"received": 1, "stored": 1} == tally(collector)
    await collector.flush()
    assert [None] == [row["client_ip"] for row in collector.rows()]


async def test_address_of_a_trusted_proxy_is_excluded_and_limited(serve: Serve, over_unix: OverUnix) -> None:
    server = {"trusted_proxies": ["unix"], "client_ip_header": "X-Real-IP"}
    limit = {"burst": 1, "requests_per_minute": 1}
    collector = await serve({"demo": {"excluded_ips": ["203.0.113.0/24"]}}, server=server, rate_limit=limit)
    (wire,) = await over_unix(collector)

    async def ask(*lines: bytes) -> int:
        return (await wire.ask(request(body(), *lines))).status

    assert 202 == await ask(b"X-Real-IP: 203.0.113.9")
    assert [201, 429] == [await ask(b"X-Real-IP: 192.0.2.1") for _ in range(2)]
    assert 201 == await ask(b"X-Real-IP: 192.0.2.2")
    # Without an address, whatever the reason.
    assert 201 == await ask(b"X-Real-IP: 192.0.2.3", b"X-Real-IP: 192.0.2.3")
    assert [429, 429, 429] == [
        await ask(*lines)
        for lines in ((b"X-Real-IP: unknown",), (), (b"X-Forwarded-For: 192.0.2.4", b"X-Real-IP: 1.1.1.1, 192.0.2.4"))
    ]


async def test_batches_of_each_address_have_a_bucket(serve: Serve, over_unix: OverUnix) -> None:
    """One token is taken before the body is read, the rest after it: both of the same client."""
    server = {"trusted_proxies": ["unix"], "client_ip_header": "Forwarded"}
    collector = await serve(server=server, rate_limit={"burst": 3, "requests_per_minute": 1})
    (wire,) = await over_unix(collector)

    async def ask(forwarded: bytes) -> int:
        data = b"\n".join([body()] * 3)
        return (await wire.ask(request(data, b"Forwarded: " + forwarded, target="/public/demo/batch"))).status

    assert [201, 429] == [await ask(b'for="1.1.1.1, for=192.0.2.1'), await ask(b"for=192.0.2.1;proto=https")]
    assert [201, 429] == [await ask(b"for=192.0.2.2"), await ask(b'for="192.0.2.2:80"')]
    assert [201, 429] == [await ask(b"for=unknown"), await ask(b"for=_hidden")]


@pytest.mark.parametrize("trusted", [[], ["unix"]])
async def test_connections_have_no_limit_per_client(
    serve: Serve, connect: Connect, over_unix: OverUnix, trusted: list[str]
) -> None:
    collector = await serve(server={"max_connections_per_client": 2, "trusted_proxies": trusted})
    wires = await over_unix(collector, 6)
    assert 6 * [201] == [(await wire.ask(request(body()))).status for wire in wires]
    over_tcp = [await connect(collector) for _ in range(3)]
    assert b"" == await over_tcp[0].rest(), "these have one"


async def test_connections_count_towards_the_total(tmp_path: Path, over_unix: OverUnix) -> None:
    async with running(config(tmp_path / "data"), max_connections=3) as collector:
        oldest, *others = await over_unix(collector, 4)
        assert b"" == await oldest.rest()
        assert 3 * [201] == [(await wire.ask(request(body()))).status for wire in others]
        for wire in others:
            wire.close()
        await until(lambda: not collector.server.open_connections)


async def test_reload_changes_whom_and_which_header_to_believe(
    serve: Serve, connect: Connect, over_unix: OverUnix, tmp_path: Path
) -> None:
    collector = await serve()
    (wire,), tcp = await over_unix(collector), await connect(collector)
    sent = request(body(), b"X-Forwarded-For: 192.0.2.7", b"Forwarded: for=192.0.2.8", b"X-Real-IP: 192.0.2.9")
    decider = collector.stages.decider

    async def excludes(address: str, **server: Any) -> list[bool]:
        settings = config(tmp_path, {"demo": {"excluded_ips": [address]}}, server=server)
        decider.rules = build_rules(settings, collector.clock, decider.rules.buckets.table)
        return [(await each.ask(sent)).status == 202 for each in (wire, tcp)]

    assert [False, True] == await excludes("127.0.0.1")
    assert [True, False] == await excludes("192.0.2.7", trusted_proxies=["unix"])
    assert [False, True] == await excludes("192.0.2.7", trusted_proxies=["127.0.0.1"])
    both = ["127.0.0.1", "unix"]
    assert [True, True] == await excludes("192.0.2.8", trusted_proxies=both, client_ip_header="forwarded")
    assert [True, True] == await excludes("192.0.2.9", trusted_proxies=both, client_ip_header="X-REAL-IP")
    assert [False, False] == await excludes("192.0.2.7", trusted_proxies=both, client_ip_header="True-Client-IP")
