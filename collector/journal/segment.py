"""Segments: the files of the journal. A flush turns each segment into one part per site and day.

    journal/<worker>/20260528T202640Z-0123456789abcdef.segment      the time of opening (UTC), and the segment's id

A file is a header followed by records; collector/journal/record.py has the format and a sample. File names sort by time
of opening. Events are appended until the segment is sealed. A sealed segment never changes, and is deleted once all its
parts are published. With durability `memory` there is no file.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import EIO
from pathlib import Path

from collector.events import Event
from collector.journal.buffer import Buffer
from collector.journal.record import (
    HEADER_BYTES,
    JOURNAL,
    EncodedBatch,
    Header,
    NewerFormat,
    crc_seed,
    decode_header,
    encode,
    encode_frame,
    encode_header,
)
from collector.parts.naming import new_segment_id
from collector.parts.section import Group
from collector.portable import sync, sync_data
from collector.publish.local import Folders, fsync_folder, open_folder

log = logging.getLogger(__name__)

# A segment that a person brings back from quarantine has no time in its name.
SEGMENT_NAME = re.compile(r"(?:\d{8}T\d{6}Z-)?([0-9a-f]{16})\.segment", re.ASCII)

PROBE_BYTES = 65_536


class SegmentBroken(Exception):
    """The file's contents are unknown, because a sync or a truncation failed. Write no further events to it."""


@dataclass(slots=True, eq=False)
class Segment:
    """A sealed segment. Without `buffer`, its events and their counts by site exist only in its file."""

    id: str
    path: Path | None  # None: durability `memory`
    by_site: bool  # parts by site and day, or by day only; fixed, so that a retry finds the parts of an earlier attempt
    size_bytes: int
    rows_of: Mapping[Group, int]  # empty if only the file has them
    buffer: Buffer | None
    left_over: bool = False  # left by a dead process
    failed_reads: int = 0  # failed attempts to read the file
    rows: int = field(init=False)  # 0 if left over, because the rows are not counted yet

    def __post_init__(self) -> None:
        self.rows = sum(self.rows_of.values())

    def to_disk(self) -> None:
        """Free the memory of a segment that has a file. With 10,000 sites, `rows_of` alone takes 2 MB."""
        if self.path is not None:
            self.buffer, self.rows_of = None, {}

    def has_file(self) -> bool:
        """Whether the events are also on disk. Blocks."""
        return self.path is not None and self.path.exists()


def count_by_site(rows_of: Mapping[Group, int]) -> Counter[str]:
    """Add up the rows of each site over all days."""
    counts: Counter[str] = Counter()
    for (_, site_id), rows in rows_of.items():
        counts[site_id] += rows
    return counts


class SegmentFile:
    """The file of the open segment. The journal's thread owns it; all but `encode` blocks."""

    def __init__(self, path: Path, descriptor: int, segment_id: str, *, fsync: bool) -> None:
        self.path = path
        self.id = segment_id
        self._descriptor = descriptor
        self._seed = crc_seed(segment_id)
        self._fsync = fsync
        self._identity = _identity(os.fstat(descriptor))
        self.is_released = False  # set once every part is published: the file needs no further sync
        self._committed = HEADER_BYTES  # every byte before this offset is committed, none after it

    def encode(self, events: Iterable[Event]) -> bytes:
        """The events as records of this segment. Any thread may call it."""
        return encode(events, self._seed)

    def commit(self, records: bytes, batch: EncodedBatch | None = None) -> None:
        """Write the records, and then the batch, and sync them if the durability requires it.

        Raises OSError if the file holds none of them, SegmentBroken if that is not known.
        """
        size_bytes = self._committed
        if batch is None:
            size_bytes = self._append(records, size_bytes)
        else:
            size_bytes = self._append(records + encode_frame(batch, self._seed), size_bytes)
            # The frame must be on disk before any of the records is. Otherwise a power cut could leave some of them
            # without it, and they would be recovered although the batch was never acknowledged.
            self._sync()
            for piece in batch.records:  # a join would hold the GIL for 10 ms
                size_bytes = self._append(piece, size_bytes)
        self._sync()
        self._committed = size_bytes

    def probe(self) -> None:
        """Test that the file can be written, without a lasting change. Raises OSError, SegmentBroken."""
        # After a kill here, the zeros remain, but they are not a record.
        self._append(bytes(PROBE_BYTES), self._committed)
        self._cut()

    def has_its_name(self) -> bool:
        """Whether the file is still where it was made. A file without a name vanishes with the process. May block.

        Does not use the descriptor, which another thread may close meanwhile.
        """
        try:
            return _identity(os.stat(self.path)) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # unknown
            return True

    def seal(self) -> None:
        """Sync, whatever the durability, and close the file. Raises SegmentBroken."""
        try:
            if not self.is_released:
                sync_data(self._descriptor)
        except OSError as exc:
            raise SegmentBroken(f"{self.path}: fsync failed: {exc.strerror}") from exc
        finally:
            self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def _append(self, data: bytes, size_bytes: int) -> int:
        """Append `data` to the file of `size_bytes`, and return its new size. If that fails, undo the commit."""
        try:
            _write_all(self._descriptor, data, size_bytes)
        except OSError:
            # Otherwise an event answered with 503 could be stored twice, once the client retries.
            self._cut()
            raise
        return size_bytes + len(data)

    def _sync(self) -> None:
        """Sync what was written, if the durability requires it. Raises SegmentBroken."""
        if not self._fsync:
            return
        try:
            sync_data(self._descriptor)
        except OSError as exc:
            # The kernel may have dropped the pages, and the next sync would succeed regardless. Cut off the
            # unacknowledged events if the disk still allows it, or a client's retry would store them twice.
            with suppress(OSError, SegmentBroken):
                self._cut()
            raise SegmentBroken(f"{self.path}: fsync failed: {exc.strerror}") from exc

    def _cut(self) -> None:
        try:
            os.ftruncate(self._descriptor, self._committed)
            if self._fsync:
                sync_data(self._descriptor)
        except OSError as exc:
            raise SegmentBroken(f"{self.path}: cannot be cut back: {exc.strerror}") from exc


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _write_all(descriptor: int, data: bytes, size_bytes: int) -> None:
    """Append `data` to a file of `size_bytes`. Raises OSError; then any prefix of `data` may be in the file."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        size_bytes += written
        view = view[written:]
        # A short write usually means that the disk is about to be full. Check that its bytes are really in the file.
        if view and (not written or os.fstat(descriptor).st_size != size_bytes):
            raise OSError(EIO, "short write")


class SegmentStore:
    """The segments of a data_dir on disk: makes new ones, finds left-over ones, and deletes published ones."""

    def __init__(
        self,
        folders: Folders,
        worker: str,
        *,
        by_site: bool,
        durability: str,
        adopts: Callable[[str], bool] = lambda folder: True,
        new_id: Callable[[], str] = new_segment_id,
    ) -> None:
        """Segments are made in the folder `worker`. `adopts` decides from which folders left-over ones are taken."""
        self.by_site = by_site
        self.durability = durability
        self.new_id = new_id
        self.newer = 0  # left-over segments that only a later version of the collector can read
        self._folders = folders
        self._root = folders.root / JOURNAL
        self._own = self._root / worker
        self._adopts = adopts

    def create(self) -> SegmentFile:
        """Make a segment whose header and name survive a power cut. Raises OSError, SegmentBroken."""
        segment_id = self.new_id()
        path = self._own / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{segment_id}.segment"
        with ExitStack() as undo:
            descriptor = self._folders.open_in(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC)
            undo.callback(_discard, path, descriptor)
            # Open the folder before any sync: running out of descriptors must not count as a failed fsync.
            with open_folder(self._own) as folder:
                _write_all(descriptor, encode_header(Header(segment_id, self.by_site)), 0)
                try:
                    sync(descriptor)
                    sync(folder)
                except OSError as exc:
                    raise SegmentBroken(f"{path}: fsync failed: {exc.strerror}") from exc
            undo.pop_all()
        return SegmentFile(path, descriptor, segment_id, fsync=self.durability == "fsync")

    def left_over(self) -> list[Segment]:
        """The segments that dead processes left in the folders to adopt, oldest first. Raises OSError."""
        self.newer = 0
        segments = []
        for path in sorted(self._files(), key=lambda path: path.name):
            name = SEGMENT_NAME.fullmatch(path.name)
            if name is None or not path.is_file():
                log.warning("%s is not a segment; it is left alone", path)
                continue
            try:
                header = read_header(path)
            except NewerFormat as exc:
                self.newer += 1
                log.error("%s is left alone: %s", path, exc)
                continue
            except OSError as exc:
                log.warning("%s cannot be read yet: %s", path, exc)  # its flush will be retried
                header = None
            # A damaged header loses no record: the name has the id, and the layout is most likely the present one.
            header = header or Header(name[1], self.by_site)
            size_bytes = path.stat().st_size
            segments.append(Segment(header.segment_id, path, header.by_site, size_bytes, {}, None, left_over=True))
        return segments

    def _files(self) -> Iterator[Path]:
        """The files in the workers' folders. Raises OSError, unlike `glob`, which skips folders it may not read."""
        for worker in self._root.iterdir() if self._root.exists() else ():
            if not self._adopts(worker.name):
                continue
            if worker.is_dir():
                yield from worker.iterdir()
            else:
                yield worker

    def release(self, path: Path) -> None:
        """Delete a segment's file. Raises OSError if the file is still there."""
        path.unlink(missing_ok=True)
        try:
            # A power cut could bring the segment back. If its parts had been dropped or compacted by then, the next
            # start would write them again.
            fsync_folder(path.parent)
        except OSError as exc:
            log.warning("cannot sync %s after deleting a segment from it: %s", path.parent, exc)


def _discard(path: Path, descriptor: int) -> None:
    os.close(descriptor)
    with suppress(OSError):
        path.unlink()


def read_header(path: Path) -> Header | None:
    """Read the header of a segment. Returns None if it is damaged. Raises OSError, NewerFormat."""
    with path.open("rb", buffering=0) as file:
        return decode_header(file.read(HEADER_BYTES))
