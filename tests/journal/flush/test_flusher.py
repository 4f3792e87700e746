"""The flusher: when it flushes, in which order, and that a failure loses nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from collector.journal.flush.flusher import FIRST_RETRY_S, LONGEST_RETRY_S, Flusher, FlushSegment
from collector.journal.flush.rejects import Rejected, RejectedStore, Rejects
from collector.journal.journal import Journal
from collector.journal.segment import Segment, SegmentStore
from collector.metrics import Metrics
from collector.parts.section import Part
from collector.parts.writer import PartWriter
from collector.publish.local import Folders
from tests.journal.test_journal import make_event, make_journal, turns
from tests.support import NOON_US, FakeClock, read_rows

INTERVAL_S = 1_000


class FlakyWriter:
    """A fake disk: fails `failures` times, and records what is written otherwise."""

    def __init__(self) -> None:
        self.failures = 0
        self.broken = 0  # segments with this many rows always fail
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


class WatchedClock(FakeClock):
    """A fake clock that counts who is asleep."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeping = 0

    async def sleep(self, seconds: float) -> None:
        self.sleeping += 1
        try:
            await super().sleep(seconds)
        finally:
            self.sleeping -= 1


class WatchedFlusher(Flusher):
    """A flusher that counts how many flushes have begun and ended."""

    begun = ended = 0

    async def flush(self) -> bool:
        self.begun += 1
        try:
            return await super().flush()
        finally:
            self.ended += 1


class Bench:
    """A flusher with its journal, a disk that can fail, and a clock to set."""

    def __init__(self, data_dir: Path, journal: Journal, clock: FakeClock, *, rejected_max_bytes: int = 10**9) -> None:
        self.journal, self.clock, self.disk, self.metrics = journal, clock, FlakyWriter(), Metrics()
        self.flush_segment: FlushSegment = self.disk  # runs in the flush thread; tests may replace it
        self.recovered: Callable[[], None] = lambda: None  # likewise
        self.rejects = Rejects(enabled=True)
        self.writer = PartWriter(Folders(data_dir), "0", compression="zstd")
        self.writer.prepare()
        self.flusher = WatchedFlusher(
            journal,
            lambda segment: self.flush_segment(segment),
            self.rejects,
            RejectedStore(self.writer, rejected_max_bytes),
            interval_s=INTERVAL_S,
            clock=clock,
            metrics=self.metrics,
            recovered=lambda: self.recovered(),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.flusher.run())
        await turns()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settled()

    async def settled(self) -> None:
        """Wait until everything that is due is done."""
        flusher, ended = self.flusher, -1
        while ended != flusher.begun:  # a flush that ends in the last of these turns has not gone to sleep yet
            await until(lambda: flusher.ended == flusher.begun)
            ended = flusher.ended
            await turns()

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def rejected(self) -> tuple[float | None, float | None]:
        """How many invalid events were kept, and lost."""
        kept, lost = (self.count(f"collector_rejected_{fate}_events_total") for fate in ("kept", "lost"))
        return kept, lost


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that a thread brings about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is no event
            await asyncio.sleep(0.001)


@pytest.fixture
def clock() -> WatchedClock:
    return WatchedClock()


@pytest.fixture
def bench(tmp_path: Path, clock: WatchedClock) -> Bench:
    return Bench(tmp_path, make_journal(clock=clock), clock)


def kept_in_files(data_dir: Path, clock: FakeClock) -> Bench:
    """A bench whose journal has files."""
    store = SegmentStore(Folders(data_dir), "0", by_site=True, durability="write")
    journal = Journal(store, segment_max_bytes=10_000, journal_max_bytes=10**9, clock=clock, metrics=Metrics())
    journal.open()
    return Bench(data_dir, journal, clock)


async def test_timer_flushes_the_open_segment(bench: Bench) -> None:
    async with bench.running():
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S - 1)
        assert [] == bench.disk.written
        await bench.pass_time(1)
        assert [1] == bench.disk.written
        assert (0, 0) == (bench.journal.unpublished_rows, bench.journal.unpublished_bytes)
        await bench.pass_time(INTERVAL_S)
        assert [1] == bench.disk.written, "an empty buffer makes no segment"


async def test_journal_knows_that_a_flush_is_running(bench: Bench) -> None:
    seen = []

    def look(segment: Segment) -> list[Part]:
        seen.append(bench.journal.flush_running)
        return bench.disk(segment)

    bench.flush_segment = look
    async with bench.running():
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        assert [True] == seen
        assert not bench.journal.flush_running


async def test_timer_that_wakes_early_sleeps_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding can wake it a nanosecond early. The flush must not wait for another interval."""
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
        assert [10] == bench.disk.written, "later events wait for the timer"
        await bench.pass_time(INTERVAL_S)
        assert [10, 1] == bench.disk.written


async def test_failed_flush_keeps_its_events_and_is_retried_with_back_off(bench: Bench) -> None:
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


async def test_failing_segment_does_not_delay_others(bench: Bench) -> None:
    """Neither their flush nor the timer that seals the next one."""
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
    """Segments left by a dead process."""
    return [Segment(f"{n:016x}", Path(str(n)), True, 0, {}, None, left_over=True) for n in range(count)]


async def test_failing_disk_is_retried_with_one_segment_of_many(bench: Bench) -> None:
    """Reading all of them back each time would waste CPU time. Once one succeeds, all follow."""
    backlog, tried = on_disk(5), list[str]()
    bench.disk.failures, bench.disk.broken = 3, -1

    def flush(segment: Segment) -> list[Part]:
        tried.append(segment.id[-1])
        return bench.disk(segment)

    bench.flush_segment = flush
    async with bench.running():
        bench.journal.adopt(backlog)
        await bench.settled()
        assert ["0"] == tried
        for wait_s in (FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S):
            await bench.pass_time(wait_s)
        assert ["0", "1", "2", "3", "4", "0", "1", "2"] == tried
        assert [] == bench.journal.sealed


async def test_segment_on_disk_that_always_fails_is_logged_and_does_not_delay_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    poison, *others = on_disk(4)
    bench.disk.broken = -1

    def flush(segment: Segment) -> list[Part]:
        if segment is poison:
            raise OSError(5, "Input/output error")
        return bench.disk(segment)

    bench.flush_segment = flush
    async with bench.running():
        bench.journal.adopt([poison, *others])
        await bench.settled()
        assert [*others, poison] == bench.journal.sealed
        assert f"keeping the events of left-over segment {poison.id} in the journal" in caplog.text
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        assert ([poison], 1) == (bench.journal.sealed, bench.disk.written.count(1))


async def test_events_are_accepted_while_a_flush_fails_and_keep_their_order(bench: Bench) -> None:
    async with bench.running():
        bench.disk.failures = 1
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        for _ in range(12):
            assert await bench.journal.append(make_event())
        await bench.pass_time(FIRST_RETRY_S)
        assert [1, 10] == bench.disk.written, "the failed segment first, then the one that filled up meanwhile"
        await bench.pass_time(INTERVAL_S)
        assert [1, 10, 2] == bench.disk.written


async def test_drain_publishes_everything_and_closes_the_journal(bench: Bench) -> None:
    await bench.journal.append(make_event())
    await bench.journal.seal()
    await bench.journal.append(make_event())
    assert 0 == await bench.flusher.drain(15)
    assert ([1, 1], False) == (bench.disk.written, bench.journal.can_append())


@pytest.mark.parametrize(("failures", "lost"), [(3, 0), (1_000, 2)])
async def test_drain_retries_a_failing_disk_until_its_time_is_up(
    bench: Bench, clock: WatchedClock, failures: int, lost: int
) -> None:
    for _ in range(2):
        await bench.journal.append(make_event())
    bench.disk.failures = failures
    drained = asyncio.create_task(bench.flusher.drain(15))
    for _ in range(40):
        await until(lambda: drained.done() or clock.sleeping)
        if drained.done():
            break
        clock.advance(FIRST_RETRY_S)
        await turns()
    assert lost == await drained


async def test_drain_leaves_a_long_backlog_to_the_next_start_but_none_of_its_own_events(bench: Bench) -> None:
    """Left-over segments can wait for another start."""
    backlog = on_disk(5)
    bench.journal.adopt(backlog)
    await bench.journal.append(make_event())
    flushed: list[Segment] = []

    def slowly(segment: Segment) -> list[Part]:
        bench.clock.advance(10)
        flushed.append(segment)
        return []

    bench.flush_segment = slowly
    assert 0 == await bench.flusher.drain(15)
    assert (backlog[:1], backlog[1:]) == (flushed[1:], bench.journal.sealed)


async def test_drain_does_not_wait_for_a_failing_backlog(bench: Bench) -> None:
    """The backlog is retried only while this process has events of its own to publish."""
    backlog = on_disk(2)
    bench.disk.broken = 0  # left-over segments count as having no rows
    bench.journal.adopt(backlog)
    await bench.journal.append(make_event())
    async with asyncio.timeout(10):  # of real time; the clock stands still
        assert 0 == await bench.flusher.drain(15)
    assert ([1], {*backlog}) == (bench.disk.written, {*bench.journal.sealed})


class Hanging:
    """A flush that hangs, as if in the kernel, until a test lets it make progress."""

    def __init__(self, bench: Bench) -> None:
        self._write = bench.disk
        self._released = threading.Semaphore(0)
        self._goes_on, self.has_begun, self.steps = False, False, 0
        bench.flush_segment = self

    def __call__(self, segment: Segment) -> list[Part]:
        self.has_begun = True
        while self._released.acquire(timeout=10) and not self._goes_on:
            self.steps += sum(range(1_000)) > 0
        return self._write(segment)

    async def step(self) -> None:
        """Let it use a little CPU time."""
        steps = self.steps
        self._released.release()
        await until(lambda: self.steps > steps)

    def go_on(self) -> None:
        """Let it run to its end."""
        self._goes_on = True
        self._released.release()


@pytest.mark.parametrize("when", ["before the stop", "in the stop"])
async def test_drain_gives_up_on_a_flush_that_hangs(tmp_path: Path, clock: WatchedClock, when: str) -> None:
    """Unpublished events are in the journal, so a stop need not wait for a disk that may never respond."""
    bench = kept_in_files(tmp_path, clock)
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    if when == "before the stop":
        async with bench.running():
            clock.advance(INTERVAL_S)
            await until(lambda: hanging.has_begun)
        assert 0 == clock.sleeping
    drained = asyncio.create_task(bench.flusher.drain(15))
    await until(lambda: hanging.has_begun and clock.sleeping)
    clock.advance(14)
    await turns()
    assert not drained.done()
    for _ in range(2):  # when first measured, the thread may still have been on its way to the hang
        clock.advance(15)
        await turns()
    assert drained.done()
    hanging.go_on()
    with pytest.raises(TimeoutError):
        await drained


async def test_drain_waits_for_a_flush_that_makes_progress_however_slowly(tmp_path: Path, clock: WatchedClock) -> None:
    bench = kept_in_files(tmp_path, clock)
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    drained = asyncio.create_task(bench.flusher.drain(15))
    await until(lambda: hanging.has_begun and clock.sleeping)
    for _ in range(5):
        await hanging.step()
        clock.advance(15)
        await turns()
    assert (5, False) == (hanging.steps, drained.done())
    hanging.go_on()
    assert 0 == await drained
    assert [1] == bench.disk.written


async def test_drain_waits_for_a_flush_that_hangs_if_its_events_would_be_lost(bench: Bench) -> None:
    """With durability `memory`."""
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    drained = asyncio.create_task(bench.flusher.drain(15))
    await until(lambda: hanging.has_begun)
    for _ in range(3):
        bench.clock.advance(15)
        await turns()
    assert not drained.done()
    hanging.go_on()
    assert 0 == await drained
    assert [1] == bench.disk.written


async def test_stop_during_a_flush_lets_it_finish_and_writes_nothing_twice(bench: Bench) -> None:
    """The thread cannot be interrupted, so its work must be counted, and not repeated."""
    hanging = Hanging(bench)
    await bench.journal.append(make_event())
    async with bench.running():
        bench.clock.advance(INTERVAL_S)
        await until(lambda: hanging.has_begun)
        bench.rejects.keep("a", Rejected(NOON_US, "why", b"what"))
    drained = asyncio.create_task(bench.flusher.drain(15))
    await turns()
    hanging.go_on()
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


async def test_end_of_the_recovery_is_told_once_in_the_flush_thread(bench: Bench) -> None:
    """After the last segment of a dead process is published, whatever becomes of the process's own."""
    told: list[tuple[str, int]] = []
    bench.recovered = lambda: told.append((threading.current_thread().name, len(bench.disk.written)))
    bench.disk.failures, bench.disk.broken = 1, -1
    async with bench.running():
        bench.journal.adopt(on_disk(3))
        await bench.settled()
        assert [] == told
        await bench.pass_time(FIRST_RETRY_S)
        assert [("flush_0", 3)] == told
        await bench.journal.append(make_event())
        await bench.pass_time(INTERVAL_S)
        assert 1 == len(told)


async def test_recovery_of_nothing_ends_with_the_first_flush(bench: Bench) -> None:
    told: list[None] = []
    bench.recovered = lambda: told.append(None)
    async with bench.running():
        bench.journal.adopt([])
        await bench.settled()
    assert [None] == told


async def test_end_of_the_recovery_is_told_again_if_that_failed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    told: list[None] = []

    def fail_once() -> None:
        told.append(None)
        if len(told) == 1:
            raise OSError(5, "Input/output error")

    bench.recovered = fail_once
    for _ in range(3):
        await bench.flusher.flush()
    assert 2 == len(told)
    assert "the recovery could not be completed" in caplog.text


async def test_drain_that_ends_the_recovery_tells_it(bench: Bench) -> None:
    told: list[None] = []
    bench.recovered = lambda: told.append(None)
    bench.disk.broken = -1
    bench.journal.adopt(on_disk(2))
    assert 0 == await bench.flusher.drain(15)
    assert [None] == told
