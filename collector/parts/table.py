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

_COLUMNS_OF_TYPE: list[tuple[pa.DataType, list[int]]] = [
    (arrow_type, [index for index, column in enumerate(COLUMNS) if column.kind is kind])
    for kind, arrow_type in _ARROW_TYPES.items()
]

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

    With Arrow's default, mimalloc, one batch in a hundred blocked the event loop five times as long, and a row took
    a quarter more time (`python -m bench.pools` shows both). At its peak, a collector took 250 MB with jemalloc and
    285 MB with the system's allocator.
    """
    try:
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    except NotImplementedError:  # this build of Arrow has no jemalloc
        pa.set_memory_pool(pa.system_memory_pool())


def to_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Turn rows, each with one value per column of EVENT_SCHEMA, into a batch. Raises ValueError if values are missing.

    Holds the GIL for 1.6 us per row (`RecordBatch.from_pylist` of dicts: 5 us), so pass at most a few hundred rows.

    All columns of a type are slices of one array. An array for each would make rows 9 % dearer, and `zip(*rows)` in the
    place of slices of one list 25 % (`python -m bench.pools`).
    """
    values: Row = []
    for row in rows:
        values += row
    count, width = len(rows), len(EVENT_SCHEMA)
    if len(values) != count * width:
        raise ValueError(f"{count} rows of {width} columns have {len(values)} values")
    no_values, null_columns = _nulls(count)
    arrays = list(null_columns)
    for arrow_type, indices in _COLUMNS_OF_TYPE:
        filled: list[int] = []
        together: Row = []
        for index in indices:
            column = values[index::width]
            if column != no_values:
                filled.append(index)
                together += column
        array = pa.array(together, arrow_type)
        for number, index in enumerate(filled):
            arrays[index] = array.slice(number * count, count)
    return pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMA)


@lru_cache(maxsize=2)  # full batches, and the last one of a segment
def _nulls(rows: int) -> tuple[list[None], list[pa.Array]]:
    """Return a column of nulls as a list, and as Arrow's array for each column of EVENT_SCHEMA.

    Most fields belong to a few event types, so batches often lack them. Sharing these arrays makes rows 5 % cheaper
    (`python -m bench.pools`).
    """
    return [None] * rows, [pa.nulls(rows, field.type) for field in EVENT_SCHEMA]


def record_batch(columns: Iterable[Sequence[object]], schema: pa.Schema) -> pa.RecordBatch:
    """Build a batch from columns, in the schema's order and with its types."""
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def merge(batches: list[pa.RecordBatch]) -> None:
    """Merge many batches into at most FEW_BATCHES, in place. The list holds every row at all times.

    Handling hundreds of batches of 67 columns holds the GIL, from slicing to freeing: 20 ms for 400 batches. Copying
    their data releases it. Batches are copied in groups, because one large copy would double a flush's memory.
    """
    while len(batches) > FEW_BATCHES:
        at = 0
        while at < len(batches):
            batches[at : at + MERGED_AT_ONCE] = [pa.concat_batches(batches[at : at + MERGED_AT_ONCE])]
            at += 1
