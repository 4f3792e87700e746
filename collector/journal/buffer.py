"""The buffer: a segment's events in memory, as columns, counted by site and day.

Batches mix sites and carry the site as a column; the flush sorts them apart. With a batch for each site, 10,000 sites
could each keep a few hundred rows waiting as Python objects (9 GB). With mixed batches, at most BATCH_ROWS rows wait,
whatever the number of sites.
"""

from collections import Counter
from typing import Final

import pyarrow as pa

from collector.clock import US_PER_DAY
from collector.events import Event, Row
from collector.journal.segment import Columns
from collector.parts.table import to_batch
from collector.parts.writer import Group

# Turning rows into columns blocks the event loop: 512 rows take 0.8 ms. 1,024 rows would take 1.5 ms, and 4 % less in
# all; 256 rows 0.4 ms, and 10 % more (`python -m bench.pools`).
BATCH_ROWS = 512
BATCH_BYTES: Final = 1 << 20  # a limit for large rows, which block the loop too


class Buffer:
    """Events that become columns. Not thread-safe: one thread owns it."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._rows_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self.rows_of: Counter[Group] = Counter()
        self.rows = 0
        self.size_bytes = 0  # what the events are charged: no less than they take in memory or in a segment's file
        self._columns_bytes = 0  # what they take as columns: about half of the charge

    def append(self, event: Event) -> None:
        """Add an accepted event."""
        self._rows.append(event.row)
        self.rows_of[event.received_us // US_PER_DAY, event.site_id] += 1
        self.rows += 1
        self.size_bytes += event.size_bytes
        self._rows_bytes += event.size_bytes
        if len(self._rows) >= BATCH_ROWS or self._rows_bytes >= BATCH_BYTES:
            self._to_columns()

    @property
    def held_bytes(self) -> int:
        """The size of the columns, plus the charge of the rows that are not columns yet."""
        return self._columns_bytes + self._rows_bytes

    def columns(self) -> Columns:
        """Return everything appended so far. Do not use the buffer afterwards."""
        if self._rows:
            self._to_columns()
        return Columns(self._batches, self.rows_of)

    def _to_columns(self) -> None:
        batch = to_batch(self._rows)
        # `nbytes` takes 0.2 us per row more. It also counts memory that columns of nulls share, as often as they do.
        self._columns_bytes += batch.get_total_buffer_size()
        self._batches.append(batch)
        self._rows.clear()
        self._rows_bytes = 0
