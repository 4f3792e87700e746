"""The journal on disk: grouped commits, changes of segments, limits, and how each copes with a failing disk."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from errno import EIO, EMFILE, ENOSPC
from pathlib import Path
from typing import Any

import pytest

from collector.events import Event
from collector.journal import journal as module
from collector.journal.buffer import BATCH_BYTES
from collector.journal.journal import Journal
from collector.journal.record import HEADER_BYTES, EncodedBatch, Record, scan
from collector.journal.segment import Segment, SegmentBroken, SegmentFile, SegmentStore
from collector.metrics import Metrics
from collector.publish.local import Folders
from tests.journal.test_journal import TODAY, make_event, turns
from tests.support import FakeClock


class Store(SegmentStore):
    """A real store. `instead` can replace some of its calls, and of those of its files, by name."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(Folders(data_dir), "0", by_site=True, durability="fsync")
        self.instead: dict[str, Callable[..., Any]] = {}

    def run(self, name: str, real: Callable[..., Any], *arguments: object) -> Any:
        """Make the call, or its replacement, which gets the real call and its arguments."""
        ours = self.instead.get(name)
        return real(*arguments) if ours is None else ours(real, *arguments)

    @contextmanager
    def replaced(self, **calls: Callable[..., Any]) -> Iterator[None]:
        self.instead |= calls
        try:
            yield
        finally:
            self.instead.clear()

    def create(self) -> SegmentFile:
        return File(self.run("create", super().create), self)

    def release(self, path: Path) -> None:
        self.run("release", super().release, path)


class File(SegmentFile):
    """A real file, opened by its store."""

    def __init__(self, made: SegmentFile, store: Store) -> None:
        super().__init__(made.path, made._descriptor, made.id, fsync=True)
        self._store = store

    def encode(self, events: Iterable[Event]) -> bytes:
        encoded: bytes = self._store.run("encode", super().encode, events)
        return encoded

    def commit(self, records: bytes, batch: EncodedBatch | None = None) -> None:
        self._store.run("commit", super().commit, records, batch)

    def probe(self) -> None:
        self._store.run("probe", super().probe)

    def seal(self) -> None:
        self._store.run("seal", super().seal)


def make_journal(
    data_dir: Path,
    segment_max_bytes: int = 10_000,
    journal_max_bytes: int = 10**9,
    store: Store | None = None,
    metrics: Metrics | None = None,
) -> Journal:
    made = Journal(
        store or Store(data_dir),
        segment_max_bytes=segment_max_bytes,
        journal_max_bytes=journal_max_bytes,
        clock=FakeClock(),
        metrics=metrics or Metrics(),
    )
    made.open()
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def journal(tmp_path: Path, store: Store) -> Journal:
    return make_journal(tmp_path, store=store)


def sites_in_file(segment: Segment) -> list[str]:
    assert segment.path is not None
    with segment.path.open("rb") as file:
        file.seek(HEADER_BYTES)
        return [found.site_id for found in scan(file, segment.id) if isinstance(found, Record)]


def sites_in_memory(segment: Segment) -> list[str]:
    assert segment.buffer is not None
    batches = [batch for section in segment.buffer.sections for batch in section.decode()]
    return [site for batch in batches for site in batch["site_id"].to_pylist()]


def fail(exc: Exception) -> Callable[..., Any]:
    def raise_it(*arguments: object) -> None:
        raise exc

    return raise_it


def segment_files(data_dir: Path) -> list[Path]:
    return sorted(data_dir.rglob("*.segment"))


def open_file(data_dir: Path, journal: Journal) -> Path:
    """The file of the open segment."""
    (path,) = {*segment_files(data_dir)} - {segment.path for segment in journal.sealed}
    return path


def held(store: Store, call: str) -> tuple[threading.Event, threading.Event]:
    """Hold a call. The first event is set when one begins; set the second to let all go on."""
    entered, may_go_on = threading.Event(), threading.Event()

    def hold(real: Callable[[], Any]) -> Any:
        entered.set()
        assert may_go_on.wait(10)
        return real()

    store.instead[call] = hold
    return entered, may_go_on


async def idle(journal: Journal) -> None:
    """Wait until the journal's thread has nothing to do. It runs one call at a time; no step here needs over four."""
    for _ in range(4):
        await turns()
        await journal._commit_thread.call(int)


def large_event(text_bytes: int) -> Event:
    """An event that becomes columns at once, with this much text in them."""
    event = make_event(size_bytes=BATCH_BYTES)
    event.row[-2] = text_bytes * "x"
    return event


async def test_segment_is_sealed_when_its_columns_reach_the_limit(tmp_path: Path) -> None:
    """The charge of its events is far higher, and does not matter."""
    journal = make_journal(tmp_path, segment_max_bytes=100_000)
    for _ in range(25):
        assert await journal.append(large_event(10_000))
    assert [10, 10] == [segment.rows for segment in journal.sealed]
    await journal.close()


async def test_segment_is_sealed_when_it_takes_half_of_the_journals_limit(tmp_path: Path) -> None:
    """Otherwise it could fill the journal, which would then refuse all events until the timer seals it."""
    journal = make_journal(tmp_path, segment_max_bytes=10_000, journal_max_bytes=10_000)
    assert all([await journal.append(make_event(size_bytes=1_000)) for _ in range(9)])
    assert [5] == [segment.rows for segment in journal.sealed]
    await journal.close()


class Gate:
    """Holds commits until it is opened, and records how many events each has."""

    def __init__(self, store: Store) -> None:
        self.groups: list[int] = []
        self.entered, self.opened = threading.Event(), threading.Event()
        store.instead["commit"] = self._hold

    def _hold(self, commit: Callable[..., None], records: bytes, batch: EncodedBatch | None) -> None:
        pieces = (records, *(batch.records if batch else ()))
        self.groups.append(sum(piece.count(b"\xffREC") for piece in pieces))
        self.entered.set()
        assert self.opened.wait(10)
        commit(records, batch)


async def test_event_is_acknowledged_after_its_commit_and_later_ones_share_the_next(
    journal: Journal, store: Store
) -> None:
    gate = Gate(store)
    first = asyncio.create_task(journal.append(make_event()))
    await asyncio.to_thread(gate.entered.wait, 10)
    later = [asyncio.create_task(journal.append(make_event())) for _ in range(50)]
    await turns()
    assert (False, 0) == (first.done(), journal.unpublished_rows)
    gate.opened.set()
    assert 51 * [True] == await asyncio.gather(first, *later)
    assert ([1, 50], 51) == (gate.groups, journal.unpublished_rows)
    await journal.close()


async def test_large_group_is_encoded_in_turns_and_committed_as_one(
    journal: Journal, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding all that waited for a slow disk at once would block the event loop."""
    monkeypatch.setattr(module, "ENCODED_AT_ONCE_BYTES", 10_000)
    gate = Gate(store)
    gate.opened.set()
    turn, turns_used = 0, set[int]()

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def note_turn(encode: Callable[[Iterable[Event]], bytes], events: Iterable[Event]) -> bytes:
        turns_used.add(turn)
        return encode(events)

    store.instead["encode"] = note_turn
    counting = asyncio.create_task(count_turns())
    appended = [journal.append(make_event(f"site-{number}")) for number in range(25)]
    assert 25 * [True] == await asyncio.gather(*appended)
    counting.cancel()
    assert ([25], 3) == (gate.groups, len(turns_used))
    await journal.close()
    assert [[f"site-{number}" for number in range(25)]] == [sites_in_file(segment) for segment in journal.sealed]


async def test_segment_and_its_columns_hold_the_same_events_whenever_it_is_sealed(journal: Journal) -> None:
    """Sealed by the timer and by its size, while events keep coming."""
    sealed: list[Segment] = []
    senders: list[asyncio.Task[None]] = []

    async def seal() -> None:
        while not all(sender.done() for sender in senders):
            await journal.seal()
            await asyncio.sleep(0)
            for segment in list(journal.sealed):  # released at once, so that the next one keeps its columns
                sealed.append(segment)
                journal.release(segment)

    async def send(sender: int) -> None:
        for number in range(40):
            assert await journal.append(make_event(f"{sender}-{number}"))

    senders += [asyncio.create_task(send(sender)) for sender in range(20)]
    await asyncio.gather(seal(), *senders)
    await journal.close()
    sealed += journal.sealed
    assert len(sealed) > 3
    whole = [segment for segment in sealed if segment.buffer is not None]
    assert whole
    for segment in whole:
        assert sorted(sites_in_file(segment)) == sorted(sites_in_memory(segment))
    every = [site for segment in sealed for site in sites_in_file(segment)]
    assert sorted(f"{sender}-{number}" for sender in range(20) for number in range(40)) == sorted(every)


async def test_only_one_sealed_segment_is_kept_in_memory(journal: Journal) -> None:
    for site in "abc":
        await journal.append(make_event(site))
        await journal.seal()
    assert [True, False, False] == [segment.buffer is not None for segment in journal.sealed]
    assert [["a"], ["b"], ["c"]] == [sites_in_file(segment) for segment in journal.sealed]
    assert 3 == journal.unpublished_rows
    await journal.close()


async def test_segment_sealed_during_a_flush_is_not_kept_in_memory(journal: Journal) -> None:
    """The flush may have read its own segment back into memory."""
    journal.flush_running = True
    await journal.append(make_event("a"))
    await journal.seal()
    journal.flush_running = False
    await journal.append(make_event("b"))
    await journal.seal()
    assert [False, True] == [segment.buffer is not None for segment in journal.sealed]
    assert [["a"], ["b"]] == [sites_in_file(segment) for segment in journal.sealed]
    await journal.close()


async def test_segment_whose_flush_failed_is_not_kept_in_memory(journal: Journal) -> None:
    """Otherwise a disk that fails for hours would fill the memory."""
    await journal.append(make_event())
    await journal.seal()
    (segment,) = journal.sealed
    segment.to_disk()
    assert (None, {}, ["a"]) == (segment.buffer, segment.rows_of, sites_in_file(segment))
    await journal.append(make_event("b"))
    await journal.seal()
    assert ["b"] == sites_in_memory(journal.sealed[1]), "there is room for the next one"
    await journal.close()


async def test_segments_on_disk_share_one_count_of_rows_by_site(journal: Journal) -> None:
    """After a day of a failing disk, counts for each of 700 segments and 10,000 sites took 1.5 GB, and a scrape 2 s."""
    for number in range(3):
        for site in ("a", "b", f"c-{number}"):
            await journal.append(make_event(site))
        await journal.seal()
    await journal.append(make_event("a"))
    first, second, third = journal.sealed
    assert [3, 0, 0] == [len(segment.rows_of) for segment in (first, second, third)], "one in memory is enough"
    first.to_disk()
    every = {"a": 4, "b": 3, "c-0": 1, "c-1": 1, "c-2": 1}
    assert (every, 10) == (dict(journal.buffered_by_site()), journal.unpublished_rows)
    second.rows_of = {(TODAY, "a"): 1, (TODAY, "b"): 1, (TODAY, "c-1"): 1}  # as counted by its flush
    journal.release(second)
    assert {"a": 3, "b": 2, "c-0": 1, "c-2": 1} == dict(journal.buffered_by_site())
    for damaged in (first, third):  # their flushes could not read them back
        journal.release(damaged)
    assert ({"a": 1}, 1) == (dict(journal.buffered_by_site()), journal.unpublished_rows)
    await journal.close()


async def test_segments_of_dead_processes_count_against_the_limit(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, journal_max_bytes=10_000)
    left = Segment("00000000000000aa", tmp_path / "left", True, 10_000, {}, None, left_over=True)
    journal.adopt([left])
    assert (False, "the journal is full") == (journal.can_append(), journal.unready_reason())
    journal.release(left)
    assert (True, 0) == (journal.can_append(), journal.unpublished_bytes)
    await journal.close()


async def test_failed_commit_refuses_all_its_events_until_the_disk_is_repaired(journal: Journal, store: Store) -> None:
    with store.replaced(commit=fail(OSError(ENOSPC, "No space left on device"))):
        assert [False, False] == await asyncio.gather(*(journal.append(make_event()) for _ in range(2)))
    assert (False, 0, 0) == (journal.can_append(), journal.unpublished_rows, journal.unpublished_bytes)
    assert "No space left on device" in (journal.unready_reason() or "")
    with store.replaced(probe=fail(OSError(ENOSPC, "No space left on device"))):
        await journal.retry()
        assert not journal.can_append()
    await journal.retry()
    assert await journal.append(make_event())
    await journal.close()
    assert [["a"]] == [sites_in_file(segment) for segment in journal.sealed]


async def test_nothing_is_acknowledged_after_a_segment_broke(journal: Journal, store: Store) -> None:
    assert await journal.append(make_event("kept"))
    with store.replaced(commit=fail(SegmentBroken("fsync failed"))):
        assert not await journal.append(make_event())
    assert journal.broken.is_set()
    await journal.retry()
    assert not await journal.append(make_event())
    await journal.close()
    assert [] == journal.sealed, "a process that does not know what its file holds flushes nothing"


async def test_bug_in_a_commit_leaves_no_event_waiting(
    journal: Journal, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.instead["commit"] = fail(RuntimeError("a bug"))
    assert [False, False] == await asyncio.gather(*(journal.append(make_event()) for _ in range(2)))
    assert journal.broken.is_set()
    assert "a bug" in caplog.text


async def test_without_a_next_segment_the_open_one_is_kept_up_to_twice_its_size(tmp_path: Path, store: Store) -> None:
    """Measured as columns: each of these events takes 10,000 bytes of text, and little else."""
    journal = make_journal(tmp_path, segment_max_bytes=100_000, store=store)
    with store.replaced(create=fail(OSError(EMFILE, "Too many open files"))):
        stored = [await journal.append(large_event(10_000)) for _ in range(25)]
        assert 20 * [True] + 5 * [False] == stored
        assert "no new segment can be made" == journal.unready_reason()
        await journal.retry()
        assert not journal.sealed
    await journal.retry()
    assert [20] == [segment.rows for segment in journal.sealed]
    assert await journal.append(make_event())
    await journal.close()


async def test_journal_that_could_not_be_opened_is_opened_by_a_retry(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()  # in the way
    with pytest.raises(OSError, match="journal"):
        make_journal(tmp_path)
    (tmp_path / "journal").unlink()
    store = SegmentStore(Folders(tmp_path), "0", by_site=True, durability="write")
    journal = Journal(store, segment_max_bytes=10**6, journal_max_bytes=10**9, clock=FakeClock(), metrics=Metrics())
    (tmp_path / "journal").touch()
    with pytest.raises(OSError, match="journal"):
        journal.open()
    assert not await journal.append(make_event())
    (tmp_path / "journal").unlink()
    await journal.retry()
    assert await journal.append(make_event())
    await journal.close()


async def test_full_journal_refuses_events_until_a_release(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, 10_000, 25_000)
    stored = [await journal.append(make_event()) for _ in range(30)]
    assert ([True] * 25 + [False] * 5, "the journal is full") == (stored, journal.unready_reason())
    journal.release(journal.sealed[0])
    assert await journal.append(make_event())
    await journal.close()


async def test_events_that_wait_for_the_disk_are_limited(
    journal: Journal, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX_BYTES", 10 * (1_000 + module.WAITING_EVENT_BYTES))
    gate = Gate(store)
    waiting = [asyncio.create_task(journal.append(make_event())) for _ in range(15)]
    await asyncio.to_thread(gate.entered.wait, 10)
    assert "too many events wait for the disk" == journal.unready_reason()
    gate.opened.set()
    assert 10 * [True] + 5 * [False] == await asyncio.gather(*waiting)
    assert journal.can_append()
    await journal.close()


async def test_cancelled_request_harms_no_other_event(journal: Journal, store: Store) -> None:
    gate = Gate(store)
    given_up, other = (asyncio.create_task(journal.append(make_event())) for _ in range(2))
    await asyncio.to_thread(gate.entered.wait, 10)
    given_up.cancel()
    gate.opened.set()
    assert await other
    assert 2 == journal.unpublished_rows, "the cancelled event is in the file, so it is in the buffer"
    await journal.close()


async def test_stop_in_a_change_of_segments_lets_it_finish(journal: Journal, tmp_path: Path, store: Store) -> None:
    """Otherwise the new file would stay, and its descriptor would never be closed."""
    entered, may_go_on = held(store, "create")
    await journal.append(make_event())
    sealing = asyncio.create_task(journal.seal())
    await asyncio.to_thread(entered.wait, 10)
    sealing.cancel()
    closing = asyncio.create_task(journal.close())
    may_go_on.set()
    await closing
    assert [1] == [segment.rows for segment in journal.sealed]
    assert [segment.path for segment in journal.sealed] == segment_files(tmp_path)
    assert not journal.broken.is_set()


async def test_close_waits_for_the_sync_of_sealed_segments(journal: Journal, store: Store) -> None:
    await journal.append(make_event())
    _, may_go_on = held(store, "seal")
    await journal.seal()
    closing = asyncio.create_task(journal.close())
    await idle(journal)
    assert not closing.done()
    may_go_on.set()
    await closing
    assert [1] == [segment.rows for segment in journal.sealed]


async def test_sync_of_a_sealed_segment_delays_no_acknowledgement(journal: Journal, store: Store) -> None:
    """With durability `write`, the sync waits until the kernel has written up to 64 MiB."""
    _, may_go_on = held(store, "seal")
    try:
        await journal.append(make_event())
        sealing = asyncio.create_task(journal.seal())
        async with asyncio.timeout(5):
            while not journal.sealed:  # noqa: ASYNC110 - a turn of the loop, until the segments are changed
                await asyncio.sleep(0)
            assert await journal.append(make_event("b"))
            await sealing
    finally:
        may_go_on.set()
    await journal.close()
    assert [["a"], ["b"]] == [sites_in_file(segment) for segment in journal.sealed]


async def test_segment_that_is_released_before_its_sync_is_not_synced(
    journal: Journal, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are in parts. On a slow disk, a queue of such syncs delayed a stop and held descriptors open."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append, raising=False)
    _, may_go_on = held(store, "seal")
    await journal.append(make_event())
    before = len(synced)
    await journal.seal()
    journal.release(journal.sealed[0])
    may_go_on.set()
    await journal.close()
    assert before + 1 == len(synced), "only the open segment is synced"


async def test_sealed_segments_that_wait_for_their_sync_are_limited(journal: Journal, store: Store) -> None:
    _, may_go_on = held(store, "seal")
    for _ in range(module.SEALING_MAX):
        await journal.append(make_event())
        await journal.seal()
    await journal.append(make_event())
    sealing = asyncio.create_task(journal.seal())
    await idle(journal)
    assert (module.SEALING_MAX, False) == (len(journal.sealed), sealing.done())
    may_go_on.set()
    await sealing
    assert module.SEALING_MAX + 1 == len(journal.sealed)
    await journal.close()


async def test_segment_without_a_file_stays_in_memory_next_to_another(journal: Journal, tmp_path: Path) -> None:
    """Its events exist only in memory. `close` checks the file itself, since the last `look` may be too old."""
    await journal.append(make_event("a"))
    await journal.seal()
    for site, end in (("b", journal.seal), ("c", journal.close)):
        await journal.append(make_event(site))
        open_file(tmp_path, journal).unlink()
        await end()
    assert [["a"], ["b"], ["c"]] == [sites_in_memory(segment) for segment in journal.sealed]
    assert [True, False, False] == [segment.has_file() for segment in journal.sealed]


async def test_journal_refuses_after_its_file_is_gone_until_another_is_open(journal: Journal, tmp_path: Path) -> None:
    await journal.look()
    assert journal.can_append()
    await journal.append(make_event("a"))
    open_file(tmp_path, journal).unlink()
    await journal.look()
    assert (journal.unready_reason() or "").endswith("is gone: it was moved or deleted")
    await journal.retry()
    assert await journal.append(make_event("b"))
    assert [["a"]] == [sites_in_memory(segment) for segment in journal.sealed]
    await journal.close()


async def test_failed_sync_of_a_sealed_segment_breaks_the_journal(journal: Journal, store: Store) -> None:
    """Its events can still be published from memory. No further event is acknowledged."""
    store.instead["seal"] = fail(SegmentBroken("fsync failed"))
    await journal.append(make_event())
    await journal.seal()
    async with asyncio.timeout(5):
        await journal.broken.wait()
    assert not await journal.append(make_event())
    assert [["a"]] == [sites_in_memory(segment) for segment in journal.sealed]
    await journal.close()


async def test_failed_commits_are_counted_as_failed(tmp_path: Path, store: Store) -> None:
    metrics = Metrics()
    journal = make_journal(tmp_path, store=store, metrics=metrics)

    def commits(outcome: str) -> float | None:
        return metrics.registry.get_sample_value("collector_journal_commits_total", {"outcome": outcome})

    with store.replaced(commit=fail(OSError(ENOSPC, "No space left on device"))):
        assert not await journal.append(make_event())
    assert (0, 1) == (commits("done"), commits("failed"))
    await journal.retry()
    assert await journal.append(make_event())
    assert (1, 1) == (commits("done"), commits("failed"))
    await journal.close()


async def test_close_ends_the_threads_of_the_journal(tmp_path: Path) -> None:
    others = set(threading.enumerate())
    journal = make_journal(tmp_path)
    assert await journal.append(make_event())
    await journal.seal()
    await idle(journal)
    own = [thread for thread in set(threading.enumerate()) - others if thread.name in ("journal", "seal")]
    assert ["journal", "seal"] == sorted(thread.name for thread in own)
    await journal.close()
    for thread in own:
        await asyncio.to_thread(thread.join, 10)
    assert [False, False] == [thread.is_alive() for thread in own]


async def test_close_commits_what_waits_and_leaves_no_empty_segment(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    waiting = asyncio.create_task(journal.append(make_event()))
    await asyncio.sleep(0)
    await journal.close()
    await journal.close()  # a second call does nothing
    assert (True, [1]) == (await waiting, [segment.rows for segment in journal.sealed])
    empty = make_journal(tmp_path / "other")
    await empty.close()
    assert ([], []) == (empty.sealed, segment_files(tmp_path / "other"))


async def test_close_succeeds_even_if_the_empty_segment_cannot_be_deleted(
    journal: Journal, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Sealed segments must still be published. The next start finds the empty one, and deletes it."""
    await journal.append(make_event())
    await journal.seal()
    store.instead["release"] = fail(OSError(EIO, "Input/output error"))
    await journal.close()
    assert ([1], False) == ([segment.rows for segment in journal.sealed], journal.broken.is_set())
    assert "cannot delete the empty open segment; the next start will" in caplog.text
