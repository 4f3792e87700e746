"""How long a flush stalls the event loop, and its CPU time: `python -m bench.stall [--rows N] [--quick]`.

A 1 ms ticker runs in the loop while the flush thread writes; a late tick is a stall. The `idle` column shows the same
ticker without a flush, because on a noisy machine ticks are late anyway.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.sample import bodies
from collector.clock import SystemClock
from collector.config import SiteSettings
from collector.daemon.worker import GIL_SWITCH_S
from collector.events import Event
from collector.ingest.pipeline import Arrival, accept, replay
from collector.journal.flush.quarantine import Quarantine
from collector.journal.flush.segment_flush import SegmentFlush
from collector.journal.journal import Journal
from collector.journal.segment import SegmentStore
from collector.metrics import Metrics
from collector.parts.table import settle_memory_pool
from collector.parts.writer import PartWriter
from collector.publish.local import Folders
from collector.sites import build_site

CLIENT = IPv4Address("192.0.2.1")
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) " + 80 * "x"
NOON_US = 1_780_000_000_000_000
TICK_S = 0.001
# Number of sites; whether parts are by site; whether events are read back from the segment's file, as after a crash.
SCENARIOS = (
    (1, True, False),
    (1, True, True),
    (300, True, False),
    (300, False, False),
    (300, False, True),
    (10_000, False, False),
    (10_000, True, False),
)


class Ticker:
    """Runs in the event loop and records how late each tick is, in seconds."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self.late.append(time.perf_counter() - due)

    @contextmanager
    def counting(self) -> Iterator[list[float]]:
        """Collect the lags of this block, in seconds; they are sorted when it ends."""
        self.late = []
        yield self.late
        self.late.sort()


@asynccontextmanager
async def ticking() -> AsyncIterator[tuple[Ticker, list[float]]]:
    """Start a ticker; yield it with its lags over one idle second."""
    sys.setswitchinterval(GIL_SWITCH_S)  # from here to freeze(): as a worker does at start-up
    settle_memory_pool()
    gc.collect()
    gc.freeze()
    ticker = Ticker()
    task = asyncio.create_task(ticker.run())
    with ticker.counting() as idle:
        await asyncio.sleep(1)
    try:
        yield ticker, idle
    finally:
        task.cancel()


def sample_events(count: int, sites: int) -> Iterator[Event]:
    """Yield accepted events, spread evenly over the sites."""
    known = [build_site(f"site-{number}", SiteSettings()) for number in range(sites)]
    for number, body in enumerate(bodies(count)):
        arrival = Arrival(known[number * 7919 % sites], CLIENT, "https://www.example.com", user_agent=USER_AGENT)
        event = accept(arrival, body, NOON_US + number, lambda address, received_us: None)
        assert isinstance(event, Event)
        yield event


async def measure(sites: int, rows: int, *, by_site: bool, from_file: bool, data_dir: Path) -> tuple[str, ...]:
    """Measure one flush and return its row of the table."""
    folders = Folders(data_dir)
    writer = PartWriter(folders, "0", compression="zstd")
    writer.prepare()
    store = SegmentStore(folders, "0", by_site=by_site, durability="write")
    journal = Journal(
        store, segment_max_bytes=1 << 40, journal_max_bytes=1 << 42, clock=SystemClock(), metrics=Metrics()
    )
    flush = SegmentFlush(store, writer, Quarantine(folders, "0", Metrics()), replay)
    journal.open()
    events = sample_events(rows, sites)
    while some := list(islice(events, 1_000)):
        assert all(await asyncio.gather(*(journal.append(event) for event in some)))
    async with ticking() as (ticker, idle):
        with ticker.counting() as flushing:
            started, cpu = time.perf_counter(), time.process_time()
            await journal.seal()
            if from_file:
                journal.sealed[0].to_disk()
            parts = await asyncio.to_thread(flush, journal.sealed[0])
            took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    assert rows == sum(part.rows for part in parts)
    return (
        f"{sites:,}",
        "site, date" if by_site else "date",
        "file" if from_file else "memory",
        f"{len(parts):,}",
        f"{took_s:.2f}",
        f"{cpu_s / rows * 1e6:.1f}",
        f"{sum(part.size_bytes for part in parts) / rows:.0f}",
        milliseconds(flushing, 0.5),
        milliseconds(flushing, 0.99),
        milliseconds(flushing, 1),
        milliseconds(idle, 1),
    )


def milliseconds(late: list[float], quantile: float) -> str:
    return f"{late[min(len(late) - 1, int(len(late) * quantile))] * 1e3:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="events per flush; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="skip the scenario with 10,000 parts")
    arguments = parser.parse_args()
    table = Table(box=box.MARKDOWN)
    for name in (
        "sites",
        "partition_by",
        "from",
        "parts",
        "flush s",
        "CPU us/event",
        "B/event",
        "late p50 ms",
        "p99",
        "max",
        "idle max",
    ):
        table.add_column(name, justify="right")
    for sites, by_site, from_file in SCENARIOS[: -1 if arguments.quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(sites, arguments.rows, by_site=by_site, from_file=from_file, data_dir=Path(folder))
            table.add_row(*asyncio.run(row))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
