"""Tables: the Arrow schemas of the datasets, and turning rows into columns."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import pyarrow as pa

from collector.events import COLUMNS, Kind, Row

_ARROW_TYPES = {
    Kind.STRING: pa.string(),
    Kind.NUMBER: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
}

EVENT_SCHEMA: pa.Schema = pa.schema([(column.name, _ARROW_TYPES[column.kind]) for column in COLUMNS])
"""The columns that readers get, derived from the contract. Every part has all of them."""

REJECTED_SCHEMA: pa.Schema = pa.schema(
    [("received_at", _ARROW_TYPES[Kind.TIMESTAMP]), ("message", pa.string()), ("body", pa.string())]
)
"""The columns kept of an event that broke the contract."""

MERGED_AT_ONCE = 32
FEW_BATCHES = 64


def settle_memory_pool() -> None:
    """Choose the memory allocator for columns, in a process that serves.

    With Arrow's default, mimalloc, every tenth batch blocked the event loop four times as long, and a row took 15 to
    20 % more time (`python -m bench.pools` shows both). At its peak, a collector took 250 MB with jemalloc and
    285 MB with the system's allocator.
    """
    try:
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    except NotImplementedError:  # this build of Arrow has no jemalloc
        pa.set_memory_pool(pa.system_memory_pool())


def to_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Turn rows, each with one value per column of EVENT_SCHEMA, into a batch.

    Holds the GIL for 3 us per row (`RecordBatch.from_pylist` of dicts: 5 us), so pass at most a few hundred rows.
    """
    no_values, null_columns = _nulls(len(rows))
    arrays = [
        nulls if column == no_values else pa.array(column, nulls.type)
        for column, nulls in zip(zip(*rows, strict=True), null_columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMA)


@lru_cache(maxsize=2)  # full batches, and the last one of a segment
def _nulls(rows: int) -> tuple[tuple[None, ...], list[pa.Array]]:
    """Return a column of nulls as a tuple, and as Arrow's array for each column of EVENT_SCHEMA.

    Most fields belong to a few event types, so batches often lack them. Sharing these arrays makes rows 8 % cheaper
    (`python -m bench.pools`).
    """
    return (None,) * rows, [pa.nulls(rows, field.type) for field in EVENT_SCHEMA]


def record_batch(columns: Iterable[Sequence[object]], schema: pa.Schema) -> pa.RecordBatch:
    """Build a batch from columns, in the schema's order and with its types."""
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def merge(batches: list[pa.RecordBatch]) -> None:
    """Merge many batches into at most FEW_BATCHES, in place. The list holds every row at all times.

    Handling hundreds of batches of 66 columns holds the GIL, from slicing to freeing: 20 ms for 400 batches. Copying
    their data releases it. Batches are copied in groups, because one large copy would double a flush's memory.
    """
    while len(batches) > FEW_BATCHES:
        at = 0
        while at < len(batches):
            batches[at : at + MERGED_AT_ONCE] = [pa.concat_batches(batches[at : at + MERGED_AT_ONCE])]
            at += 1
