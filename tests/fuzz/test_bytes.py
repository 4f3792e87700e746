"""Raw bytes: conversations with two real collectors, fast path on and off, which must respond and store alike."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow.parquet as pq

from tests.fuzz.conftest import FIRST, LAPS, SEED, lap_requests
from tests.fuzz.conversations import MAX_BATCH_BYTES, MAX_BODY_BYTES, SITES, Conversation, make
from tests.fuzz.drive import Received, converse
from tests.fuzz.ledger import Ledger
from tests.fuzz.strict import CONTINUE
from tests.system.process import Process, serving, wait_until

CLIENTS = 32
ONE_READ_BYTES = 16_384  # the collector receives a write of up to this size in one read
SERVER: dict[str, Any] = {
    "trusted_proxies": ["127.0.0.1"],
    "client_ip_header": ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP"][crc32(SEED.encode()) % 4],
    "max_body_bytes": MAX_BODY_BYTES,
    "max_batch_bytes": MAX_BATCH_BYTES,
    "keepalive_timeout_s": 10,
}
STORAGE: dict[str, Any] = {"flush_interval_s": 1, "durability": "write"}

# The long form detects a leak of 300 bytes per connection: its 1,000,000 requests are some 190,000 connections to each
# collector. The caches of lines and origins (24 MB) and Arrow's pool grow without being a leak.
GROWTH_BYTES = 64 << 20
GROWTH_DESCRIPTORS = 8
LOG_LINES = 20  # in addition to one per flush


@dataclass(slots=True)
class Subject:
    """One collector, with its ledger and measurements."""

    process: Process
    ledger: Ledger = field(default_factory=Ledger)
    seen: set[Path] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # resident bytes and descriptors after each lap
    rows: int = 0

    def end_lap(self) -> None:
        """Once all connections are closed, check rows against responses, and metrics against rows."""
        wait_until(lambda: self.process.metrics().value("collector_connections") == 0, "no connection is open")
        self.process.published()
        rows = list(self._new_rows())
        self.ledger.verdict(rows)
        self.rows += len(rows)
        self.statuses += self.ledger.statuses
        self.ledger = Ledger()
        page = self.process.metrics()
        stored = page.by("site", "collector_stored_events_total")
        assert self.rows == sum(stored.values())
        received = page.by("site", "collector_received_events_total")
        assert sum(received.values()) == sum(stored.values()) + sum(
            page.by("reason", "collector_dropped_events_total", site=site).get(reason, 0)
            for site in received
            for reason in page.by("reason", "collector_dropped_events_total", site=site)
        )
        assert 0 == page.value("collector_requests_in_flight")
        self.sizes.append((int(page.value("process_resident_memory_bytes")), int(page.value("process_open_fds"))))

    def _new_rows(self) -> Iterator[tuple[str | None, ...]]:
        for path in set(self.process.parts()) - self.seen:
            self.seen.add(path)
            table = pq.ParquetFile(path).read(columns=["session_id", "visitor_id"])
            yield from zip(*(column.to_pylist() for column in table.columns), strict=True)

    def check_growth(self) -> None:
        """Check that memory and descriptors grew no more than caches and pools explain."""
        warm_bytes, warm_descriptors = self.sizes[len(self.sizes) // 3]
        last_bytes, last_descriptors = self.sizes[-1]
        assert last_bytes - warm_bytes < GROWTH_BYTES, self.sizes
        assert last_descriptors - warm_descriptors <= GROWTH_DESCRIPTORS, self.sizes


def collector(folder: Path, *, fast_path: bool) -> AbstractContextManager[Process]:
    """Start a collector with the fast path on or off."""
    server = SERVER | {"port": 0, "fast_path": fast_path}
    storage = STORAGE | {"data_dir": folder / "data", "min_free_bytes": 0}
    return serving(folder, SITES, server=server, storage=storage, privacy={"client_ip": "full"})


async def lap(subjects: list[Subject], numbers: Iterator[int], requests: int) -> int:
    """Run conversations until all subjects together got at least that many requests. Returns the number sent."""
    sent = 0

    async def client() -> None:
        nonlocal sent
        while sent < requests:
            conversation = make(SEED, next(numbers))
            sent += len(conversation.requests) * len(subjects)
            try:
                responses = await asyncio.gather(*(converse(subject.process.url, conversation) for subject in subjects))
                for subject, received in zip(subjects, responses, strict=True):
                    subject.ledger.enter(conversation, received)
                compare(conversation, responses)
            except Exception as exc:
                raise AssertionError(_how_to_reproduce(conversation)) from exc

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
    return sent


def compare(conversation: Conversation, responses: list[Received]) -> None:
    """Check that all subjects sent the same bytes, except Date and 100 Continue, which depends on timing.

    Conversations that were reset are skipped. So are wild ones sent in several pieces: the fate of requests before a
    broken one depends on how the kernel splits the bytes into reads.
    """
    in_one_read = len(conversation.pieces) == 1 and len(conversation.sent) <= ONE_READ_BYTES
    if any(received.cut for received in responses) or (conversation.is_wild and not in_one_read):
        return
    one, *others = (re.sub(rb"\r\nDate: [^\r]*", b"", received.data.replace(CONTINUE, b"")) for received in responses)
    for other in others:
        if conversation.is_wild:  # a client that leaves within a body may do so before or after its response
            one, other = (one[: len(other)], other[: len(one)])
        assert one == other


def _how_to_reproduce(conversation: Conversation) -> str:
    again = f"FUZZ_SEED={SEED} FUZZ_FIRST={conversation.number} FUZZ_REQUESTS=1"
    return f"{again}\n{conversation.end}, {conversation.intact} intact, {conversation.pieces!r}"


def test_any_bytes_get_a_valid_response_and_every_201_is_one_row(tmp_path: Path) -> None:
    """No connections, descriptors, memory or log lines accumulate either."""
    numbers, sent = count(FIRST), 0
    with ExitStack() as stack:
        subjects = []
        for fast_path in (True, False):
            folder = tmp_path / str(fast_path)
            folder.mkdir()
            subjects.append(Subject(stack.enter_context(collector(folder, fast_path=fast_path))))
        for number in range(LAPS):
            sent += asyncio.run(lap(subjects, numbers, lap_requests()))
            for subject in subjects:
                subject.end_lap()
            print(f"lap {number}: {sent:,} requests, {[subject.sizes[-1] for subject in subjects]}")
        for subject in subjects:
            subject.check_growth()
            assert 0 == subject.process.stop()
            said = subject.process.log()
            assert not re.search("Traceback|ERROR|CRITICAL", said), said
            others = [line for line in said.splitlines() if "published" not in line]
            assert len(others) < LOG_LINES, others
            print(f"{subject.rows:,} rows; responses {dict(sorted(subject.statuses.items()))}; {subject.sizes}")
