"""Flushing: when, in which order, and what a failure costs (nothing)."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collector.journal.flush.flusher import FIRST_RETRY_S, LONGEST_RETRY_S, Flusher
from collector.journal.flush.rejects import Rejected, RejectedStore, Rejects
from collector.journal.journal import Journal
from collector.journal.segment import Segment, SegmentStore
from collector.metrics import Metrics
from collector.parts.writer import Part, PartWriter
from collector.publish.local import Folders
from tests.journal.test_journal import make_event, make_journal
from tests.support import NOON_US, FakeClock, read_rows

INTERVAL_S = 1_000


class FlakyWriter:
    """Stands for the disk: fails as often as it is told, and remembers the rest."""

    def __init__(self) -> None:
        self.failures = 0
        self.broken = 0  # segments of so many rows always fail
        self.tried = 0
        self.written: list[int] = []

    def __call__(self, segment: Segment) -> list[Part]:
        self.tried += 1
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        if segment.rows == self.broken:
            raise OSError(20, "Not a directory")
        self.written.append(segment.rows)
        return [Part(Path("x"), segment.rows, 100)]


class Bench:
    """A flusher with its journal, a disk that can fail, and a clock to set."""

    def __init__(self, data_dir: Path, journal: Journal, clock: FakeClock) -> None:
        self.journal, self.clock, self.disk, self.metrics = journal, clock, FlakyWriter(), Metrics()
        self.rejects = Rejects(enabled=True)
        writer = PartWriter(Folders(data_dir), "0", compression="zstd")
        writer.prepare()
        self.rejected_store = RejectedStore(writer, 10**9)
        self.flusher = Flusher(
            journal,
            self.disk,
            self.rejects,
            self.rejected_store,
            interval_s=INTERVAL_S,
            clock=clock,
            metrics=self.metrics,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.flusher.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settled()

    async def settled(self) -> None:
        """What is due is done, however slow the machine is."""
        await settle()
        while self.flusher._running is not None and not self.flusher._running.done():
            await asyncio.wait([self.flusher._running])
            await settle()

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def rejected(self) -> tuple[float | None, float | None]:
        """How many invalid events were kept, and lost."""
        kept, lost = (self.count(f"collector_rejected_{fate}_events_total") for fate in ("kept", "lost"))
        return kept, lost


async def settle() -> None:
    """Let the loop and the flush thread finish what they can: nothing here waits for real time to pass."""
    for _ in range(20):
        await asyncio.sleep(0.001)


@pytest.fixture
def bench(tmp_path: Path, clock: FakeClock) -> Bench:
    return Bench(tmp_path, make_journal(clock=clock), clock)


def kept_in_files(data_dir: Path, clock: FakeClock) -> Bench:
    """The same with a journal of files."""
    store = SegmentStore(Folders(data_dir), "0", by_site=True, durability="write")
    journal = Journal(store, segment_max_bytes=10_000, journal_max_bytes=10**9, clock=clock, metrics=Metrics())
    journal.open()
    return Bench(data_dir, journal, clock)


async def test_timer_flushes_what_is_buffered(bench: Bench) -> None:
    async with bench.running():
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S - 1)
        assert [] == bench.disk.written
        await bench.pass_time(1)
        assert [1] == bench.disk.written
        assert (0, 0) == (bench.journal.unpublished_rows, bench.journal.unpublished_bytes)
        await bench.pass_time(INTERVAL_S)
        assert [1] == bench.disk.written, "an empty buffer is no segment"


async def test_journal_knows_that_a_flush_is_running(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(segment: Segment) -> list[Part]:
        seen.append(bench.journal.flush_running)
        return bench.disk(segment)

    monkeypatch.setattr(bench.flusher, "_flush_segment", look)
    async with bench.running():
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        assert [True] == seen
        assert not bench.journal.flush_running


async def test_timer_that_wakes_early_is_waited_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a nanosecond, as a rounded time can; the flush must not wait for another interval."""
    sleep = bench.clock.sleep
    monkeypatch.setattr(bench.clock, "sleep", lambda seconds: sleep(max(0, seconds - 1e-9)))
    async with bench.running():
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S - 1e-9)
        await bench.pass_time(1e-9)
        assert [1] == bench.disk.written


async def test_full_segment_is_flushed_before_its_time(bench: Bench) -> None:
    async with bench.running():
        for _ in range(11):
            await bench.journal.append(make_event())
        await bench.settled()
        assert [10] == bench.disk.written, "and only that: what came after it waits for its own time"
        await bench.pass_time(INTERVAL_S)
        assert [10, 1] == bench.disk.written


async def test_failed_flush_keeps_its_events_and_is_tried_again_with_back_off(bench: Bench) -> None:
    async with bench.running():
        await bench.journal.append(make_event())
        bench.disk.failures = 9
        await bench.pass_time(INTERVAL_S)
        tried_after = [bench.disk.tried]
        wait_s = FIRST_RETRY_S
        while bench.disk.failures:
            await bench.pass_time(wait_s - 0.01)
            assert tried_after[-1] == bench.disk.tried, "not before its time"
            await bench.pass_time(0.01)
            tried_after.append(bench.disk.tried)
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)
        assert (1, []) == (bench.journal.unpublished_rows, bench.disk.written)
        await bench.pass_time(LONGEST_RETRY_S)
        assert [1] == bench.disk.written
        assert list(range(1, 10)) == tried_after
        assert 9 == bench.count("collector_flushes_total", outcome="failed")
        assert 1 == bench.count("collector_flushes_total", outcome="published")


async def test_segment_that_fails_keeps_back_no_other(bench: Bench) -> None:
    """Nor does it keep the timer from sealing the next one."""
    bench.disk.broken = 1
    async with bench.running():
        for rows in (1, 2, 3):
            for _ in range(rows):
                await bench.journal.append(make_event())
            await bench.pass_time(INTERVAL_S)
        assert [2, 3] == bench.disk.written
        assert 1 == bench.journal.unpublished_rows
        bench.disk.broken = 0
        await bench.pass_time(LONGEST_RETRY_S)
        assert [2, 3, 1] == bench.disk.written


def on_disk(count: int) -> list[Segment]:
    """Segments that a dead process left."""
    return [Segment(f"{n:016x}", Path(str(n)), True, 0, {}, None, left_over=True) for n in range(count)]


async def test_disk_that_fails_is_tried_with_one_segment_of_many(bench: Bench) -> None:
    """To read all of them back each time would keep the machine busy for nothing; once one succeeds all follow."""
    backlog, tried = on_disk(5), list[str]()
    bench.disk.failures, bench.disk.broken = 3, -1

    def flush(segment: Segment) -> list[Part]:
        tried.append(segment.id[-1])
        return bench.disk(segment)

    bench.flusher._flush_segment = flush
    async with bench.running():
        bench.journal.adopt(backlog)
        await bench.settled()
        assert ["0"] == tried
        for wait_s in (FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S):
            await bench.pass_time(wait_s)
        assert ["0", "1", "2", "3", "4", "0", "1", "2"] == tried
        assert [] == bench.journal.sealed


async def test_segment_on_disk_that_always_fails_keeps_back_no_other_and_is_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    poison, *others = on_disk(4)
    bench.disk.broken = -1

    def flush(segment: Segment) -> list[Part]:
        if segment is poison:
            raise OSError(5, "Input/output error")
        return bench.disk(segment)

    bench.flusher._flush_segment = flush
    async with bench.running():
        bench.journal.adopt([poison, *others])
        await bench.settled()
        assert [*others, poison] == bench.journal.sealed
        assert f"the events of left-over segment {poison.id} stay in the journal" in caplog.text
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        assert ([poison], 1) == (bench.journal.sealed, bench.disk.written.count(1))


async def test_events_keep_coming_while_a_flush_fails_and_order_is_kept(bench: Bench) -> None:
    async with bench.running():
        bench.disk.failures = 1
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        for _ in range(12):
            assert await bench.journal.append(make_event())
        await bench.pass_time(FIRST_RETRY_S)
        assert [1, 10] == bench.disk.written, "the failed one first, then the one that filled up meanwhile"
        await bench.pass_time(INTERVAL_S)
        assert [1, 10, 2] == bench.disk.written


async def test_drain_publishes_everything_and_closes_the_journal(bench: Bench) -> None:
    await bench.journal.append(make_event())
    await bench.journal.seal()
    await bench.journal.append(make_event())
    assert 0 == await bench.flusher.drain(15)
    assert ([1, 1], False) == (bench.disk.written, bench.journal.can_append())


@pytest.mark.parametrize(("failures", "lost"), [(3, 0), (1_000, 2)])
async def test_drain_tries_a_failing_disk_until_its_patience_is_over(bench: Bench, failures: int, lost: int) -> None:
    for _ in range(2):
        await bench.journal.append(make_event())
    bench.disk.failures = failures
    drained = asyncio.create_task(bench.flusher.drain(15))
    for _ in range(40):
        await settle()
        bench.clock.advance(FIRST_RETRY_S)
        if drained.done():
            break
    assert lost == await drained


async def test_drain_leaves_a_long_backlog_to_the_next_start_but_none_of_its_own_events(bench: Bench) -> None:
    """Left-over segments have waited for a process once, and can again."""
    backlog = on_disk(5)
    bench.journal.adopt(backlog)
    await bench.journal.append(make_event())
    flushed: list[Segment] = []

    def slowly(segment: Segment) -> list[Part]:
        bench.clock.advance(10)
        flushed.append(segment)
        return []

    bench.flusher._flush_segment = slowly
    assert 0 == await bench.flusher.drain(15)
    assert (backlog[:1], backlog[1:]) == (flushed[1:], bench.journal.sealed)


async def test_drain_is_not_held_up_by_a_backlog_that_fails(bench: Bench) -> None:
    """It is tried again while there are events of this process to publish, and no longer."""
    backlog = on_disk(2)
    bench.disk.broken = 0  # rows, as far as is known
    bench.journal.adopt(backlog)
    await bench.journal.append(make_event())
    async with asyncio.timeout(10):  # of real time; the clock stands still
        assert 0 == await bench.flusher.drain(15)
    assert ([1], {*backlog}) == (bench.disk.written, {*bench.journal.sealed})


class Hanging:
    """A flush that the kernel holds: it does nothing until it is let go, but for what it is told to."""

    def __init__(self, bench: Bench) -> None:
        self._write = bench.disk.__call__
        self._told = threading.Semaphore(0)
        self._goes_on, self.steps = False, 0
        bench.flusher._flush_segment = self

    def __call__(self, segment: Segment) -> list[Part]:
        while self._told.acquire(timeout=10) and not self._goes_on:
            self.steps += sum(range(1_000)) > 0
        return self._write(segment)

    def step(self) -> None:
        """Get on a little."""
        self._told.release()

    def go_on(self) -> None:
        """Get on to the end."""
        self._goes_on = True
        self._told.release()


@pytest.mark.parametrize("when", ["before the stop", "in the stop"])
async def test_drain_gives_up_on_a_flush_that_hangs(tmp_path: Path, clock: FakeClock, when: str) -> None:
    """What is not published is in the journal; a stop must not wait for a disk that does not come back."""
    bench = kept_in_files(tmp_path, clock)
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    if when == "before the stop":
        async with bench.running():
            bench.clock.advance(INTERVAL_S)
            await settle()
    drained = asyncio.create_task(bench.flusher.drain(15))
    await settle()
    bench.clock.advance(14)
    await settle()
    assert not drained.done()
    for _ in range(2):  # the thread may have been about to hang when it was first looked at
        bench.clock.advance(15)
        await settle()
    with pytest.raises(TimeoutError):
        await drained
    hanging.go_on()


async def test_drain_waits_for_a_flush_that_gets_on_however_slowly(tmp_path: Path, clock: FakeClock) -> None:
    bench = kept_in_files(tmp_path, clock)
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    drained = asyncio.create_task(bench.flusher.drain(15))
    for _ in range(5):
        await settle()
        hanging.step()
        await settle()
        bench.clock.advance(15)
    await settle()
    assert (5, False) == (hanging.steps, drained.done())
    hanging.go_on()
    assert 0 == await drained
    assert [1] == bench.disk.written


async def test_drain_waits_for_a_flush_that_hangs_where_its_events_would_be_lost(bench: Bench) -> None:
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    drained = asyncio.create_task(bench.flusher.drain(15))
    for _ in range(3):
        await settle()
        bench.clock.advance(15)
    await settle()
    assert not drained.done()
    hanging.go_on()
    assert 0 == await drained
    assert [1] == bench.disk.written


async def test_stop_within_a_flush_lets_it_finish_and_writes_nothing_twice(bench: Bench) -> None:
    """The thread cannot be stopped, so what it did must be counted, and not done again."""
    may_go_on = threading.Event()
    write = bench.disk.__call__
    bench.flusher._flush_segment = lambda segment: write(segment) if may_go_on.wait(10) else []
    await bench.journal.append(make_event())
    async with bench.running():
        bench.clock.advance(INTERVAL_S)
        await settle()
        bench.rejects.keep("a", Rejected(NOON_US, "why", b"what"))
    drained = asyncio.create_task(bench.flusher.drain(15))
    await settle()
    may_go_on.set()
    assert 0 == await drained
    assert [1] == bench.disk.written
    assert 1 == bench.count("collector_published_events_total")
    assert 1 == bench.count("collector_rejected_kept_events_total")


async def test_rejects_are_written_with_the_flush_and_never_stop_it(bench: Bench, tmp_path: Path) -> None:
    async with bench.running():
        bench.rejects.keep("a", Rejected(NOON_US, "why", b"what"))
        await bench.pass_time(INTERVAL_S)
        assert [("why", "what")] == [(row["message"], row["body"]) for row in read_rows(tmp_path / "rejected")]
        (tmp_path / "rejected" / "site=b").write_text("in the way")
        bench.rejects.keep("b", Rejected(NOON_US, "why", b"what"))
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        assert [1] == bench.disk.written
        assert (1, 1) == bench.rejected()
