"""Sections: each holds the rows of some sites and days of a segment, until they become parts.

With many sites, small parts are the main cost of an event. Larger segments make larger parts, so columns can be
compressed, to a quarter of their size. The flush decodes and sorts one section at a time, which bounds its memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from collector.clock import US_PER_DAY
from collector.events import Row
from collector.parts.table import EVENT_SCHEMA, merge, to_batch

Group = tuple[int, str]
"""(day, site id) of rows that belong together. Days count from 1970-01-01."""


@dataclass(frozen=True, slots=True)
class Part:
    """A published part."""

    path: Path
    rows: int
    size_bytes: int


# A batch is compressed in one piece. Arrow's own compression treats each of 150 buffers alone, and took three times as
# long.
CODEC: Final = "zstd"


class Section:
    """Rows that become columns. Not thread-safe: the event loop's thread owns it, then the flush thread."""

    def __init__(self) -> None:
        self.rows_of: dict[Group, int] = {}
        self.rows: list[Row] = []  # not columns yet
        self.rows_bytes = 0  # their charge
        self.columns_bytes = 0  # the size of all columns when decoded
        self.held_bytes = 0  # the size of all columns as they are held
        self.published: list[Part] = []  # once all its parts are; its rows are freed then
        self._batches: list[pa.RecordBatch] = []
        self._compressed: list[tuple[pa.Buffer, int]] = []  # later batches, and their size when decoded

    def append(self, group: Group, row: Row, size_bytes: int) -> None:
        """Add a row, whose charge is `size_bytes`."""
        self.rows_of[group] = self.rows_of.get(group, 0) + 1
        self.rows.append(row)
        self.rows_bytes += size_bytes

    def to_columns(self, *, compress: bool) -> None:
        """Turn the waiting rows into columns. Once some are compressed, all later ones must be."""
        batch = to_batch(self.rows)
        if compress:
            message = batch.serialize()
            compressed = pa.compress(message, CODEC)
            compressed.resize(compressed.size, shrink_to_fit=True)  # it was allocated for the worst case
            self.held_bytes += compressed.size
            self.columns_bytes += message.size
            self._compressed.append((compressed, message.size))
        else:
            # `nbytes` takes 0.2 us per row more, and counts memory that columns of nulls share once per column.
            size_bytes = batch.get_total_buffer_size()
            self.held_bytes += size_bytes
            self.columns_bytes += size_bytes
            self._batches.append(batch)
        self.rows.clear()
        self.rows_bytes = 0

    def decode(self) -> list[pa.RecordBatch]:
        """Return all rows as batches, in order of arrival."""
        if self.rows:
            self.to_columns(compress=bool(self._compressed))
        if not self._compressed:
            return self._batches
        return self._batches + [_decode(compressed, size_bytes) for compressed, size_bytes in self._compressed]

    def table(self) -> pa.Table:
        """Return all rows, sorted by day, then by site, then in order of arrival. Blocks, mostly without the GIL."""
        batches = self.decode()
        merge(batches)
        table = _sorted(pa.Table.from_batches(batches, EVENT_SCHEMA), len(self.rows_of))
        if not self._compressed:  # compressed rows stay as they are for a retry
            self._batches[:] = table.to_batches()  # frees the unsorted rows, up to 64 MiB
        return table

    def release(self, parts: list[Part]) -> None:
        """Free the rows, all of which are in these published parts."""
        self.published = parts
        self._batches.clear()
        self._compressed.clear()


def _decode(compressed: pa.Buffer, size_bytes: int) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(pa.decompress(compressed, size_bytes, CODEC), EVENT_SCHEMA)


def _sorted(table: pa.Table, groups: int) -> pa.Table:
    """Sort by day, then by site, keeping the order of arrival (Arrow's sort is stable). Releases the GIL."""
    if groups < 2:
        return table
    day = pc.divide(table["received_at"].cast(pa.int64()), US_PER_DAY)
    keys = pa.table({"day": day, "site_id": table["site_id"]})
    order = pc.sort_indices(keys, sort_keys=[("day", "ascending"), ("site_id", "ascending")])
    return table.take(order)
