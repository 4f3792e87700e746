"""Tables: the Arrow schema of the dataset, and rows turned into columns."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from collector.events import COLUMNS, Kind, Row

_ARROW_TYPES = {
    Kind.STRING: pa.string(),
    Kind.NUMBER: pa.float64(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
}

EVENT_SCHEMA: pa.Schema = pa.schema([(column.name, _ARROW_TYPES[column.kind]) for column in COLUMNS])
"""The columns that readers get, derived from the contract; the whole set is in every part."""

REJECTED_SCHEMA: pa.Schema = pa.schema(
    [("received_at", _ARROW_TYPES[Kind.TIMESTAMP]), ("message", pa.string()), ("body", pa.string())]
)
"""What is kept of an event that broke the contract."""

MERGED_AT_ONCE = 32
FEW_BATCHES = 64


def settle_memory_pool() -> None:
    """Choose where columns take their memory from, for a process that serves.

    With Arrow's own choice, mimalloc, every tenth batch of a serving collector held the event loop for 5 ms instead of
    1.3, and a row cost 15 to 20 % more (`python -m bench.pools` shows both). A collector at its peak took 250 MB with
    jemalloc, and 285 with the system's.
    """
    try:
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    except NotImplementedError:  # this build of Arrow has none
        pa.set_memory_pool(pa.system_memory_pool())


def to_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Columns of `rows`, which hold one value per column of EVENT_SCHEMA.

    Holds the GIL for 3 us a row (`RecordBatch.from_pylist` of dicts: 5 us), so a batch should be a few hundred rows.
    """
    return record_batch(zip(*rows, strict=True), EVENT_SCHEMA)


def record_batch(columns: Iterable[Sequence[object]], schema: pa.Schema) -> pa.RecordBatch:
    """One array per column, each of the schema's type."""
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def merge(batches: list[pa.RecordBatch]) -> None:
    """Make few batches of many, in place and some at a time; the list holds every row at every moment.

    Work on hundreds of batches of 66 columns holds the GIL, from slicing to freeing them: 20 ms with 400 batches.
    Copying their data does not, but a copy of all of it at once would double what a flush takes.
    """
    while len(batches) > FEW_BATCHES:
        at = 0
        while at < len(batches):
            batches[at : at + MERGED_AT_ONCE] = [pa.concat_batches(batches[at : at + MERGED_AT_ONCE])]
            at += 1
