"""Encoding: how a part's columns are stored in its file.

Every part has all columns, with statistics, a page index, and checksums of pages. A small part costs what its 67
columns cost, whatever is in them: 10,000 sites at 1,000 events a second make parts of 6 rows every minute.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

# Looking up the sizes of 67 columns takes 0.2 ms: a tenth of what a part of 256 rows costs (`python -m bench.parts`).
SMALL_ROWS = 512

# Smaller columns are not worth setting up zstd, least of all columns of nulls, which most columns of a part are. In a
# part of 113 rows, compressing all columns took 0.9 ms more and saved a fifth of the size.
COMPRESSED_FROM_BYTES = 2_048


class Encoding:
    """Chooses the options of ParquetWriter for the parts of one section."""

    def __init__(self, table: pa.Table, codec: str) -> None:
        """`table` holds the rows of all parts, and `codec` compresses them."""
        self._codec = codec
        self._strings = frozenset(field.name for field in table.schema if pa.types.is_string(field.type))
        self._rows = table.num_rows
        self._sizes = _sizes(table)

    def options(self, part: pa.Table) -> dict[str, Any]:
        """Return the options for a part of these rows."""
        rows = part.num_rows
        # A small part counts as an average one.
        sizes: Mapping[str, float] = (
            {name: size * rows / self._rows for name, size in self._sizes.items()}
            if rows < SMALL_ROWS
            else _sizes(part)
        )
        return {
            "compression": {name: self._codec for name, size in sizes.items() if size >= COMPRESSED_FROM_BYTES},
            # Numbers rarely repeat, so a dictionary cost time and a quarter more space.
            "use_dictionary": [name for name in sizes if name in self._strings],
            "write_page_index": True,
            "write_page_checksum": True,
            # Readers find the same types in Parquet's own schema. A copy in Arrow's form took 5 KB of each file.
            "store_schema": False,
        }


def _sizes(table: pa.Table) -> dict[str, int]:
    """The bytes of each column that has values."""
    columns = zip(table.column_names, table.itercolumns(), strict=True)
    return {name: column.nbytes for name, column in columns if column.null_count < table.num_rows}
