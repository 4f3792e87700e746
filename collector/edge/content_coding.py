"""Content codings: gzip is taken, and unpacked within a limit, so a bomb costs no more than the largest body."""

import zlib
from typing import Final

from collector.events import FieldError

GZIP: Final = frozenset(("gzip", "x-gzip"))  # RFC 9110, 8.4.1.3: both are the same

# zlib's flag for the format of RFC 1952: the largest window, with gzip's header and trailer.
_GZIP_FORMAT: Final = 16 + zlib.MAX_WBITS

# A file may be several members, one after the other. 65,536 bytes of empty members, 20 bytes each, would take 20 ms.
MAX_MEMBERS: Final = 100


NOT_GZIP: Final = FieldError(None, "is not gzip, or its end is missing")


class BrokenCoding(Exception):
    """The bytes are not gzip, or their end is missing."""


class UnpackedTooLarge(Exception):
    """More bytes come out than are allowed."""


def codings(header: str | None) -> list[str]:
    """The codings in a `Content-Encoding` header, in lower case, without `identity`."""
    if header is None:
        return []
    return [coding for each in header.lower().split(",") if (coding := each.strip()) not in ("", "identity")]


def unpack(packed: bytes, max_bytes: int) -> bytes:
    """Unpack gzip. Takes memory for the result only, which has at most `max_bytes`. Releases the GIL.

    Raises BrokenCoding and UnpackedTooLarge.
    """
    pieces: list[bytes] = []
    left_bytes = max_bytes
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP_FORMAT)
        try:
            piece = member.decompress(packed, left_bytes + 1)
        except zlib.error as exc:
            raise BrokenCoding from exc
        left_bytes -= len(piece)
        if left_bytes < 0:
            raise UnpackedTooLarge
        if not member.eof:
            raise BrokenCoding
        pieces.append(piece)
        packed = member.unused_data.lstrip(b"\0")  # tapes and some file systems pad with zeros
        if not packed:
            return b"".join(pieces)
    raise BrokenCoding
