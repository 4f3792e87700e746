"""The status line in `systemctl status`. Problems come first.

receiving 310/s, 2 segments, 41 GB free
refusing events: disk space is low; receiving 310/s, 2 segments, 0.2 GB free
last reload failed: collector.toml: sites: missing ... (and 2 more); receiving ...
draining: 3 requests in flight, 1,200 events to publish
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiofiles.os

from collector.clock import Clock
from collector.daemon.sd_notify import Manager
from collector.threads import UNJOINED
from collector.wording import count

REFRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers in the status line. Those of several workers can be added up."""

    received: int = 0  # since the start
    segments: int = 0  # sealed and not yet published, as `collector_journal_segments`
    in_flight: int = 0  # requests
    unpublished: int = 0  # events

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(*(mine + yours for mine, yours in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, int, int, int]:
        """The form in which a worker sends them to its supervisor."""
        return (self.received, self.segments, self.in_flight, self.unpublished)


def problems(unready_reason: str | None, reload_failure: str | None) -> list[str]:
    """Problems for the status line, the most serious first."""
    refusing = [f"refusing events: {unready_reason}"] if unready_reason else []
    return [*refusing, reload_failure] if reload_failure else refusing


def serving_line(wrong: Iterable[str], per_s: float, stats: Stats, free_bytes: int | None) -> str:
    """The status line while serving."""
    free = "disk unknown" if free_bytes is None else f"{_gb(free_bytes)} GB free"
    segments = count(stats.segments, "segment", ",")
    return "; ".join([*wrong, f"receiving {per_s:,.0f}/s, {segments}, {free}"])


def draining_line(stats: Stats) -> str:
    in_flight, unpublished = count(stats.in_flight, "request", ","), count(stats.unpublished, "event", ",")
    return f"draining: {in_flight} in flight, {unpublished} to publish"


def _gb(size_bytes: int) -> str:
    gb = size_bytes / 1e9
    return f"{gb:,.0f}" if gb >= 10 else f"{gb:.1f}"


class Reporter:
    """Pings the service manager and keeps the status line current, from coroutines in the event loop."""

    def __init__(
        self,
        manager: Manager,
        clock: Clock,
        data_dir: int | Path,
        stats: Callable[[], Stats],
        problems: Callable[[], list[str]],
    ) -> None:
        """`data_dir` is a descriptor if the folder may be moved, else its path."""
        self._manager = manager
        self._clock = clock
        self._data_dir = data_dir
        self._stats = stats
        self._problems = problems
        self._is_draining = False
        self._seen = (clock.monotonic_ns(), 0)

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """Ping and refresh the line until the block ends."""
        tasks = [asyncio.create_task(self._ping()), asyncio.create_task(self._report())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)  # asyncio logs a task that failed earlier

    async def _ping(self) -> None:
        """Ping until cancelled. Pings stop when the loop hangs, and the watchdog acts."""
        while True:
            self._manager.ping()
            await self._clock.sleep(self._manager.ping_every_s)

    async def _report(self) -> None:
        """Refresh the line until cancelled. In its own task, because a disk that hangs may hold it up."""
        while True:
            await self.refresh()
            await self._clock.sleep(REFRESH_S)

    def drain(self) -> None:
        """Report that the collector is stopping. From now on the line shows the progress of the drain."""
        self._is_draining = True
        self._manager.stopping()
        self._manager.status(draining_line(self._stats()))

    async def refresh(self) -> None:
        """Show the current status line."""
        try:
            disk = await aiofiles.os.statvfs(self._data_dir, executor=UNJOINED)  # type: ignore[call-arg]  # its types lack it
            free_bytes = disk.f_bavail * disk.f_frsize
        except OSError:
            free_bytes = None
        stats = self._stats()
        now_ns = self._clock.monotonic_ns()
        then_ns, before = self._seen
        self._seen = (now_ns, stats.received)
        per_s = max(0, stats.received - before) / max(1e-3, (now_ns - then_ns) / 1e9)
        serving = serving_line(self._problems(), per_s, stats, free_bytes)
        self._manager.status(draining_line(stats) if self._is_draining else serving)
