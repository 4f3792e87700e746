"""What the collector adds to an event: the time as a timestamp, and as much of the client as it may keep."""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv6Address, ip_network

from collector.addresses import Address
from collector.clock import SECONDS_PER_DAY, US_PER_DAY, US_PER_S
from collector.ingest.daily_key import DailyKeys

# RFC 3339 section 5.6, with two liberties: the offset may be missing (then it is UTC), and a blank may
# stand for the T (its own note allows that). datetime.fromisoformat takes far more than this.
_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_TEN_YEARS_US = 3_651 * US_PER_DAY  # with the leap days of 1904 or 2104 alone; most have two or three

ClientIpPolicy = Callable[[Address, int], str | None]
"""(address, received_us) to what may be written down of the address. Raises KeyMissing; does not block."""


def event_time_us(text: str, received_us: int) -> int | None:
    """Microseconds since the epoch, UTC; None where `text` is no RFC 3339 date-time, or none for a column of times.

    A leap second is none: it has no place on the epoch's time line, and its words say more than a guess. Nor is what
    lies more than a day after the event's receipt, or more than ten calendar years before it: no page's clock is so
    wrong by accident, and one event of the year 1 or 9999 makes `tz_convert` and `resample` fail for a whole column.
    """
    if not _DATE_TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        since = moment.astimezone(UTC) - _EPOCH
    except (ValueError, OverflowError):
        return None
    # By hand: `since // timedelta(microseconds=1)` takes longer than everything before it but the match.
    moment_us = (since.days * SECONDS_PER_DAY + since.seconds) * US_PER_S + since.microseconds
    age_us = received_us - moment_us
    # Two comparisons for nearly every event, 0.05 us; the calendar is asked about those of two days in ten years.
    if -US_PER_DAY <= age_us <= _SHORTEST_TEN_YEARS_US or 0 < age_us <= _ten_years_us(received_us // US_PER_DAY):
        return moment_us
    return None


@lru_cache(maxsize=16)
def _ten_years_us(day: int) -> int:
    """From that UTC day, numbered from the epoch, back to the same date ten years before it.

    Before 29 February that is 28 February where the year has no 29th, as SQL's intervals have it. The calendar repeats
    itself every 146,097 days, so a record's receipt has its ten years even where `date` does not reach.
    """
    today = _EPOCH.date() + timedelta(days=day % 146_097)
    try:
        then = today.replace(year=today.year - 10)
    except ValueError:
        then = today.replace(year=today.year - 10, day=28)
    return (today - then).days * US_PER_DAY


def client_ip_policy(name: str, keys: DailyKeys) -> ClientIpPolicy:
    """The policy of that name: `none`, `truncate`, `hash` or `full`."""
    match name:
        case "none":
            return lambda address, received_us: None
        case "truncate":
            return lambda address, received_us: _truncate(address)
        case "hash":
            return _DailyHash(keys)
        case "full":
            return lambda address, received_us: str(address)
    raise ValueError(f"{name} is no client IP policy")


def needs_keys(policy: ClientIpPolicy) -> bool:
    """Whether it asks for the key of the day."""
    return isinstance(policy, _DailyHash)


def _truncate(address: Address) -> str:
    """The /24 of an IPv4 address, the /48 of an IPv6 one: a neighbourhood, no household."""
    prefix = 48 if isinstance(address, IPv6Address) else 24
    return str(ip_network((address, prefix), strict=False).network_address)


class _DailyHash:
    """A keyed hash of the address: the same all day, and another one the next day."""

    def __init__(self, keys: DailyKeys) -> None:
        self._keys = keys

    def __call__(self, address: Address, received_us: int) -> str:
        key = self._keys.of(received_us // US_PER_DAY)
        return hashlib.blake2b(address.packed, key=key, digest_size=16).hexdigest()
