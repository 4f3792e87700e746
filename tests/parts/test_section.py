"""Sections: rows come out as they went in, whether their columns are compressed or not."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.events import COLUMNS, Kind, Row
from collector.parts.section import Section
from collector.parts.table import to_batch
from tests.support import NOON_US

VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STRING: st.text(max_size=20) | st.just(10_000 * "x"),
    Kind.NUMBER: st.floats(allow_nan=False),
    Kind.BOOLEAN: st.booleans(),
    Kind.TIMESTAMP: st.integers(-(2**50), 2**50),
}
ROWS = st.lists(st.tuples(*(st.none() | VALUES[column.kind] for column in COLUMNS)).map(list), min_size=1, max_size=5)


@pytest.mark.parametrize("compressed", [(), (1, 2), (0, 1, 2), (2,)], ids=str)
@given(batches=st.tuples(ROWS, ROWS, ROWS), waiting=ROWS)
def test_rows_come_out_as_they_went_in(
    compressed: tuple[int, ...], batches: tuple[list[Row], ...], waiting: list[Row]
) -> None:
    """Values of every kind, and nulls; batches that were compressed, and the rows that still waited at the seal."""
    section = Section()
    for at, rows in enumerate(batches):
        for row in rows:
            section.append((0, "a"), row, 1)
        section.to_columns(compress=at in compressed)
    for row in waiting:
        section.append((0, "a"), row, 1)
    every = [row for rows in (*batches, waiting) for row in rows]
    for _ in range(2):  # a retry finds the same rows
        decoded = section.decode()
        for batch in decoded:
            batch.validate(full=True)
        assert to_batch(every).to_pylist() == [row for batch in decoded for row in batch.to_pylist()]


def row(site_id: str, received_us: int, session_id: str) -> Row:
    values: dict[str, Any] = {"site_id": site_id, "received_at": received_us, "session_id": session_id}
    return [values.get(column.name) for column in COLUMNS]


@pytest.mark.parametrize("compress", [False, True])
def test_table_is_sorted_by_day_and_site_and_keeps_the_order_of_arrival(compress: bool) -> None:
    section = Section()
    for number in range(1_000):
        site_id, day = f"{number * 7 % 10}", number * 3 % 2
        received_us = NOON_US + day * 86_400_000_000 - number  # the clock may be set back
        section.append((day, site_id), row(site_id, received_us, f"{number:04d}"), 1)
        if len(section.rows) == 30:
            section.to_columns(compress=compress)
    table = section.table()
    columns = [table[name].to_pylist() for name in ("received_at", "site_id", "session_id")]
    keys = [(received_at.date(), *others) for received_at, *others in zip(*columns, strict=True)]
    assert (1_000, sorted(keys)) == (len(keys), keys)


@pytest.mark.parametrize("compress", [False, True])
def test_size_is_that_of_the_columns_as_they_are_held(compress: bool) -> None:
    section = Section()
    for number in range(500):
        section.append((0, "a"), row("a", NOON_US, f"{number}"), 1)
    section.to_columns(compress=compress)
    decoded = sum(batch.get_total_buffer_size() for batch in section.decode())
    assert decoded <= section.columns_bytes < 1.1 * decoded
    assert compress is (section.held_bytes < decoded / 4)
    assert compress or section.held_bytes == decoded


def test_rows_wait_on_if_they_cannot_become_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, if there is no memory: the flush fails, and tries again."""
    section = Section()
    section.append((0, "a"), row("a", NOON_US, "s"), 1)

    def no_memory(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(pa, "compress", no_memory)
        with pytest.raises(MemoryError):
            section.to_columns(compress=True)
    section.to_columns(compress=True)
    assert [1] == [batch.num_rows for batch in section.decode()]
