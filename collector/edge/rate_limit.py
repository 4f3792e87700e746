"""The rate limit: a token bucket per client, in bounded memory.

A bucket is one number: the moment at which it will be full again (the generic cell rate algorithm). A request
moves that moment one interval on, and is refused where it would then lie further ahead than a whole bucket.
The numbers are whole nanoseconds; sums of float intervals would refuse the last request of a burst.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from aiohttp import web
from aiohttp.typedefs import Middleware

from collector.addresses import Address
from collector.clock import Clock
from collector.config import RateLimit
from collector.edge.request import CLIENT, SITE, Handler
from collector.events import Reason, Refused

NS_PER_S = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_S
SLOT_NS = NS_PER_S
SLOTS_TRIED = 1_000  # from one slot in use to the next it is a step or two; over a longer gap all are looked at
BUCKETS_TRIED = 16  # in the first slot they differ by a second at most, so the choice among them matters little

# 100,000 buckets take 28 MB (bench/memory.py); a flood of more addresses makes the table forget, never grow.
MAX_BUCKETS = 100_000


class TokenBuckets:
    """How long each client must wait. A table that is full forgets the fullest bucket for a newcomer.

    The fullest is found without a search of the table: buckets are sorted into slots of a second by the moment at
    which they will be full, and the first slot that holds any is remembered.
    """

    def __init__(self, limit: RateLimit, clock: Clock, max_buckets: int = MAX_BUCKETS) -> None:
        self.limit = limit
        self._clock = clock
        self._max_buckets = max_buckets
        self._interval_ns = NS_PER_MINUTE // limit.requests_per_minute if limit.requests_per_minute else 0
        self._bucket_ns = limit.burst * self._interval_ns
        self._ipv6_shift = 128 - limit.ipv6_prefix
        self._full_at_ns: dict[int, int] = {}
        # Of keys, in order of arrival. Not plain dicts: the first key of a dict is found by passing over all that
        # were deleted before it, and a newcomer in a flood took 34 us, against 5.
        self._slots: dict[int, OrderedDict[int, None]] = {}
        self._first_slot = 0  # no slot before it holds anything

    def __len__(self) -> int:
        return len(self._full_at_ns)

    def take(self, client: Address) -> int:
        """Take a token for one request: 0, or the nanoseconds until there will be one (then none is taken)."""
        if not self._interval_ns:
            return 0
        key = self._key(client)
        now = self._clock.monotonic_ns()
        known = self._full_at_ns.get(key)
        full_at = (now if known is None or known < now else known) + self._interval_ns
        wait_ns = full_at - now - self._bucket_ns
        if wait_ns > 0:
            return wait_ns
        slot = full_at // SLOT_NS
        if known is None:
            if len(self._full_at_ns) >= self._max_buckets:
                self._forget_fullest()
            self._enter_slot(slot, key)
        elif known // SLOT_NS != slot:
            self._leave_slot(known // SLOT_NS, key)
            self._enter_slot(slot, key)
        self._full_at_ns[key] = full_at
        return 0

    def _key(self, client: Address) -> int:
        """IPv4 by address, IPv6 by network: whoever has one address of a /64 has all of them."""
        number = int(client)
        return number if client.version == 4 else ~(number >> self._ipv6_shift)  # negative: no IPv4 address

    def _forget_fullest(self) -> None:
        near = range(self._first_slot, self._first_slot + SLOTS_TRIED)
        self._first_slot = next((slot for slot in near if slot in self._slots), None) or min(self._slots)
        # In a flood all newcomers share a slot: a few of its oldest are looked at, not all.
        key = min(islice(self._slots[self._first_slot], BUCKETS_TRIED), key=self._full_at_ns.__getitem__)
        self._leave_slot(self._first_slot, key)
        del self._full_at_ns[key]

    def _enter_slot(self, slot: int, key: int) -> None:
        self._slots.setdefault(slot, OrderedDict())[key] = None
        if slot < self._first_slot:  # all that are known were drained further than this one
            self._first_slot = slot

    def _leave_slot(self, slot: int, key: int) -> None:
        keys = self._slots[slot]
        del keys[key]
        if not keys:
            del self._slots[slot]


def over_limit(buckets: TokenBuckets, client: Address) -> Refused | None:
    """Take a token for one request of the client; the refusal, if there is none.

    The time to wait is rounded up, so that waiting as long as it says is enough.
    """
    wait_ns = buckets.take(client)
    if not wait_ns:
        return None
    retry_after_s = -(-wait_ns // NS_PER_S)
    limit = buckets.limit.requests_per_minute
    return Refused(Reason.RATE_LIMITED, "Too many requests", retry_after_s=retry_after_s, limit=limit)


def rate_limit(buckets: Callable[[], TokenBuckets], drop: Callable[[web.Request, Refused], web.Response]) -> Middleware:
    """The middleware: a request that names a site (SITE is set) costs its client a token, and nothing else does.

    `buckets` gives the present table, which a reload may replace; `drop` makes a refusal an answer, and counts it.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = over_limit(buckets(), request[CLIENT]) if SITE in request else None
        return drop(request, refused) if refused else await handler(request)

    return middleware
