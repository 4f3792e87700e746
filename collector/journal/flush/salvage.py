"""Salvage: reads a segment's file, skipping blocks that the disk cannot read.

A bad sector makes every read of its block fail with EIO, possibly forever. Such a block is read as zeros. The CRC then
fails for the records in the block, and all other records can still be read.
"""

import os
from errno import EIO
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from collector.portable import read_at

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 4_096  # the least that the kernel reads: a page


class Unreadable(OSError):
    """The disk cannot read the file, or some of it."""


class SegmentReader(FileIO):
    """An unbuffered reader of a file that does not change. Wrap it in a buffer of BLOCK_BYTES.

    At a block that the disk cannot read, a read raises Unreadable. With `around_bad_blocks`, it returns zeros instead.
    """

    def __init__(self, path: Path, *, around_bad_blocks: bool) -> None:
        super().__init__(path)
        self._around = around_bad_blocks
        self.bad: set[int] = set()  # offsets of the blocks that were read as zeros

    def is_bad(self, start: int, end: int) -> bool:
        """Whether a block with some of these bytes was read as zeros."""
        return any(block < end and start < block + BLOCK_BYTES for block in self.bad)

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
        """Read only the rest of the block at `at`, because the failed read may have spanned good and bad blocks."""
        try:
            return read_at(self.fileno(), wanted, at)
        except OSError as exc:
            if exc.errno != EIO:
                raise
        zeros = min(len(wanted), os.fstat(self.fileno()).st_size - at)
        wanted[:zeros] = bytes(zeros)
        self.bad.add(at - at % BLOCK_BYTES)
        return zeros
