"""Answers: what was answered to a batch with an Idempotency-Key, remembered for a day.

    data_dir/answers.sqlite      (and -wal and -shm beside it, while a process has it open)
      claims   key 16 bytes, folder text, incarnation 8 bytes            a batch in progress
      answers  id, key 16 bytes, stamp (us since the epoch, UTC), answer an answered batch

A sample: `sqlite3 answers.sqlite 'SELECT hex(key), stamp, answer FROM answers'` prints
`0A1B...|1780000000000000|201` and a line `{"message":"Batch received","stored":2}`.

All workers share the file. It holds digests of keys and answers, no events. It is made when the first key arrives.

A claim names its worker's folder and its process, by a random incarnation. If a process is killed, its claims stay. Its
batches may be in segments, so nobody can own such a key before the worker that adopts the folder has published them:
recovery calls `remember` for each batch that it finds, and `resolve` when all segments are published. Batches that were
not found were never committed, so `resolve` deletes their claims.

An id is greater than the last one by the number of KiB that the answer begins. Answers whose id is 200,000 or more
behind the newest are deleted. So their number and size are bounded, and nothing is counted. 200,000 short answers, of
batches whose events are all stored, take 22 MB. The file takes at most 280 MB.

An answer is remembered until its stamp is a day old. So it is remembered for longer if the clock is set back, and for
less if the clock is set forward. Answers that are a day old are deleted as new ones come.
"""

import errno
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from collector.clock import US_PER_DAY, Clock
from collector.publish.local import fsync_folder
from collector.worker_slot import WorkerSlot

if TYPE_CHECKING:
    from sqlite3 import Connection, Error

log = logging.getLogger(__name__)

ANSWERS = "answers.sqlite"

_FORMAT = 1  # in the file's user_version
_BUSY_S = 5.0  # longest wait for the transactions of other workers, of a few ms each
_KEPT_KIB = 200_000
_WAL_BYTES = 8_388_608  # it is cut to this after a transaction that needed more
_INCARNATION_BYTES = 8

_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, folder TEXT, incarnation BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY, key BLOB UNIQUE, stamp INTEGER, answer BLOB);
PRAGMA user_version = 1; -- _FORMAT
COMMIT;
"""

# A claim of this process that is not in progress is left from a failed `release`, and may be claimed again.
_CLAIM = """
INSERT INTO claims VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET folder = excluded.folder WHERE incarnation = excluded.incarnation
"""
_REMEMBER = """
INSERT OR REPLACE INTO answers
VALUES ((SELECT coalesce(max(id), 0) FROM answers) + ?, ?, ?, ?)
"""

# Each new answer deletes up to 8 old ones: more than come in, and few enough to take no time.
_EXPIRE = "DELETE FROM answers WHERE id IN (SELECT id FROM answers ORDER BY id LIMIT 8) AND stamp <= ?"

_MOVE_AWAY = (
    f"move {ANSWERS}, {ANSWERS}-wal and {ANSWERS}-shm out of data_dir, and the collector makes a new file; "
    "a batch of the last day that is sent again is then stored again"
)


class InProgress(Exception):
    """Another request has the key, or a dead process had it and its segments are not published yet."""


class AnswerStore:
    """The answers of all workers, and the claims of this process. Every method blocks; threads may share the object.

    The first key opens the file. After an error the file is opened anew, so it can be mended or moved away.
    """

    def __init__(self, root: Path, slot: WorkerSlot, clock: Clock) -> None:
        self._path = root / ANSWERS
        self._slot = slot
        self._clock = clock
        self._incarnation = secrets.token_bytes(_INCARNATION_BYTES)
        self._turn = threading.Lock()
        self._db: Connection | None = None
        self._identity: tuple[int, int] | None = None  # of the open file
        self._in_progress: set[bytes] = set()
        # What the file lacks since a write failed: an answer with its stamp, or None for a claim to delete. No key is
        # claimed before these are written, so there are no more of them than batches that were in progress.
        self._behind: dict[bytes, tuple[int, bytes] | None] = {}
        self._resolved = False
        self._failure: str | None = None  # the last failure logged

    def claim(self, key: bytes) -> bytes | None:
        """Return the key's answer, or None: then the caller owns the key, durably, until `settle` or `release`.

        Raises InProgress, or OSError, which names the file, if the file cannot be used; the caller may then try again.
        """
        with self._turn:
            if key in self._in_progress:
                raise InProgress
            try:
                with self._transaction() as db:
                    answer = self._answer(db, key)
                    is_owner = answer is None and self._insert_claim(db, key)
            except OSError as exc:
                self._log(exc)
                unwritten = self._behind.get(key)
                if unwritten is None or self._is_over(unwritten[0]):
                    raise
                return unwritten[1]
            if is_owner:
                self._in_progress.add(key)
            elif answer is None:
                raise InProgress
            return answer

    def settle(self, key: bytes, answer: bytes) -> None:
        """Remember the answer, durably, and give up the claim.

        Does not raise, because the batch is stored. After a failure the answer is kept in memory until a later call
        writes it.
        """
        self._give_up(key, (self._clock.now_us(), answer))

    def release(self, key: bytes) -> None:
        """Give up the claim: nothing was stored, and a retry may claim the key. Does not raise.

        After a failure a later call deletes the claim. Until then other workers see it.
        """
        self._give_up(key, None)

    def remember(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Remember the keys and answers of batches found in left-over segments, durably.

        Call it before the segment is deleted. Raises OSError, which names the file; then nothing is remembered.
        """
        found = list(pairs)
        if not found:
            return
        with self._turn:
            try:
                with self._transaction() as db:
                    for key, answer in found:
                        self._write(db, key, (self._clock.now_us(), answer))
            except OSError as exc:
                self._log(exc)
                raise

    def resolve(self) -> None:
        """Delete the claims of dead processes in folders that this worker adopts.

        Call it when every left-over segment in these folders is published. Does not raise: after a failure a later
        call deletes the claims. Does not make the file.
        """
        with self._turn:
            self._resolved = True
            if os.path.lexists(self._path):
                self._catch_up()

    def close(self) -> None:
        """Write what the file lacks, once more, and close it. The next call opens it again."""
        with self._turn:
            if self._behind:
                self._catch_up()
            self._close()

    def _give_up(self, key: bytes, outcome: tuple[int, bytes] | None) -> None:
        with self._turn:
            self._in_progress.discard(key)
            self._behind[key] = outcome
            self._catch_up()

    def _catch_up(self) -> None:
        try:
            with self._transaction():
                pass
        except OSError as exc:
            self._log(exc)

    @contextmanager
    def _transaction(self) -> Iterator["Connection"]:
        """A transaction that first writes what the file lacks, and is durable at the end. Raises OSError."""
        try:
            # Imported with the first key. It is not in every Python, and most collectors never get a key.
            from sqlite3 import Error
        except ImportError as exc:
            raise OSError(errno.ENOSYS, f"this Python lacks a module: {exc}", str(self._path)) from None
        try:
            db = self._opened()
            db.execute("BEGIN IMMEDIATE")
            for key, outcome in self._behind.items():
                self._write(db, key, outcome)
            if self._resolved:
                self._delete_dead_claims(db)
            yield db
            db.execute("COMMIT")
        except Error as exc:
            self._close()
            raise self._os_error(exc) from exc
        except BaseException:
            self._close()
            raise
        self._behind.clear()
        self._failure = None

    def _answer(self, db: "Connection", key: bytes) -> bytes | None:
        row = db.execute("SELECT stamp, answer FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None or self._is_over(row[0]):
            return None
        answer: bytes = row[1]
        return answer

    def _is_over(self, stamp: int) -> bool:
        return stamp <= self._clock.now_us() - US_PER_DAY

    def _insert_claim(self, db: "Connection", key: bytes) -> bool:
        """Claim the key for this process. Returns False if another one has it."""
        return db.execute(_CLAIM, (key, self._slot.folder, self._incarnation)).rowcount == 1

    def _write(self, db: "Connection", key: bytes, outcome: tuple[int, bytes] | None) -> None:
        """Replace the key's claim with its answer, and delete old answers. Without an answer, delete the claim only."""
        if outcome is None:
            db.execute("DELETE FROM claims WHERE key = ? AND incarnation = ?", (key, self._incarnation))
            return
        stamp, answer = outcome
        db.execute("DELETE FROM claims WHERE key = ?", (key,))
        newest = db.execute(_REMEMBER, (1 + len(answer) // 1024, key, stamp, answer)).lastrowid or 0
        db.execute("DELETE FROM answers WHERE id <= ?", (newest - _KEPT_KIB,))
        db.execute(_EXPIRE, (self._clock.now_us() - US_PER_DAY,))

    def _delete_dead_claims(self, db: "Connection") -> None:
        """Looks at every claim; there are few, because only requests in progress have one."""
        others = db.execute("SELECT key, folder FROM claims WHERE incarnation != ?", (self._incarnation,)).fetchall()
        dead = [(key,) for key, folder in others if self._slot.adopts(folder)]
        db.executemany("DELETE FROM claims WHERE key = ?", dead)

    def _opened(self) -> "Connection":
        """The open file. Opened again if another file, or none, has its name now."""
        if self._db is not None and self._identity != self._find():
            self._close()
        if self._db is None:
            self._db = self._open()
        return self._db

    def _open(self) -> "Connection":
        import sqlite3

        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            # EXTRA is FULL where there is a WAL. Elsewhere it also syncs the folder once the rollback journal is
            # deleted: a power cut could bring the journal back, and with it the state before the commit.
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("PRAGMA fullfsync = ON")  # for macOS, as in collector/portable.py
            db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            (found,) = db.execute("PRAGMA user_version").fetchone()
            if found > _FORMAT:
                raise OSError(errno.EINVAL, f"has format {found}, of a newer version of the collector", str(self._path))
            _use_wal(db)
            if found < _FORMAT:
                db.executescript(_TABLES)
            fsync_folder(self._path.parent)  # a power cut must not take the names of a new file and its WAL
        except BaseException:
            db.close()
            raise
        self._identity = self._find()
        return db

    def _find(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _os_error(self, exc: "Error") -> OSError:
        import sqlite3

        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest of the bits are the details
        advice = f"; {_MOVE_AWAY}" if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else ""
        number = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
        return OSError(number, f"{exc}{advice}", str(self._path))

    def _log(self, exc: OSError) -> None:
        failure = str(exc)
        if failure != self._failure:
            log.warning("cannot use the answers of batches; those with an Idempotency-Key are refused: %s", failure)
        self._failure = failure


def _use_wal(db: "Connection") -> None:
    """Write to a WAL, which needs one sync for each commit instead of four, if the file system allows it."""
    from sqlite3 import OperationalError

    try:
        db.execute("PRAGMA journal_mode = WAL")
    except OperationalError as exc:
        log.debug("%s has no WAL yet: %s", ANSWERS, exc)
