"""Segments: the unit of flushing. What one segment holds becomes one part per site and day.

A segment is open until it is sealed and never changed after. With durability `memory` it is nothing but its
batches; it is released when all its parts are published.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from collector.parts.writer import Group


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A sealed segment: its events as columns, and how many rows belong to each site and day.

    Its flush merges `batches` in place; the rows stay the same.
    """

    id: str
    batches: list[pa.RecordBatch]
    rows_of: Mapping[Group, int]
    rows: int
    size_bytes: int
