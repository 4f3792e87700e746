"""The file that is imported: plain or gzip, a file or standard input. Memory stays bounded, whatever it contains."""

import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import Any, cast

from collector.cli.ndjson import Line, lines
from collector.daemon.resources import StartError

_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER_BYTES = 262_144


class Unreadable(Exception):
    """The rest of the file cannot be read. The message says why."""


class Source:
    """An open file of lines. Close it with `with`."""

    def __init__(self, name: str) -> None:
        """Open the file; `-` is standard input. Raises StartError.

        Standard input has a file object of its own here. At exit Python would wait for the lock of `sys.stdin`, which a
        thread that still reads holds.
        """
        self.name = "standard input" if name == "-" else name
        try:
            file = io.FileIO(sys.stdin.fileno(), closefd=False) if name == "-" else io.FileIO(name)
        except OSError as exc:
            raise StartError(f"{self.name}: cannot be read: {exc.strerror}") from None
        self._raw = _Raw(file)
        status = os.fstat(file.fileno())
        self.size_bytes = status.st_size if stat.S_ISREG(status.st_mode) else None

    @property
    def read_bytes(self) -> int:
        """Bytes of the file read so far, as they are on disk."""
        return self._raw.read_bytes

    def lines(self, largest_bytes: int) -> Iterator[Line]:
        """The lines, as `collector.cli.ndjson.lines` gives them. Raises Unreadable after the last complete line."""
        try:
            is_gzip = self._raw.starts_with(_GZIP_MAGIC)
            plain = io.BufferedReader(self._raw, _BUFFER_BYTES)
            # GzipFile hands out what it has unpacked before it raises. A BufferedReader around it would lose 256 KiB.
            yield from lines(cast(Any, gzip.GzipFile(fileobj=plain)) if is_gzip else plain, largest_bytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
            raise Unreadable(f"{self.name}: is broken gzip: {exc}") from None
        except OSError as exc:
            raise Unreadable(f"{self.name}: cannot be read: {exc.strerror}") from None

    def close(self) -> None:
        self._raw.close()

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Raw(io.RawIOBase):
    """Counts the bytes read, and can look ahead."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self.read_bytes = 0
        self._file = file
        self._ahead = b""

    def starts_with(self, magic: bytes) -> bool:
        """Whether these are the next bytes. A pipe may give one byte at a time."""
        while len(self._ahead) < len(magic) and (more := self._file.read(len(magic) - len(self._ahead))):
            self._ahead += more
            self.read_bytes += len(more)
        return self._ahead == magic

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ahead:
            size = min(len(buffer), len(self._ahead))
            buffer[:size], self._ahead = self._ahead[:size], self._ahead[size:]
            return size
        size = self._file.readinto(buffer) or 0
        self.read_bytes += size
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
