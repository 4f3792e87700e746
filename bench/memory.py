"""Memory used by the bounded tables and the buffers: `python -m bench.memory`."""

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from random import Random

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from bench.sample import bodies
from bench.stall import CLIENT, NOON_US, USER_AGENT
from collector.addresses import AddressSet, parse_network
from collector.clock import SystemClock
from collector.config import RateLimit, SiteSettings
from collector.edge.client_ip import MAX_KNOWN_CLIENTS, Client, Peers
from collector.edge.fast_path import END, MAX_KNOWN_LINES, FastPath
from collector.edge.rate_limit import TokenBuckets, table_bytes
from collector.edge.responses import stored
from collector.edge.routes import Routes
from collector.events import Event
from collector.ingest.pipeline import Arrival, accept
from collector.journal.buffer import BATCH_ROWS, Buffer
from collector.sites import build_site, known_host


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
        table.take(Client(IPv4Address(number)))
    return len(table)


def clients_known(count: int) -> tuple[Peers, TokenBuckets]:
    peers, table = Peers(AddressSet([parse_network("127.0.0.1")])), TokenBuckets(RateLimit(), SystemClock())
    for number in range(count):
        table.take(peers.client("127.0.0.1", {"x-forwarded-for": str(IPv4Address(number))}))
    return peers, table


def lines_known(count: int) -> FastPath:
    """Lines of about 60 characters."""
    reader = FastPath(Routes(["e"]))
    for number in range(count):
        head = b"POST / HTTP/1.1\r\nHost: a\r\nReferer: https://www.example.com/a-usual-page/%d/%030d" % (
            number,
            number,
        )
        assert reader.read(head + END, len(head), None) is not None
    return reader


def origins_known(count: int) -> list[object]:
    origins = [f"https://www.site-{number}.example" for number in range(count)]
    return [[known_host(origin), stored(origin)] for origin in origins]


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
    for what, most, fill in (
        ("clients", 2 * MAX_KNOWN_CLIENTS, clients_known),
        ("lines", 2 * MAX_KNOWN_LINES - 9, lines_known),
        ("origins", 8_192, origins_known),
    ):
        _, size_bytes = held(partial(fill, most))
        row(f"remembered {what}", most, size_bytes)
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
