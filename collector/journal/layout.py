"""Layouts: how the parts in a data_dir are partitioned, or will be once its segments are flushed.

Readers cannot mix layouts: with parts of both, every query over `events/` fails ("Hive partition mismatch"). So a
process checks the layout before it serves. A supervisor checks too, so this module does not need pyarrow.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from collector.journal.record import HEADER_BYTES, JOURNAL, NewerFormat, decode_header
from collector.parts.naming import EVENTS

Layout = tuple[str, ...]
"""As in `storage.partition_by`."""

BY_SITE: Layout = ("site", "date")
BY_DATE: Layout = ("date",)


@dataclass(frozen=True, slots=True)
class Held:
    """What a data_dir holds in one layout."""

    parts: bool
    segments: bool


def other(layout: Layout) -> Layout:
    """Return the other of the two layouts."""
    return BY_DATE if layout == BY_SITE else BY_SITE


def held(data_dir: Path, layout: Layout) -> Held:
    """Whether the data_dir holds parts of a layout, and segments that were opened with it.

    Stops at the first of each. Skips anything missing or unreadable. Folders without parts, which expiry leaves behind,
    do not count.
    """
    # Segments first: a collector that is still draining publishes a segment's parts before it deletes the segment.
    segments = any(_opened_with(path) == layout for path in _segments(data_dir))
    return Held(_has_part(data_dir / EVENTS, layout), segments)


def _has_part(folder: Path, keys: Layout) -> bool:
    if not keys:
        return any(name.endswith(".parquet") for name in _names(folder))
    return any(_has_part(folder / name, keys[1:]) for name in _names(folder) if name.startswith(f"{keys[0]}="))


def _segments(data_dir: Path) -> Iterator[Path]:
    for worker in _names(data_dir / JOURNAL):
        folder = data_dir / JOURNAL / worker
        yield from (folder / name for name in _names(folder) if name.endswith(".segment"))


def _opened_with(segment: Path) -> Layout | None:
    """The layout in a segment's header; None if the header cannot be read."""
    try:
        if not segment.is_file():  # opening a pipe of that name would block
            return None
        with segment.open("rb", buffering=0) as file:
            header = decode_header(file.read(HEADER_BYTES))
    except (OSError, NewerFormat):
        return None
    return None if header is None else BY_SITE if header.by_site else BY_DATE


def _names(folder: Path) -> Iterator[str]:
    """The names in a folder. Stops early if it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
