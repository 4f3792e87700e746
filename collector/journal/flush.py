"""Flushing: sealed segments become parts, one segment at a time, in a thread of its own.

A timer or a full segment starts a flush. A segment whose flush fails stays at the head of the queue and is tried
again, with back-off, for as long as the process lives: its parts have the same names, and those that are
published already are kept.
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
        # Its own thread: a slow disk must not take the threads of others, nor they the flush's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flush")

    async def run(self) -> None:
        """Flush on the timer, or when a segment is full; for ever."""
        started_ns = self._clock.monotonic_ns()
        while True:
            # From one start to the next: a slow flush must not make the events that follow wait longer.
            passed_s = (self._clock.monotonic_ns() - started_ns) / 1e9
            await self._due(max(0.0, self._interval_s - passed_s))
            started_ns = self._clock.monotonic_ns()
            self._journal.seal()
            retry_s = FIRST_RETRY_S
            while not await self.flush():
                await self._clock.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    async def flush(self) -> bool:
        """Publish all sealed segments, oldest first, and the rejects; False at the first failure."""
        while self._journal.sealed:
            segment = self._journal.sealed[0]
            try:
                await self._publish(segment)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the events stay, and are tried again
                self._metrics.flushes.labels("failed").inc()
                log.warning("flush failed; %d events stay in memory: %s", segment.rows, exc)
                return False
            self._journal.release(segment)
        await self._write_rejects()
        return True

    async def drain(self, patience_s: float) -> int:
        """Close the journal and publish everything. The number of events that could not be published.

        A failing flush is tried again until `patience_s` is over; one that gets on may take as long as it needs.
        """
        self._journal.close()
        waited_s, retry_s = 0.0, FIRST_RETRY_S
        while not await self.flush() and waited_s < patience_s:
            await self._clock.sleep(retry_s)
            waited_s += retry_s
        self._thread.shutdown(wait=False)
        return self._journal.unpublished_rows

    async def _due(self, timer_s: float) -> None:
        """Wait for the timer, or for a full segment."""
        timer = asyncio.ensure_future(self._clock.sleep(timer_s))
        full = asyncio.ensure_future(self._journal.segment_waiting.wait())
        try:
            await asyncio.wait((timer, full), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            full.cancel()

    async def _publish(self, segment: Segment) -> None:
        started = perf_counter()
        parts = await self._in_thread(self._write, segment)
        self._metrics.flush_seconds.observe(perf_counter() - started)
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
