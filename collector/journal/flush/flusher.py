"""The flusher: decides when sealed segments become parts. It flushes one segment at a time, in a separate thread.

A timer seals the open segment; the journal seals a full one itself. Segments in memory are flushed first, then segments
that exist only on disk: those left by dead processes, and those for which memory had no room. A segment whose flush
fails is kept and retried, with back-off, as long as the process lives. While flushes from disk fail, each retry reads
only one of those segments.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from collector.clock import Clock
from collector.journal.flush.rejects import RejectedStore, Rejects
from collector.journal.flush.segment_flush import SegmentGone
from collector.journal.flush.thread import FlushThread
from collector.journal.journal import Journal
from collector.journal.segment import Segment
from collector.metrics import Metrics
from collector.parts.section import Part
from collector.wording import count

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
# Segments sealed in the meantime wait too. Usually the disk is full, and flushing them would fail as well. If only one
# segment fails, new rows are delayed by up to this time, half of the default `flush_interval_s`.
LONGEST_RETRY_S = 30.0

FlushSegment = Callable[[Segment], list[Part]]


class Flusher:
    """Publishes the segments that the journal seals, until `drain`."""

    def __init__(
        self,
        journal: Journal,
        flush_segment: FlushSegment,
        rejects: Rejects,
        rejected_store: RejectedStore,
        *,
        interval_s: float,
        clock: Clock,
        metrics: Metrics,
        recovered: Callable[[], None] = lambda: None,
    ) -> None:
        """`recovered` is called in the flush thread, once no segment of a dead process is left."""
        self._journal = journal
        self._flush_segment = flush_segment
        self._rejects = rejects
        self._rejected_store = rejected_store
        self._interval_s = interval_s
        self._clock = clock
        self._metrics = metrics
        self._recovered = recovered
        self._is_recovered = False  # `recovered` has been called
        self._running: asyncio.Future[bool] | None = None
        self._thread = FlushThread()
        self._lost = 0  # acknowledged events whose segment has disappeared

    async def run(self) -> None:
        """Seal segments on the timer, flush sealed ones, and retry failed flushes, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._seal_on_time())
            loops.create_task(self._flush_when_due())

    async def flush(self) -> bool:
        """Publish all sealed segments, and the rejects. Returns False if any segment could not be published."""
        done = await self._flush_while(lambda segment: True)
        await self._end_recovery()
        await self._write_rejects()
        return done

    async def drain(self, patience_s: float) -> int:
        """Close the journal and publish everything. Returns how many events are lost when the process ends.

        Retries a failing flush for up to `patience_s`. A flush that makes progress may take as long as it needs. Events
        still unpublished after that stay in the journal for the next start.

        Raises TimeoutError if a commit or a flush hangs on the disk for `patience_s`. With durability `memory`, a
        hanging flush is waited for, because its events would be lost.
        """
        async with asyncio.timeout(patience_s):
            await self._journal.close()
        publishing = asyncio.create_task(self._publish_all(patience_s))
        if not self._journal.in_memory:
            await self._watch(publishing, patience_s)
        await publishing
        unsaved = await self._thread.call(_without_file, list(self._journal.sealed))
        self._thread.shutdown()
        return self._lost + unsaved

    async def _publish_all(self, patience_s: float) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])
        until_ns = self._clock.monotonic_ns() + round(patience_s * 1e9)
        waited_s, retry_s = 0.0, FIRST_RETRY_S
        # Left-over segments can wait for the next start. This process's own segments should be published now.
        while (
            not await self._flush_while(lambda segment: not segment.left_over or self._clock.monotonic_ns() < until_ns)
            and waited_s < patience_s
            and not all(segment.left_over for segment in self._journal.sealed)
        ):
            await self._clock.sleep(retry_s)
            waited_s += retry_s
        await self._end_recovery()
        await self._write_rejects()

    async def _watch(self, publishing: asyncio.Task[None], patience_s: float) -> None:
        """Wait for `publishing`. Raises TimeoutError once the flush thread hangs for once or twice `patience_s`."""
        while not publishing.done():
            before = self._thread.cpu_ns()
            timeout = asyncio.create_task(self._clock.sleep(patience_s))
            await asyncio.wait([publishing, timeout], return_when=asyncio.FIRST_COMPLETED)
            # Counting parts would not show progress: a part of a gigabyte may take longer. A thread that reads or
            # writes uses CPU time, and a thread that hangs in the kernel does not.
            if timeout.done() and before is not None and self._thread.cpu_ns() == before:
                publishing.cancel()
                raise TimeoutError("a flush hangs on the disk")
            timeout.cancel()

    async def _seal_on_time(self) -> None:
        while True:
            left_ns = self._journal.opened_ns + round(self._interval_s * 1e9) - self._clock.monotonic_ns()
            if left_ns > 0:
                await self._clock.sleep(left_ns / 1e9)
            else:
                await self._journal.seal()
                self._journal.flush_due.set()  # even if nothing was sealed: rejects may wait

    async def _flush_when_due(self) -> None:
        retry_s = 0.0  # 0: the last flush did not fail
        while True:
            if retry_s:
                await self._clock.sleep(retry_s)
            else:
                await self._journal.flush_due.wait()
            self._journal.flush_due.clear()
            # Shielded, so that a running flush finishes, and its parts and rejects are counted, before a drain begins.
            self._running = asyncio.ensure_future(self.flush())
            done = await asyncio.shield(self._running)
            retry_s = 0.0 if done else min(2 * retry_s, LONGEST_RETRY_S) or FIRST_RETRY_S

    async def _flush_while(self, wanted: Callable[[Segment], bool]) -> bool:
        # A set, because choosing a segment blocks the event loop: a disk that fails all day leaves thousands of them.
        failed: set[Segment] = set()
        while waiting := [segment for segment in self._journal.sealed if segment not in failed and wanted(segment)]:
            segment = next((segment for segment in waiting if segment.buffer), waiting[0])
            try:
                await self._publish(segment)
            except SegmentGone as exc:
                self._lost += segment.rows
                self._metrics.flushes.labels("failed").inc()
                log.error("%s; this loses %s, unless it is put back before the next start", exc, _events(segment))
                self._journal.release(segment)
            except Exception as exc:  # noqa: BLE001 - whatever failed, the events are kept and retried
                failed.add(segment)
                was_on_disk = segment.buffer is None
                if await self._thread.call(Segment.has_file, segment):
                    segment.to_disk()
                self._metrics.flushes.labels("failed").inc()
                where = "memory" if segment.buffer else "the journal"
                log.warning("flush failed; keeping %s in %s: %s", _events(segment), where, exc)
                if was_on_disk:
                    # Stop here. Reading back every waiting segment, only to fail, used two thirds of a core while a
                    # disk was full. One segment shows whether the disk still fails. In case only this segment fails,
                    # the others go first next time.
                    self._journal.put_last(segment)
                    return False
            else:
                self._journal.release(segment)
                if segment.left_over and not any(other.left_over for other in self._journal.sealed):
                    log.info("recovered every segment")
        return not failed

    async def _publish(self, segment: Segment) -> None:
        started = time.perf_counter()
        self._journal.flush_running = True
        try:
            parts = await self._thread.call(self._flush_segment, segment)
        finally:
            self._journal.flush_running = False
        took_s = time.perf_counter() - started
        rows = sum(part.rows for part in parts)
        log.info(
            "%s %s in %s in %.2f s",
            "recovered" if segment.left_over else "published",
            count(rows, "event"),
            count(len(parts), "part"),
            took_s,
        )
        if segment.left_over:
            self._metrics.recovered_events.inc(rows)
        self._metrics.flush_seconds.observe(took_s)
        self._metrics.flushes.labels("published").inc()
        self._metrics.published_events.inc(rows)
        self._metrics.parts.inc(len(parts))
        self._metrics.part_bytes.inc(sum(part.size_bytes for part in parts))

    async def _end_recovery(self) -> None:
        if self._is_recovered or any(segment.left_over for segment in self._journal.sealed):
            return
        try:
            await self._thread.call(lambda _: self._recovered(), None)
        except Exception as exc:  # noqa: BLE001 - whatever failed, the next flush tries again
            log.warning("the recovery could not be completed: %s", exc)
        else:
            self._is_recovered = True

    async def _write_rejects(self) -> None:
        taken = self._rejects.take()
        if not taken:
            return
        kept = 0
        try:
            kept = await self._thread.call(self._rejected_store.write, taken)
        except Exception as exc:  # noqa: BLE001 - rejects are best effort: count them as lost
            log.warning("rejected events could not be written: %s", exc)
        self._metrics.rejected_kept.inc(kept)
        self._metrics.rejected_lost.inc(sum(len(rejects) for rejects in taken.values()) - kept)


def _without_file(segments: list[Segment]) -> int:
    """How many events exist only in memory."""
    return sum(segment.rows for segment in segments if not segment.has_file())


def _events(segment: Segment) -> str:
    return f"the events of left-over segment {segment.id}" if segment.left_over else count(segment.rows, "event")
