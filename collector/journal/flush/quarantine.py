"""Quarantine: what could not be read back, kept for a person.

    quarantine/<segment>.torn      the incomplete end of a segment: a commit that a crash cut, acknowledged to nobody
                                   (or, after a power cut with durability `write`, to those whose last events it took)
    quarantine/<segment>.damaged   bytes elsewhere that are no records: an acknowledged event may be lost in them
    quarantine/<segment>.unfit     records with values that fit no column of today: stored with null in their place
    quarantine/<segment>.segment   a whole segment: some of its parts' names are taken by other files, or some of its
                                   blocks the disk could not read

Each holds bytes as they stood in the segment, one stretch after the other; zeros where the disk could not read them. A
whole segment is one still: once the file in its way is gone, or the blocks can be read and the parts that lack their
events are moved away, moved to `journal/0/` it becomes the parts that are missing.
"""

import logging
import os
from pathlib import Path
from typing import BinaryIO

from collector.journal.segment import Segment
from collector.metrics import Metrics
from collector.parts.naming import STAGING
from collector.publish.local import Folders, fsync_file, fsync_folder

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"

TORN, DAMAGED, UNFIT, WHOLE = "torn", "damaged", "unfit", "segment"

_COPY_BYTES = 1 << 20

Ranges = list[tuple[int, int]]
"""Stretches of a file, each from its first byte to the one behind its last."""


class Quarantine:
    """Keeps copies of what is about to be deleted. Blocks; the flush thread owns it."""

    def __init__(self, folders: Folders, worker: str, metrics: Metrics) -> None:
        self._folders = folders
        self._folder = folders.root / QUARANTINE
        self._staging = folders.root / STAGING / worker
        self._metrics = metrics

    def keep(self, segment: Segment, source: BinaryIO, kind: str, ranges: Ranges) -> None:
        """Keep these stretches of the segment, once and for good. Raises OSError."""
        final = self._folder / f"{segment.id}.{kind}"
        if final.exists():  # by an earlier try, whole
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
        """Keep the segment's file itself. Raises OSError."""
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
        log.log(level, "%s: kept %d bytes in %d places", final, size_bytes, len(ranges))
        self._metrics.quarantined.labels(kind).inc(len(ranges))

    def _sync_folder(self) -> None:
        """The try that published a copy may have died, or failed, before it could: the segment must not go first."""
        self._folders.make(self._folder)
        fsync_folder(self._folder)
