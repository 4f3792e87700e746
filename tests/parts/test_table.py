"""Rows as columns, and the memory allocator for columns."""

import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.events import COLUMNS, Kind, Row
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


VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STRING: st.text() | st.sampled_from(["", "\0", "Größe", "\U0001f600", "x" * 5_000]),
    Kind.NUMBER: st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
    | st.sampled_from([-0.0, 5e-324, -5e-324, 1.7976931348623157e308, float(2**53 + 2), float(10**300)]),
    Kind.BOOLEAN: st.booleans(),
    Kind.TIMESTAMP: st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-1, 0, -(2**63), 2**63 - 1]),
}
SOME_OF_EACH_KIND = st.fixed_dictionaries(
    {kind: st.lists(st.none() | values, min_size=1, max_size=7) for kind, values in VALUES.items()}
)


@given(
    some=SOME_OF_EACH_KIND,
    empty=st.sets(st.integers(0, len(COLUMNS) - 1)),
    count=st.integers(1, 40),
)
@example(some={kind: [None] for kind in Kind}, empty=set(), count=1)
def test_each_value_is_found_in_its_row_and_column(some: dict[Kind, list[Any]], empty: set[int], count: int) -> None:
    """Each column starts elsewhere among the values of its kind; those of `empty` have none."""

    def value(at: int, number: int, kind: Kind) -> Any:
        return None if number in empty else some[kind][(at * 3 + number) % len(some[kind])]

    rows: list[Row] = [[value(at, number, column.kind) for number, column in enumerate(COLUMNS)] for at in range(count)]
    batch = to_batch(rows)
    batch.validate(full=True)
    for number, (column, found) in enumerate(zip(COLUMNS, batch.columns, strict=True)):
        sent: list[Any] = [row[number] for row in rows]
        if column.kind is Kind.NUMBER:
            sent = [None if value is None else float(value) for value in sent]
        elif column.kind is Kind.TIMESTAMP:
            found = found.cast(pa.int64())  # years beyond 9999 have no datetime
        # As texts, because -0.0 equals 0.0 and True equals 1.
        assert list(map(repr, sent)) == list(map(repr, found.to_pylist())), column.name


@pytest.mark.parametrize("missing", [1, len(COLUMNS)])
def test_rows_that_lack_values_are_refused(missing: int) -> None:
    """Otherwise all later values would move to other columns."""
    with pytest.raises(ValueError, match="2 rows of 67 columns have"):
        to_batch([[None] * len(COLUMNS), [None] * (len(COLUMNS) - missing)])
