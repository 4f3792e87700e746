"""The journal: where an accepted event becomes a stored one.

One segment is open. Its commits are grouped: while one is running the next gathers, and an event is stored when its
commit is done. Sealing the segment and taking its buffer is one step, between two commits, so that the events of a
segment and the parts of its flush are the same set. What is not yet published counts against one limit, and at each of
its limits the journal refuses rather than grow.

With durability `memory` there is no file, and an event is stored when it is in the buffer.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from time import perf_counter
from typing import TypeVar

from collector.clock import Clock
from collector.events import Event
from collector.journal.buffer import Buffer
from collector.journal.segment import Segment, SegmentBroken, SegmentFile, SegmentStore
from collector.metrics import Metrics
from collector.parts.writer import Group
from collector.threads import UNJOINED

log = logging.getLogger(__name__)

# How long a commit waits for company. It costs a hop to the thread and a sync, whatever it holds: at 5,000 events a
# second 56 us of CPU time per event without waiting and 44 with (bench/commit.py). Nobody watches a beacon's answer.
GATHER_S = 0.002

# What may wait for a commit: 20,000 events of 1 KB, or a second's worth of a busy collector.
WAITING_MAX_BYTES = 64 << 20
WAITING_EVENT_BYTES = 2_048  # of a waiting event's values and its future, beyond what it is charged for as a row

# Events that one turn of the event loop takes over from a commit, their answers sent: some 1 ms.
TAKEN_OVER_AT_ONCE = 64

# Sealed segments that wait for their last sync: then the next one waits to be sealed, and commits behind it.
SEALING_MAX = 4

# One segment open, one being flushed, one copied by its sort, one waiting: the memory a collector may take for events.
MEMORY_SEGMENTS = 4

T = TypeVar("T")

OnCommit = Callable[[bool], object]
"""Called once with whether an event is stored; must not raise."""


class Journal:
    """Takes events, and hands out sealed segments. The event loop's thread owns it."""

    def __init__(
        self,
        store: SegmentStore,
        *,
        segment_max_bytes: int,
        journal_max_bytes: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.in_memory = store.durability == "memory"  # then what is not published dies with the process
        self._store = store
        self._segment_max_bytes = segment_max_bytes
        in_memory_bytes = MEMORY_SEGMENTS * segment_max_bytes
        self.max_bytes = min(journal_max_bytes, in_memory_bytes) if self.in_memory else journal_max_bytes
        self._clock = clock
        self._metrics = metrics
        self._buffer = Buffer()
        self._file: SegmentFile | None = None
        self._waiting: list[tuple[Event, OnCommit]] = []
        self._committing: Iterator[tuple[Event, OnCommit]] = iter(())  # whose `on_commit` has not been called yet
        self._waiting_bytes = 0  # of both
        self._committer: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # of the file: a commit, a change of segments, a probe
        # A thread of its own: what is acknowledged must not wait for a flush, nor for anybody else.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        # Nor for the sync of a sealed segment: with durability `write` up to 64 MiB of it are still to be written.
        self._seal_thread = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: dict[asyncio.Task[None], SegmentFile] = {}
        self._sealed_bytes = 0
        self._sealed_rows = 0
        self._sealed_rows_of: Counter[str] = Counter()  # by site, left-over segments aside
        self._failing: str | None = None  # why the last write failed
        self._misplaced: str | None = None  # why the open segment would be lost at a kill
        self._overdue = False  # the open segment should be sealed, but no next one could be made
        self._closed = False
        self.opened_ns = clock.monotonic_ns()
        self.sealed: list[Segment] = []
        self.disk_free_bytes = 0  # as of the last look
        self.blocked_reason: str | None = None  # what keeps events from being taken, for a person; None: nothing
        self.flush_due = asyncio.Event()
        self.flush_running = False  # of a sealed segment, whose events are in memory meanwhile
        self.broken = asyncio.Event()  # nothing can be acknowledged any more: the process should end

    def open(self) -> None:
        """Make the first segment. Blocks; raises OSError, and then `retry` tries again; or SegmentBroken."""
        if not self.in_memory:
            self._failing = "the journal is not open"
            self._file = self._store.create()
            self._failing = None

    def adopt(self, segments: list[Segment]) -> None:
        """Take over the segments of dead processes as sealed ones."""
        self.sealed += segments
        self._sealed_bytes += sum(self._charge(segment) for segment in segments)
        self.flush_due.set()

    def can_append(self) -> bool:
        """Whether an event would be taken now."""
        return self.unready_reason() is None

    async def append(self, event: Event) -> bool:
        """Store the event: True once it is as safe as `durability` says, False if it is not stored."""
        if self.unready_reason() is not None:
            return False
        committed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # Its request may have been given up, and the future with it.
        self.submit(event, lambda stored: None if committed.done() else committed.set_result(stored))
        return await committed

    def submit(self, event: Event, on_commit: OnCommit) -> None:
        """Store the event; `unready_reason` must be None. `on_commit` gets whether it is stored, maybe at once."""
        if self.in_memory:
            self._buffer.append(event)
            if self._filled() >= 1:
                self._take_buffer()
            on_commit(True)
            return
        self._waiting.append((event, on_commit))
        self._waiting_bytes += event.size_bytes + WAITING_EVENT_BYTES
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_rounds())

    async def seal(self) -> None:
        """Close the open segment, if it holds anything, and open the next."""
        self.opened_ns = self._clock.monotonic_ns()
        if self.in_memory:
            self._take_buffer()
            return
        await self._in_turn(self._change_segments)

    async def look(self) -> None:
        """See whether the open segment is where it was made. To be called every second or so, and `retry` after it.

        Its events are still in memory; they are published from there, and the next ones go to another segment.
        """
        file = self._file
        if file is None or await asyncio.get_running_loop().run_in_executor(UNJOINED, file.has_its_name):
            return
        if self._file is file and not self._closed:
            self._found_misplaced(file)

    async def retry(self) -> None:
        """Try again what failed: to write, to make a segment. To be called every second or so."""
        if not self.in_memory and (self._failing or self._overdue or self._misplaced):
            await self._in_turn(self._try_again)

    def release(self, segment: Segment) -> None:
        """Forget a sealed segment, all of whose parts are published and whose file is deleted."""
        self.sealed.remove(segment)
        for file in self._sealing.values():
            file.is_released = file.is_released or file.id == segment.id
        self._sealed_bytes -= self._charge(segment)
        self._sealed_rows -= segment.rows
        if not self._sealed_rows:
            self._sealed_rows_of.clear()  # with what could not be read back, if there was such
        elif not segment.left_over:
            self._sealed_rows_of -= _by_site(segment.rows_of)

    def put_last(self, segment: Segment) -> None:
        """Let the other sealed segments go first."""
        self.sealed.remove(segment)
        self.sealed.append(segment)

    async def close(self) -> None:
        """Take no more events, finish the commits, and seal what there is."""
        if self._closed:
            return
        self._closed = True
        if self._committer is not None:
            await asyncio.wait([self._committer])
        await self._turn.acquire()  # for good: nothing may touch the file any more
        if self._sealing:
            await asyncio.wait(set(self._sealing))
        if self.in_memory:
            self._take_buffer()
        elif self._file is not None and not self.broken.is_set():
            file, self._file = self._file, None
            try:
                if not await self._in_thread(file.has_its_name):
                    self._found_misplaced(file)
                await self._in_thread(file.seal)
            except SegmentBroken as exc:
                self._fail(exc)
            else:
                if self._buffer.rows:
                    self._take_buffer(file)
                else:
                    try:
                        await self._in_thread(self._store.release, file.path)
                    except OSError as exc:
                        log.warning("an empty segment is left to the next start: %s", exc)
        self._thread.shutdown(wait=False)
        self._seal_thread.shutdown(wait=False)

    @property
    def unpublished_bytes(self) -> int:
        """What waits in the open segment and the sealed ones is charged for."""
        return self._buffer.size_bytes + self._sealed_bytes + self._waiting_bytes

    @property
    def unpublished_rows(self) -> int:
        """Stored events that are in no part yet; those of left-over segments are not known."""
        return self._buffer.rows + self._sealed_rows

    def buffered_by_site(self) -> Counter[str]:
        """How many events of each site are not yet published, left-over segments aside."""
        return self._sealed_rows_of + _by_site(self._buffer.rows_of)

    def _filled(self) -> float:
        """By what it takes as columns, since the larger a segment, the larger its parts, and of many sites small parts
        are most of what an event costs. By half of all there is room for, where that is less, so the next can begin.
        """
        buffer = self._buffer
        if self.in_memory:
            return buffer.size_bytes / self._segment_max_bytes
        return max(buffer.held_bytes / self._segment_max_bytes, 2 * buffer.size_bytes / self.max_bytes)

    def unready_reason(self) -> str | None:
        """Why no event would be taken now, for a person; None if it would."""
        if self._closed:
            return "draining"
        if self.blocked_reason is not None or self._failing is not None:
            return self.blocked_reason or self._failing
        if self._misplaced is not None:
            return self._misplaced
        if self._buffer.size_bytes + self._sealed_bytes + self._waiting_bytes >= self.max_bytes:
            return "the buffers are full" if self.in_memory else "the journal is full"
        if self._waiting_bytes >= WAITING_MAX_BYTES:
            return "too many events wait for the disk"
        if self._overdue and self._buffer.held_bytes >= 2 * self._segment_max_bytes:
            return "no new segment can be made"
        return None

    async def _commit_rounds(self) -> None:
        """Commit what waits, round after round, until nothing does."""
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_S)
                async with self._turn:
                    await self._commit()
                    if self._filled() >= 1 and not self._overdue:
                        await self._change_segments()
        except BaseException as exc:
            # A fault of ours. What was committed is in the journal; the next process takes it from there.
            self._fail(SegmentBroken(f"{type(exc).__name__}: {exc}"))
            for _, on_commit in (*self._committing, *self._waiting):
                on_commit(False)
            raise
        finally:
            self._committer = None

    async def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        self._committing = iter(group)
        started = perf_counter()
        stored = not self.broken.is_set()
        if stored:
            assert self._file is not None  # without one nothing is taken
            try:
                await self._in_thread(self._file.commit, [event for event, _ in group])
            except (OSError, SegmentBroken) as exc:
                self._fail(exc)
                stored = False
        self._metrics.commits.labels("done" if stored else "failed").inc()
        self._metrics.commit_seconds.observe(perf_counter() - started)
        for start in range(0, len(group), TAKEN_OVER_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            for event, on_commit in islice(self._committing, TAKEN_OVER_AT_ONCE):
                on_commit(stored)
                self._waiting_bytes -= event.size_bytes + WAITING_EVENT_BYTES
                if stored:
                    self._buffer.append(event)

    async def _in_turn(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step that touches the file. A caller that is cancelled does not leave it half done."""

        async def taken() -> None:
            async with self._turn:
                await step()

        await asyncio.shield(asyncio.create_task(taken()))

    async def _try_again(self) -> None:
        if self._closed or self.broken.is_set():
            return
        try:
            if self._file is None:
                self._file = await self._in_thread(self._store.create)
            elif self._failing:
                await self._in_thread(self._file.probe)
        except (OSError, SegmentBroken) as exc:
            self._fail(exc)
            return
        if self._failing:
            log.info("the journal can be written again")
            self._failing = None
        if self._overdue or self._misplaced:
            await self._change_segments()

    async def _change_segments(self) -> None:
        """Seal the open segment, the next one already made."""
        if self._file is None or self.broken.is_set() or not (self._buffer.rows or self._misplaced):
            return
        if len(self._sealing) >= SEALING_MAX:
            await asyncio.wait(set(self._sealing), return_when=asyncio.FIRST_COMPLETED)
        try:
            if not await self._in_thread(self._file.has_its_name):
                self._found_misplaced(self._file)
            fresh = await self._in_thread(self._store.create)
        except OSError as exc:
            if not self._overdue:
                log.warning("no new segment can be made; the open one is kept: %s", exc)
            self._overdue = True
            return
        except SegmentBroken as exc:
            self._fail(exc)
            return
        sealed, self._file = self._file, fresh
        self._take_buffer(sealed)
        self._overdue = False
        self._misplaced = None
        sealing = asyncio.create_task(self._seal(sealed))
        self._sealing[sealing] = sealed
        sealing.add_done_callback(self._sealing.pop)

    async def _seal(self, file: SegmentFile) -> None:
        """Sync a segment that takes no more events; its flush need not wait for that."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._seal_thread, file.seal)
        except SegmentBroken as exc:
            self._fail(exc)

    def _take_buffer(self, file: SegmentFile | None = None) -> None:
        """Make a sealed segment of the buffer, if it holds anything."""
        self.opened_ns = self._clock.monotonic_ns()
        buffer, self._buffer = self._buffer, Buffer()
        if not buffer.rows:
            return
        segment = Segment(
            file.id if file else self._store.new_id(),
            file.path if file else None,
            self._store.by_site,
            buffer.size_bytes,
            buffer.rows_of,
            buffer.columns(),
        )
        if not self._misplaced and (self.flush_running or any(other.columns for other in self.sealed)):
            # One in memory is enough, be it one that a flush has read back; this one will be read from its file.
            segment.to_disk()
        self.sealed.append(segment)
        self._sealed_bytes += self._charge(segment)
        self._sealed_rows += segment.rows
        self._sealed_rows_of += _by_site(buffer.rows_of)
        self.flush_due.set()

    def _charge(self, segment: Segment) -> int:
        """What it counts for against the limit: with durability `memory` left-over files do not."""
        return segment.size_bytes if self.in_memory is (segment.path is None) else 0

    def _found_misplaced(self, file: SegmentFile) -> None:
        why = f"the open segment {file.path} is gone: it was moved or deleted"
        if why != self._misplaced:
            log.error("refusing events: %s", why)
        self._misplaced = why

    def _fail(self, exc: OSError | SegmentBroken) -> None:
        why = f"the journal cannot be written: {exc}"
        if isinstance(exc, SegmentBroken):
            log.critical("no event can be acknowledged any more: %s", exc)
            self.broken.set()
        elif why != self._failing:
            log.error("refusing events: %s", why)
        self._failing = why

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _by_site(rows_of: Mapping[Group, int]) -> Counter[str]:
    """The rows of each site, on whatever day."""
    by_site: Counter[str] = Counter()
    for (_, site_id), rows in rows_of.items():
        by_site[site_id] += rows
    return by_site
