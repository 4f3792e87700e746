"""The collector with one of its safeguards taken out, to see that the suite notices: the switches are here, not there.

    python tests/crash/victim.py SAFEGUARD serve --config FILE      SAFEGUARD: a name of WITHOUT, or `none`

Each safeguard is removed by replacing a function of the product before it starts.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from collector.cli.main import main

record: Any = import_module("collector.journal.record")
segment: Any = import_module("collector.journal.segment")
writer: Any = import_module("collector.parts.writer")
local: Any = import_module("collector.publish.local")


def nothing(*arguments: object) -> None:
    """Stands for a sync that is left out."""


def commit_fsync() -> None:
    """An answer leaves before its commit is on the disk. (Segments are not synced when they are sealed either.)"""
    segment.sync_data = nothing


def part_fsync() -> None:
    """A part is published whose bytes are not on the disk."""
    writer.fsync_file = nothing


def part_folder_fsync() -> None:
    """A segment is released whose parts' names are not on the disk, nor those of their folders."""
    local.fsync_folder = writer.fsync_folder = nothing


def journal_folder_fsync() -> None:
    """A segment is written whose name is not on the disk, nor that of its folder."""
    segment.sync = nothing
    local.Folders._make = lambda self, folder: folder.mkdir(parents=True, exist_ok=True)


def crc() -> None:
    """Whatever has a mark and a length is a record."""
    record._crc = lambda seed, payload: 0


def publish_if_absent() -> None:
    """A part that is there already is written over, not kept."""

    def publish(self: Any, final: Path, segment_id: str, table: Any, row_groups: list[int]) -> Any:
        staged = self.staging / f"{segment_id}.parquet"
        self.folders.make(final.parent)
        self._write(staged, segment_id, table, row_groups)
        local.fsync_file(staged)
        staged.replace(final)
        local.fsync_folder(final.parent)
        return writer.Part(final, table.num_rows, final.stat().st_size)

    writer.PartWriter._publish = publish


def cut() -> None:
    """What a short or failed write left in the segment stays there."""
    segment.SegmentFile._cut = nothing


WITHOUT: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (commit_fsync, part_fsync, part_folder_fsync, journal_folder_fsync, crc, publish_if_absent, cut)
}

if __name__ == "__main__":
    _, name, *arguments = sys.argv
    if name != "none":
        WITHOUT[name]()
    sys.exit(main(arguments))
