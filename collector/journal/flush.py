"""The flush of one segment: its events to columns, its columns to parts, and its release.

A flush takes the columns from memory, or reads them back from the segment's file; its parts have the same names either
way, and what is published already is kept. So recovery is a flush like any other, and a flush that was killed anywhere
is simply done again. Everything here blocks, in the flush thread.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from collector.events import Event
from collector.journal.buffer import Buffer
from collector.journal.quarantine import DAMAGED, TORN, UNFIT, Quarantine, Ranges
from collector.journal.record import HEADER_BYTES, Damage, Record, decode_header, scan
from collector.journal.segment import Columns, Segment, SegmentStore
from collector.parts.writer import Part, PartConflict, PartWriter

log = logging.getLogger(__name__)

Decode = Callable[[Record], tuple[Event, bool]]
"""A record to its event, and whether all of it still fits its columns."""


class SegmentFlush:
    """Publishes segments, one call each."""

    def __init__(self, store: SegmentStore, writer: PartWriter, quarantine: Quarantine, decode: Decode) -> None:
        self._store = store
        self._writer = writer
        self._quarantine = quarantine
        self._decode = decode

    def __call__(self, segment: Segment) -> list[Part]:
        """Publish the segment's parts, delete its file, and return the parts.

        Raises OSError, or PartConflict where there is no file to keep; then nothing is lost: call it again.
        """
        columns = segment.columns or self._read(segment)
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
        return replay(segment, segment.path, self._decode, self._quarantine)


def replay(segment: Segment, path: Path, decode: Decode, quarantine: Quarantine) -> Columns:
    """Read the segment's events back from its file; what cannot be read goes to quarantine. Raises OSError."""
    buffer = Buffer()
    kept: dict[str, Ranges] = defaultdict(list)
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) == HEADER_BYTES and decode_header(header) is None:
            kept[DAMAGED].append((0, HEADER_BYTES))
        for found in scan(file, segment.id):
            if isinstance(found, Damage):
                kept[TORN if found.tail else DAMAGED].append((found.start, found.end))
                continue
            event, fits = decode(found)
            if not fits:
                kept[UNFIT].append((found.start, found.end))
            buffer.append(event)
    for kind, ranges in kept.items():
        quarantine.keep(segment, path, kind, ranges)
    return buffer.columns()
