"""The rate limit: a token bucket per client, in a table of fixed size that the workers share.

A bucket is one number: the moment at which it will be full again (the generic cell rate algorithm). A request
moves that moment one interval on, and is refused where it would then lie further ahead than a whole bucket.
The numbers are whole nanoseconds; sums of float intervals would refuse the last request of a burst.

The table is memory that other processes may map too:

    header   64 bytes             secrets that decide which set is whose
    keys     SETS x WAYS x 8      which client has the place
    moments  SETS x WAYS x 8      when its bucket will be full again, by the one clock of all processes; 0: never used

A client may stand anywhere in the one set that is its own, and a set is read at once. A bucket that is full again is as
good as none, so its place is free; where no place is, a newcomer takes that of the fullest bucket, which loses least.
Nobody is refused for want of a place, and no flood can grow the table.

One process counts exactly. There are no locks among several: each reads a moment and writes the next one, eight bytes
at a time and 0.2 us apart, and what another took of that bucket in between is not charged. That is one token for each
such collision (unless the system takes a worker off its core right there: then, all that the client gets meanwhile).
Two processes that do nothing but drain one bucket give away 9 to 20 percent more than it holds
(tests/edge/test_rate_limit.py); workers, whose requests take a hundred times as long, hardly ever one. Nobody gets less
than the limit, but for one case: if all buckets of a set are drained, and one worker gives the place away whose moment
another is about to write, the newcomer begins with that moment, and may wait as long as the one before him.
"""

import secrets
from hashlib import blake2b
from mmap import mmap
from struct import Struct

from collector.addresses import Address
from collector.clock import Clock
from collector.config import RateLimit
from collector.events import Reason, Refused

NS_PER_S = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_S

# 4 MB, 262,144 places. With 100,000 clients whose buckets are not full, one set in 240 has more of them than places.
# With 16 ways it would be one in 4,700, and each request 90 ns slower.
WAYS = 8
SETS = 1 << 15

_HEADER_BYTES = 64
_KEYS_OF_SET = Struct(f"{WAYS}Q")  # native: whole words, which no other process sees half written
_SET_BYTES = _KEYS_OF_SET.size
_keys_of_set = _KEYS_OF_SET.unpack_from
_COUNTED_AT_ONCE = 4_096


class BucketTable:
    """The places of the buckets. `file` is a descriptor of memory to share, as large as `table_bytes` says."""

    def __init__(self, sets: int = SETS, file: int = -1) -> None:
        assert sets & (sets - 1) == 0
        self.memory = mmap(file, table_bytes(sets))
        if not any(self.memory[:_HEADER_BYTES]):  # whoever makes the table maps it before any other
            self.memory[:_HEADER_BYTES] = secrets.token_bytes(_HEADER_BYTES)
        places = memoryview(self.memory)[_HEADER_BYTES:].cast("Q")
        self.keys, self.full_at_ns = places[: sets * WAYS], places[sets * WAYS :]
        # A set is chosen by a product of secrets, so nobody can tell which addresses share one, and rotate among them
        # to be forgotten. One multiplication is not enough: with one secret of twelve, 66 of 100 addresses in a row
        # crowded one another out. The product of two spreads them like addresses drawn by lot.
        self.multiplier = int.from_bytes(self.memory[:10], "little") | 1
        self.offset = int.from_bytes(self.memory[16:26], "little")
        self.hash_key = self.memory[32:_HEADER_BYTES]
        self.mask = (sets - 1) * _SET_BYTES

    def clients(self, now_ns: int) -> int:
        """How many buckets are not full. Takes 9 ms."""
        starts = range(0, len(self.full_at_ns), _COUNTED_AT_ONCE)
        return sum(sum(map(now_ns.__lt__, self.full_at_ns[at : at + _COUNTED_AT_ONCE].tolist())) for at in starts)


def table_bytes(sets: int = SETS) -> int:
    """The size of a table."""
    return _HEADER_BYTES + 2 * sets * _SET_BYTES


class TokenBuckets:
    """How long each client must wait, by one limit. The table may have been filled by others, after another limit."""

    def __init__(self, limit: RateLimit, clock: Clock, table: BucketTable | None = None) -> None:
        self.limit = limit
        self.table = table or BucketTable()
        self._now_ns = clock.monotonic_ns
        self._interval_ns = NS_PER_MINUTE // limit.requests_per_minute if limit.requests_per_minute else 0
        self._bucket_ns = limit.burst * self._interval_ns
        self._ipv6_shift = 128 - limit.ipv6_prefix

    def __len__(self) -> int:
        """How many clients have a bucket that is not full; slow, for someone who asks."""
        return self.table.clients(self._now_ns())

    def take(self, client: Address) -> int:
        """Take a token for one request: 0, or the nanoseconds until there will be one (then none is taken)."""
        interval_ns = self._interval_ns
        if not interval_ns:
            return 0
        table = self.table
        if client.version == 4:
            key = int(client)
            mixed = table.multiplier * key + table.offset
            # The set beside that of the IPv6 network which is the same number: a key in its set is one client's alone.
            at = (mixed * (mixed >> 40) >> 44 ^ _SET_BYTES) & table.mask
        else:
            key = self._network(int(client))
            mixed = table.multiplier * key + table.offset
            at = mixed * (mixed >> 40) >> 44 & table.mask
        now = self._now_ns()
        try:
            slot = (at >> 3) + _keys_of_set(table.memory, _HEADER_BYTES + at).index(key)
        except ValueError:
            self._enter(key, at >> 3, now + interval_ns)
            return 0
        known = table.full_at_ns[slot]
        full_at = (known if known > now else now) + interval_ns
        wait_ns = full_at - now - self._bucket_ns
        if wait_ns <= 0:
            table.full_at_ns[slot] = full_at
            return 0
        if wait_ns > interval_ns:  # drained when a bucket was larger or slower to fill: no more than drained now
            table.full_at_ns[slot] = now + self._bucket_ns
            return interval_ns
        return wait_ns

    def client_of(self, address: Address) -> tuple[int, int]:
        """Whom the address belongs to."""
        return address.version, int(address) if address.version == 4 else int(address) >> self._ipv6_shift

    def _network(self, number: int) -> int:
        """The key of an IPv6 address: whoever has one address of a /64 has all of them."""
        network = number >> self._ipv6_shift
        if self._ipv6_shift >= 64:
            return network
        digest = blake2b(network.to_bytes(16, "little"), digest_size=8, key=self.table.hash_key)
        return int.from_bytes(digest.digest(), "little")

    def _enter(self, key: int, first: int, full_at_ns: int) -> None:
        """Give a newcomer the place of the fullest bucket of its set: one never used or full again, if there is any."""
        moments = self.table.full_at_ns[first : first + WAYS].tolist()
        slot = first + moments.index(min(moments))
        # In this order: until its key is there, whoever had the place is charged with one token, not the newcomer with
        # all that the other had taken.
        self.table.full_at_ns[slot] = full_at_ns
        self.table.keys[slot] = key


def too_many(buckets: TokenBuckets, wait_ns: int) -> Refused:
    """The refusal of a client that has to wait so long. The time is rounded up, so that waiting so long is enough."""
    retry_after_s = -(-wait_ns // NS_PER_S)
    limit = buckets.limit.requests_per_minute
    return Refused(Reason.RATE_LIMITED, "Too many requests", retry_after_s=retry_after_s, limit=limit)
