"""The flush of one segment: its events to columns, its columns to parts, and its release.

A flush takes the columns from memory, or reads them back from the segment's file; its parts have the same names either
way, and what is published already is kept. So recovery is a flush like any other, and a flush that was killed anywhere
is simply done again. Everything here blocks, in the flush thread.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from collector.events import Event
from collector.journal.buffer import Buffer
from collector.journal.flush.quarantine import DAMAGED, TORN, UNFIT, Quarantine, Ranges
from collector.journal.flush.salvage import BLOCK_BYTES, SegmentReader, Unreadable
from collector.journal.record import HEADER_BYTES, Damage, Record, decode_header, scan
from collector.journal.segment import Columns, Segment, SegmentStore
from collector.parts.writer import Part, PartConflict, PartWriter

log = logging.getLogger(__name__)

# After so many the segment is read around its bad blocks: with the flusher's back-off 3.5 s after the first, for an
# error may pass. Where it would have taken longer to, the whole file is in quarantine still.
FAILED_READS = 3

Decode = Callable[[Record], tuple[Event, bool]]
"""A record to its event, and whether all of it still fits its columns."""


class SegmentGone(Exception):
    """The segment's file is not there, and its events are nowhere else."""


class SegmentFlush:
    """Publishes segments, one call each."""

    def __init__(self, store: SegmentStore, writer: PartWriter, quarantine: Quarantine, decode: Decode) -> None:
        self._store = store
        self._writer = writer
        self._quarantine = quarantine
        self._decode = decode

    def __call__(self, segment: Segment) -> list[Part]:
        """Publish the segment's parts, delete its file, and return the parts.

        Raises OSError, or PartConflict where there is no file to keep; then nothing is lost: call it again. Raises
        SegmentGone, and then no other call will help.
        """
        columns = segment.columns or self._read(segment)
        segment.rows_of = columns.rows_of  # of what was read back, for who releases it
        try:
            parts = self._writer.write_events(segment.id, columns.batches, columns.rows_of, by_site=segment.by_site)
        except PartConflict as exc:
            if segment.path is None:
                raise
            log.error("%s; the segment goes to quarantine", exc)
            self._quarantine.keep_whole(segment, segment.path)
            parts = []
        if segment.path is not None:
            self._store.release(segment.path)
        return parts

    def _read(self, segment: Segment) -> Columns:
        assert segment.path is not None  # a segment without a file has columns
        around = segment.failed_reads >= FAILED_READS
        try:
            return replay(segment, segment.path, self._decode, self._quarantine, around_bad_blocks=around)
        except Unreadable:
            segment.failed_reads += 1
            raise
        except FileNotFoundError:
            if segment.has_file():  # something else is missing
                raise
            raise SegmentGone(f"{segment.path} is gone") from None


def replay(
    segment: Segment, path: Path, decode: Decode, quarantine: Quarantine, *, around_bad_blocks: bool = False
) -> Columns:
    """Read the segment's events back from its file; what cannot be read goes to quarantine. Raises OSError.

    At a block that the disk cannot read it raises Unreadable; or, `around_bad_blocks`, takes it for damage and keeps
    the file itself too: another day, or another tool, may read it yet.
    """
    buffer = Buffer()
    kept: dict[str, Ranges] = defaultdict(list)
    reader = SegmentReader(path, around_bad_blocks=around_bad_blocks)
    with BufferedReader(reader, BLOCK_BYTES) as file:
        header = file.read(HEADER_BYTES)
        if len(header) == HEADER_BYTES and decode_header(header) is None:
            kept[DAMAGED].append((0, HEADER_BYTES))
        for found in scan(file, segment.id):
            if isinstance(found, Damage):
                # What a crash cut was acknowledged to nobody; what the disk cannot read may have been.
                torn = found.tail and not any(start + BLOCK_BYTES > found.start for start in reader.bad)
                kept[TORN if torn else DAMAGED].append((found.start, found.end))
                continue
            event, fits = decode(found)
            if not fits:
                kept[UNFIT].append((found.start, found.end))
            buffer.append(event)
        for kind, ranges in kept.items():
            quarantine.keep(segment, file, kind, ranges)
    if reader.bad:
        log.error("%s: the disk cannot read %d blocks of it; the file goes to quarantine", path, len(reader.bad))
        quarantine.keep_whole(segment, path)
    return buffer.columns()
