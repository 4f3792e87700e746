"""The buffer, and a journal in memory: accounting, sealing, and the limit."""

import asyncio
import itertools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from collector.clock import US_PER_DAY, Clock
from collector.events import COLUMNS, Event
from collector.journal.buffer import (
    BATCH_BYTES,
    BATCH_ROWS,
    COMPRESSED_FROM_PARTS,
    SECTION_FREE_BYTES,
    SECTIONS,
    WAITING_ROWS,
    Buffer,
)
from collector.journal.journal import MEMORY_SEGMENTS, Journal
from collector.journal.segment import SegmentStore
from collector.metrics import Metrics
from collector.parts.section import Section
from collector.parts.table import EVENT_SCHEMA
from collector.publish.local import Folders
from tests.support import NOON_US, FakeClock

TODAY = NOON_US // US_PER_DAY


def make_event(site_id: str = "a", received_us: int = NOON_US, size_bytes: int = 1_000) -> Event:
    values: dict[str, Any] = {"site_id": site_id, "received_at": received_us}
    row = [values.get(column.name) for column in COLUMNS]
    return Event(site_id, received_us, None, None, b"{}", row, size_bytes)


def make_journal(
    segment_max_bytes: int = 10_000, journal_max_bytes: int = 10**9, clock: Clock | None = None
) -> Journal:
    """A journal in memory."""
    ids = (f"{number:016x}" for number in itertools.count())
    store = SegmentStore(Folders(Path()), "0", by_site=True, durability="memory", new_id=lambda: next(ids))
    return Journal(
        store,
        segment_max_bytes=segment_max_bytes,
        journal_max_bytes=journal_max_bytes,
        clock=clock or FakeClock(),
        metrics=Metrics(),
    )


async def turns() -> None:
    """Run everything that is ready in the event loop: no chain of tasks here is longer than 20 turns."""
    for _ in range(20):
        await asyncio.sleep(0)


def sizes(section: Section) -> list[int]:
    """The number of rows of each batch."""
    return [batch.num_rows for batch in section.decode()]


def test_buffer_holds_columns_that_mix_sites() -> None:
    """At most one batch of rows waits as Python objects, however many sites there are."""
    buffer = Buffer()
    for number in range(3 * BATCH_ROWS + 1):
        buffer.append(make_event(f"site-{number}"))
    (section,) = buffer.sections
    assert 1 == len(section.rows)
    assert [BATCH_ROWS, BATCH_ROWS, BATCH_ROWS, 1] == sizes(section)
    assert all(batch.schema.equals(EVENT_SCHEMA) for batch in section.decode())
    assert [f"site-{number}" for number in range(3 * BATCH_ROWS + 1)] == [
        site for batch in section.decode() for site in batch["site_id"].to_pylist()
    ]


def test_buffer_turns_large_rows_into_columns_early() -> None:
    buffer = Buffer()
    for _ in range(4):
        buffer.append(make_event(size_bytes=BATCH_BYTES // 2))
    assert [2, 2] == sizes(buffer.sections[0])


def test_segment_counts_rows_of_each_site_and_day() -> None:
    buffer = Buffer(by_site=True)
    for site, day in (("a", 0), ("b", 0), ("a", 0), ("a", 1)):
        buffer.append(make_event(site, NOON_US + day * US_PER_DAY))
    assert {(TODAY, "a"): 2, (TODAY, "b"): 1, (TODAY + 1, "a"): 1} == buffer.rows_of
    assert (4, 4_000) == (buffer.rows, buffer.size_bytes)


def test_parts_are_spread_evenly_over_the_sections() -> None:
    """All rows of a part are in one section, since a flush writes one section at a time."""
    buffer = Buffer(by_site=True)
    for number in range(3 * 4 * SECTIONS):
        buffer.append(make_event(f"site-{number % (4 * SECTIONS)}"))
    assert SECTIONS * [4] == [len(section.rows_of) for section in buffer.sections]
    assert SECTIONS * [4 * [3]] == [list(section.rows_of.values()) for section in buffer.sections]


@pytest.mark.parametrize(
    ("by_site", "sites", "compressed"),
    [(True, COMPRESSED_FROM_PARTS, True), (True, COMPRESSED_FROM_PARTS - 1, False), (False, 1_000, False)],
)
def test_columns_of_many_parts_are_compressed(by_site: bool, sites: int, compressed: bool) -> None:
    buffer = Buffer(by_site=by_site)
    for number in range(20 * BATCH_ROWS):
        buffer.append(make_event(f"site-{number % sites}"))
    waiting = sum(section.rows_bytes for section in buffer.sections)
    decoded = [section.columns_bytes for section in buffer.sections]
    held = sum(section.held_bytes for section in buffer.sections)
    assert held > 0
    assert compressed is (held < sum(decoded) / 4)
    assert held + waiting == buffer.held_bytes


def test_sections_become_columns_in_turn() -> None:
    """Sections fill at the same time. Turning all into columns at once would block the event loop for 30 ms."""
    buffer = Buffer(by_site=True)
    turned_at = []
    for number in range(10 * WAITING_ROWS):
        columns_before = [section.columns_bytes for section in buffer.sections]
        buffer.append(make_event(f"site-{number % 1_000}"))
        if columns_before != [section.columns_bytes for section in buffer.sections]:
            turned_at.append(number)
        assert WAITING_ROWS > sum(len(section.rows) for section in buffer.sections)
    assert 100 < min(later - earlier for earlier, later in pairwise(turned_at))
    assert len(turned_at) < 10 * WAITING_ROWS / 256


def test_segment_of_one_large_site_holds_hardly_more_rows_than_without_compression() -> None:
    """A flush decodes all rows of a section, so their size counts."""
    buffer = Buffer(by_site=True)
    for number in range(COMPRESSED_FROM_PARTS):
        buffer.append(make_event(f"site-{number}"))
    for _ in range(120 * BATCH_ROWS):
        buffer.append(make_event("large"))
    counted = max(section.columns_bytes for section in buffer.sections) - SECTION_FREE_BYTES
    assert counted > 10**6
    held = sum(section.held_bytes + section.rows_bytes for section in buffer.sections)
    assert held + counted == buffer.held_bytes


async def test_sealing_leaves_the_waiting_rows_to_the_flush() -> None:
    """Turning the last rows of every section into columns would block the event loop for 10 ms."""
    journal = make_journal()
    assert await journal.append(make_event())
    journal._take_buffer()
    (segment,) = journal.sealed
    assert segment.buffer is not None
    assert [1] == [len(section.rows) for section in segment.buffer.sections]


async def test_full_segment_is_sealed_and_the_next_is_open() -> None:
    journal = make_journal(segment_max_bytes=3_000)
    for _ in range(4):
        assert await journal.append(make_event())
    assert [3] == [segment.rows for segment in journal.sealed]
    assert journal.flush_due.is_set()
    assert (4, 4_000) == (journal.unpublished_rows, journal.unpublished_bytes)


async def test_sealing_nothing_makes_no_segment() -> None:
    journal = make_journal()
    await journal.seal()
    assert not journal.sealed
    assert not journal.flush_due.is_set()


@pytest.mark.parametrize(
    ("segment_max_bytes", "journal_max_bytes", "taken"),
    [(10_000, 10**9, MEMORY_SEGMENTS * 10), (10_000, 25_000, 25), (10_000, 10_000, 10)],
)
async def test_journal_refuses_at_its_limit_and_accepts_again_after_a_release(
    segment_max_bytes: int, journal_max_bytes: int, taken: int
) -> None:
    journal = make_journal(segment_max_bytes, journal_max_bytes)
    answers = [await journal.append(make_event()) for _ in range(taken + 5)]
    assert [True] * taken + [False] * 5 == answers
    assert (taken, False) == (journal.unpublished_rows, journal.can_append())
    journal.release(journal.sealed[0])
    assert await journal.append(make_event())


async def test_buffered_by_site_counts_open_and_sealed_segments() -> None:
    journal = make_journal()
    await journal.append(make_event("a"))
    await journal.seal()
    for site in ("a", "b"):
        await journal.append(make_event(site, NOON_US + US_PER_DAY))
    assert {"a": 2, "b": 1} == dict(journal.buffered_by_site())
    journal.release(journal.sealed[0])
    assert {"a": 1, "b": 1} == dict(journal.buffered_by_site())


async def test_segments_are_released_in_any_order() -> None:
    """A segment whose flush fails does not delay later ones."""
    journal = make_journal()
    for site_id in ("a", "b"):
        await journal.append(make_event(site_id))
        await journal.seal()
    journal.release(journal.sealed[1])
    assert ({"a": 1}, 1_000) == (dict(journal.buffered_by_site()), journal.unpublished_bytes)


async def test_closed_journal_and_low_disk_refuse_and_say_why() -> None:
    journal = make_journal()
    journal.blocked_reason = "disk space is low"
    assert (False, "disk space is low") == (await journal.append(make_event()), journal.unready_reason())
    journal.blocked_reason = None
    assert await journal.append(make_event())
    await journal.close()
    assert (False, "draining") == (await journal.append(make_event()), journal.unready_reason())
    assert [1] == [segment.rows for segment in journal.sealed]
