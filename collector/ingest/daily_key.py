"""Keys for hashing addresses, a new one every UTC day: the next day nobody can tell any more whose hash it was.

    data_dir/client_ip-2026-05-28.key    number of the day since 1970-01-01 (8 bytes, big-endian), 32 random bytes

All workers of a data_dir use one key a day, through restarts. No lock guards it, because whoever can open the folder
can hold a lock for ever: a key is written beside, synced, and linked under its name. That fails where another worker
was first; then its key is taken. What has the name and is no key stays where it is, and the next name is tried,
`client_ip-2026-05-28.1.key`: who put a good one in its place might take away the one that another has just put there.

The event loop finds keys in memory, and never waits for the disk. Every second a thread sees to it that today's and
tomorrow's are there, on the disk and in memory, so that at midnight nobody waits for either, and deletes those of days
that are over. Yesterday's stays in memory, for a clock that is set back.
"""

import asyncio
import errno
import logging
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from collector.clock import US_PER_DAY, Clock
from collector.portable import sync
from collector.publish.local import fsync_folder

log = logging.getLogger(__name__)

KEY_BYTES = 32
_STAMP_BYTES = 8
_NAMES = 10  # of a day: more broken files than this are no accident
_EPOCH = date(1970, 1, 1)
_OURS = re.compile(r"client_ip-(\d{4}-\d\d-\d\d)(\.\d)?(\.key|\.[0-9a-f]{16}\.new)", re.ASCII)

# A former version had one file for all days, of the same form; the second name is that of its half-written one.
_FORMER, _FORMER_NEW = "client_ip.key", "client_ip.new"

# What is no readable file of ours, and will not become one: a link, a socket, another user's.
_NO_KEY = frozenset({errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM})


class KeyMissing(Exception):
    """There is no key of that day in memory (yet)."""


class DailyKeys:
    """The keys of the days around now: in memory for the event loop, kept on the disk by `tend`."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.blocked_reason: str | None = None  # why there is no key of today, for a person
        self.missed = asyncio.Event()  # somebody needed a key that was not there: `tend` is due at once
        self._files = KeyFiles(folder)
        self._clock = clock
        self._keys: dict[int, bytes] = {}  # by day; replaced, never changed
        self._today, self._day_before = 0, 0  # the days of the last two calls of `tend` that were not of one day
        self._swept: int | None = None  # the day when that was done
        self._failure: str | None = None  # as it was logged last
        self._turn = threading.Lock()  # of threads; the event loop never takes it

    def of(self, day: int) -> bytes:
        """The key of that day, since 1970-01-01. Raises KeyMissing; does not block."""
        key = self._keys.get(day)
        if key is None:
            self.missed.set()
            raise KeyMissing(f"there is no key of {_date(day)} yet")
        return key

    def tend(self, *, needed: bool) -> None:
        """See to it that the keys are there, if they are needed, and that those of days that are over are not.

        Blocks. What fails is logged, and tried again by the next call; `blocked_reason` says why no event can
        be hashed.
        """
        with self._turn:
            today = self._clock.now_us() // US_PER_DAY
            if today != self._today:
                self._today, self._day_before = today, self._today
            failures: list[OSError] = []
            if needed:
                for day in (today, today + 1):
                    try:
                        self._keep(day)
                    except OSError as exc:
                        failures.append(exc)
            try:
                self._sweep(today, all_known=needed and not failures)
            except OSError as exc:
                failures.append(exc)
            self._tell(failures)
            self.blocked_reason = f"no key of today: {failures[0]}" if needed and today not in self._keys else None

    def _keep(self, day: int) -> None:
        """The disk decides: what is there, all have. But a key that somebody deleted too early is put back."""
        key = self._files.key_of(day, lambda: self._keys.get(day) or secrets.token_bytes(KEY_BYTES))
        wanted = {self._today - 1, self._today, self._today + 1, self._day_before}
        self._keys = {other: kept for other, kept in self._keys.items() if other in wanted} | {day: key}

    def _sweep(self, today: int, *, all_known: bool) -> None:
        if self._swept != today:
            self._files.sweep(today, former=all_known)
            self._swept = today

    def _tell(self, failures: list[OSError]) -> None:
        failure = str(failures[0]) if failures else None
        if failure is not None and failure != self._failure:
            log.warning("the keys of the days cannot be kept, which is tried again every second: %s", failure)
        self._failure = failure


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files of the keys. Everything may raise OSError."""

    folder: Path

    def key_of(self, day: int, propose: Callable[[], bytes]) -> bytes:
        """The key of that day; if it has none, what a former version left, or what is proposed, from now on."""
        for name in _names(day):
            try:
                key = self._read(name, day)
            except FileNotFoundError:
                proposed = self._former(day) or propose()
                if self._publish(name, day, proposed):
                    return proposed
                key = self._read(name, day)
            if key is not None:
                return key
        raise FileExistsError(errno.EEXIST, f"none of {_NAMES} files is a key", str(self._path(_names(day)[0])))

    def sweep(self, today: int, *, former: bool) -> None:
        """Delete the keys of days that are over; the file of a former version too, if its day is or `former` says so.

        Raises the first OSError after all were tried.
        """
        failures: list[OSError] = []
        for name in self._over(today, former=former):
            try:
                with suppress(FileNotFoundError):  # another worker was faster
                    os.unlink(self._path(name))
            except OSError as exc:
                failures.append(exc)
        if failures:
            raise failures[0]

    def _over(self, today: int, *, former: bool) -> Iterator[str]:
        for name in os.listdir(self.folder):
            ours = _OURS.fullmatch(name)
            if ours:
                if ours[1] < str(_date(today)):
                    yield name
            elif name == _FORMER_NEW or (name == _FORMER and (former or self._former(today, today + 1) is None)):
                yield name

    def _former(self, *days: int) -> bytes | None:
        """The key in the file of a former version, if it is one of these days'."""
        with suppress(FileNotFoundError):
            for day in days:
                key = self._read(_FORMER, day)
                if key is not None:
                    return key
        return None

    def _read(self, name: str, day: int) -> bytes | None:
        """The key of that day in that file; None where what has the name is none. Raises FileNotFoundError."""
        try:
            # A pipe must not hold us, nor a link lead us elsewhere.
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in _NO_KEY:
                return None
            raise
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            found = os.read(descriptor, _STAMP_BYTES + KEY_BYTES + 1) if is_file else b""
        finally:
            os.close(descriptor)
        return (
            found[_STAMP_BYTES:] if len(found) == _STAMP_BYTES + KEY_BYTES and found.startswith(_stamp(day)) else None
        )

    def _publish(self, name: str, day: int, key: bytes) -> bool:
        """Make it the key of that day; False where the name is taken. For its owner alone to read."""
        fresh = self._path(f"client_ip-{_date(day)}.{secrets.token_hex(8)}.new")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(_stamp(day) + key)
                file.flush()
                # After a power cut a name may be there without its bytes, and zeros would be a key that all know.
                sync(file.fileno())
            try:
                os.link(fresh, self._path(name))
            except FileExistsError:
                return False
            fsync_folder(self.folder)
            return True
        finally:
            with suppress(FileNotFoundError):
                os.unlink(fresh)

    def _path(self, name: str) -> Path:
        return self.folder / name


def _names(day: int) -> list[str]:
    """Where its key may be, in the order in which everybody looks."""
    return [f"client_ip-{_date(day)}{f'.{number}' if number else ''}.key" for number in range(_NAMES)]


def _date(day: int) -> date:
    return _EPOCH + timedelta(day)


def _stamp(day: int) -> bytes:
    return day.to_bytes(_STAMP_BYTES, "big", signed=True)
