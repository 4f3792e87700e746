"""What the collector adds to an event: the time as a timestamp, and as much of the client as it may keep."""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from pathlib import Path

from collector.addresses import Address
from collector.clock import SECONDS_PER_DAY, US_PER_DAY, US_PER_S
from collector.publish.local import open_folder

# RFC 3339 section 5.6, with two liberties: the offset may be missing (then it is UTC), and a blank may
# stand for the T (its own note allows that). datetime.fromisoformat takes far more than this.
_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_TEN_YEARS_US = 3_651 * US_PER_DAY  # with the leap days of 1904 or 2104 alone; most have two or three

ClientIpPolicy = Callable[[Address, int], str | None]
"""(address, received_us) to what may be written down of the address."""


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


def client_ip_policy(name: str, data_dir: Path) -> ClientIpPolicy:
    """The policy of that name: `none`, `truncate`, `hash` or `full`."""
    match name:
        case "none":
            return lambda address, received_us: None
        case "truncate":
            return lambda address, received_us: _truncate(address)
        case "hash":
            return _DailyHash(data_dir / "client_ip.key")
        case "full":
            return lambda address, received_us: str(address)
    raise ValueError(f"{name} is no client IP policy")


def _truncate(address: Address) -> str:
    """The /24 of an IPv4 address, the /48 of an IPv6 one: a neighbourhood, no household."""
    prefix = 48 if isinstance(address, IPv6Address) else 24
    return str(ip_network((address, prefix), strict=False).network_address)


class _DailyHash:
    """A keyed hash of the address under a key that lives for one UTC day.

    The key's file holds the day's number (8 bytes, big-endian) and 32 random bytes. A restart finds it, and so does
    every worker, so a client keeps its hash through the day; the next day's key overwrites it, and then nobody can tell
    any more which address a hash was. Losing it costs no event, so it is not synced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._day = -1
        self._key = b""

    def __call__(self, address: Address, received_us: int) -> str:
        day = received_us // US_PER_DAY
        if day != self._day:
            self._day, self._key = day, self._key_of(day)
        return hashlib.blake2b(address.packed, key=self._key, digest_size=16).hexdigest()

    def _key_of(self, day: int) -> bytes:
        """The key of that day, made if need be: by one worker, while the others wait."""
        with open_folder(self._path.parent) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)  # gone when the descriptor is closed
            return self._kept_or_made(day)

    def _kept_or_made(self, day: int) -> bytes:
        stamp = day.to_bytes(8, "big")
        try:
            kept = self._path.read_bytes()
        except FileNotFoundError:
            kept = b""
        # At midnight one worker may be a moment ahead of another, whose last event must not take the new key away.
        if kept[:8] in (stamp, (day + 1).to_bytes(8, "big")) and len(kept) == 40:
            return kept[8:]
        key = os.urandom(32)
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(stamp + key)
        fresh.replace(self._path)
        return key
