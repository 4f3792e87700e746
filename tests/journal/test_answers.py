"""Answers of batches: one owner for each key, an answer for a day, through kills, several processes and bad disks."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from collector.clock import US_PER_DAY
from collector.journal.answers import ANSWERS, AnswerStore, InProgress
from collector.worker_slot import ONLY_WORKER, WorkerSlot
from tests.support import NOON_US, FakeClock

ROOT = Path(__file__).parents[2]
KEY, OTHER = b"k" * 16, b"o" * 16
ANSWER = b'{"message": "Batch received", "stored": 2}'


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[AnswerStore]:
    with opened(tmp_path, clock) as made:
        yield made


@contextmanager
def opened(folder: Path, clock: FakeClock, slot: WorkerSlot = ONLY_WORKER) -> Iterator[AnswerStore]:
    """The store of one process."""
    with closing(AnswerStore(folder, slot, clock)) as made:
        yield made


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / ANSWERS)) as db:
        return db.execute(query).fetchall()


def claims(folder: Path) -> list[bytes]:
    return sorted(key for (key,) in rows(folder, "SELECT key FROM claims") if isinstance(key, bytes))


def test_key_is_owned_until_it_is_settled_and_then_has_an_answer(store: AnswerStore) -> None:
    assert store.claim(KEY) is None
    with pytest.raises(InProgress):
        store.claim(KEY)
    assert store.claim(OTHER) is None, "another key"
    store.settle(KEY, ANSWER)
    assert [ANSWER, ANSWER] == [store.claim(KEY), store.claim(KEY)]


def test_released_key_can_be_claimed_again(store: AnswerStore, tmp_path: Path) -> None:
    store.claim(KEY)
    store.release(KEY)
    assert [] == claims(tmp_path)
    assert store.claim(KEY) is None
    assert store.claim(OTHER) is None
    assert [KEY, OTHER] == claims(tmp_path), "the release is over"


def test_answer_is_remembered_through_a_restart_and_by_every_worker(
    store: AnswerStore, tmp_path: Path, clock: FakeClock
) -> None:
    store.claim(KEY)
    store.settle(KEY, ANSWER)
    for slot in (ONLY_WORKER, WorkerSlot(1, 2)):
        with opened(tmp_path, clock, slot) as another:
            assert ANSWER == another.claim(KEY)


@pytest.mark.parametrize(
    ("passed_us", "expected"),
    [(0, ANSWER), (US_PER_DAY - 1, ANSWER), (US_PER_DAY, None), (-10 * US_PER_DAY, ANSWER)],
)
def test_answer_is_remembered_until_it_is_a_day_old(
    store: AnswerStore, clock: FakeClock, passed_us: int, expected: bytes | None
) -> None:
    """Where the clock was set back, for longer."""
    store.claim(KEY)
    store.settle(KEY, ANSWER)
    clock.us += passed_us
    assert expected == store.claim(KEY)


def test_key_whose_answer_is_forgotten_can_be_answered_anew(
    store: AnswerStore, tmp_path: Path, clock: FakeClock
) -> None:
    store.claim(KEY)
    store.settle(KEY, ANSWER)
    clock.us += US_PER_DAY
    assert store.claim(KEY) is None
    with pytest.raises(InProgress):
        store.claim(KEY)
    store.settle(KEY, b"anew")
    assert b"anew" == store.claim(KEY)
    assert [(1,)] == rows(tmp_path, "SELECT count(*) FROM answers")


def test_no_file_is_made_before_the_first_key(store: AnswerStore, tmp_path: Path) -> None:
    store.resolve()
    store.remember([])
    store.close()
    assert [] == list(tmp_path.iterdir())


def test_sqlite_is_not_imported_before_the_first_key(tmp_path: Path) -> None:
    """The import would cost every start some milliseconds."""
    program = (
        "import sys; from tests.journal.test_answers import *; from tests.journal import test_answers as this;"
        "[sys.modules.pop(name) for name in list(sys.modules) if 'sqlite3' in name];"
        f"store = AnswerStore(Path({str(tmp_path)!r}), ONLY_WORKER, FakeClock()); store.resolve(); store.close();"
        "print('sqlite3' in sys.modules); store.claim(KEY); print('sqlite3' in sys.modules)"
    )
    assert "False\nTrue\n" == subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT)


def test_files_are_readable_like_the_other_files_of_data_dir(store: AnswerStore, tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        store.claim(KEY)
    finally:
        os.umask(umask)
    expected = dict.fromkeys([ANSWERS, f"{ANSWERS}-shm", f"{ANSWERS}-wal"], 0o644)
    assert expected == {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    store.close()
    assert [ANSWERS] == [path.name for path in tmp_path.iterdir()]


def test_commits_are_synced(store: AnswerStore) -> None:
    """3 is EXTRA: see the comment there. SQLite itself is trusted to sync."""
    store.claim(KEY)
    assert store._db is not None
    assert [(3,)] == store._db.execute("PRAGMA synchronous").fetchall()
    assert [("wal",)] == store._db.execute("PRAGMA journal_mode").fetchall()


# Claims of dead processes


@pytest.mark.parametrize(
    ("dead", "heir", "adopted"),
    [
        (ONLY_WORKER, ONLY_WORKER, True),
        (WorkerSlot(1, 2), WorkerSlot(1, 2), True),
        (WorkerSlot(1, 2), WorkerSlot(0, 2), False),
        (WorkerSlot(3, 4), WorkerSlot(0, 2), True),
        (WorkerSlot(3, 4), WorkerSlot(1, 2), False),
    ],
)
def test_claim_of_a_dead_process_is_deleted_by_the_worker_that_adopts_its_folder(
    tmp_path: Path, clock: FakeClock, dead: WorkerSlot, heir: WorkerSlot, adopted: bool
) -> None:
    with opened(tmp_path, clock, dead) as killed, opened(tmp_path, clock, heir) as store:
        killed.claim(KEY)
        with pytest.raises(InProgress):
            store.claim(KEY)
        store.resolve()
        assert [KEY] * (not adopted) == claims(tmp_path)
        if adopted:
            assert store.claim(KEY) is None
        else:
            with pytest.raises(InProgress):
                store.claim(KEY)


def test_own_claims_in_progress_survive_resolve(store: AnswerStore, tmp_path: Path) -> None:
    """The worker serves while it recovers."""
    store.claim(KEY)
    store.resolve()
    assert [KEY] == claims(tmp_path)
    with pytest.raises(InProgress):
        store.claim(KEY)


def test_batch_found_in_a_segment_has_its_answer_at_once_and_after_resolve(tmp_path: Path, clock: FakeClock) -> None:
    with opened(tmp_path, clock) as killed, opened(tmp_path, clock) as store:
        killed.claim(KEY)
        killed.claim(OTHER)
        store.remember([(KEY, ANSWER), (b"n" * 16, b"never claimed in this file")])
        assert ANSWER == store.claim(KEY)
        assert [OTHER] == claims(tmp_path)
        store.resolve()
        assert [] == claims(tmp_path)
        assert [ANSWER, b"never claimed in this file"] == [store.claim(KEY), store.claim(b"n" * 16)]
        assert store.claim(OTHER) is None


def test_batch_found_twice_is_remembered_once(store: AnswerStore, tmp_path: Path) -> None:
    """A recovery that was killed finds its batches again."""
    for _ in range(2):
        store.remember([(KEY, ANSWER)])
    assert [(KEY, NOON_US, ANSWER)] == rows(tmp_path, "SELECT key, stamp, answer FROM answers")


HOLD = """
import sys, time
from tests.journal.test_answers import *
store = AnswerStore(Path(sys.argv[1]), ONLY_WORKER, FakeClock())
print(store.claim(KEY), flush=True)
if sys.argv[2] == "settled":
    store.settle(KEY, ANSWER)
    print("settled", flush=True)
time.sleep(600)
"""


@contextmanager
def killed(folder: Path, when: str) -> Iterator[None]:
    """A process that was killed once it had claimed or settled the key."""
    command = [sys.executable, "-c", HOLD, str(folder), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            assert "None\n" == process.stdout.readline()
            if when == "settled":
                assert "settled\n" == process.stdout.readline()
        finally:
            process.send_signal(signal.SIGKILL)
        assert -signal.SIGKILL == process.wait(30)
        yield


def test_key_of_a_killed_process_is_free_once_its_segments_are_published(tmp_path: Path, store: AnswerStore) -> None:
    with killed(tmp_path, "claimed"):
        with pytest.raises(InProgress):
            store.claim(KEY)
        store.resolve()
        assert store.claim(KEY) is None


def test_key_of_a_killed_process_has_the_answer_found_in_its_segments(tmp_path: Path, store: AnswerStore) -> None:
    with killed(tmp_path, "claimed"):
        store.remember([(KEY, ANSWER)])
        store.resolve()
        assert ANSWER == store.claim(KEY)


def test_settled_answer_survives_a_kill(tmp_path: Path, store: AnswerStore) -> None:
    with killed(tmp_path, "settled"):
        store.resolve()
        assert ANSWER == store.claim(KEY)


RACE = """
import sys
from tests.journal.test_answers import *
store = AnswerStore(Path(sys.argv[1]), WorkerSlot(int(sys.argv[2]), 3), FakeClock())
for line in sys.stdin:
    key = int(line).to_bytes(16, "big")
    try:
        print("owner" if store.claim(key) is None else "answered", flush=True)
    except InProgress:
        print("in progress", flush=True)
store.close()
"""


def test_of_several_processes_exactly_one_owns_a_key(tmp_path: Path) -> None:
    """The first key also races to make the file."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for worker in range(3)
    ]
    outcomes, owners = [], set()
    for number in range(100):
        for each in started:
            print(number, file=each.stdin, flush=True)
        said = [each.stdout.readline().strip() for each in started if each.stdout]
        outcomes.append(sorted(said))
        owners.add(said.index("owner"))
    codes = [(each.communicate(timeout=60), each.returncode)[1] for each in started]
    assert [["in progress", "in progress", "owner"]] * 100 == outcomes
    assert [0, 0, 0] == codes
    assert 100 == len(claims(tmp_path))
    assert len(owners) > 1, "the processes did race"


# Bounds


def fill(store: AnswerStore, first: int, count: int, answer: bytes = ANSWER) -> None:
    store.remember((number.to_bytes(16, "big"), answer) for number in range(first, first + count))


def test_oldest_answers_are_deleted_first(store: AnswerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.journal.answers._KEPT_KIB", 10)
    fill(store, 0, 25)
    expected = [(number.to_bytes(16, "big"),) for number in range(15, 25)]
    assert expected == rows(tmp_path, "SELECT key FROM answers ORDER BY id")
    assert store.claim((14).to_bytes(16, "big")) is None
    assert ANSWER == store.claim((15).to_bytes(16, "big"))


def test_long_answers_count_by_their_kib(store: AnswerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.journal.answers._KEPT_KIB", 100)
    fill(store, 0, 99)
    fill(store, 1000, 1, b"x" * 65_536)
    assert [(100 - 65, 1)] == rows(
        tmp_path, "SELECT sum(length(answer) < 1024), sum(length(answer) > 1024) FROM answers"
    )
    fill(store, 2000, 5, b"x" * 65_536)
    assert [(2,)] == rows(tmp_path, "SELECT count(*) FROM answers")


def test_answers_of_past_days_are_deleted_as_new_ones_come(
    store: AnswerStore, tmp_path: Path, clock: FakeClock
) -> None:
    fill(store, 0, 20)
    clock.us += US_PER_DAY
    fill(store, 100, 3)
    assert [(3,)] == rows(tmp_path, "SELECT count(*) FROM answers")


# Failures


def break_file(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / ANSWERS).write_bytes(b"not a database, " * 1000)


def test_broken_file_is_an_error_that_says_what_to_do_and_is_left_alone(
    store: AnswerStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_file(tmp_path)
    before = (tmp_path / ANSWERS).read_bytes()
    for _ in range(2):
        with pytest.raises(OSError, match=rf"file is not a database; move {ANSWERS}, .*: '{tmp_path}/{ANSWERS}'"):
            store.claim(KEY)
    with pytest.raises(OSError, match="file is not a database"):
        store.remember([(KEY, ANSWER)])
    store.resolve()
    assert before == (tmp_path / ANSWERS).read_bytes()
    assert 1 == len(caplog.messages), "logged once"
    assert "those with an Idempotency-Key are refused: [Errno 5] file is not a database; move" in caplog.messages[0]


def test_file_that_is_broken_while_open_can_be_moved_away(store: AnswerStore, tmp_path: Path) -> None:
    store.claim(KEY)
    break_file(tmp_path)
    with pytest.raises(OSError, match="file is not a database"):
        store.claim(OTHER)
    (tmp_path / ANSWERS).rename(tmp_path / "aside")
    assert store.claim(OTHER) is None
    store.settle(KEY, ANSWER)
    assert ANSWER == store.claim(KEY)


def test_file_that_is_moved_away_while_open_is_made_anew(store: AnswerStore, tmp_path: Path) -> None:
    store.claim(KEY)
    (tmp_path / "aside").mkdir()
    for path in tmp_path.glob(f"{ANSWERS}*"):
        path.rename(tmp_path / "aside" / path.name)
    store.settle(KEY, ANSWER)
    assert [(KEY,)] == rows(tmp_path, "SELECT key FROM answers")


def test_file_of_a_newer_version_is_left_alone(store: AnswerStore, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / ANSWERS)) as db:
        db.execute("PRAGMA user_version = 2")
    before = (tmp_path / ANSWERS).read_bytes()
    with pytest.raises(OSError, match="has format 2, of a newer version of the collector"):
        store.claim(KEY)
    assert before == (tmp_path / ANSWERS).read_bytes()


def test_python_without_sqlite_is_an_error(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(OSError, match=r"this Python lacks a module: .*sqlite3") as raised:
        store.claim(KEY)
    assert errno.ENOSYS == raised.value.errno


@contextmanager
def locked(folder: Path, monkeypatch: pytest.MonkeyPatch, store: AnswerStore) -> Iterator[None]:
    """Another process holds the lock for longer than the store waits."""
    store.close()
    monkeypatch.setattr("collector.journal.answers._BUSY_S", 0.01)
    with closing(sqlite3.connect(folder / ANSWERS, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


def test_answer_that_cannot_be_written_is_kept_and_written_later(
    store: AnswerStore,
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is stamped with the time of the answer."""
    store.claim(KEY)
    with locked(tmp_path, monkeypatch, store):
        store.settle(KEY, ANSWER)
        assert ANSWER == store.claim(KEY), "from memory"
        with pytest.raises(OSError, match="database is locked"):
            store.claim(OTHER)
        assert 1 == len(caplog.messages)
        clock.us += US_PER_DAY
        with pytest.raises(OSError, match="database is locked"):
            store.claim(KEY)
        clock.us -= US_PER_DAY - 5
    assert [] == rows(tmp_path, "SELECT * FROM answers")
    assert store.claim(OTHER) is None
    assert [(KEY, NOON_US, ANSWER)] == rows(tmp_path, "SELECT key, stamp, answer FROM answers")
    assert [OTHER] == claims(tmp_path)


def test_answer_that_cannot_be_written_is_written_at_close(
    store: AnswerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.claim(KEY)
    with locked(tmp_path, monkeypatch, store):
        store.settle(KEY, ANSWER)
    store.close()
    assert [(KEY, ANSWER)] == rows(tmp_path, "SELECT key, answer FROM answers")


def test_claim_that_cannot_be_released_is_deleted_later(
    store: AnswerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.claim(KEY)
    store.claim(OTHER)
    with locked(tmp_path, monkeypatch, store):
        store.release(KEY)
        store.release(OTHER)
    assert store.claim(KEY) is None
    assert [KEY] == claims(tmp_path)


def test_claim_whose_commit_failed_but_is_on_disk_can_be_claimed_again(store: AnswerStore, tmp_path: Path) -> None:
    store.claim(KEY)
    store._in_progress.clear()
    assert store.claim(KEY) is None


def test_claims_of_dead_processes_are_deleted_later_if_resolve_fails(
    store: AnswerStore, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, clock) as dead:
        dead.claim(KEY)
        dead.claim(OTHER)
    with locked(tmp_path, monkeypatch, store):
        store.resolve()
    assert store.claim(KEY) is None
    assert [KEY] == claims(tmp_path)


def test_full_disk_is_an_error_until_there_is_room(store: AnswerStore) -> None:
    """`max_page_count` makes SQLite believe that the disk is full. It holds for one connection."""
    store.claim(KEY)
    connection = store._db
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match="database or disk is full") as raised:
        store.remember([(OTHER, b"x" * 65_536)])
    assert errno.ENOSPC == raised.value.errno
    assert store.claim(OTHER) is None


def test_answer_survives_a_full_disk_in_memory(store: AnswerStore, tmp_path: Path) -> None:
    store.claim(KEY)
    connection = store._db
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 1")
    store.settle(KEY, b"x" * 65_536)
    assert [] == rows(tmp_path, "SELECT * FROM answers")
    assert b"x" * 65_536 == store.claim(KEY)
    assert [(65_536,)] == rows(tmp_path, "SELECT length(answer) FROM answers")


def test_file_without_a_wal_that_another_process_reads_is_an_error_until_it_has_read(
    store: AnswerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that a person has copied there. It gets its WAL when it is free."""
    monkeypatch.setattr("collector.journal.answers._BUSY_S", 0.01)
    with closing(sqlite3.connect(tmp_path / ANSWERS, isolation_level=None)) as db:
        db.execute("CREATE TABLE other (a)")
        db.execute("BEGIN")
        db.execute("SELECT * FROM other").fetchall()
        with pytest.raises(OSError, match="database is locked"):
            store.claim(KEY)
        db.execute("ROLLBACK")
    assert store.claim(KEY) is None
    assert [("wal",)] == rows(tmp_path, "PRAGMA journal_mode")


def test_folder_that_is_moved_takes_the_file_with_it(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process works in data_dir. Nothing is written in its old place, and what is put there is left alone."""
    old, new = tmp_path / "data", tmp_path / "moved"
    old.mkdir()
    monkeypatch.chdir(old)
    with opened(Path(), clock) as store, opened(old, clock) as another:
        store.claim(KEY)
        old.rename(new)
        store.claim(OTHER)
        assert not old.exists()
        old.mkdir()
        another.remember([(KEY, b"another")])
        store.settle(KEY, ANSWER)
        store.close()
        assert [f"{ANSWERS}{end}" for end in ("", "-shm", "-wal")] == sorted(path.name for path in old.iterdir())
        store.release(OTHER)
        assert ANSWER == store.claim(KEY)
        assert b"another" == another.claim(KEY)
    assert [(KEY, ANSWER)] == rows(new, "SELECT key, answer FROM answers")
    assert [] == claims(new)
