"""Rows as columns, and the memory allocator for columns."""

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from collector.events import COLUMNS, Kind
from collector.parts.table import EVENT_SCHEMA, to_batch

PROBE = """
import pyarrow as pa
from collector.parts.table import settle_memory_pool
before = pa.default_memory_pool().backend_name
settle_memory_pool()
print(before, pa.default_memory_pool().backend_name)
"""


def test_serving_process_does_not_use_the_allocator_that_stalls() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    before, after = probe.stdout.split()
    assert "mimalloc" == before, "if Arrow has changed its default, settle_memory_pool may not be needed any more"
    assert after in ("jemalloc", "system")


SENT: dict[Kind, Any] = {Kind.STRING: "Größe", Kind.NUMBER: 1, Kind.BOOLEAN: False, Kind.TIMESTAMP: 1_000_000}
FOUND: dict[Kind, Any] = {**SENT, Kind.TIMESTAMP: datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)}


@pytest.mark.parametrize("filled", [(), (0,), (1,), (0, 1), (2,)], ids=str)
def test_column_has_the_values_of_its_rows_and_its_type_even_if_all_are_null(filled: tuple[int, ...]) -> None:
    """Three rows; in those of `filled`, the even columns have values."""

    def rows(values: dict[Kind, Any]) -> list[list[Any]]:
        return [
            [values[column.kind] if at in filled and not n % 2 else None for n, column in enumerate(COLUMNS)]
            for at in range(3)
        ]

    for _ in range(2):
        batch = to_batch(rows(SENT))
        batch.validate(full=True)
        assert EVENT_SCHEMA == batch.schema
        assert rows(FOUND) == [list(row.values()) for row in batch.to_pylist()]
