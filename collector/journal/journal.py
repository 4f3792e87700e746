"""The journal: makes accepted events durable, before they are acknowledged.

One segment is open at a time. Commits are grouped: while one runs, events gather for the next. An event is stored when
its commit has finished. A batch of events is the end of its commit, so it is in one segment, or in none. The journal
seals a segment and takes its buffer in one step, between two commits, so the parts of a flush hold exactly the
segment's events. All unpublished events count against one limit. At each of its limits, the journal refuses events
instead of growing.

With durability `memory` there is no file: an event is stored as soon as it is in the buffer, and a batch once all its
events are.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from time import perf_counter
from typing import Final

from collector.clock import Clock
from collector.events import Event
from collector.journal.buffer import Buffer
from collector.journal.record import EncodedBatch
from collector.journal.segment import Segment, SegmentBroken, SegmentFile, SegmentStore, count_by_site
from collector.journal.submission import AwaitedSubmission, BatchSubmission, Submission
from collector.metrics import Metrics
from collector.threads import UNJOINED, CallThread

log = logging.getLogger(__name__)

# How long a commit waits for more events. Every commit costs a thread switch and a sync, whatever its size. At 5,000
# events/s, waiting lowers the CPU time per event from 56 us to 44 us (bench/commit.py). No user waits for a beacon.
GATHER_S = 0.002

# The most that may wait for a commit: 20,000 events of 1 KB, about a second of a busy collector.
WAITING_MAX_BYTES = 64 << 20
WAITING_EVENT_BYTES: Final = 2_048  # memory of a waiting event's values and its future, on top of its charge as a row

# After a commit, one turn of the event loop answers and buffers at most this many events, in at most 1 ms.
TAKEN_OVER_AT_ONCE = 64

# Before a commit, one turn of the event loop encodes events of about this charge: some 200 of 1 KB.
ENCODED_AT_ONCE_BYTES = 256 << 10

# At most this many sealed segments wait for their last sync. After that, sealing waits, and so do commits.
SEALING_MAX = 4

# Memory for events, in segments: one open, one being flushed, one being copied by the sort, and one waiting.
MEMORY_SEGMENTS = 4


class Journal:
    """Stores events, and hands out sealed segments. The event loop's thread owns it."""

    def __init__(
        self,
        store: SegmentStore,
        *,
        segment_max_bytes: int,
        journal_max_bytes: int,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.in_memory = store.durability == "memory"  # then unpublished events are lost when the process ends
        self._store = store
        self._segment_max_bytes = segment_max_bytes
        in_memory_bytes = MEMORY_SEGMENTS * segment_max_bytes
        self.max_bytes = min(journal_max_bytes, in_memory_bytes) if self.in_memory else journal_max_bytes
        self._clock = clock
        self._commits_done, self._commits_failed = metrics.commits.labels("done"), metrics.commits.labels("failed")
        self._commit_seconds = metrics.commit_seconds
        self._buffer = self._new_buffer()
        self._file: SegmentFile | None = None
        self._waiting: list[Submission] = []
        # Each batch that waits, with the events that came before it: one commit each.
        self._waiting_batches: deque[tuple[list[Submission], BatchSubmission]] = deque()
        self._committing: Iterator[Submission] = iter(())  # those whose `done` has not been called yet
        self._committing_batch: BatchSubmission | None = None  # likewise
        self._waiting_bytes = 0  # of all these
        self._committer: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # guards the file: held for a commit, a change of segments, or a probe
        # A separate thread, so that acknowledgements wait for neither a flush nor any other work.
        self._commit_thread = CallThread("journal")
        # Another thread syncs sealed segments: with durability `write`, up to 64 MiB may still have to be written.
        self._seal_thread = CallThread("seal")
        self._sealing: dict[asyncio.Task[None], SegmentFile] = {}
        self._sealed_bytes = 0
        self._sealed_rows = 0
        self._sealed_rows_of: Counter[str] = Counter()  # by site, without left-over segments
        self._failing: str | None = None  # why the last write failed
        self._misplaced: str | None = None  # why a kill would lose the open segment: its file was moved or deleted
        self._overdue = False  # the open segment should be sealed, but the next one could not be made
        self._closed = False
        self.opened_ns = clock.monotonic_ns()
        self.sealed: list[Segment] = []
        self.disk_free_bytes = 0  # as last measured
        self.blocked_reason: str | None = None  # set from outside to refuse events; human-readable
        self.flush_due = asyncio.Event()
        self.flush_running = False  # while it is, a sealed segment's events are in memory
        self.broken = asyncio.Event()  # set when no event can be acknowledged any more: the process should end

    def open(self) -> None:
        """Make the first segment. Blocks. Raises SegmentBroken, or OSError, after which `retry` tries again."""
        if not self.in_memory:
            self._failing = "the journal is not open"
            self._file = self._store.create()
            self._failing = None

    def adopt(self, segments: list[Segment]) -> None:
        """Take over the segments that dead processes left, as sealed segments."""
        self.sealed += segments
        self._sealed_bytes += sum(self._charge(segment) for segment in segments)
        self.flush_due.set()

    def can_append(self) -> bool:
        """Whether the journal would accept an event now."""
        return self.unready_reason() is None

    async def append(self, event: Event) -> bool:
        """Store the event. Returns True once it is as safe as `durability` says, False if it is not stored."""
        if self.unready_reason() is not None:
            return False
        submission = AwaitedSubmission(event)
        self.submit(submission)
        return await submission.stored

    def submit(self, submission: Submission | BatchSubmission) -> None:
        """Store the event or the batch and call `done`, possibly at once. `unready_reason()` must be None."""
        if isinstance(submission, BatchSubmission):
            self._waiting_batches.append((self._waiting, submission))
            self._waiting = []
            self._waiting_bytes += _charge_of(submission)
        else:
            event = submission.event
            if self.in_memory:
                self._buffer.append(event)
                if self._filled() >= 1:
                    self._take_buffer()
                submission.done(True)
                return
            self._waiting.append(submission)
            self._waiting_bytes += event.size_bytes + WAITING_EVENT_BYTES
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_rounds())

    async def seal(self) -> None:
        """Seal the open segment, if it holds any events, and open the next."""
        self.opened_ns = self._clock.monotonic_ns()
        if self.in_memory:
            self._take_buffer()
            return
        await self._in_turn(self._change_segments)

    async def look(self) -> None:
        """Check that the open segment's file is still in place. Call this about every second, followed by `retry`.

        If the file is gone, its events are published from memory, and later events go to another segment.
        """
        file = self._file
        if file is None or await asyncio.get_running_loop().run_in_executor(UNJOINED, file.has_its_name):
            return
        if self._file is file and not self._closed:
            self._found_misplaced(file)

    async def retry(self) -> None:
        """Retry what failed: a write, or making a segment. Call this about every second."""
        if not self.in_memory and (self._failing or self._overdue or self._misplaced):
            await self._in_turn(self._try_again)

    def release(self, segment: Segment) -> None:
        """Forget a sealed segment whose parts are published and whose file is deleted."""
        self.sealed.remove(segment)
        for file in self._sealing.values():
            file.is_released = file.is_released or file.id == segment.id
        self._sealed_bytes -= self._charge(segment)
        self._sealed_rows -= segment.rows
        if not self._sealed_rows:
            self._sealed_rows_of.clear()  # drops the counts of rows that could not be read back
        elif not segment.left_over:
            self._sealed_rows_of -= count_by_site(segment.rows_of)

    def put_last(self, segment: Segment) -> None:
        """Move a segment behind the other sealed ones."""
        self.sealed.remove(segment)
        self.sealed.append(segment)

    async def close(self) -> None:
        """Refuse further events, finish the commits, and seal the open segment."""
        if self._closed:
            return
        self._closed = True
        if self._committer is not None:
            await asyncio.wait([self._committer])
        await self._turn.acquire()  # and never release it: nothing may touch the file any more
        if self._sealing:
            await asyncio.wait(set(self._sealing))
        if self.in_memory:
            self._take_buffer()
        elif self._file is not None and not self.broken.is_set():
            file, self._file = self._file, None
            try:
                if not await self._commit_thread.call(file.has_its_name):
                    self._found_misplaced(file)
                await self._commit_thread.call(file.seal)
            except SegmentBroken as exc:
                self._fail(exc)
            else:
                if self._buffer.rows:
                    self._take_buffer(file)
                else:
                    try:
                        await self._commit_thread.call(self._store.release, file.path)
                    except OSError as exc:
                        log.warning("cannot delete the empty open segment; the next start will: %s", exc)
        self._commit_thread.stop()
        self._seal_thread.stop()

    @property
    def unpublished_bytes(self) -> int:
        """The charge of all events that wait for a commit or for their flush."""
        return self._buffer.size_bytes + self._sealed_bytes + self._waiting_bytes

    @property
    def unpublished_rows(self) -> int:
        """Stored events that are not in a part yet, without left-over segments, whose rows are not known."""
        return self._buffer.rows + self._sealed_rows

    def buffered_by_site(self) -> Counter[str]:
        """How many events of each site are not published yet, without left-over segments."""
        return self._sealed_rows_of + count_by_site(self._buffer.rows_of)

    def _filled(self) -> float:
        """How full the open segment is; 1 or more means that it must be sealed.

        Its size as columns counts, because small parts of many sites are the main cost of an event, and larger segments
        make larger parts. With a small `journal_max_bytes`, half of the journal is the limit, to leave room for the
        next segment. With durability `memory`, the charge of its events counts instead.
        """
        buffer = self._buffer
        if self.in_memory:
            return buffer.size_bytes / self._segment_max_bytes
        return max(buffer.held_bytes / self._segment_max_bytes, 2 * buffer.size_bytes / self.max_bytes)

    def unready_reason(self) -> str | None:
        """Why the journal would refuse an event now, human-readable. None: it would accept one."""
        if self._closed:
            return "draining"
        if self.blocked_reason is not None or self._failing is not None:
            return self.blocked_reason or self._failing
        if self._misplaced is not None:
            return self._misplaced
        if self._buffer.size_bytes + self._sealed_bytes + self._waiting_bytes >= self.max_bytes:
            return "the buffers are full" if self.in_memory else "the journal is full"
        if self._waiting_bytes >= WAITING_MAX_BYTES:
            return "too many events wait" if self.in_memory else "too many events wait for the disk"
        if self._overdue and self._buffer.held_bytes >= 2 * self._segment_max_bytes:
            return "no new segment can be made"
        return None

    async def _commit_rounds(self) -> None:
        """Commit waiting events, round after round, until none are left."""
        try:
            while self._waiting or self._waiting_batches:
                await asyncio.sleep(GATHER_S)
                async with self._turn:
                    await self._commit()
                    if self._filled() >= 1 and not self._overdue:
                        await self._change_segments()
        except BaseException as exc:
            # A bug. Committed events are safe in the journal; the next process publishes them.
            self._fail(SegmentBroken(f"{type(exc).__name__}: {exc}"))
            self._give_up()
            raise
        finally:
            self._committer = None

    def _give_up(self) -> None:
        """Answer all that wait: nothing is committed any more."""
        for submission in (*self._committing, *self._waiting):
            submission.done(False)
        if self._committing_batch is not None:
            self._committing_batch.done(False)
            self._committing_batch.over()
        for submissions, batch in self._waiting_batches:
            for submission in submissions:
                submission.done(False)
            batch.done(False)
            batch.over()

    async def _commit(self) -> None:
        """Commit what waits, up to the first batch."""
        if self._waiting_batches:
            group, batch = self._waiting_batches.popleft()
        else:
            group, batch, self._waiting = self._waiting, None, []
        self._committing, self._committing_batch = iter(group), batch
        stored = self.in_memory or await self._write(group, batch)
        for start in range(0, len(group), TAKEN_OVER_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            for submission in islice(self._committing, TAKEN_OVER_AT_ONCE):
                event = submission.event
                submission.done(stored)
                self._waiting_bytes -= event.size_bytes + WAITING_EVENT_BYTES
                if stored:
                    self._buffer.append(event)
        if batch is not None:
            await self._take_over(batch, stored)

    async def _write(self, group: list[Submission], batch: BatchSubmission | None) -> bool:
        """Write the group and the batch to the file. Returns whether they are in it."""
        started = perf_counter()
        stored = not self.broken.is_set()
        if stored:
            file = self._file
            assert file is not None  # without a file, no event is accepted
            records = b"".join(await self._encode(file, [submission.event for submission in group]))
            encoded = None
            if batch is not None:
                pieces = await self._encode(file, batch.events)
                encoded = EncodedBatch(batch.key, batch.answer, len(batch.events), pieces)
            try:
                await self._commit_thread.call(file.commit, records, encoded)
            except (OSError, SegmentBroken) as exc:
                self._fail(exc)
                stored = False
        (self._commits_done if stored else self._commits_failed).inc()
        self._commit_seconds.observe(perf_counter() - started)
        return stored

    async def _encode(self, file: SegmentFile, events: list[Event]) -> list[bytes]:
        """Encode here, and not in the thread: there it would wait for the GIL, and then hold it."""
        pieces: list[bytes] = []
        at_once: list[Event] = []
        size_bytes = 0
        for event in events:
            if size_bytes >= ENCODED_AT_ONCE_BYTES:
                pieces.append(file.encode(at_once))
                at_once, size_bytes = [], 0
                await asyncio.sleep(0)
            at_once.append(event)
            size_bytes += event.size_bytes
        pieces.append(file.encode(at_once))
        return pieces

    async def _take_over(self, batch: BatchSubmission, stored: bool) -> None:
        """Answer the batch, and buffer its events. In memory, they are stored once that is done."""
        if not self.in_memory:
            self._answer(batch, stored)
        try:
            if stored:
                await self._buffer_all(batch)
            else:
                self._waiting_bytes -= _charge_of(batch)
        finally:
            if self._committing_batch is None:
                batch.over()
        if self.in_memory:
            self._answer(batch, stored)
            batch.over()

    async def _buffer_all(self, batch: BatchSubmission) -> None:
        if batch.key:
            self._buffer.remember(batch.key, batch.answer)
        self._waiting_bytes -= len(batch.key) + len(batch.answer)
        events = batch.events
        events.reverse()
        while events:
            await asyncio.sleep(0)
            for _ in range(min(len(events), TAKEN_OVER_AT_ONCE)):
                event = events.pop()  # freeing 10,000 events at once would take 6 ms
                self._waiting_bytes -= event.size_bytes + WAITING_EVENT_BYTES
                self._buffer.append(event)
            if self.in_memory and self._filled() >= 1:
                self._take_buffer()

    def _answer(self, batch: BatchSubmission, stored: bool) -> None:
        self._committing_batch = None
        batch.done(stored)

    async def _in_turn(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step that touches the file. It finishes even if the caller is cancelled."""

        async def taken() -> None:
            async with self._turn:
                await step()

        await asyncio.shield(asyncio.create_task(taken()))

    async def _try_again(self) -> None:
        if self._closed or self.broken.is_set():
            return
        try:
            if self._file is None:
                self._file = await self._commit_thread.call(self._store.create)
            elif self._failing:
                await self._commit_thread.call(self._file.probe)
        except (OSError, SegmentBroken) as exc:
            self._fail(exc)
            return
        if self._failing:
            log.info("the journal can be written again")
            self._failing = None
        if self._overdue or self._misplaced:
            await self._change_segments()

    async def _change_segments(self) -> None:
        """Make the next segment, then seal the open one."""
        if self._file is None or self.broken.is_set() or not (self._buffer.rows or self._misplaced):
            return
        if len(self._sealing) >= SEALING_MAX:
            await asyncio.wait(set(self._sealing), return_when=asyncio.FIRST_COMPLETED)
        try:
            if not await self._commit_thread.call(self._file.has_its_name):
                self._found_misplaced(self._file)
            fresh = await self._commit_thread.call(self._store.create)
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
        """Sync a segment that gets no more events. Its flush need not wait for this."""
        try:
            await self._seal_thread.call(file.seal)
        except SegmentBroken as exc:
            self._fail(exc)

    def _take_buffer(self, file: SegmentFile | None = None) -> None:
        """Turn the buffer into a sealed segment, if it holds any events."""
        self.opened_ns = self._clock.monotonic_ns()
        buffer, self._buffer = self._buffer, self._new_buffer()
        if not buffer.rows:
            return
        rows_of = buffer.rows_of
        segment = Segment(
            file.id if file else self._store.new_id(),
            file.path if file else None,
            self._store.by_site,
            buffer.size_bytes,
            rows_of,
            buffer,
        )
        if not self._misplaced and (self.flush_running or any(other.buffer for other in self.sealed)):
            # A segment that is sealed or being flushed is already in memory. This one will be read from its file.
            segment.to_disk()
        self.sealed.append(segment)
        self._sealed_bytes += self._charge(segment)
        self._sealed_rows += segment.rows
        self._sealed_rows_of += count_by_site(rows_of)
        self.flush_due.set()

    def _new_buffer(self) -> Buffer:
        # With durability `memory`, a segment is sealed by the charge of its events: it would not hold more of them.
        return Buffer(by_site=self._store.by_site and not self.in_memory)

    def _charge(self, segment: Segment) -> int:
        """A segment's share of the limit. With durability `memory`, left-over files are free."""
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


def _charge_of(batch: BatchSubmission) -> int:
    """What a waiting batch is charged."""
    waiting_bytes = len(batch.events) * WAITING_EVENT_BYTES + len(batch.key) + len(batch.answer)
    return waiting_bytes + sum(event.size_bytes for event in batch.events)
