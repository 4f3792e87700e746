"""The lines of a file of newline-delimited events, numbered as an editor numbers them."""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from collector.ingest.schema import UTF8_BOM

_SKIPPED_BYTES = 65_536  # chunk size when skipping the rest of an oversized line
_AROUND_BODY_BYTES = len(UTF8_BOM) + len(b"\r\n")


class Line(NamedTuple):
    """One line that is not blank; its body should be an event."""

    number: int
    body: bytes


def lines(source: BinaryIO, largest_bytes: int) -> Iterator[Line]:
    """Each line, without its LF or CR LF and without a byte order mark at the start of the file.

    Blank lines count but are not yielded. A body larger than `largest_bytes` is cut short, but stays larger than that.
    """
    number = 0
    while piece := source.readline(largest_bytes + _AROUND_BODY_BYTES + 1):
        number += 1
        body = _without_end(piece if number > 1 else piece.removeprefix(UTF8_BOM))
        is_blank = not body.strip()
        if not is_blank:
            yield Line(number, body)  # before the rest is skipped: it may be the whole file
        while not piece.endswith(b"\n") and (piece := source.readline(_SKIPPED_BYTES)):
            if is_blank and piece.strip():
                is_blank = False
                yield Line(number, body)


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\r\n") if line.endswith(b"\r\n") else line.removesuffix(b"\n")
