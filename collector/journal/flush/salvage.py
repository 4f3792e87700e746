"""Reading a segment's file, and around what the disk cannot read of it.

A bad sector fails every read that touches its block (EIO), and may do so for ever. Zeros stand for such a block, which
no CRC accepts: the records in it are damage, the others are found as ever.
"""

import os
from errno import EIO
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from collector.portable import read_at

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 4_096  # what the kernel reads at least: a page


class Unreadable(OSError):
    """The disk cannot read the file, or some of it."""


class SegmentReader(FileIO):
    """The bytes of a file that nobody changes, to be buffered by blocks.

    Reads raise Unreadable at a block that the disk cannot read; or, `around_bad_blocks`, put zeros in its place.
    """

    def __init__(self, path: Path, *, around_bad_blocks: bool) -> None:
        super().__init__(path)
        self._around = around_bad_blocks
        self.bad: set[int] = set()  # where the blocks begin that were read as zeros

    def readinto(self, buffer: "WriteableBuffer") -> int:
        at = self.tell()
        wanted = memoryview(buffer).cast("B")
        try:
            got = read_at(self.fileno(), wanted, at)
        except OSError as exc:
            if exc.errno != EIO:
                raise
            if not self._around:
                raise Unreadable(EIO, exc.strerror, str(self.name)) from exc
            got = self._read_block(wanted[: BLOCK_BYTES - at % BLOCK_BYTES], at)
        self.seek(at + got)
        return got

    def _read_block(self, wanted: memoryview, at: int) -> int:
        """The rest of the block at this place, by itself: what was asked for may have been a good one and a bad one."""
        try:
            return read_at(self.fileno(), wanted, at)
        except OSError as exc:
            if exc.errno != EIO:
                raise
        zeros = min(len(wanted), os.fstat(self.fileno()).st_size - at)
        wanted[:zeros] = bytes(zeros)
        self.bad.add(at - at % BLOCK_BYTES)
        return zeros
