"""Daily keys: secrets for hashing client addresses, a new one every UTC day.

They make the stored `client_ip` if `privacy.client_ip` is "hash", and the visitors of pixels whatever it is. So there
is always a key. It is deleted from the disk when its day is over, and from memory a day later. After that, the day's
hashes cannot be traced back to addresses.

    data_dir/client_ip-2026-05-28.key
      0  day    8  days since 1970-01-01, big-endian
      8  key   32  random bytes

A sample, of day 20,601: `0000000000005079`, followed by 32 random bytes.

All workers of a data_dir share one key a day, across restarts. No lock guards the key, because anyone who can open the
folder could hold a lock forever. Instead, a worker writes a new key to a temporary file, syncs it, and links it under
its final name. The link fails if another worker was first, and then both use that worker's key.

A file that has the right name but holds no key stays where it is. Workers then try the next name,
`client_ip-2026-05-28.1.key`. Replacing the bad file could remove a good key that another worker has just put there.

The event loop looks keys up in memory and never waits for the disk. A thread checks every second that the keys of today
and tomorrow exist on disk and in memory, so midnight causes no wait. The same thread deletes old keys. Yesterday's key
stays in memory in case the clock is set back.
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
_NAMES = 10  # to try for each day; more broken files than this are no accident
_EPOCH = date(1970, 1, 1)
_OURS = re.compile(r"client_ip-(\d{4}-\d\d-\d\d)(\.\d)?(\.key|\.[0-9a-f]{16}\.new)", re.ASCII)

# Earlier versions kept one file for all days, in the same format. The second name is its half-written copy.
_FORMER, _FORMER_NEW = "client_ip.key", "client_ip.new"

# Opening fails with one of these if the name is a link, a socket or another user's file. Retrying would not help.
_NO_KEY = frozenset({errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM})


class KeyMissing(Exception):
    """No key for that day is in memory (yet)."""


class DailyKeys:
    """The keys of the days around now. The event loop reads them from memory; `tend` keeps them on disk."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.missing_reason: str | None = None  # why today has no key; human-readable
        self.missed = asyncio.Event()  # set when a key was needed but missing: call `tend` at once
        self._files = KeyFiles(folder)
        self._clock = clock
        self._keys: dict[int, bytes] = {}  # by day; replaced as a whole, so the event loop can read it without a lock
        self._today, self._day_before = 0, 0  # the last two different days on which `tend` ran
        self._swept: int | None = None  # the day of the last sweep
        self._failure: str | None = None  # the last failure logged
        self._turn = threading.Lock()  # for threads calling `tend`; the event loop never takes it

    def of(self, day: int) -> bytes:
        """Return the key of a day, counted from 1970-01-01. Raises KeyMissing; does not block."""
        key = self._keys.get(day)
        if key is None:
            self.missed.set()
            raise KeyMissing(f"there is no key for {_date(day)} yet")
        return key

    def tend(self) -> None:
        """Make the keys of today and tomorrow, and delete those of past days. Blocks.

        Failures are logged, and the next call tries again. `missing_reason` says why no address can be hashed.
        """
        with self._turn:
            today = self._clock.now_us() // US_PER_DAY
            if today != self._today:
                self._today, self._day_before = today, self._today
            failures: list[OSError] = []
            for day in (today, today + 1):
                try:
                    self._keep(day)
                except OSError as exc:
                    failures.append(exc)
            try:
                self._sweep(today, all_known=not failures)
            except OSError as exc:
                failures.append(exc)
            self._log(failures)
            self.missing_reason = None if today in self._keys else f"no key for today: {failures[0]}"

    def _keep(self, day: int) -> None:
        """Load the day's key from disk, where all workers share it. If it is gone, write the one in memory."""
        key = self._files.key_of(day, lambda: self._keys.get(day) or secrets.token_bytes(KEY_BYTES))
        wanted = {self._today - 1, self._today, self._today + 1, self._day_before}
        self._keys = {other: kept for other, kept in self._keys.items() if other in wanted} | {day: key}

    def _sweep(self, today: int, *, all_known: bool) -> None:
        if self._swept != today:
            self._files.sweep(today, former=all_known)
            self._swept = today

    def _log(self, failures: list[OSError]) -> None:
        failure = str(failures[0]) if failures else None
        if failure is not None and failure != self._failure:
            log.warning("cannot maintain the daily keys; retrying every second: %s", failure)
        self._failure = failure


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The key files. Every method may raise OSError."""

    folder: Path

    def key_of(self, day: int, propose: Callable[[], bytes]) -> bytes:
        """Return the day's key. If none exists, publish what an earlier version left, or else `propose()`."""
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
        raise FileExistsError(
            errno.EEXIST, f"none of {_NAMES} files holds a valid key", str(self._path(_names(day)[0]))
        )

    def sweep(self, today: int, *, former: bool) -> None:
        """Delete the keys of past days. Delete an earlier version's file if its day is over or `former` is set.

        Tries every file, then raises the first OSError.
        """
        failures: list[OSError] = []
        for name in self._over(today, former=former):
            try:
                with suppress(FileNotFoundError):  # another worker deleted it first
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
        """Return the key in an earlier version's file, if it belongs to one of these days."""
        with suppress(FileNotFoundError):
            for day in days:
                key = self._read(_FORMER, day)
                if key is not None:
                    return key
        return None

    def _read(self, name: str, day: int) -> bytes | None:
        """Return the day's key from a file, or None if the file holds no such key. Raises FileNotFoundError."""
        try:
            # O_NONBLOCK: opening a pipe must not block. O_NOFOLLOW: a link must not lead to another file.
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
        """Make `key` the day's key, readable by its owner only. Returns False if the name is taken."""
        fresh = self._path(f"client_ip-{_date(day)}.{secrets.token_hex(8)}.new")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(_stamp(day) + key)
                file.flush()
                # Sync before linking: after a power cut the name could exist without its bytes, and a key of zeros is
                # no secret.
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
    """The names a day's key can have, in the order in which all workers try them."""
    return [f"client_ip-{_date(day)}{f'.{number}' if number else ''}.key" for number in range(_NAMES)]


def _date(day: int) -> date:
    return _EPOCH + timedelta(day)


def _stamp(day: int) -> bytes:
    return day.to_bytes(_STAMP_BYTES, "big", signed=True)
