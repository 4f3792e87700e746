"""The buffer: a segment's events in memory, as columns, counted by site and day.

Batches mix sites and carry the site as a column; the flush sorts them apart. With a batch for each site, 10,000 sites
could each keep a few hundred rows waiting as Python objects (9 GB). With mixed batches, at most WAITING_ROWS rows wait,
whatever the number of sites.
"""

from typing import Final

from collector.clock import US_PER_DAY
from collector.events import Event
from collector.parts.section import Group, Section

# Turning rows into columns blocks the event loop: 512 rows take 0.8 ms. 1,024 rows would take 1.5 ms, and 4 % less in
# all; 256 rows 0.4 ms, and 10 % more (`python -m bench.pools`).
BATCH_ROWS = 512
BATCH_BYTES: Final = 1 << 20  # a limit for large rows, which block the loop too

# The flush decodes one section at a time, and sorts it into a copy. With 8 sections it took 30 MB more.
SECTIONS: Final = 16

# The decoded size of a section that does not count. With 300 or 10,000 sites, hardly any section takes more.
SECTION_FREE_BYTES: Final = 16 << 20

# Sections fill at about the same time, and each batch of usual rows blocks the event loop for up to 2 ms. With this
# limit, only one is made every few hundred events, from the fullest section. A waiting row takes 3 KB
# (`python -m bench.memory`).
WAITING_ROWS: Final = 3_072

# With fewer parts, compression costs more than larger parts save.
COMPRESSED_FROM_PARTS = 64


class Buffer:
    """Events that become columns. Not thread-safe: one thread owns it."""

    def __init__(self, *, by_site: bool = False) -> None:
        """`by_site`: each site and day becomes a part. With many of them, the columns are compressed."""
        self.sections = [Section() for _ in range(SECTIONS if by_site else 1)]
        self.rows = 0
        self.size_bytes = 0  # what the events are charged: no less than they take in memory or in a segment's file
        self.answers: list[tuple[bytes, bytes]] = []  # the key and the answer of each batch that has a key
        self._section_of: dict[Group, Section] = {}
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._columns_bytes = 0  # what they take as columns: about half of the charge, or less if compressed
        self._answers_bytes = 0
        self._decoded_bytes = 0  # what the largest compressed section takes when decoded

    def append(self, event: Event) -> None:
        """Add an accepted event."""
        group = (event.received_us // US_PER_DAY, event.site_id)
        section = self._section_of.get(group)
        if section is None:
            section = self._add(group)
        section.append(group, event.row, event.size_bytes)
        self.rows += 1
        self.size_bytes += event.size_bytes
        self._waiting_rows += 1
        self._waiting_bytes += event.size_bytes
        if len(section.rows) >= BATCH_ROWS or section.rows_bytes >= BATCH_BYTES:
            self._to_columns(section)
        elif self._waiting_rows >= WAITING_ROWS:
            self._to_columns(max(self.sections, key=lambda each: len(each.rows)))

    def remember(self, key: bytes, answer: bytes) -> None:
        """Add the key and the answer of a batch."""
        self.answers.append((key, answer))
        self.size_bytes += len(key) + len(answer)
        self._answers_bytes += len(key) + len(answer)

    @property
    def held_bytes(self) -> int:
        """The size of the columns and the answers, plus the charge of the rows that are not columns yet.

        A flush holds one compressed section decoded as well. What the largest takes above SECTION_FREE_BYTES counts, so
        one large site among many small ones cannot make a flush take much more memory.
        """
        decoded_bytes = max(0, self._decoded_bytes - SECTION_FREE_BYTES)
        return self._columns_bytes + self._waiting_bytes + self._answers_bytes + decoded_bytes

    @property
    def rows_of(self) -> dict[Group, int]:
        """The number of rows of each site and day."""
        merged: dict[Group, int] = {}
        for section in self.sections:
            merged.update(section.rows_of)
        return merged

    def _add(self, group: Group) -> Section:
        """Choose the section of a new site or day: each in turn."""
        section = self.sections[len(self._section_of) % len(self.sections)]
        self._section_of[group] = section
        return section

    def _to_columns(self, section: Section) -> None:
        rows, rows_bytes, held_bytes = len(section.rows), section.rows_bytes, section.held_bytes
        many = len(self.sections) > 1 and len(self._section_of) >= COMPRESSED_FROM_PARTS
        section.to_columns(compress=many)  # if this raises, the rows wait on, and nothing below may have changed
        self._waiting_rows -= rows
        self._waiting_bytes -= rows_bytes
        self._columns_bytes += section.held_bytes - held_bytes
        if many:
            self._decoded_bytes = max(self._decoded_bytes, section.columns_bytes)
