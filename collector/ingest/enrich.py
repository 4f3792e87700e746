"""Enrichment: parses an event's time, and reduces the client's address to what may be stored."""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from typing import Final

from collector.addresses import Address
from collector.clock import US_PER_DAY, US_PER_S
from collector.ingest.daily_key import DailyKeys

# RFC 3339 section 5.6, relaxed twice: a missing offset means UTC, and a space may replace the T (the RFC's own note
# allows that). datetime.fromisoformat alone accepts far more.
_DATE_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?",
    re.ASCII,
)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_TEN_YEARS_US: Final = 3_651 * US_PER_DAY  # around 1900 or 2100, with one leap day; most have two or three

ClientIpPolicy = Callable[[Address, int], str | None]
"""Maps (address, received_us) to the text that may be stored, if any. Raises KeyMissing; does not block."""


def event_time_us(text: str, received_us: int) -> int | None:
    """Parse an RFC 3339 date-time into microseconds since the epoch, UTC. None if it cannot be stored as a time.

    Leap seconds give None: they have no place on the epoch's time line, and the original text says more than a guess.

    Times more than a day after `received_us`, or more than ten calendar years before it, give None too. No page's
    clock is that wrong by accident. A single event from year 1 or 9999 makes pandas' `tz_convert` and `resample` fail
    for the entire column.
    """
    moment_us = _usual_us(text)
    if moment_us is None:
        if not _DATE_TIME.fullmatch(text):
            return None
        try:
            moment = datetime.fromisoformat(text.upper())
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC) - _EPOCH
        except (ValueError, OverflowError):
            return None
        moment_us = since // timedelta(microseconds=1)
    age_us = received_us - moment_us
    # Nearly every event needs only the first two comparisons (0.05 us). The calendar decides only about events that are
    # ten years old, give or take a day.
    if -US_PER_DAY <= age_us <= _SHORTEST_TEN_YEARS_US or 0 < age_us <= _ten_years_us(received_us // US_PER_DAY):
        return moment_us
    return None


def _usual_us(text: str) -> int | None:
    """Parse a time like `2026-05-12T10:00:00.123Z`, as JavaScript's toISOString makes it. None for other forms.

    Compiled, this takes a third of what `datetime.fromisoformat` takes.
    """
    if len(text) != 24 or text[10] != "T" or text[13] != ":" or text[16] != ":" or text[19] != "." or text[23] != "Z":
        return None
    midnight_us = _midnight_us(text[:10])
    hours, minutes, seconds = _digits(text, 11, 13), _digits(text, 14, 16), _digits(text, 17, 19)
    milliseconds = _digits(text, 20, 23)
    if midnight_us is None or not (0 <= hours < 24 and 0 <= minutes < 60 and 0 <= seconds < 60 and milliseconds >= 0):
        return None
    return midnight_us + ((hours * 60 + minutes) * 60 + seconds) * US_PER_S + milliseconds * 1_000


def _digits(text: str, start: int, end: int) -> int:
    """The number in text[start:end]; -1 if any character is not an ASCII digit."""
    number = 0
    for at in range(start, end):
        digit = ord(text[at]) - ord("0")
        if not 0 <= digit <= 9:
            return -1
        number = 10 * number + digit
    return number


@lru_cache(maxsize=64)  # nearly all events are of today
def _midnight_us(text: str) -> int | None:
    """When the day in `text`, such as `2026-05-12`, begins (UTC). None if it is no day."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return (date.fromisoformat(text) - _EPOCH.date()).days * US_PER_DAY
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _ten_years_us(day: int) -> int:
    """The time from a UTC day, counted from the epoch, back to the same date ten years earlier.

    For 29 February that is 28 February if the earlier year has no 29th, as in SQL's interval arithmetic. The calendar
    repeats every 146,097 days, so this works even for days outside the range of `date`.
    """
    today = _EPOCH.date() + timedelta(days=day % 146_097)
    try:
        then = today.replace(year=today.year - 10)
    except ValueError:
        then = today.replace(year=today.year - 10, day=28)
    return (today - then).days * US_PER_DAY


def client_ip_policy(name: str, keys: DailyKeys) -> ClientIpPolicy:
    """Return the policy with this name: `none`, `truncate`, `hash` or `full`."""
    match name:
        case "none":
            return lambda address, received_us: None
        case "truncate":
            return lambda address, received_us: _truncate(address)
        case "hash":
            return _DailyHash(keys)
        case "full":
            return lambda address, received_us: str(address)
    raise ValueError(f"unknown client IP policy {name}: use none, truncate, hash or full")


def needs_keys(policy: ClientIpPolicy) -> bool:
    """Whether the policy uses daily keys."""
    return isinstance(policy, _DailyHash)


def _truncate(address: Address) -> str:
    """Keep the /24 of an IPv4 address or the /48 of an IPv6 address: a neighbourhood, not a household."""
    prefix = 48 if isinstance(address, IPv6Address) else 24
    return str(ip_network((address, prefix), strict=False).network_address)


class _DailyHash:
    """Replaces an address by its keyed hash, which stays the same all day and differs the next day."""

    def __init__(self, keys: DailyKeys) -> None:
        self._keys = keys

    def __call__(self, address: Address, received_us: int) -> str:
        return _hash(address, self._keys.of(received_us // US_PER_DAY))

    def of_day(self, address: Address, day: int, today: int) -> str:
        """The hash of an address of another day."""
        key = self._keys.of(today)
        return _hash(address, hashlib.blake2b(day.to_bytes(8, "big", signed=True), key=key, person=b"day").digest())


def _hash(address: Address, key: bytes) -> str:
    return hashlib.blake2b(address.packed, key=key, digest_size=16).hexdigest()


def imported_client_ip(policy: ClientIpPolicy, address: Address, received_us: int, now_us: int) -> str | None:
    """What may be stored of the address of an event that is brought in later. Raises KeyMissing; does not block.

    Hashes of an earlier day have a key that is derived from today's key and that day, as the day's own key is deleted.
    So all events of that day that are brought in today have the same hash, and nobody can trace it after today.
    """
    day, today = received_us // US_PER_DAY, now_us // US_PER_DAY
    if day != today and isinstance(policy, _DailyHash):
        return policy.of_day(address, day, today)
    return policy(address, received_us)
