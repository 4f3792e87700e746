"""CPU time per journaled event, by durability and by how long a commit gathers: `python -m bench.commit [--seconds S]`.

Events arrive at a steady rate and are only appended to a journal. CPU time is that of the entire process, including
the cost of generating events, which the rows with durability `memory` show alone.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from itertools import cycle
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.stall import milliseconds, sample_events
from collector.clock import SystemClock
from collector.daemon.worker import warm_up
from collector.events import Event
from collector.journal import journal as journal_module
from collector.journal.journal import Journal
from collector.journal.segment import SegmentStore
from collector.metrics import Metrics
from collector.publish.local import Folders

GATHERS_S = (0.0, 0.0005, 0.001, 0.002, 0.005)
RATES = (5_000, 20_000)
TICK_S = 0.001


async def measure(durability: str, gather_s: float, rate: int, seconds: float, folder: Path) -> tuple[str, ...]:
    """Measure one combination and return its row of the table."""
    journal_module.GATHER_S = gather_s
    metrics = Metrics()
    store = SegmentStore(Folders(folder), "0", by_site=True, durability=durability)
    journal = Journal(store, segment_max_bytes=1 << 40, journal_max_bytes=1 << 42, clock=SystemClock(), metrics=metrics)
    journal.open()
    events = cycle(sample_events(1_000, 1))
    waited_s: list[float] = []
    in_flight: set[asyncio.Task[None]] = set()

    async def one(event: Event) -> None:
        started = time.perf_counter()
        assert await journal.append(event)
        waited_s.append(time.perf_counter() - started)

    cpu, started = cpu_s(), time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - started) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(one(next(events)))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
            sent += 1
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*in_flight)
    spent_s = cpu_s() - cpu
    commits = metrics.registry.get_sample_value("collector_journal_commits_total", {"outcome": "done"}) or 0
    await journal.close()
    waited_s.sort()
    return (
        durability,
        "-" if durability == "memory" else f"{gather_s * 1e3:g}",
        f"{rate:,}",
        f"{spent_s / sent * 1e6:.1f}",
        f"{sent / commits:.0f}" if commits else "-",
        milliseconds(waited_s, 0.5),
        milliseconds(waited_s, 0.99),
    )


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="duration of each row; default: %(default)s")
    parser.add_argument("--folder", type=Path, help="folder for the segments; default: the system's temporary folder")
    arguments = parser.parse_args()
    warm_up()
    table = Table(box=box.MARKDOWN)
    for name in ("durability", "gather ms", "events/s", "CPU us/event", "events/commit", "waited p50 ms", "p99"):
        table.add_column(name, justify="right")
    for rate in RATES:
        for durability in ("memory", "write", "fsync"):
            for gather_s in (0.0,) if durability == "memory" else GATHERS_S:
                with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                    row = asyncio.run(measure(durability, gather_s, rate, arguments.seconds, Path(folder)))
                table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
