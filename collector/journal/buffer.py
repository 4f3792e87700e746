"""The buffer: a segment's events in memory, as columns, accounted per site.

Batches mix sites and carry the site as a column: with a batch per site, 10,000 sites would each keep a few
hundred rows waiting as Python objects (9 GB); mixed, at most BATCH_ROWS rows wait in all, whatever the
number of sites. They are sorted apart at the flush.
"""

from collections import Counter

import pyarrow as pa

from collector.clock import US_PER_DAY
from collector.events import Event, Row
from collector.journal.segment import Columns
from collector.parts.table import to_batch
from collector.parts.writer import Group

# Turning rows into columns holds the event loop: 256 rows for under a millisecond (bench/stall.py).
BATCH_ROWS = 256
BATCH_BYTES = 1 << 20  # and so do few rows of much text


class Buffer:
    """Events that become columns. Not thread-safe: one thread owns it."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._rows_bytes = 0
        self._batches: list[pa.RecordBatch] = []
        self.rows_of: Counter[Group] = Counter()
        self.rows = 0
        self.size_bytes = 0  # what the events are charged for: more than they take, in memory and in a segment's file
        self._columns_bytes = 0  # what they take as columns: about half of that

    def append(self, event: Event) -> None:
        """Keep an accepted event."""
        self._rows.append(event.row)
        self.rows_of[event.received_us // US_PER_DAY, event.site_id] += 1
        self.rows += 1
        self.size_bytes += event.size_bytes
        self._rows_bytes += event.size_bytes
        if len(self._rows) >= BATCH_ROWS or self._rows_bytes >= BATCH_BYTES:
            self._to_columns()

    @property
    def held_bytes(self) -> int:
        """What the columns take, and what the rows that are none yet are charged for."""
        return self._columns_bytes + self._rows_bytes

    def columns(self) -> Columns:
        """Everything appended so far; the buffer is spent."""
        if self._rows:
            self._to_columns()
        return Columns(self._batches, self.rows_of)

    def _to_columns(self) -> None:
        batch = to_batch(self._rows)
        self._columns_bytes += batch.nbytes
        self._batches.append(batch)
        self._rows.clear()
        self._rows_bytes = 0
