"""The rate limit: a token bucket per client, in a table of fixed size that all workers share.

A bucket is one number: the moment when it will be full again (the generic cell rate algorithm). A request moves that
moment one interval ahead, and is refused if it would then be further ahead than a full bucket takes to fill. The
numbers are integer nanoseconds, because sums of float intervals would refuse the last request of a burst.

The table is memory that other processes can map too:

    header   64 bytes             secrets that choose the set of each client
    keys     SETS x WAYS x 8      the client that has the slot
    moments  SETS x WAYS x 8      when its bucket will be full again, on the machine's monotonic clock; 0: never used

Each client maps to one set and may use any slot of it. A full bucket carries no information, so its slot counts as
free. If no slot is free, a new client takes the slot of the fullest bucket, whose client loses least. So no client is
refused because the table is full, and no flood can grow the table.

A client's slot is remembered for some requests (`Client`), as long as it has the client's key.

One process counts exactly. Several processes use no locks: each reads a moment and writes the next one 0.2 us later,
and tokens that another process takes from that bucket in between are not charged. Each collision gives away one token,
or more if the system preempts the worker at that point. Two processes that do nothing else overspend a bucket by 9 to
20 percent (tests/edge/test_rate_limit.py allows 50). Workers overspend almost nothing, because their requests take a
hundred times as long. No client gets less than the limit, with one exception. If all buckets of a set are drained, and
one worker gives away the slot whose moment another is about to write, the new client starts with that moment and may
wait as long as its predecessor.
"""

import secrets
from hashlib import blake2b
from ipaddress import IPv4Address
from mmap import mmap
from struct import Struct
from typing import Final

from collector.addresses import Address
from collector.clock import Clock
from collector.config import RateLimit
from collector.edge.client_ip import Client
from collector.events import Reason, Refused

NS_PER_S: Final = 1_000_000_000
NS_PER_MINUTE: Final = 60 * NS_PER_S

# 4 MB, 262,144 slots. With 100,000 clients whose buckets are not full, one set in 240 has too few slots. With 16 ways
# it would be one in 4,700, but each request would take 90 ns more.
WAYS: Final = 8
SETS = 1 << 15

# How many requests with the same `Client` use the slot that was found, before it is searched again. Two processes that
# enter a client at the same time can give it two slots. A search finds the first of them, so they share a bucket again.
SLOT_USES: Final = 50

_HEADER_BYTES: Final = 64
_NO_ADDRESS: Final = 1 << 32  # the key of all clients without an address; IPv4 addresses are lower
_KEYS_OF_SET: Final = Struct(f"{WAYS}Q")  # native words, so no other process sees one half written
_SET_BYTES: Final = _KEYS_OF_SET.size
_keys_of_set: Final = _KEYS_OF_SET.unpack_from
_COUNTED_AT_ONCE = 4_096


class BucketTable:
    """The table of buckets. `file` is a descriptor of shared memory of `table_bytes` bytes; -1: private memory."""

    def __init__(self, sets: int = SETS, file: int = -1) -> None:
        assert sets & (sets - 1) == 0
        self.memory = mmap(file, table_bytes(sets))
        if not any(self.memory[:_HEADER_BYTES]):  # its creator maps the table before other processes do
            self.memory[:_HEADER_BYTES] = secrets.token_bytes(_HEADER_BYTES)
        slots = memoryview(self.memory)[_HEADER_BYTES:].cast("Q")
        self.keys, self.full_at_ns = slots[: sets * WAYS], slots[sets * WAYS :]
        # Secrets choose a client's set. Otherwise an attacker could rotate among addresses of one set, so that each
        # bucket is forgotten before its next request. One multiplication is not enough: with one secret in twelve,
        # 66 of 100 consecutive addresses displaced one another. A product of two spreads them like random addresses.
        self.multiplier = int.from_bytes(self.memory[:10], "little") | 1
        self.offset = int.from_bytes(self.memory[16:26], "little")
        self.hash_key = self.memory[32:_HEADER_BYTES]
        self.mask = (sets - 1) * _SET_BYTES

    def clients(self, now_ns: int) -> int:
        """Count the buckets that are not full. Takes 9 ms."""
        starts = range(0, len(self.full_at_ns), _COUNTED_AT_ONCE)
        return sum(sum(map(now_ns.__lt__, self.full_at_ns[at : at + _COUNTED_AT_ONCE].tolist())) for at in starts)


def table_bytes(sets: int = SETS) -> int:
    """The size of a table in bytes."""
    return _HEADER_BYTES + 2 * sets * _SET_BYTES


class TokenBuckets:
    """Applies one limit to a table, which processes with another limit may have filled."""

    def __init__(self, limit: RateLimit, clock: Clock, table: BucketTable | None = None) -> None:
        self.limit = limit
        self.table = table or BucketTable()
        self._now_ns = clock.monotonic_ns
        self._interval_ns = NS_PER_MINUTE // limit.requests_per_minute if limit.requests_per_minute else 0
        self._bucket_ns = limit.burst * self._interval_ns
        self._ipv6_shift = 128 - limit.ipv6_prefix

    def __len__(self) -> int:
        """The number of clients whose bucket is not full. Slow (9 ms): for metrics only."""
        return self.table.clients(self._now_ns())

    def take(self, client: Client, tokens: int = 1) -> int:
        """Take tokens, at most `burst`, and return 0. If there are too few, return the nanoseconds until there are."""
        interval_ns = self._interval_ns
        if not interval_ns:
            return 0
        cost_ns = tokens * interval_ns
        table = self.table
        now = self._now_ns()
        # Usually the bucket is where it was. Searching its set takes 0.3 us.
        if client.uses_left > 0 and client.limiter is self and table.keys[client.slot] == client.key:
            client.uses_left -= 1
        elif not self._find(client):
            self._enter(client, now + cost_ns)
            return 0
        slot = client.slot
        known = table.full_at_ns[slot]
        full_at = (known if known > now else now) + cost_ns
        wait_ns = full_at - now - self._bucket_ns
        if wait_ns <= 0:
            table.full_at_ns[slot] = full_at
            return 0
        if wait_ns > cost_ns:  # drained under an earlier limit: count it as just drained under this one
            table.full_at_ns[slot] = now + self._bucket_ns
            return cost_ns
        return wait_ns

    def take_rest(self, client: Client, events: int) -> int:
        """Take the tokens of a batch of `events`, at most `burst`, whose first one is taken. Return 0.

        If there are too few, return the nanoseconds until there are enough for the batch to be sent again.
        """
        wait_ns = self.take(client, events - 1) if events > 1 else 0
        return wait_ns and wait_ns + self._interval_ns

    def client_of(self, address: Address) -> tuple[int, int]:
        """The client that the address belongs to: the IP version, and the IPv4 address or IPv6 network."""
        return address.version, int(address) if address.version == 4 else int(address) >> self._ipv6_shift

    def _network(self, number: int) -> int:
        """The key of an IPv6 address: its network, as one client usually has an entire /64. Longer ones are hashed."""
        network = number >> self._ipv6_shift
        if self._ipv6_shift >= 64:
            return network
        digest = blake2b(network.to_bytes(16, "little"), digest_size=8, key=self.table.hash_key)
        return int.from_bytes(digest.digest(), "little")

    def _find(self, client: Client) -> bool:
        """Set the client's slot, and return True. If it has no bucket, set the first slot of its set."""
        table, address = self.table, client.address
        if address is None or isinstance(address, IPv4Address):  # `address.version` is a function call
            key = _NO_ADDRESS if address is None else int(address)
            mixed = table.multiplier * key + table.offset
            # Not the set of the IPv6 network with the same number, so a key is unique within its set.
            at = (mixed * (mixed >> 40) >> 44 ^ _SET_BYTES) & table.mask
        else:
            key = self._network(int(address))
            mixed = table.multiplier * key + table.offset
            at = mixed * (mixed >> 40) >> 44 & table.mask
        client.limiter, client.key, client.slot = self, key, at >> 3
        try:
            client.slot += _keys_of_set(table.memory, _HEADER_BYTES + at).index(key)
        except ValueError:
            client.uses_left = 0
            return False
        client.uses_left = SLOT_USES
        return True

    def _enter(self, client: Client, full_at_ns: int) -> None:
        """Give a new client the slot of the fullest bucket in its set. Unused and full buckets come first."""
        first = client.slot
        moments = self.table.full_at_ns[first : first + WAYS].tolist()
        slot = first + moments.index(min(moments))
        # The moment goes first: a process that reads between the two writes then charges the previous client one token.
        # The other way round, it would charge the new client all tokens of the previous client.
        self.table.full_at_ns[slot] = full_at_ns
        self.table.keys[slot] = client.key


def too_many(buckets: TokenBuckets, wait_ns: int) -> Refused:
    """The refusal of a client that must wait `wait_ns`. Rounds `Retry-After` up, so that waiting that long suffices."""
    retry_after_s = -(-wait_ns // NS_PER_S)
    limit = buckets.limit.requests_per_minute
    return Refused(Reason.RATE_LIMITED, "Too many requests", retry_after_s=retry_after_s, limit=limit)
