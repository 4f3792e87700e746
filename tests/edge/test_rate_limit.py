"""The rate limit: exactly as many requests as a bucket and its refill allow, in bounded memory."""

import os
import subprocess
import sys
import tracemalloc
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.clock import SystemClock
from collector.config import RateLimit
from collector.edge.client_ip import Client
from collector.edge.rate_limit import SLOT_USES, WAYS, BucketTable, TokenBuckets, table_bytes, too_many
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import request, tally
from tests.support import FakeClock, body

A, B, C, D = CLIENTS = tuple(Client(IPv4Address(f"192.0.2.{n}")) for n in range(1, 5))
NS = 1e-9
NS_PER_MINUTE = 60_000_000_000


def tokens(buckets: TokenBuckets, client: Client) -> int:
    """Take all the tokens that a client has, and count them."""
    taken = 0
    while not buckets.take(client):
        taken += 1
    return taken


def one_set() -> BucketTable:
    """A table with a single set, so that all clients compete for its 8 slots."""
    return BucketTable(sets=1)


def known(buckets: TokenBuckets) -> dict[int, int]:
    """By key, when each used bucket of a one-set table will be full again."""
    table = buckets.table
    return {key: moment for key, moment in zip(table.keys, table.full_at_ns, strict=True) if moment}


def many(count: int) -> list[Client]:
    return [Client(IPv4Address((10 << 24) + n)) for n in range(count)]


def test_first_minute_passes_2400_and_each_later_one_1200(clock: FakeClock) -> None:
    """A client that always asks for more gets a full bucket and its refill, then the refill alone."""
    buckets = TokenBuckets(RateLimit(), clock)
    passed = []
    for _ in range(3):
        passed.append(0)
        for _ in range(60 * 40):
            passed[-1] += tokens(buckets, A)
            clock.advance(1 / 40)
    assert [1200 + 1200 - 1, 1200, 1200] == passed  # the 2,400th token arrives as the minute ends


def test_burst_is_one_full_bucket_and_no_more(clock: FakeClock) -> None:
    buckets = TokenBuckets(RateLimit(), clock)
    assert 1200 == tokens(buckets, A)
    clock.advance(1)
    assert 20 == tokens(buckets, A)
    clock.advance(3600)
    assert 1200 == tokens(buckets, A)


def test_token_arrives_to_the_nanosecond(clock: FakeClock) -> None:
    buckets = TokenBuckets(RateLimit(), clock)
    tokens(buckets, A)
    clock.advance(0.05 - NS)
    assert 1 == buckets.take(A)
    clock.advance(NS)
    assert 0 == buckets.take(A)


def test_refused_requests_cost_nothing(clock: FakeClock) -> None:
    """A client that keeps asking waits no longer than one that pauses."""
    buckets = TokenBuckets(RateLimit(requests_per_minute=60, burst=1), clock)
    buckets.take(A)
    for _ in range(1000):
        assert buckets.take(A)
        clock.advance(0.001)
    assert 0 == buckets.take(A)


def test_without_a_limit_nobody_waits_and_nothing_is_kept(clock: FakeClock) -> None:
    buckets = TokenBuckets(RateLimit(requests_per_minute=0, burst=1), clock)
    assert 1_000 * [0] == [buckets.take(A) for _ in range(1_000)]
    assert not any(buckets.table.full_at_ns)


LIMITS = st.builds(
    RateLimit, requests_per_minute=st.integers(1, 60_000_000), burst=st.integers(1, 50), ipv6_prefix=st.just(64)
)


@settings(deadline=None)
@given(LIMITS, st.integers(0, 10**11))
def test_retry_after_is_long_enough(limit: RateLimit, elapsed_ns: int) -> None:
    """For every limit, at any moment. It is a positive whole number of seconds, as the header requires."""
    clock = FakeClock()
    buckets = TokenBuckets(limit, clock)
    buckets.take(A)
    clock.advance(elapsed_ns * NS)
    for _ in range(limit.burst):
        buckets.take(A)
    if wait_ns := buckets.take(A):
        seconds = too_many(buckets, wait_ns).retry_after_s
        assert isinstance(seconds, int)
        assert 1 <= seconds <= 61
        assert seconds - 1 < wait_ns * NS
        clock.advance(seconds)
        assert 0 == buckets.take(A)


class PlainBucket:
    """The textbook's token bucket. A token has 60e9 parts; each nanosecond adds `requests_per_minute` of them."""

    def __init__(self, limit: RateLimit, now_ns: int) -> None:
        self.limit = limit
        self.at_ns = now_ns
        self.parts = limit.burst * NS_PER_MINUTE

    def take(self, now_ns: int) -> int:
        rate = self.limit.requests_per_minute
        self.parts = min(self.limit.burst * NS_PER_MINUTE, self.parts + (now_ns - self.at_ns) * rate)
        self.at_ns = now_ns
        if self.parts >= NS_PER_MINUTE:
            self.parts -= NS_PER_MINUTE
            return 0
        return -(-(NS_PER_MINUTE - self.parts) // rate)


# Rates whose interval is a whole number of nanoseconds. With others, tokens arrive slightly early, never late.
EVEN = st.builds(RateLimit, requests_per_minute=st.sampled_from([1, 60, 1200, 2400, 60_000]), burst=st.integers(1, 5))
PAUSES_NS = st.one_of(st.just(0), st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**11))


@settings(deadline=None)
@given(EVEN, st.lists(st.tuples(st.sampled_from(CLIENTS), PAUSES_NS), max_size=60))
def test_buckets_agree_with_the_textbook(limit: RateLimit, requests: list[tuple[Client, int]]) -> None:
    """Both pass the same requests, and give the same wait to the rest."""
    clock = FakeClock()
    buckets = TokenBuckets(limit, clock)
    plain = {client: PlainBucket(limit, clock.monotonic_ns()) for client in CLIENTS}
    for client, pause_ns in requests:
        clock.advance(pause_ns * NS)
        assert plain[client].take(clock.monotonic_ns()) == buckets.take(client)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::c000:201", "192.0.2.1", False),
        ("::", "0.0.0.0", False),
    ],
)
def test_client_is_an_ipv4_address_or_an_ipv6_network(clock: FakeClock, one: str, other: str, share: bool) -> None:
    buckets = TokenBuckets(RateLimit(burst=1, requests_per_minute=1), clock)
    buckets.take(Client(ip_address(one)))
    assert share == bool(buckets.take(Client(ip_address(other))))


@pytest.mark.parametrize("prefix", [1, 16, 24, 31, 32, 48, 128])
def test_no_ipv6_network_shares_a_bucket_with_an_ipv4_address(clock: FakeClock, prefix: int) -> None:
    """The network and the address are the same number here."""
    buckets = TokenBuckets(RateLimit(burst=1, requests_per_minute=1, ipv6_prefix=prefix), clock)
    number = 0x20010DB8 % (1 << prefix)
    network, address = Client(IPv6Address(number << 128 - prefix)), Client(IPv4Address(number))
    assert [0, 0] == [buckets.take(network), buckets.take(address)]
    assert buckets.take(network)
    assert buckets.take(address)


def test_client_is_looked_up_anew_once_its_slot_has_another(clock: FakeClock) -> None:
    """Its bucket is forgotten then, so it starts with a full one and charges no other client."""
    buckets = TokenBuckets(RateLimit(burst=3, requests_per_minute=1), clock, one_set())
    assert [0, 0] == [buckets.take(A) for _ in range(2)]  # the first enters it, the second finds its slot
    assert A.uses_left
    for client in many(WAYS):
        assert 3 == tokens(buckets, client)
    before = known(buckets)
    assert 0 == buckets.take(A)
    assert 1 == len(before.keys() - known(buckets).keys())
    assert [0, 0, 1] == [min(buckets.take(A), 1) for _ in range(3)]


def test_client_with_two_slots_soon_has_one_again(clock: FakeClock) -> None:
    """Two processes that enter a client at the same time may choose different slots."""
    limiters = [TokenBuckets(RateLimit(burst=300, requests_per_minute=1), clock, one_set())]
    limiters.append(TokenBuckets(limiters[0].limit, clock, limiters[0].table))
    keys, moments = limiters[0].table.keys, limiters[0].table.full_at_ns
    ours, theirs = Client(A.address), Client(A.address)
    for client in (B, ours, ours):
        assert 0 == limiters[0].take(client)
    assert A.address is not None
    assert int(A.address) == keys[1]
    keys[0], moments[0] = keys[1], 0  # the other process's entry, in B's slot
    granted = [0, 0]
    while not all(waits := [limiters[0].take(ours), limiters[1].take(theirs)]):
        granted = [count + (wait == 0) for count, wait in zip(granted, waits, strict=True)]
    assert 300 <= sum(granted) <= 300 + SLOT_USES


def test_client_has_a_bucket_in_each_table(clock: FakeClock) -> None:
    """What one limiter remembers of a client means nothing to another one."""
    some = [TokenBuckets(RateLimit(burst=3, ipv6_prefix=prefix), clock) for prefix in (64, 48)]
    neighbours = [Client(IPv6Address((0x20010DB8 << 96) + (n << 64))) for n in range(2)]
    taken = [[tokens(buckets, client) for client in neighbours] for buckets in some]
    assert [[3, 3], [3, 0]] == taken


def test_flood_of_addresses_never_grows_memory_and_refuses_no_newcomer(clock: FakeClock) -> None:
    """With 43 times as many addresses as slots, neither the table nor Python's heap grows."""
    buckets = TokenBuckets(RateLimit(), clock, BucketTable(sets=64))

    def flood(addresses: int) -> None:
        for number in range(addresses):
            assert 0 == buckets.take(client := Client(IPv4Address(number)))
            assert 0 == buckets.take(client)
            clock.advance(0.00001)

    flood(1_000)
    tracemalloc.start()
    flood(1_000)
    before, _ = tracemalloc.get_traced_memory()
    flood(20_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000  # other tests' threads may still allocate; a dictionary of 20,000 would take 2 MB
    # None of the last 10,000 buckets is full again. That is 156 for each set's 8 slots, whatever the secrets are.
    assert 64 * WAYS == len(buckets)


def test_table_takes_4_megabytes() -> None:
    assert 4 << 20 <= table_bytes() <= (4 << 20) + 100


def test_one_client_takes_one_slot(clock: FakeClock) -> None:
    buckets = TokenBuckets(RateLimit(), clock)
    for _ in range(20_000):
        buckets.take(A)
        clock.advance(0.05)
    assert 1 == sum(1 for moment in buckets.table.full_at_ns if moment)


def test_length_counts_the_buckets_that_are_not_full(clock: FakeClock) -> None:
    buckets = TokenBuckets(RateLimit(requests_per_minute=60), clock)
    for client in many(10_000):
        buckets.take(client)
    assert 10_000 >= len(buckets) > 9_990, "a few sets had more than 8 clients"
    clock.advance(0.5)
    tokens(buckets, A)
    clock.advance(0.5)
    assert 1 == len(buckets)


def test_clients_spread_over_the_sets(clock: FakeClock) -> None:
    """As evenly as random addresses, however regular they are: at most 2 % find no slot."""
    for spaced in 10 * (1, 256, 65_536):  # each with new secrets
        buckets = TokenBuckets(RateLimit(), clock, BucketTable(sets=1 << 10))
        for number in range(3 << 10):
            buckets.take(Client(IPv4Address(number * spaced)))
        assert len(buckets) > 0.98 * (3 << 10)


def test_full_set_forgets_the_fullest_bucket(clock: FakeClock) -> None:
    """Its client loses least. The order in which clients came does not matter."""
    buckets = TokenBuckets(RateLimit(burst=5), clock, one_set())
    others = many(WAYS - 3)
    for client in (A, B, C, A, C, A, *others, *others):
        buckets.take(client)
    buckets.take(D)
    assert {A: 2, C: 3} == {client: tokens(buckets, client) for client in (A, C)}
    assert 5 == tokens(buckets, B)


def test_refilled_bucket_is_forgotten_before_one_in_use(clock: FakeClock) -> None:
    """A was drained a minute ago and is full again; B has just lost a token."""
    buckets = TokenBuckets(RateLimit(burst=5), clock, one_set())
    tokens(buckets, A)
    clock.advance(60)
    for client in (B, *many(WAYS - 2), C):
        buckets.take(client)
    assert 4 == tokens(buckets, B)


def test_drained_client_stays_drained_while_newcomers_flood(clock: FakeClock) -> None:
    """A client cannot get a new bucket by flooding the table with other addresses."""
    for table in (one_set(), BucketTable(sets=64)):
        buckets = TokenBuckets(RateLimit(), clock, table)
        assert 1200 == tokens(buckets, A)
        for client in many(5_000):
            assert 0 == buckets.take(client)
            assert buckets.take(A)


def test_newcomer_gets_a_full_bucket_when_all_others_are_drained(clock: FakeClock) -> None:
    buckets = TokenBuckets(RateLimit(burst=3, requests_per_minute=1), clock, one_set())
    for client in many(WAYS):
        tokens(buckets, client)
    assert 3 == tokens(buckets, A)


@pytest.mark.parametrize("limit", [RateLimit(burst=3, requests_per_minute=1), RateLimit()])
def test_flood_over_drained_buckets_displaces_only_its_own(limit: RateLimit, clock: FakeClock) -> None:
    """A set of drained buckets gives up one of them; the 1,000 newcomers share that slot."""
    buckets = TokenBuckets(limit, clock, one_set())
    for client in many(WAYS):
        tokens(buckets, client)
    for number in range(1_000):
        assert 0 == buckets.take(Client(IPv4Address((11 << 24) + number)))
    still_drained = [client for client in many(WAYS) if buckets.take(client)]
    assert (WAYS, WAYS - 1) == (len(buckets), len(still_drained))


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 40), st.sampled_from([0, 0.01, 1, 30, 5_000])), max_size=60),
    st.sampled_from([RateLimit(burst=3, requests_per_minute=1), RateLimit(burst=40), RateLimit(burst=40_000)]),
)
@settings(max_examples=300, deadline=None)
def test_set_keeps_all_but_the_fullest(rounds: list[tuple[int, int, float]], limit: RateLimit) -> None:
    """A set agrees with a dictionary of the same moments, less the fullest bucket whenever a newcomer needs a slot."""
    clock = FakeClock()
    buckets = TokenBuckets(limit, clock, one_set())
    interval_ns = NS_PER_MINUTE // limit.requests_per_minute
    full_at: dict[int, int] = {}
    for number, requests, seconds in rounds:
        clock.advance(seconds)
        for _ in range(requests):
            if buckets.take(Client(IPv4Address(number))):
                continue
            if number not in full_at and len(full_at) == WAYS:
                (forgotten,) = full_at.keys() - known(buckets).keys()
                assert full_at.pop(forgotten) <= min(full_at.values())
            now = clock.monotonic_ns()
            full_at[number] = max(now, full_at.get(number, now)) + interval_ns
            assert full_at == known(buckets)


def test_drained_client_stays_drained_when_the_limit_changes(clock: FakeClock) -> None:
    """But no longer than a bucket of the new size takes to fill."""
    slow = TokenBuckets(RateLimit(requests_per_minute=1, burst=1000), clock)
    assert 1000 == tokens(slow, A)
    quick = TokenBuckets(RateLimit(requests_per_minute=60, burst=5), clock, slow.table)
    assert NS_PER_MINUTE // 60 == quick.take(A)
    clock.advance(1)
    assert 1 == tokens(quick, A)
    clock.advance(5)
    assert 5 == tokens(quick, A)


# Takes tokens from each client's bucket in turn until 1,000 requests are refused. Spins until the moment it reads from
# stdin, so that all processes start together.
TAKER = """
import sys, time
from ipaddress import ip_address
from collector.clock import SystemClock
from collector.config import RateLimit
from collector.edge.client_ip import Client
from collector.edge.rate_limit import BucketTable, TokenBuckets

file, burst, *clients = sys.argv[1:]
buckets = TokenBuckets(RateLimit(requests_per_minute=1, burst=int(burst)), SystemClock(), BucketTable(file=int(file)))
for client in map(Client, map(ip_address, clients)):
    print("ready", flush=True)
    start_ns = int(input())
    while time.monotonic_ns() < start_ns:
        pass
    granted = refused = 0
    while refused < 1_000:
        if buckets.take(client):
            refused += 1
        else:
            granted += 1
    print(granted, flush=True)
"""
START_TOGETHER_NS = 20_000_000


def test_processes_that_share_a_table_share_each_bucket() -> None:
    """Two processes grant no fewer tokens than the bucket holds, and far fewer than two buckets hold."""
    burst, clients = 200_000, (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
    file = os.memfd_create("buckets")
    os.ftruncate(file, table_bytes())
    # Map it first: the first to map a table writes its secrets.
    buckets = TokenBuckets(RateLimit(requests_per_minute=1, burst=burst), SystemClock(), BucketTable(file=file))
    assert burst == tokens(buckets, Client(IPv4Address("198.51.100.1"))), "one process alone is exact"
    command = [sys.executable, "-c", TAKER, str(file), str(burst), *map(str, clients)]
    with ExitStack() as started:
        started.callback(os.close, file)
        takers = [
            started.enter_context(
                subprocess.Popen(command, pass_fds=[file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(2)
        ]
        for client in clients:
            assert 2 * ["ready\n"] == [_line_of(taker) for taker in takers]
            start_ns = SystemClock().monotonic_ns() + START_TOGETHER_NS
            for taker in takers:
                assert taker.stdin is not None
                taker.stdin.write(f"{start_ns}\n")
                taker.stdin.flush()
            granted = sum(int(_line_of(taker)) for taker in takers)
            assert burst <= granted < 1.5 * burst, client
            assert buckets.take(Client(client)) > 0


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_networks_longer_than_64_bits_are_kept_apart(clock: FakeClock) -> None:
    """They do not fit a key, so the key is their hash."""
    buckets = TokenBuckets(RateLimit(burst=1, requests_per_minute=1, ipv6_prefix=96), clock)
    networks = [(0x20010DB8 << 96) + (n << 32) for n in range(1_000)]
    assert {0} == {buckets.take(Client(IPv6Address(network))) for network in networks}
    assert all(buckets.take(Client(IPv6Address(network + 1))) for network in networks)


async def test_client_over_its_rate_learns_when_to_retry(serve: Serve, connect: Connect, clock: FakeClock) -> None:
    """A retry at that moment passes; one a second earlier does not."""
    collector = await serve(rate_limit={"requests_per_minute": 6, "burst": 2})
    wire = await connect(collector)
    sent = request(body())
    assert [201, 201] == [(await wire.ask(sent)).status for _ in range(2)]
    answer = await wire.ask(sent)
    assert (429, "rate_limited") == (answer.status, answer.reason)
    assert {"message": "Too many requests", "code": "RATE_LIMITED"} == answer.json["errors"][0]
    expected = {"Retry-After": "10", "RateLimit-Limit": "6", "RateLimit-Remaining": "0", "RateLimit-Reset": "10"}
    assert expected == {name: answer.headers[name] for name in expected}
    clock.advance(9)
    answer = await wire.ask(sent)
    assert (429, "1") == (answer.status, answer.headers["Retry-After"])
    clock.advance(1)
    assert [201, 429] == [(await wire.ask(sent)).status for _ in range(2)]
    assert {"received": 6, "stored": 3, "rate_limited": 3} == tally(collector)


async def test_limit_counts_every_event_of_a_client(serve: Serve, connect: Connect) -> None:
    """Of all its sites, stored or not: else a flood of invalid events would cost nothing."""
    collector = await serve({"demo": {}, "off": {"tracking": False}}, rate_limit={"requests_per_minute": 1, "burst": 3})
    wire = await connect(collector)
    asked = [request(b"{"), request(body(), site="off"), request(body()), request(body()), request(b"", site="off")]
    assert [202, 202, 201, 429, 429] == [(await wire.ask(sent)).status for sent in asked]


async def test_without_a_limit_nobody_is_refused(serve: Serve, connect: Connect) -> None:
    collector = await serve(rate_limit={"requests_per_minute": 0, "burst": 1})
    wire = await connect(collector)
    assert {201} == {(await wire.ask(request(body()))).status for _ in range(20)}
