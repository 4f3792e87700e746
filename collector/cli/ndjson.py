"""The lines of a file of newline-delimited events, by the numbers that an editor gives them."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from collector.ingest.schema import UTF8_BOM

_SKIPPED_BYTES = 65_536  # read at once of what is too large to be an event
_AROUND_BODY_BYTES = len(UTF8_BOM) + len(b"\r\n")


class Line(NamedTuple):
    """One line that is not blank: an event, if it is one."""

    number: int
    body: bytes


def lines(source: BinaryIO, largest_bytes: int) -> Iterator[Line]:
    """Each line without the LF or CR LF that ends it, and without the file's byte order mark.

    Blank ones are counted and left out. Of a body larger than `largest_bytes` comes only as much as shows that it is.
    """
    number = 0
    while piece := source.readline(largest_bytes + _AROUND_BODY_BYTES + 1):
        number += 1
        body = _without_end(piece if number > 1 else piece.removeprefix(UTF8_BOM))
        is_blank = not body.strip()
        while not piece.endswith(b"\n") and (piece := source.readline(_SKIPPED_BYTES)):
            is_blank = is_blank and not piece.strip()
        if not is_blank:
            yield Line(number, body)


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\r\n") if line.endswith(b"\r\n") else line.removesuffix(b"\n")
