"""The journal on disk: grouped commits, changes of segments, limits, and what a failing disk does to all three."""

import asyncio
import threading
from collections.abc import Callable
from errno import EIO, EMFILE, ENOSPC
from pathlib import Path
from typing import Any

import pytest

from collector.events import Event
from collector.journal import journal as module
from collector.journal.buffer import BATCH_BYTES
from collector.journal.journal import Journal
from collector.journal.record import HEADER_BYTES, Record, scan
from collector.journal.segment import Segment, SegmentBroken, SegmentFile, SegmentStore
from collector.metrics import Metrics
from collector.publish.local import Folders
from tests.journal.test_journal import TODAY, make_event
from tests.support import FakeClock


def make_journal(data_dir: Path, segment_max_bytes: int = 10_000, journal_max_bytes: int = 10**9) -> Journal:
    store = SegmentStore(Folders(data_dir), "0", by_site=True, durability="fsync")
    made = Journal(
        store,
        segment_max_bytes=segment_max_bytes,
        journal_max_bytes=journal_max_bytes,
        clock=FakeClock(),
        metrics=Metrics(),
    )
    made.open()
    return made


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return make_journal(tmp_path)


def sites_in_file(segment: Segment) -> list[str]:
    assert segment.path is not None
    with segment.path.open("rb") as file:
        file.seek(HEADER_BYTES)
        return [found.site_id for found in scan(file, segment.id) if isinstance(found, Record)]


def sites_in_memory(segment: Segment) -> list[str]:
    assert segment.columns is not None
    return [site for batch in segment.columns.batches for site in batch["site_id"].to_pylist()]


def fail(exc: Exception) -> Callable[..., Any]:
    def raise_it(*arguments: object) -> None:
        raise exc

    return raise_it


def large_event(text_bytes: int) -> Event:
    """One that becomes columns at once, with so much text in them."""
    event = make_event(size_bytes=BATCH_BYTES)
    event.row[-1] = text_bytes * "x"
    return event


async def test_segment_is_sealed_when_its_columns_are_as_large_as_it_may_be(tmp_path: Path) -> None:
    """What its events are charged for is far more."""
    journal = make_journal(tmp_path, segment_max_bytes=101_000)
    for _ in range(25):
        assert await journal.append(large_event(10_000))
    assert [10, 10] == [segment.rows for segment in journal.sealed]
    await journal.close()


async def test_segment_is_sealed_before_it_takes_all_the_room_there_is(tmp_path: Path) -> None:
    """Or nothing could be taken until the timer seals it."""
    journal = make_journal(tmp_path, segment_max_bytes=10_000, journal_max_bytes=10_000)
    assert all([await journal.append(make_event(size_bytes=1_000)) for _ in range(9)])
    assert [5] == [segment.rows for segment in journal.sealed]
    await journal.close()


class Gate:
    """Holds commits until it is opened, and notes how many events each has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        self.entered, self.opened = threading.Event(), threading.Event()
        commit = SegmentFile.commit

        def held(file: SegmentFile, events: Any) -> None:
            self.groups.append(len(events))
            self.entered.set()
            assert self.opened.wait(10)
            commit(file, events)

        monkeypatch.setattr(SegmentFile, "commit", held)


async def test_event_is_acknowledged_after_its_commit_and_what_comes_meanwhile_shares_the_next(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    first = asyncio.create_task(journal.append(make_event()))
    await asyncio.to_thread(gate.entered.wait, 10)
    later = [asyncio.create_task(journal.append(make_event())) for _ in range(50)]
    await asyncio.sleep(0.02)
    assert (False, 0) == (first.done(), journal.unpublished_rows)
    gate.opened.set()
    assert 51 * [True] == await asyncio.gather(first, *later)
    assert ([1, 50], 51) == (gate.groups, journal.unpublished_rows)
    await journal.close()


async def test_segment_and_its_columns_hold_the_same_events_whenever_it_is_sealed(journal: Journal) -> None:
    """Sealed by the timer and by its size, while events keep coming."""
    sealed: list[Segment] = []

    async def seal() -> None:
        for _ in range(20):
            await journal.seal()
            await asyncio.sleep(0.002)
            for segment in list(journal.sealed):  # at once, so that each keeps its columns
                sealed.append(segment)
                journal.release(segment)

    async def send(sender: int) -> None:
        for number in range(40):
            assert await journal.append(make_event(f"{sender}-{number}"))

    await asyncio.gather(seal(), *(send(sender) for sender in range(20)))
    await journal.close()
    sealed += journal.sealed
    assert len(sealed) > 3
    whole = [segment for segment in sealed if segment.columns is not None]
    assert whole
    for segment in whole:
        assert sites_in_file(segment) == sites_in_memory(segment)
    every = [site for segment in sealed for site in sites_in_file(segment)]
    assert sorted(f"{sender}-{number}" for sender in range(20) for number in range(40)) == sorted(every)


async def test_one_sealed_segment_is_in_memory_and_the_others_on_disk_alone(journal: Journal) -> None:
    for site in "abc":
        await journal.append(make_event(site))
        await journal.seal()
    assert [True, False, False] == [segment.columns is not None for segment in journal.sealed]
    assert [["a"], ["b"], ["c"]] == [sites_in_file(segment) for segment in journal.sealed]
    assert 3 == journal.unpublished_rows
    await journal.close()


async def test_segment_that_is_sealed_while_another_is_read_back_is_on_disk_alone(journal: Journal) -> None:
    """The flush has that one in memory."""
    journal.flush_running = True
    await journal.append(make_event("a"))
    await journal.seal()
    journal.flush_running = False
    await journal.append(make_event("b"))
    await journal.seal()
    assert [False, True] == [segment.columns is not None for segment in journal.sealed]
    assert [["a"], ["b"]] == [sites_in_file(segment) for segment in journal.sealed]
    await journal.close()


async def test_segment_whose_flush_failed_is_on_disk_alone(journal: Journal) -> None:
    """So that a disk which fails for hours does not fill the memory."""
    await journal.append(make_event())
    await journal.seal()
    (segment,) = journal.sealed
    segment.to_disk()
    assert (None, {}, ["a"]) == (segment.columns, segment.rows_of, sites_in_file(segment))
    await journal.append(make_event("b"))
    await journal.seal()
    assert ["b"] == sites_in_memory(journal.sealed[1]), "there is room for the next one"
    await journal.close()


async def test_what_waits_on_disk_is_counted_for_its_sites_and_kept_for_none(journal: Journal) -> None:
    """A day of a failing disk leaves 700 segments; with 10,000 sites in each they took 1.5 GB, and a scrape 2 s."""
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
    second.rows_of = {(TODAY, "a"): 1, (TODAY, "b"): 1, (TODAY, "c-1"): 1}  # as its flush finds them
    journal.release(second)
    assert {"a": 3, "b": 2, "c-0": 1, "c-2": 1} == dict(journal.buffered_by_site())
    for damaged in (first, third):  # a flush that could not read them back
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


async def test_failed_commit_refuses_all_its_events_until_the_disk_is_repaired(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SegmentFile, "commit", fail(OSError(ENOSPC, "No space left on device")))
        assert [False, False] == await asyncio.gather(*(journal.append(make_event()) for _ in range(2)))
    assert (False, 0, 0) == (journal.can_append(), journal.unpublished_rows, journal.unpublished_bytes)
    assert "No space left on device" in (journal.unready_reason() or "")
    with monkeypatch.context() as patch:
        patch.setattr(SegmentFile, "probe", fail(OSError(ENOSPC, "No space left on device")))
        await journal.retry()
        assert not journal.can_append()
    await journal.retry()
    assert await journal.append(make_event())
    await journal.close()
    assert [["a"]] == [sites_in_file(segment) for segment in journal.sealed]


async def test_broken_segment_ends_all_acknowledging(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await journal.append(make_event("kept"))
    with monkeypatch.context() as patch:
        patch.setattr(SegmentFile, "commit", fail(SegmentBroken("fsync failed")))
        assert not await journal.append(make_event())
    assert journal.broken.is_set()
    await journal.retry()
    assert not await journal.append(make_event())
    await journal.close()
    assert [] == journal.sealed, "nothing is flushed by a process that does not know what its file holds"


async def test_fault_of_ours_in_a_commit_leaves_nobody_waiting(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SegmentFile, "commit", fail(RuntimeError("a bug")))
    assert [False, False] == await asyncio.gather(*(journal.append(make_event()) for _ in range(2)))
    assert journal.broken.is_set()
    assert "a bug" in caplog.text


async def test_without_a_next_segment_the_open_one_is_kept_up_to_twice_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what its columns take: 10,000 bytes of text and some 300 of everything else for each of these events."""
    journal = make_journal(tmp_path, segment_max_bytes=101_000)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentStore, "create", fail(OSError(EMFILE, "Too many open files")))
        stored = [await journal.append(large_event(10_000)) for _ in range(25)]
        assert 20 * [True] + 5 * [False] == stored
        assert "no new segment can be made" == journal.unready_reason()
        await journal.retry()
        assert not journal.sealed
    await journal.retry()
    assert [20] == [segment.rows for segment in journal.sealed]
    assert await journal.append(make_event())
    await journal.close()


async def test_journal_that_could_not_be_opened_is_opened_when_it_can(tmp_path: Path) -> None:
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


async def test_limits_refuse_and_a_release_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make_journal(tmp_path, 10_000, 25_000)
    stored = [await journal.append(make_event()) for _ in range(30)]
    assert ([True] * 25 + [False] * 5, "the journal is full") == (stored, journal.unready_reason())
    journal.release(journal.sealed[0])
    assert await journal.append(make_event())
    await journal.close()


async def test_what_waits_for_the_disk_is_bounded(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX_BYTES", 10 * (1_000 + module.WAITING_EVENT_BYTES))
    gate = Gate(monkeypatch)
    waiting = [asyncio.create_task(journal.append(make_event())) for _ in range(15)]
    await asyncio.to_thread(gate.entered.wait, 10)
    assert "too many events wait for the disk" == journal.unready_reason()
    gate.opened.set()
    assert 10 * [True] + 5 * [False] == await asyncio.gather(*waiting)
    assert journal.can_append()
    await journal.close()


async def test_request_that_is_given_up_costs_no_other_event(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    given_up, other = (asyncio.create_task(journal.append(make_event())) for _ in range(2))
    await asyncio.to_thread(gate.entered.wait, 10)
    given_up.cancel()
    gate.opened.set()
    assert await other
    assert 2 == journal.unpublished_rows, "it is in the file, so it is in the buffer"
    await journal.close()


async def test_stop_in_a_change_of_segments_lets_it_finish(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor of a segment that is being sealed must not be closed twice."""
    entered, may_go_on = threading.Event(), threading.Event()
    seal = SegmentFile.seal

    def held(file: SegmentFile) -> None:
        entered.set()
        assert may_go_on.wait(10)
        seal(file)

    await journal.append(make_event())
    monkeypatch.setattr(SegmentFile, "seal", held)
    sealing = asyncio.create_task(journal.seal())
    await asyncio.to_thread(entered.wait, 10)
    sealing.cancel()
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0.01)
    may_go_on.set()
    await closing
    assert [1] == [segment.rows for segment in journal.sealed]
    assert not journal.broken.is_set()


async def test_sync_of_a_sealed_segment_keeps_no_answer_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With durability `write` it waits until the kernel has written up to 64 MiB."""
    may_go_on = threading.Event()
    seal = SegmentFile.seal

    def held(file: SegmentFile) -> None:
        assert may_go_on.wait(10)
        seal(file)

    monkeypatch.setattr(SegmentFile, "seal", held)
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
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are in parts; on a slow disk a queue of such syncs held a stop up, and kept their descriptors."""
    synced: list[int] = []
    monkeypatch.setattr("collector.journal.segment.sync_data", synced.append)
    may_go_on = threading.Event()
    journal._seal_thread.submit(may_go_on.wait, 10)
    await journal.append(make_event())
    before = len(synced)
    await journal.seal()
    journal.release(journal.sealed[0])
    may_go_on.set()
    await journal.close()
    assert before + 1 == len(synced), "the last one, which is open, alone"


async def test_sealed_segments_that_wait_for_their_sync_are_bounded(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    journal._seal_thread.submit(may_go_on.wait, 10)
    for _ in range(module.SEALING_MAX):
        await journal.append(make_event())
        await journal.seal()
    await journal.append(make_event())
    sealing = asyncio.create_task(journal.seal())
    # Nothing tells that it waits. Without the bound it is done in some 10 ms, which a busy machine makes longer.
    await asyncio.wait([sealing], timeout=1)
    assert (module.SEALING_MAX, False) == (len(journal.sealed), sealing.done())
    may_go_on.set()
    await sealing
    assert module.SEALING_MAX + 1 == len(journal.sealed)
    await journal.close()


async def test_segment_that_has_lost_its_name_stays_in_memory_beside_another(journal: Journal) -> None:
    """What is in memory is all there is of it. A close looks for itself: nobody may have looked since."""
    await journal.append(make_event("a"))
    await journal.seal()
    for site, end in (("b", journal.seal), ("c", journal.close)):
        await journal.append(make_event(site))
        assert journal._file is not None
        journal._file.path.unlink()
        await end()
    assert [["a"], ["b"], ["c"]] == [sites_in_memory(segment) for segment in journal.sealed]
    assert [True, False, False] == [segment.has_file() for segment in journal.sealed]


async def test_look_refuses_until_another_segment_is_open(journal: Journal) -> None:
    assert journal._file is not None
    await journal.look()
    assert journal.can_append()
    await journal.append(make_event("a"))
    journal._file.path.unlink()
    await journal.look()
    assert (journal.unready_reason() or "").endswith("is gone: it was moved or deleted")
    await journal.retry()
    assert await journal.append(make_event("b"))
    assert [["a"]] == [sites_in_memory(segment) for segment in journal.sealed]
    await journal.close()


async def test_failed_sync_of_a_sealed_segment_breaks_the_journal(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events can still be published from memory; no further one is acknowledged."""
    monkeypatch.setattr(SegmentFile, "seal", fail(SegmentBroken("fsync failed")))
    await journal.append(make_event())
    await journal.seal()
    async with asyncio.timeout(5):
        await journal.broken.wait()
    assert not await journal.append(make_event())
    assert [["a"]] == [sites_in_memory(segment) for segment in journal.sealed]
    await journal.close()


async def test_close_commits_what_waits_and_leaves_no_empty_segment(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    waiting = asyncio.create_task(journal.append(make_event()))
    await asyncio.sleep(0)
    await journal.close()
    await journal.close()  # once is enough
    assert (True, [1]) == (await waiting, [segment.rows for segment in journal.sealed])
    empty = make_journal(tmp_path / "other")
    await empty.close()
    assert ([], []) == (empty.sealed, list((tmp_path / "other").rglob("*.segment")))


async def test_empty_segment_that_cannot_be_deleted_is_no_obstacle_to_a_stop(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is sealed is still to be published; the next start finds nothing in the empty one, and deletes it."""
    await journal.append(make_event())
    await journal.seal()
    monkeypatch.setattr(SegmentStore, "release", fail(OSError(EIO, "Input/output error")))
    await journal.close()
    assert ([1], False) == ([segment.rows for segment in journal.sealed], journal.broken.is_set())
    assert "an empty segment is left to the next start" in caplog.text
