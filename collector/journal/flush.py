"""Flushing: sealed segments become parts, one segment at a time, in a thread of its own.

A timer or a full segment starts a flush. A segment whose flush fails stays and is tried again, with back-off, for as
long as the process lives: its parts have the same names, and those that are published already are kept.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from collector.clock import Clock
from collector.journal.journal import Journal
from collector.journal.rejects import RejectedStore, Rejects
from collector.journal.segment import Segment
from collector.metrics import Metrics
from collector.parts.writer import Part

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0

A = TypeVar("A")
T = TypeVar("T")
WriteSegment = Callable[[Segment], list[Part]]


class Flusher:
    """Publishes what the journal seals, until it is told to drain."""

    def __init__(
        self,
        journal: Journal,
        write: WriteSegment,
        rejects: Rejects,
        rejected_store: RejectedStore,
        *,
        interval_s: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._journal = journal
        self._write = write
        self._rejects = rejects
        self._rejected_store = rejected_store
        self._interval_s = interval_s
        self._clock = clock
        self._metrics = metrics
        self._under_way: asyncio.Future[bool] | None = None
        # Its own thread: a slow disk must not take the threads of others, nor they the flush's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flush")

    async def run(self) -> None:
        """Flush on the timer, when a segment is full, and again where a flush failed; for ever."""
        seal_at_ns = self._in(self._interval_s)
        retry_s = 0.0  # nothing failed
        while True:
            left_s = max(0.0, (seal_at_ns - self._clock.monotonic_ns()) / 1e9)
            if retry_s:
                await self._clock.sleep(min(left_s, retry_s))
            else:
                await self._timer_or_segment(left_s)
            if self._clock.monotonic_ns() >= seal_at_ns:
                self._journal.seal()
                seal_at_ns = self._in(self._interval_s)
            elif self._journal.sealed and not retry_s:  # one filled up and sealed itself, so the open one is new
                seal_at_ns = self._in(self._interval_s)
            # Shielded: a flush that has begun is finished, and its parts and rejects counted, before a drain begins.
            self._under_way = asyncio.ensure_future(self.flush())
            done = await asyncio.shield(self._under_way)
            retry_s = 0.0 if done else min(2 * retry_s, LONGEST_RETRY_S) or FIRST_RETRY_S

    async def flush(self) -> bool:
        """Publish all sealed segments, oldest first, and the rejects; False if any could not be."""
        failed: list[Segment] = []
        while waiting := [segment for segment in self._journal.sealed if segment not in failed]:
            segment = waiting[0]
            try:
                await self._publish(segment)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the events stay, and are tried again
                failed.append(segment)
                self._metrics.flushes.labels("failed").inc()
                log.warning("flush failed; %d events stay in memory: %s", segment.rows, exc)
            else:
                self._journal.release(segment)
        await self._write_rejects()
        return not failed

    async def drain(self, patience_s: float) -> int:
        """Close the journal and publish everything. The number of events that could not be published.

        A failing flush is tried again until `patience_s` is over; one that gets on may take as long as it needs.
        """
        self._journal.close()
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
        waited_s, retry_s = 0.0, FIRST_RETRY_S
        while not await self.flush() and waited_s < patience_s:
            await self._clock.sleep(retry_s)
            waited_s += retry_s
        self._thread.shutdown(wait=False)
        return self._journal.unpublished_rows

    async def _timer_or_segment(self, timer_s: float) -> None:
        """Wait for the timer, or for a segment that filled up."""
        timer = asyncio.ensure_future(self._clock.sleep(timer_s))
        full = asyncio.ensure_future(self._journal.segment_waiting.wait())
        try:
            await asyncio.wait((timer, full), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            full.cancel()

    def _in(self, seconds: float) -> int:
        return self._clock.monotonic_ns() + round(seconds * 1e9)

    async def _publish(self, segment: Segment) -> None:
        started = perf_counter()
        parts = await self._in_thread(self._write, segment)
        took_s = perf_counter() - started
        log.info("published %d events in %d parts in %.2f s", segment.rows, len(parts), took_s)
        self._metrics.flush_seconds.observe(took_s)
        self._metrics.flushes.labels("published").inc()
        self._metrics.published_events.inc(sum(part.rows for part in parts))
        self._metrics.parts.inc(len(parts))
        self._metrics.part_bytes.inc(sum(part.size_bytes for part in parts))

    async def _write_rejects(self) -> None:
        taken = self._rejects.take()
        if not taken:
            return
        try:
            self._metrics.rejected_kept.inc(await self._in_thread(self._rejected_store.write, taken))
        except Exception as exc:  # noqa: BLE001 - best effort: counted, and gone
            self._metrics.rejected_lost.inc(sum(len(rejects) for rejects in taken.values()))
            log.warning("rejected events could not be written: %s", exc)

    async def _in_thread(self, function: Callable[[A], T], argument: A) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, argument)
