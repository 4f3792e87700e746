"""Memory used by the bounded tables and the buffers: `python -m bench.memory`."""

import gc
import tracemalloc
from collections.abc import Callable
from ipaddress import IPv4Address
from random import Random

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from bench.sample import bodies
from bench.stall import CLIENT, NOON_US, USER_AGENT
from collector.addresses import parse_address
from collector.clock import SystemClock
from collector.config import RateLimit, SiteSettings
from collector.edge.rate_limit import TokenBuckets, table_bytes
from collector.events import Event
from collector.ingest.pipeline import Arrival, accept
from collector.journal.buffer import BATCH_ROWS, Buffer
from collector.sites import build_site


def held(build: Callable[[], object]) -> tuple[object, int]:
    """Return what `build` returns, and the bytes of the Python objects that it keeps alive."""
    gc.collect()
    tracemalloc.start()
    built = build()
    gc.collect()
    size_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return built, size_bytes


def buckets(clients: int) -> int:
    """Return how many buckets remain after that many clients send one request each in quick succession."""
    table = TokenBuckets(RateLimit(requests_per_minute=1), SystemClock())
    addresses = Random(1).sample(range(1 << 32), clients)
    for number in addresses:
        table.take(IPv4Address(number))
    return len(table)


def addresses(count: int) -> None:
    parse_address.__globals__["_parse_address"].cache_clear()
    for number in range(count):
        parse_address(str(IPv4Address(number)))


def accepted(count: int) -> list[Event]:
    arrival = Arrival(build_site("site-1", SiteSettings()), CLIENT, "https://www.example.com", user_agent=USER_AGENT)
    events = [accept(arrival, body, NOON_US, lambda address, received_us: None) for body in bodies(count)]
    return [event for event in events if isinstance(event, Event)]


def main() -> None:
    table = Table(box=box.MARKDOWN)
    for name in ("what", "count", "bytes each", "bytes in all"):
        table.add_column(name, justify="left" if name == "what" else "right")

    def row(what: str, count: int, size_bytes: float) -> None:
        table.add_row(what, f"{count:,}", f"{size_bytes / count:,.0f}", f"{size_bytes:,.0f}")

    for clients in (50_000, 100_000, 200_000, 1_000_000):
        row(f"token buckets after {clients:,} clients", buckets(clients), table_bytes())
    _, size_bytes = held(lambda: addresses(50_000))
    row(
        "cache of parsed addresses after 50,000",
        parse_address.__globals__["_parse_address"].cache_info().currsize,
        size_bytes,
    )
    events, size_bytes = held(lambda: accepted(BATCH_ROWS))
    assert isinstance(events, list)
    row("events waiting as rows", len(events), size_bytes)
    row("  as accounted", len(events), sum(event.size_bytes for event in events))
    before = pa.total_allocated_bytes()
    buffer = Buffer()
    for event in (many := accepted(40 * BATCH_ROWS)):
        buffer.append(event)
    row("events in columns", len(many), pa.total_allocated_bytes() - before)
    row("  as accounted", len(many), buffer.size_bytes)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
