"""Quarantine: copies of data that could not become rows as it was, kept for manual inspection.

    quarantine/<segment>.torn      the incomplete end of a segment: a commit cut off by a crash. Its events were never
                                   acknowledged, except after a power cut with durability `write`
    quarantine/<segment>.damaged   other bytes that hold no valid record: acknowledged events may be lost
    quarantine/<segment>.unfit     records with values that do not fit today's columns: stored with nulls instead
    quarantine/<segment>.segment   an entire segment: other files have the names of some parts, or the disk could not
                                   read some blocks

`.torn`, `.damaged` and `.unfit` hold the bytes exactly as in the segment, one range after another, with zeros for bytes
that the disk could not read.

To recover a `.segment` file, first move away the files that have its parts' names. If blocks were unreadable, wait
until they can be read, and move away the parts that lack their events. Then move the `.segment` file to `journal/0/`.
The next start publishes the missing parts.
"""

import logging
import os
from pathlib import Path
from typing import BinaryIO

from collector.journal.segment import Segment
from collector.metrics import Metrics
from collector.parts.naming import STAGING
from collector.publish.local import Folders, fsync_file, fsync_folder
from collector.wording import count

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"

TORN, DAMAGED, UNFIT, WHOLE = "torn", "damaged", "unfit", "segment"

_COPY_BYTES = 1 << 20

Ranges = list[tuple[int, int]]
"""Ranges of bytes in a file, each as (start, end), without the byte at `end`."""


class Quarantine:
    """Keeps copies of data before its segment is deleted. Blocks; the flush thread owns it."""

    def __init__(self, folders: Folders, worker: str, metrics: Metrics) -> None:
        self._folders = folders
        self._folder = folders.root / QUARANTINE
        self._staging = folders.root / STAGING / worker
        self._metrics = metrics

    def keep(self, segment: Segment, source: BinaryIO, kind: str, ranges: Ranges) -> None:
        """Keep these ranges of the segment, durably. A repeated call keeps no second copy. Raises OSError."""
        final = self._folder / f"{segment.id}.{kind}"
        if final.exists():  # published complete by an earlier attempt
            self._sync_folder()
            return
        staged = self._staging / final.name
        self._folders.make_if_gone(self._staging)
        try:
            with staged.open("wb") as copy:
                for start, end in ranges:
                    source.seek(start)
                    while start < end:
                        data = source.read(min(_COPY_BYTES, end - start))
                        copy.write(data)
                        start += len(data) or end
            fsync_file(staged)
            self._publish(staged, final, kind, ranges)
        finally:
            staged.unlink(missing_ok=True)

    def keep_whole(self, segment: Segment, path: Path) -> None:
        """Keep the segment's entire file. Raises OSError."""
        staged = self._staging / f"{segment.id}.{WHOLE}"
        self._folders.make_if_gone(self._staging)
        staged.unlink(missing_ok=True)
        os.link(path, staged)
        self._publish(staged, self._folder / staged.name, WHOLE, [(0, path.stat().st_size)])

    def _publish(self, staged: Path, final: Path, kind: str, ranges: Ranges) -> None:
        if not self._folders.publish(staged, final):
            self._sync_folder()
            staged.unlink(missing_ok=True)
            return
        size_bytes = sum(end - start for start, end in ranges)
        level = logging.INFO if kind == TORN else logging.ERROR
        log.log(level, "%s: kept %s from %s", final, count(size_bytes, "byte"), count(len(ranges), "place"))
        self._metrics.quarantined.labels(kind).inc(len(ranges))

    def _sync_folder(self) -> None:
        """Sync the folder, in case the attempt that published a copy did not. Do this before the segment is deleted."""
        self._folders.make(self._folder)
        fsync_folder(self._folder)
