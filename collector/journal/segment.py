"""Segments: the unit of flushing. What one segment holds becomes one part per site and day.

    journal/<worker>/20260528T202640Z-0123456789abcdef.segment      when it was opened, and its id

A segment is open until it is sealed, never changed after, and deleted once all its parts are published. Its file's name
sorts in order of opening; `collector/journal/record.py` has the format. With durability `memory` there is no file.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import EIO
from pathlib import Path

import pyarrow as pa

from collector.events import Event
from collector.journal.record import (
    HEADER_BYTES,
    JOURNAL,
    Header,
    NewerFormat,
    crc_seed,
    decode_header,
    encode,
    encode_header,
)
from collector.parts.naming import new_segment_id
from collector.parts.writer import Group
from collector.portable import sync, sync_data
from collector.publish.local import Folders, fsync_folder, open_folder

log = logging.getLogger(__name__)

# Without the time: one that a person brings back from quarantine.
SEGMENT_NAME = re.compile(r"(?:\d{8}T\d{6}Z-)?([0-9a-f]{16})\.segment", re.ASCII)

PROBE_BYTES = 65_536


class SegmentBroken(Exception):
    """Nobody knows what the file holds (a failed fsync, a cut that failed): it must take no further event."""


@dataclass(slots=True)
class Columns:
    """A segment's events as columns, and how many rows belong to each site and day.

    The flush merges `batches` in place; the rows stay the same.
    """

    batches: list[pa.RecordBatch]
    rows_of: Mapping[Group, int]


@dataclass(slots=True, eq=False)
class Segment:
    """A sealed segment. Without `columns` its events are in its file alone, and so is what belongs to which site."""

    id: str
    path: Path | None  # None: durability `memory`
    by_site: bool  # whether its parts are by site and day, or by day alone: parts of an earlier try must be found again
    size_bytes: int
    rows_of: Mapping[Group, int]  # empty where only the file can tell
    columns: Columns | None
    left_over: bool = False  # by a process that is dead
    failed_reads: int = 0  # tries to read its file that the disk could not
    rows: int = field(init=False)  # 0 of a left-over one: nobody has counted them

    def __post_init__(self) -> None:
        self.rows = sum(self.rows_of.values())

    def to_disk(self) -> None:
        """Free the memory of a segment that has a file. (With 10,000 sites `rows_of` takes 2 MB.)"""
        if self.path is not None:
            self.columns, self.rows_of = None, {}

    def has_file(self) -> bool:
        """Whether its events are on the disk, too. Blocks."""
        return self.path is not None and self.path.exists()


class SegmentFile:
    """The file of the open segment. Blocks; the journal's thread owns it."""

    def __init__(self, path: Path, descriptor: int, segment_id: str, *, fsync: bool) -> None:
        self.path = path
        self.id = segment_id
        self._descriptor = descriptor
        self._seed = crc_seed(segment_id)
        self._fsync = fsync
        self._identity = _identity(os.fstat(descriptor))
        self.is_released = False  # all of it is published: its bytes need not reach the disk any more
        self._committed = HEADER_BYTES  # up to here every byte is acknowledged; behind it none is

    def commit(self, events: Iterable[Event]) -> None:
        """Make the events as safe as the durability asks.

        Raises OSError where none of them is in the file, SegmentBroken where that is not known.
        """
        data = b"".join([encode(event, self._seed) for event in events])
        self._append(data)
        if self._fsync:
            try:
                sync_data(self._descriptor)
            except OSError as exc:
                # The kernel may have dropped the pages and will call the next sync good. What was not acknowledged
                # should not come back beside its client's second try, if the disk still lets us cut it off.
                with suppress(OSError, SegmentBroken):
                    self._cut()
                raise SegmentBroken(f"{self.path}: fsync failed: {exc.strerror}") from exc
        self._committed += len(data)

    def probe(self) -> None:
        """Write something and take it back. Raises OSError, SegmentBroken."""
        self._append(bytes(PROBE_BYTES))  # killed here, zeros stay: they are no record
        self._cut()

    def has_its_name(self) -> bool:
        """Whether it is still where it was made: what has no name is gone when the process is. May block.

        Takes no descriptor, which may be closed meanwhile.
        """
        try:
            return _identity(os.stat(self.path)) == self._identity
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # it cannot be told
            return True

    def seal(self) -> None:
        """Sync, whatever the durability, and close. Raises SegmentBroken."""
        try:
            if not self.is_released:
                sync_data(self._descriptor)
        except OSError as exc:
            raise SegmentBroken(f"{self.path}: fsync failed: {exc.strerror}") from exc
        finally:
            self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        """Write all of it behind what is committed, or leave nothing of it there."""
        try:
            _write_all(self._descriptor, data, self._committed)
        except OSError:
            # Or an event that is answered with 503 comes back beside its client's second try.
            self._cut()
            raise

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
    """Append to the file of that size. Raises OSError; then any part of `data` may be in the file."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        size_bytes += written
        view = view[written:]
        # A short write is mostly the last one before the disk is full; that it wrote what it says is checked.
        if view and (not written or os.fstat(descriptor).st_size != size_bytes):
            raise OSError(EIO, "short write")


class SegmentStore:
    """The segments of one data_dir on disk: makes them, finds what dead processes left, deletes what is published."""

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
        """`worker` names the folder of its own segments; `adopts` tells whose left-over ones it takes over."""
        self.by_site = by_site
        self.durability = durability
        self.new_id = new_id
        self.newer = 0  # segments that only a later version of the collector can read
        self._folders = folders
        self._root = folders.root / JOURNAL
        self._own = self._root / worker
        self._adopts = adopts

    def create(self) -> SegmentFile:
        """A new open segment, whose name a power cut does not take. Raises OSError, SegmentBroken."""
        segment_id = self.new_id()
        path = self._own / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{segment_id}.segment"
        with ExitStack() as undo:
            descriptor = self._folders.open_in(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC)
            undo.callback(_discard, path, descriptor)
            # Opened before anything is synced: to be out of descriptors is no failed fsync.
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
        """The segments that dead processes left in folders which are ours to adopt, oldest first. Raises OSError."""
        self.newer = 0
        segments = []
        for path in sorted(self._files(), key=lambda path: path.name):
            name = SEGMENT_NAME.fullmatch(path.name)
            if name is None or not path.is_file():
                log.warning("%s is no segment; it is left alone", path)
                continue
            try:
                header = read_header(path)
            except NewerFormat as exc:
                self.newer += 1
                log.error("%s is left alone: %s", path, exc)
                continue
            except OSError as exc:
                log.warning("%s cannot be read yet: %s", path, exc)  # its flush will be tried again and again
                header = None
            # A damaged header costs no record: the id is in the name, and the layout has hardly changed since.
            header = header or Header(name[1], self.by_site)
            size_bytes = path.stat().st_size
            segments.append(Segment(header.segment_id, path, header.by_site, size_bytes, {}, None, left_over=True))
        return segments

    def _files(self) -> Iterator[Path]:
        """What is in the folders of all workers. Raises OSError: `glob` passes over a folder that it may not read."""
        for worker in self._root.iterdir() if self._root.exists() else ():
            if not self._adopts(worker.name):
                continue
            if worker.is_dir():
                yield from worker.iterdir()
            else:
                yield worker

    def release(self, path: Path) -> None:
        """Delete a segment's file. Raises OSError where it is still there."""
        path.unlink(missing_ok=True)
        try:
            # If a power cut brought it back after its parts were dropped or compacted, they would be written again.
            fsync_folder(path.parent)
        except OSError as exc:
            log.warning("the folder of a deleted segment could not be synced: %s", exc)


def _discard(path: Path, descriptor: int) -> None:
    os.close(descriptor)
    with suppress(OSError):
        path.unlink()


def read_header(path: Path) -> Header | None:
    """The header of a segment; None where it is damaged. Raises OSError, NewerFormat."""
    with path.open("rb", buffering=0) as file:
        return decode_header(file.read(HEADER_BYTES))
