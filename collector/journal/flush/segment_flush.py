"""The flush of one segment: turns its events into parts, and releases it.

A flush takes the events from memory or reads them back from the segment's file. The parts have the same names either
way, and parts that are already published are kept. So recovery is an ordinary flush, and a flush that was killed at any
point can simply run again. Everything here blocks, in the flush thread.
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
from collector.journal.record import HEADER_BYTES, Batch, Damage, Record, decode_header, scan
from collector.journal.segment import Segment, SegmentStore
from collector.parts.section import Part
from collector.parts.writer import PartConflict, PartWriter
from collector.wording import count

log = logging.getLogger(__name__)

# Read errors may pass, so bad blocks are skipped only after this many failed reads: 3.5 s after the first, with the
# flusher's back-off. If the error passes later, the entire file is still in quarantine.
FAILED_READS = 3

Decode = Callable[[Record], tuple[Event, bool]]
"""Turns a record into its event. Also returns whether every value still fits its column."""

Remember = Callable[[list[tuple[bytes, bytes]]], None]
"""Keeps the key and the answer of each batch. Blocks. Raises OSError."""


def forget(answers: list[tuple[bytes, bytes]]) -> None:
    """Keep nothing."""


class SegmentGone(Exception):
    """The segment's file is missing, and its events exist nowhere else."""


class SegmentFlush:
    """Publishes one segment with each call."""

    def __init__(
        self,
        store: SegmentStore,
        writer: PartWriter,
        quarantine: Quarantine,
        decode: Decode,
        remember: Remember = forget,
    ) -> None:
        """`remember` gets the answers of a segment's batches before its file is deleted, maybe more than once."""
        self._store = store
        self._writer = writer
        self._quarantine = quarantine
        self._decode = decode
        self._remember = remember

    def __call__(self, segment: Segment) -> list[Part]:
        """Publish the segment's parts, delete its file, and return the parts.

        Raises OSError, or PartConflict if there is no file to put into quarantine. Nothing is lost then; call again.
        Raises SegmentGone if the segment has disappeared; calling again does not help.
        """
        buffer = segment.buffer or self._read(segment)
        segment.rows_of = buffer.rows_of  # counts of a segment that was read back, for its release
        try:
            parts = self._writer.write_events(segment.id, buffer.sections, by_site=segment.by_site)
        except PartConflict as exc:
            if segment.path is None:
                raise
            log.error("%s; moving the segment to quarantine", exc)
            self._quarantine.keep_whole(segment, segment.path)
            parts = []
        if buffer.answers:
            self._remember(buffer.answers)
        if segment.path is not None:
            self._store.release(segment.path)
        return parts

    def _read(self, segment: Segment) -> Buffer:
        assert segment.path is not None  # a segment without a file has a buffer
        around = segment.failed_reads >= FAILED_READS
        try:
            return replay(segment, segment.path, self._decode, self._quarantine, around_bad_blocks=around)
        except Unreadable:
            segment.failed_reads += 1
            raise
        except FileNotFoundError:
            if segment.has_file():  # another file is missing
                raise
            raise SegmentGone(f"{segment.path} is gone") from None


def replay(
    segment: Segment, path: Path, decode: Decode, quarantine: Quarantine, *, around_bad_blocks: bool = False
) -> Buffer:
    """Read the segment's events back from its file. Keeps unreadable bytes in quarantine. Raises OSError.

    At a block that the disk cannot read, raises Unreadable. With `around_bad_blocks`, such a block counts as damage
    instead, and the entire file is kept too: it may become readable later, or with another tool.
    """
    buffer = Buffer(by_site=segment.by_site)
    kept: dict[str, Ranges] = defaultdict(list)
    reader = SegmentReader(path, around_bad_blocks=around_bad_blocks)
    with BufferedReader(reader, BLOCK_BYTES) as file:
        header = file.read(HEADER_BYTES)
        if len(header) == HEADER_BYTES and decode_header(header) is None:
            kept[DAMAGED].append((0, HEADER_BYTES))
        for found in scan(file, segment.id, lambda start, end: not segment.left_over or reader.is_bad(start, end)):
            if isinstance(found, Damage):
                # A commit cut off by a crash was not acknowledged. A block that the disk cannot read may have been.
                torn = found.tail and not reader.is_bad(found.start, found.end)
                kept[TORN if torn else DAMAGED].append((found.start, found.end))
                continue
            if isinstance(found, Batch):
                if found.key:
                    buffer.remember(found.key, found.answer)
                continue
            event, fits = decode(found)
            if not fits:
                kept[UNFIT].append((found.start, found.end))
            buffer.append(event)
        for kind, ranges in kept.items():
            quarantine.keep(segment, file, kind, ranges)
    if reader.bad:
        blocks = count(len(reader.bad), "block")
        log.error("%s: the disk cannot read %s; moving the file to quarantine", path, blocks)
        quarantine.keep_whole(segment, path)
    return buffer
