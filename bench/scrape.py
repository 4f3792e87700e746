"""Duration of a scrape of `/metrics`, and how late it makes the event loop: `python -m bench.scrape`."""

import asyncio
import time

from rich import box
from rich.console import Console
from rich.table import Table

from bench.stall import milliseconds, ticking
from collector.events import Reason
from collector.metrics import Metrics


async def measure(sites: int) -> tuple[str, ...]:
    """Measure one row of the table. Every site has dropped events for every reason."""
    metrics = Metrics(f"site-{number}" for number in range(sites))
    for number in range(sites):
        for reason in Reason:
            metrics.counts.of_site(f"site-{number}").count_dropped(reason)
    async with ticking() as (ticker, idle):
        with ticker.counting() as scraping:
            started = time.perf_counter()
            render = metrics.snapshot({f"site-{number}": 1 for number in range(sites)}, {})
            page = await asyncio.to_thread(render)
            took_s = time.perf_counter() - started
    series = sum(1 for line in page.splitlines() if not line.startswith(b"#"))
    return (
        f"{sites:,}",
        f"{series:,}",
        f"{took_s:.2f}",
        milliseconds(scraping, 0.5),
        milliseconds(scraping, 0.99),
        milliseconds(scraping, 1),
        milliseconds(idle, 1),
    )


def main() -> None:
    table = Table(box=box.MARKDOWN)
    for name in ("sites", "series", "scrape s", "late p50 ms", "p99", "max", "idle max"):
        table.add_column(name, justify="right")
    for sites in (1, 100, 1_000, 10_000):
        table.add_row(*asyncio.run(measure(sites)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
