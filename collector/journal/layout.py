"""Layouts: by what the parts in a data_dir are partitioned, or will be when its segments are flushed.

Readers take one layout: with parts of both, every query over `events/` fails ("Hive partition mismatch"). So a process
asks before it serves. A supervisor asks too, so nothing here needs pyarrow.
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
    """What a data_dir has of one layout."""

    parts: bool
    segments: bool


def other(layout: Layout) -> Layout:
    """The one that it is not."""
    return BY_DATE if layout == BY_SITE else BY_SITE


def held(data_dir: Path, layout: Layout) -> Held:
    """Whether there are parts of that layout, and segments that were opened with it.

    Looks no further than to the first of each, and past what is not there or cannot be read. Folders without parts, as
    expiry leaves them, are no data.
    """
    # Segments first: a collector that is still draining may publish one meanwhile, but it never deletes it before.
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
    """None where its header does not say."""
    try:
        if not segment.is_file():  # a pipe of that name would be waited for
            return None
        with segment.open("rb", buffering=0) as file:
            header = decode_header(file.read(HEADER_BYTES))
    except (OSError, NewerFormat):
        return None
    return None if header is None else BY_SITE if header.by_site else BY_DATE


def _names(folder: Path) -> Iterator[str]:
    """What is in the folder, as far as it can be looked into."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
